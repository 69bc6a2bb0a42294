//! Random transactions over tables of every replica identity, by a seed.
//!
//! Keys are drawn from a small range, so that rows come, change, go and come
//! back; savepoints and whole transactions are rolled back as well.

use std::fmt::Write;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The tables that [`SCHEMA`] makes.
pub const TABLES: [&str; 5] =
    ["public.plain", "public.whole", "public.indexed", "public.pair", "public.keyless"];

/// By the identity they have: the primary key, all columns, a unique index, a
/// key of two columns, none.
pub const SCHEMA: &str = "
    CREATE TABLE plain (id int PRIMARY KEY, v text, n numeric(12, 2), part int, at timestamptz);
    CREATE TABLE whole (id int PRIMARY KEY, v text, long text);
    ALTER TABLE whole REPLICA IDENTITY FULL;
    CREATE TABLE indexed (id serial PRIMARY KEY, code int NOT NULL, v text);
    CREATE UNIQUE INDEX by_code ON indexed (code);
    ALTER TABLE indexed REPLICA IDENTITY USING INDEX by_code;
    CREATE TABLE pair (b text, a int, v text, f float8, PRIMARY KEY (a, b));
    CREATE TABLE keyless (x int, y text);
    INSERT INTO plain SELECT i, 'v' || i, i / 3.0, i % 5, now() FROM generate_series(1, 200) i;
    INSERT INTO whole SELECT i, 'v' || i, repeat(md5(i::text), 100) FROM generate_series(1, 100) i;
    INSERT INTO indexed (code, v) SELECT i, 'v' || i FROM generate_series(1, 100) i;
    INSERT INTO pair SELECT 'k' || i % 7, i, 'v', i / 7.0 FROM generate_series(1, 100) i;
    INSERT INTO keyless SELECT i % 10, 'y' FROM generate_series(1, 50) i;
";

/// Makes the transactions.
#[derive(Debug)]
pub struct Workload {
    random: StdRng,
    /// Marks each statement's values.
    statement: u32,
    truncates: bool,
}

impl Workload {
    /// The same seed makes the same transactions.
    pub fn new(seed: u64) -> Self {
        Workload { random: StdRng::seed_from_u64(seed), statement: 0, truncates: false }
    }

    /// Tables are truncated, too, now and then.
    pub fn with_truncates(mut self) -> Self {
        self.truncates = true;
        self
    }

    /// SQL of so many transactions, one after the other.
    pub fn transactions(&mut self, count: u32) -> String {
        (0..count).map(|_| self.transaction()).collect()
    }

    fn transaction(&mut self) -> String {
        let mut sql = String::from("BEGIN;\n");
        for _ in 0..self.random.random_range(1..=6) {
            let statement = self.statement();
            match self.random.random_range(0..10) {
                0 => {
                    let undone = self.statement();
                    let _ = writeln!(
                        sql,
                        "SAVEPOINT s; {undone} ROLLBACK TO s; {statement} RELEASE s;"
                    );
                }
                1 => {
                    let _ = writeln!(sql, "SAVEPOINT s; {statement} RELEASE s;");
                }
                _ => {
                    let _ = writeln!(sql, "{statement}");
                }
            }
        }
        let end = if self.random.random_range(0..12) == 0 { "ROLLBACK" } else { "COMMIT" };
        let _ = writeln!(sql, "{end};");
        sql
    }

    fn statement(&mut self) -> String {
        self.statement += 1;
        let n = self.statement;
        let (k, l) = (self.random.random_range(1..400), self.random.random_range(1..400));
        let rows = self.random.random_range(1..30);
        if self.truncates && self.random.random_range(0..60) == 0 {
            let table = ["plain", "whole", "pair", "keyless", "plain, pair"]
                [self.random.random_range(0..5)];
            return format!("TRUNCATE {table};");
        }
        match self.random.random_range(0..16) {
            0 | 1 => format!(
                "INSERT INTO plain SELECT i, 's{n}', {n}.5, i % 5, now() FROM
                 generate_series({k}, {k} + {rows}) i ON CONFLICT DO NOTHING;"
            ),
            2 => format!("UPDATE plain SET v = 's{n}', part = {n} % 7 WHERE id % 20 = {k} % 20;"),
            3 => format!("UPDATE plain SET n = n + 1 WHERE id BETWEEN {k} AND {k} + {rows};"),
            4 => format!("DELETE FROM plain WHERE id BETWEEN {k} AND {k} + {rows} / 3;"),
            // Another key, in one statement and in the place of another row.
            5 => format!(
                "DELETE FROM plain WHERE id = {l}; UPDATE plain SET id = {l} WHERE id = {k};"
            ),
            6 => format!(
                "INSERT INTO whole SELECT i, 's{n}', repeat(md5('{n}' || i), 150) FROM
                 generate_series({k}, {k} + 3) i ON CONFLICT (id) DO UPDATE SET v = 's{n}';"
            ),
            7 => format!("UPDATE whole SET v = 's{n}' WHERE id % 10 = {k} % 10;"),
            8 => format!(
                "DELETE FROM whole WHERE id = {k}; UPDATE whole SET id = {k} WHERE id = {l};"
            ),
            9 => format!(
                "INSERT INTO indexed (code, v) VALUES ({k}, 's{n}') ON CONFLICT DO NOTHING;"
            ),
            10 => format!(
                "UPDATE indexed SET v = 's{n}', id = id + 100000 WHERE code % 9 = {k} % 9 AND id < 100000;"
            ),
            11 => format!(
                "DELETE FROM indexed WHERE code = {k}; UPDATE indexed SET code = {k} WHERE code = {l};"
            ),
            12 => format!(
                "INSERT INTO pair VALUES ('k' || {k} % 7, {l}, 's{n}', {k} / 3.0)
                 ON CONFLICT (a, b) DO UPDATE SET v = excluded.v, f = -pair.f;"
            ),
            // One row of the group is left, and takes another key.
            13 => format!(
                "DELETE FROM pair p WHERE a = {l} AND EXISTS
                 (SELECT FROM pair q WHERE q.a = p.a AND q.b < p.b);
                 UPDATE pair SET b = 'k{}' WHERE a = {l};",
                k % 7
            ),
            14 => format!("DELETE FROM pair WHERE a % 25 = {k} % 25;"),
            _ => format!(
                "INSERT INTO keyless SELECT i % 3, 's{n}' FROM generate_series(1, {rows}) i;"
            ),
        }
    }
}
