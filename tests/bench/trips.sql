-- :rows taxi rides of 20 columns, about 245 bytes each in COPY's binary form.
-- Values spread as real ones do: few vendors and zones, skewed distances,
-- money that follows from distance, timestamps nearly in row order, text that
-- repeats and text that does not. The same each time.

SELECT setseed(0.2009);

CREATE TABLE trips (
    trip_id bigint NOT NULL,
    vendor_id integer NOT NULL,
    picked_up_at timestamp NOT NULL,
    dropped_off_at timestamp NOT NULL,
    passengers integer,
    distance double precision NOT NULL,
    rate_code integer NOT NULL,
    pickup_zone integer NOT NULL,
    dropoff_zone integer NOT NULL,
    payment text NOT NULL,
    fare numeric(10, 2) NOT NULL,
    extra numeric(10, 2) NOT NULL,
    tip numeric(10, 2) NOT NULL,
    tolls numeric(10, 2) NOT NULL,
    total numeric(10, 2) NOT NULL,
    longitude double precision,
    latitude double precision,
    driver text NOT NULL,
    note text,
    ride uuid NOT NULL
);

INSERT INTO trips
SELECT i,
       1 + (dice * 2)::int,
       started,
       started + (120 + (distance * 160)::int) * interval '1 second',
       CASE WHEN dice > 0.03 THEN 1 + (dice ^ 4 * 5)::int END,
       distance,
       CASE WHEN dice < 0.95 THEN 1 ELSE 2 + (i % 4)::int END,
       1 + (zone ^ 2 * 264)::int,
       1 + (((zone * 7919 + dice) * 265)::int % 265),
       (ARRAY['credit card', 'credit card', 'credit card', 'cash', 'cash', 'no charge', 'dispute'])[1 + (dice * 6)::int],
       fare,
       extra,
       tip,
       tolls,
       fare + extra + tip + tolls,
       CASE WHEN dice > 0.01 THEN round((-73.95 + (zone - 0.5) * 0.3)::numeric, 6)::float8 END,
       CASE WHEN dice > 0.01 THEN round((40.75 + (dice - 0.5) * 0.2)::numeric, 6)::float8 END,
       'driver ' || lpad((dice * 13000)::int::text, 6, '0'),
       CASE WHEN i % 3 <> 0 THEN 'meter ' || (zone * 1000000)::int || ', lane ' || i % 12 || ', dispatched' END,
       md5(i::text)::uuid
FROM (
    SELECT *,
           (2.5 + distance * 2.5)::numeric(10, 2) AS fare,
           (ARRAY[0, 0.5, 1])[1 + i % 3]::numeric(10, 2) AS extra,
           CASE WHEN dice < 0.55 THEN (0.5 + distance * 0.55)::numeric(10, 2) ELSE 0 END AS tip,
           CASE WHEN zone > 0.95 THEN 6.55 ELSE 0 END AS tolls
    FROM (
        SELECT i,
               date_trunc('second', timestamp '2025-01-01' + i * interval '7.884 seconds' - random() * interval '20 minutes') AS started,
               random() AS dice,
               random() AS zone,
               round((0.3 + 28 * random() ^ 4)::numeric, 2)::float8 AS distance
        FROM generate_series(1, :rows) AS i
        OFFSET 0
    ) AS drawn
    OFFSET 0
) AS ride;

ALTER TABLE trips ADD PRIMARY KEY (trip_id);
