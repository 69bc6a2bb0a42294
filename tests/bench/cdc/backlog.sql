-- :changes of both tables alike: five of ten are updates, three inserts, two
-- deletes. The first half in ten transactions, the second in one for each.

CREATE PROCEDURE large(changes bigint) LANGUAGE plpgsql AS $$
DECLARE
    deleted constant bigint := changes / 10;
    last constant bigint := changes / 10 + changes / 6;
    part constant bigint := changes / 2 / 20;
    name text;
BEGIN
    FOR t IN 0..9 LOOP
        FOREACH name IN ARRAY ARRAY['orders', 'payments'] LOOP
            EXECUTE format(
                'UPDATE %I SET amount = amount + 1, version = version + 1 WHERE id > $1 AND id <= $2',
                name) USING deleted + t * (part / 2), deleted + (t + 1) * (part / 2);
            EXECUTE format('DELETE FROM %I WHERE id > $1 AND id <= $2',
                name) USING t * (part / 5), (t + 1) * (part / 5);
        END LOOP;
        INSERT INTO orders
        SELECT last + i, i % 9973, 'placed', i % 100000 / 7.0, i % 7, 'in a large transaction',
               timestamptz '2025-06-01' + i * interval '1 second', 1
        FROM generate_series(1 + t * (part * 3 / 10), (t + 1) * (part * 3 / 10)) i;
        INSERT INTO payments
        SELECT last + i, i, 'transfer', i % 100000 / 7.0,
               timestamp '2025-06-01' + i * interval '1 second', 1
        FROM generate_series(1 + t * (part * 3 / 10), (t + 1) * (part * 3 / 10)) i;
        COMMIT;
    END LOOP;
END
$$;

CREATE PROCEDURE small(changes bigint) LANGUAGE plpgsql AS $$
DECLARE
    updated constant bigint := changes / 10 + 1;
    updatable constant bigint := changes / 6;
    gone bigint := changes / 20;
    inserted constant bigint := 2 * changes;
BEGIN
    FOR i IN 1..changes / 2 LOOP
        CASE
            WHEN i % 20 < 5 THEN
                UPDATE orders SET status = 'paid', amount = amount + 1, version = version + 1
                WHERE id = updated + i::bigint * 7919 % updatable;
            WHEN i % 20 < 10 THEN
                UPDATE payments SET method = 'voucher', amount = amount - 1, version = version + 1
                WHERE id = updated + i::bigint * 7919 % updatable;
            WHEN i % 20 < 13 THEN
                INSERT INTO orders VALUES (inserted + i, i % 9973, 'placed', i % 100000 / 7.0,
                    i % 7, 'alone', timestamptz '2025-07-01' + i * interval '1 second', 1);
            WHEN i % 20 < 16 THEN
                INSERT INTO payments VALUES (inserted + i, i, 'card', i % 100000 / 7.0, NULL, 1);
            WHEN i % 20 < 18 THEN
                gone := gone + 1;
                DELETE FROM orders WHERE id = gone;
            ELSE
                DELETE FROM payments WHERE id = gone - i % 2;
        END CASE;
        COMMIT;
    END LOOP;
END
$$;

CALL large(:changes);
CALL small(:changes);
