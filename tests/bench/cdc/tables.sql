-- Two tables as a shop has them. Of each, the first :changes / 10 rows will be
-- deleted, and those after them updated.

CREATE TABLE orders (
    id bigint PRIMARY KEY,
    customer integer NOT NULL,
    status text NOT NULL,
    amount numeric(12, 2) NOT NULL,
    quantity integer NOT NULL,
    note text,
    placed_at timestamptz NOT NULL,
    version integer NOT NULL
);

CREATE TABLE payments (
    id bigint PRIMARY KEY,
    order_id bigint NOT NULL,
    method text NOT NULL,
    amount numeric(12, 2) NOT NULL,
    paid_at timestamp,
    version integer NOT NULL
);

INSERT INTO orders
SELECT i, i % 9973, 'placed', i % 100000 / 7.0, i % 7, 'to be delivered at door ' || i % 500,
       timestamptz '2025-01-01' + i * interval '7 seconds', 1
FROM generate_series(1, :changes / 10 + :changes / 6) i;

INSERT INTO payments
SELECT i, i, 'card', i % 100000 / 7.0, timestamp '2025-01-01' + i * interval '7 seconds', 1
FROM generate_series(1, :changes / 10 + :changes / 6) i;

VACUUM (FREEZE, ANALYZE);
