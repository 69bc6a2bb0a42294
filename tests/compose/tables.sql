-- "a": a page for each row, so that it has many chunks; those that
-- hold a row 'first', one for each reader, are read only while nobody holds the
-- advisory lock 2.
CREATE TYPE gate AS ENUM ('open', 'first');
CREATE FUNCTION pass(here gate, unused gate) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE key int := array_position(enum_range(NULL::gate), here);
BEGIN
  IF key > 1 THEN
    WHILE NOT pg_try_advisory_lock_shared(key) LOOP PERFORM pg_sleep(0.05); END LOOP;
    PERFORM pg_advisory_unlock_shared(key);
  END IF;
  RETURN true;
END $$;
CREATE OPERATOR <> (LEFTARG = gate, RIGHTARG = gate, FUNCTION = pass);
CREATE TABLE a (id int PRIMARY KEY, v text, n numeric(12, 3), at timestamptz, hold gate NOT NULL, padding text)
  WITH (fillfactor = 10);
INSERT INTO a SELECT i, md5(i::text), i / 8.0, timestamptz '1969-12-31 23:59:59Z' + i * interval '1 h',
  CASE WHEN i IN (3000, 5000, 7000, 9000) THEN 'first' ELSE 'open' END::gate, repeat('x', 700)
FROM generate_series(1, 16000) i;
CREATE TABLE b (id int PRIMARY KEY, v text);
INSERT INTO b SELECT i, 'b' || i FROM generate_series(1, 100) i;
