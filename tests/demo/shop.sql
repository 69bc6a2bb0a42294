-- A web shop with a few years of business, and a million taxi rides.
-- The same rows each time: random() starts from a fixed seed.

SELECT setseed(0.42);

CREATE TYPE order_status AS ENUM ('new', 'paid', 'shipped', 'delivered', 'returned');

CREATE TABLE customers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    external_id uuid NOT NULL UNIQUE,
    name text NOT NULL,
    email varchar(120) NOT NULL,
    country char(2) NOT NULL,
    birthday date,
    newsletter boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL
);

INSERT INTO customers (external_id, name, email, country, birthday, newsletter, created_at)
SELECT md5('customer' || i)::uuid,
       given || ' ' || family,
       lower(translate(given || '.' || family, 'éø', 'eo')) || i || '@example.com',
       (ARRAY['DE', 'DK', 'FR', 'GB', 'IT', 'NL', 'PL', 'US'])[1 + floor(random() * 8)::int],
       CASE WHEN random() < 0.8 THEN date '1950-01-01' + (random() * 20000)::int END,
       random() < 0.3,
       timestamptz '2023-01-01' + random() * interval '900 days'
FROM (
    SELECT i,
           (ARRAY['Ada', 'Bjørn', 'Chloé', 'Dana', 'Emil', 'Fatima', 'Greta', 'Hugo', 'Ines', 'Jan'])[1 + floor(random() * 10)::int] AS given,
           (ARRAY['Adler', 'Brown', 'Costa', 'Dubois', 'Eriksen', 'Ferrari', 'Garcia', 'Hansen'])[1 + floor(random() * 8)::int] AS family
    FROM generate_series(1, 20000) AS i
) AS person;

CREATE TABLE products (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sku text NOT NULL UNIQUE,
    title text NOT NULL,
    price numeric(10, 2) NOT NULL CHECK (price > 0),
    weight_kg real,
    tags text[] NOT NULL DEFAULT '{}',
    attributes jsonb NOT NULL DEFAULT '{}',
    discontinued_on date
);

INSERT INTO products (sku, title, price, weight_kg, tags, attributes, discontinued_on)
SELECT 'SKU-' || lpad(i::text, 6, '0'),
       (ARRAY['Kettle', 'Lamp', 'Chair', 'Bicycle', 'Notebook', 'Backpack'])[1 + i % 6] || ' No. ' || i,
       (3 + random() * 400)::numeric(10, 2),
       CASE WHEN i % 9 <> 0 THEN (random() * 20)::real END,
       CASE WHEN i % 7 = 0 THEN '{}' ELSE ARRAY['tag' || i % 5, CASE WHEN i % 3 = 0 THEN 'sale' ELSE 'new in' END] END,
       jsonb_build_object('colour', (ARRAY['red', 'green', 'blue'])[1 + i % 3], 'size', i % 40,
                          'box', jsonb_build_object('w', i % 50, 'h', i % 30)),
       CASE WHEN i % 25 = 0 THEN date '2025-01-01' + i % 365 END
FROM generate_series(1, 2000) AS i;

CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES customers,
    status order_status NOT NULL,
    ordered_at timestamptz NOT NULL,
    shipping numeric(6, 2) NOT NULL,
    coupon text,
    note text
);

INSERT INTO orders (customer_id, status, ordered_at, shipping, coupon, note)
SELECT 1 + floor(random() * 20000)::bigint,
       (enum_range(NULL::order_status))[1 + floor(random() * 5)::int],
       timestamptz '2025-01-01' + i * interval '2 minutes',
       (ARRAY[0, 4.90, 6.50])[1 + floor(random() * 3)::int],
       CASE WHEN random() < 0.1 THEN 'SPRING' || i % 4 END,
       CASE WHEN i % 50 = 0 THEN E'Ring twice,\nthen leave it at the "green" door 🚪' END
FROM generate_series(1, 100000) AS i;

CREATE TABLE order_items (
    order_id bigint NOT NULL REFERENCES orders,
    line smallint NOT NULL,
    product_id integer NOT NULL REFERENCES products,
    quantity integer NOT NULL CHECK (quantity > 0),
    unit_price numeric(10, 2) NOT NULL,
    PRIMARY KEY (order_id, line)
);

INSERT INTO order_items (order_id, line, product_id, quantity, unit_price)
SELECT o.id, l.line, p.id, 1 + (o.id + l.line) % 3, p.price
FROM orders AS o
CROSS JOIN generate_series(1, 3) AS l (line)
JOIN products AS p ON p.id = 1 + (o.id * 7919 + l.line * 104729) % 2000
WHERE l.line <= 1 + o.id % 3;

-- By month, as a table that only grows usually is.
CREATE TABLE visits (
    id bigint GENERATED ALWAYS AS IDENTITY,
    visited_at timestamptz NOT NULL,
    customer_id bigint REFERENCES customers,
    path text NOT NULL,
    address inet NOT NULL,
    took interval NOT NULL,
    PRIMARY KEY (id, visited_at)
) PARTITION BY RANGE (visited_at);
CREATE TABLE visits_2026_01 PARTITION OF visits FOR VALUES FROM ('2026-01-01 00:00Z') TO ('2026-02-01 00:00Z');
CREATE TABLE visits_2026_02 PARTITION OF visits FOR VALUES FROM ('2026-02-01 00:00Z') TO ('2026-03-01 00:00Z');
CREATE TABLE visits_2026_03 PARTITION OF visits FOR VALUES FROM ('2026-03-01 00:00Z') TO ('2026-04-01 00:00Z');
CREATE TABLE visits_later PARTITION OF visits DEFAULT;

INSERT INTO visits (visited_at, customer_id, path, address, took)
SELECT timestamptz '2026-01-01 00:00Z' + i * interval '52 seconds',
       CASE WHEN random() < 0.4 THEN 1 + floor(random() * 20000)::bigint END,
       (ARRAY['/', '/sale', '/basket', '/account'])[1 + i % 4],
       ('10.' || i % 200 || '.' || i % 250 || '.' || 1 + i % 254)::inet,
       random() * interval '3 seconds'
FROM generate_series(1, 200000) AS i;

CREATE TABLE trips (
    id bigint PRIMARY KEY,
    picked_up_at timestamp NOT NULL,
    dropped_off_at timestamp NOT NULL,
    passengers smallint,
    distance_km double precision NOT NULL,
    pickup_zone integer NOT NULL,
    dropoff_zone integer NOT NULL,
    payment text NOT NULL,
    fare numeric(10, 2) NOT NULL,
    tip numeric(10, 2),
    driver uuid NOT NULL
);

INSERT INTO trips
SELECT i, started, started + distance * interval '150 seconds',
       CASE WHEN dice > 0.02 THEN 1 + (dice * 5)::int END,
       distance,
       1 + (dice * 264)::int, 1 + ((dice * 7919)::int % 265),
       CASE WHEN dice < 0.7 THEN 'card' WHEN dice < 0.95 THEN 'cash' ELSE 'voucher' END,
       (2.5 + distance * 1.75)::numeric(10, 2),
       CASE WHEN dice < 0.6 THEN (distance * 0.3)::numeric(10, 2) END,
       md5('driver' || i % 5000)::uuid
FROM (
    SELECT i, timestamp '2026-01-01' + i * interval '7.3 seconds' AS started,
           random() AS dice, 0.4 + 25 * random() ^ 3 AS distance
    FROM generate_series(1, 1000000) AS i
) AS ride;

ANALYZE;
