//! Random transactions over tables of every replica identity, by a seed.
//!
//! Keys are drawn from a small range, so that rows come, change, go and come
//! back; savepoints and whole transactions are rolled back as well, and what
//! fails takes its transaction with it. Some are prepared, and committed after
//! the next one. [`Workload::with_shapes`] changes the tables themselves, too.

use std::fmt::Write;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// The tables that [`SCHEMA`] makes.
pub const TABLES: [&str; 5] =
    ["public.plain", "public.whole", "public.indexed", "public.pair", "public.keyless"];

/// Those and the ones that [`MORE`] makes.
pub const ALL_TABLES: [&str; 12] = [
    "public.plain",
    "public.whole",
    "public.indexed",
    "public.pair",
    "public.keyless",
    "public.free",
    "public.nothing",
    "public.toasted",
    "public.shaped",
    "public.parts",
    "public.parent",
    "public.child",
];

/// Those of [`TABLES`], one of rows without a key that are known whole, and one of
/// values that are stored apart from their rows. [`MORE`] makes them.
pub const LARGE_TABLES: [&str; 7] = [
    "public.plain",
    "public.whole",
    "public.indexed",
    "public.pair",
    "public.keyless",
    "public.free",
    "public.toasted",
];

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

/// All columns without a key, nothing at all; one with long values; one whose
/// columns come and go; a partitioned one; two of which one refers to the other.
pub const MORE: &str = "
    CREATE TABLE free (x int, y text);
    ALTER TABLE free REPLICA IDENTITY FULL;
    CREATE TABLE nothing (id int PRIMARY KEY, v text);
    ALTER TABLE nothing REPLICA IDENTITY NOTHING;
    CREATE TABLE toasted (id int PRIMARY KEY, v text, long text);
    ALTER TABLE toasted ALTER long SET STORAGE EXTERNAL;
    CREATE TABLE shaped (id int PRIMARY KEY, v text, w int);
    CREATE TABLE parts (id int, part int, v text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
    CREATE TABLE parts_0 PARTITION OF parts FOR VALUES IN (0);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
    CREATE TABLE parts_2 PARTITION OF parts DEFAULT;
    CREATE TABLE parent (id int PRIMARY KEY, v text);
    CREATE TABLE child (id int PRIMARY KEY,
        parent int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE, v text);
    INSERT INTO free SELECT i % 10, 'y' FROM generate_series(1, 50) i;
    INSERT INTO nothing SELECT i, 'v' || i FROM generate_series(1, 50) i;
    INSERT INTO toasted SELECT i, 'v', repeat(md5(i::text), 80) FROM generate_series(1, 50) i;
    INSERT INTO shaped SELECT i, 'v' || i, i FROM generate_series(1, 100) i;
    INSERT INTO parts SELECT i, i % 4, 'v' || i FROM generate_series(1, 100) i;
    INSERT INTO parent SELECT i, 'v' || i FROM generate_series(1, 40) i;
    INSERT INTO child SELECT i, 1 + i % 40, 'v' || i FROM generate_series(1, 100) i;
";

/// Rows of a large transaction.
const MANY: u32 = 3_000;

/// Makes the transactions.
#[derive(Debug)]
pub struct Workload {
    random: StdRng,
    /// Marks each statement's values.
    statement: u32,
    /// Without their schema.
    tables: Vec<&'static str>,
    truncates: bool,
    shapes: bool,
    /// Names of prepared transactions begin with it; none are prepared without.
    prepared: Option<String>,
}

impl Workload {
    /// The same seed makes the same transactions. Rows of [`TABLES`].
    pub fn new(seed: u64) -> Self {
        Workload {
            random: StdRng::seed_from_u64(seed),
            statement: 0,
            tables: bare(&TABLES),
            truncates: false,
            shapes: false,
            prepared: None,
        }
    }

    /// Rows of these tables.
    pub fn of(mut self, tables: &[&'static str]) -> Self {
        self.tables = bare(tables);
        self
    }

    /// Tables are truncated, too, now and then.
    pub fn with_truncates(mut self) -> Self {
        self.truncates = true;
        self
    }

    /// Columns, names and partitions change, too.
    pub fn with_shapes(mut self) -> Self {
        self.shapes = true;
        self
    }

    /// Some transactions are prepared under names that begin so.
    pub fn with_prepared(mut self, names: &str) -> Self {
        self.prepared = Some(names.to_owned());
        self
    }

    /// SQL of so many transactions, one after the other, for psql.
    pub fn transactions(&mut self, count: u32) -> String {
        // Who waits for one that is prepared, or for a load, gives up.
        let mut sql = String::from("\\set ON_ERROR_STOP off\nSET lock_timeout = '300ms';\n");
        let mut open = None;
        for _ in 0..count {
            let ended: Option<String> = open.take();
            if self.shapes && self.one_in(12) {
                let _ = writeln!(sql, "{}", self.shape());
            } else if self.prepared.is_some() && ended.is_none() && self.one_in(15) {
                open = Some(self.prepare(&mut sql));
            } else {
                let end = if self.one_in(12) { "ROLLBACK" } else { "COMMIT" };
                let _ = writeln!(sql, "BEGIN;\n{}{end};", self.body());
            }
            if let Some(name) = ended {
                self.end_prepared(&name, &mut sql);
            }
        }
        if let Some(name) = open {
            self.end_prepared(&name, &mut sql);
        }
        sql
    }

    /// A transaction that is prepared, and under which name.
    fn prepare(&mut self, sql: &mut String) -> String {
        let names = self.prepared.as_deref().unwrap_or_default();
        let name = format!("{names}{}", self.statement);
        let _ = writeln!(sql, "BEGIN;\n{}PREPARE TRANSACTION '{name}';", self.body());
        name
    }

    fn end_prepared(&mut self, name: &str, sql: &mut String) {
        let end = if self.one_in(3) { "ROLLBACK" } else { "COMMIT" };
        let _ = writeln!(sql, "{end} PREPARED '{name}';");
    }

    fn one_in(&mut self, many: u32) -> bool {
        self.random.random_range(0..many) == 0
    }

    /// What a transaction does.
    fn body(&mut self) -> String {
        let mut sql = String::new();
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
        sql
    }

    /// Of a table that is written to.
    fn statement(&mut self) -> String {
        self.statement += 1;
        if self.truncates && self.one_in(60) {
            return self.truncate();
        }
        loop {
            let (table, sql) = self.draw();
            if self.tables.contains(&table) {
                return sql;
            }
        }
    }

    fn truncate(&mut self) -> String {
        let Some(table) = self.tables.choose(&mut self.random).copied() else {
            return String::new();
        };
        let other = self.tables.choose(&mut self.random).copied().unwrap_or(table);
        match self.random.random_range(0..3) {
            0 if other != table => format!("TRUNCATE {table}, {other} CASCADE;"),
            1 => format!("TRUNCATE {table} CASCADE;"),
            _ => format!("TRUNCATE {table};"),
        }
    }

    /// One table, and what changes its rows.
    fn draw(&mut self) -> (&'static str, String) {
        let n = self.statement;
        let (k, l) = (self.random.random_range(1..400), self.random.random_range(1..400));
        let rows = match self.random.random_range(0..40) {
            0 => MANY,
            _ => self.random.random_range(1..30),
        };
        match self.random.random_range(0..34) {
            0 | 1 => ("plain", format!(
                "INSERT INTO plain SELECT i, 's{n}', {n}.5, i % 5, now() FROM
                 generate_series({k}, {k} + {rows}) i ON CONFLICT DO NOTHING;"
            )),
            2 => ("plain", format!("UPDATE plain SET v = 's{n}', part = {n} % 7 WHERE id % 20 = {k} % 20;")),
            3 => ("plain", format!("UPDATE plain SET n = n + 1 WHERE id BETWEEN {k} AND {k} + {rows};")),
            4 => ("plain", format!("DELETE FROM plain WHERE id BETWEEN {k} AND {k} + {rows} / 3;")),
            // Another key, in one statement and in the place of another row.
            5 => ("plain", format!(
                "DELETE FROM plain WHERE id = {l}; UPDATE plain SET id = {l} WHERE id = {k};"
            )),
            6 => ("whole", format!(
                "INSERT INTO whole SELECT i, 's{n}', repeat(md5('{n}' || i), 150) FROM
                 generate_series({k}, {k} + 3) i ON CONFLICT (id) DO UPDATE SET v = 's{n}';"
            )),
            7 => ("whole", format!("UPDATE whole SET v = 's{n}' WHERE id % 10 = {k} % 10;")),
            8 => ("whole", format!(
                "DELETE FROM whole WHERE id = {k}; UPDATE whole SET id = {k} WHERE id = {l};"
            )),
            9 => ("indexed", format!(
                "INSERT INTO indexed (code, v) VALUES ({k}, 's{n}') ON CONFLICT DO NOTHING;"
            )),
            10 => ("indexed", format!(
                "UPDATE indexed SET v = 's{n}', id = id + 100000 WHERE code % 9 = {k} % 9 AND id < 100000;"
            )),
            11 => ("indexed", format!(
                "DELETE FROM indexed WHERE code = {k}; UPDATE indexed SET code = {k} WHERE code = {l};"
            )),
            12 => ("pair", format!(
                "INSERT INTO pair VALUES ('k' || {k} % 7, {l}, 's{n}', {k} / 3.0)
                 ON CONFLICT (a, b) DO UPDATE SET v = excluded.v, f = -pair.f;"
            )),
            // One row of the group is left, and takes another key.
            13 => ("pair", format!(
                "DELETE FROM pair p WHERE a = {l} AND EXISTS
                 (SELECT FROM pair q WHERE q.a = p.a AND q.b < p.b);
                 UPDATE pair SET b = 'k{}' WHERE a = {l};",
                k % 7
            )),
            14 => ("pair", format!("DELETE FROM pair WHERE a % 25 = {k} % 25;")),
            15 | 16 => ("keyless", format!(
                "INSERT INTO keyless SELECT i % 3, 's{n}' FROM generate_series(1, {rows}) i;"
            )),
            17 => ("free", format!(
                "INSERT INTO free SELECT i % 3, 's{k}' FROM generate_series(1, {rows}) i;"
            )),
            // One of those that are equal.
            18 => ("free", format!(
                "DELETE FROM free WHERE ctid = (SELECT ctid FROM free WHERE x = {k} % 3 LIMIT 1);
                 UPDATE free SET y = 's{l}' WHERE ctid = (SELECT ctid FROM free WHERE x = {l} % 3 LIMIT 1);"
            )),
            19 => ("nothing", format!(
                "INSERT INTO nothing SELECT i, 's{n}' FROM generate_series({k}, {k} + {rows}) i
                 ON CONFLICT DO NOTHING;"
            )),
            20 => ("toasted", format!(
                "INSERT INTO toasted SELECT i, 's{n}', repeat(md5('{n}' || i), 90) FROM
                 generate_series({k}, {k} + 3) i ON CONFLICT (id) DO UPDATE SET v = 's{n}';"
            )),
            21 => ("toasted", format!("UPDATE toasted SET v = 's{n}' WHERE id % 17 = {k} % 17;")),
            22 => ("toasted", format!(
                "DELETE FROM toasted WHERE id = {k}; UPDATE toasted SET id = {k} WHERE id = {l};
                 UPDATE toasted SET long = repeat('{n}', 3000) WHERE id = {k} + 1;"
            )),
            23 | 24 => ("shaped", format!(
                "INSERT INTO shaped SELECT i, 's{n}' FROM generate_series({k}, {k} + {rows}) i
                 ON CONFLICT DO NOTHING;"
            )),
            25 => ("shaped", format!("UPDATE shaped SET v = 's{n}' WHERE id % 13 = {k} % 13;")),
            26 => ("shaped", format!("DELETE FROM shaped WHERE id % 40 = {k} % 40;")),
            27 => ("parts", format!(
                "INSERT INTO parts SELECT i, i % 4, 's{n}' FROM generate_series({k}, {k} + {rows}) i
                 ON CONFLICT DO NOTHING;"
            )),
            // From one partition to another.
            28 => ("parts", format!("UPDATE parts SET part = part + 4 * ({k} % 2) + 1, v = 's{n}' WHERE id % 31 = {k} % 31;")),
            29 => ("parts", format!("UPDATE parts SET v = 's{n}' WHERE id % 15 = {k} % 15; DELETE FROM parts WHERE id = {l};")),
            30 => ("parent", format!(
                "INSERT INTO parent VALUES ({k} % 60, 's{n}') ON CONFLICT (id) DO UPDATE SET v = excluded.v;"
            )),
            // What refers to it goes along.
            31 => ("parent", format!("DELETE FROM parent WHERE id = {k} % 60; UPDATE parent SET id = {k} % 60 WHERE id = {l} % 60;")),
            32 => ("child", format!(
                "INSERT INTO child SELECT {k} + i, min(id), 's{n}' FROM parent, generate_series(0, 3) i GROUP BY i
                 ON CONFLICT (id) DO UPDATE SET v = excluded.v, parent = excluded.parent;"
            )),
            _ => ("child", format!("UPDATE child SET v = 's{n}' WHERE id % 12 = {k} % 12; DELETE FROM child WHERE id = {l};")),
        }
    }

    /// Changes of a table itself, with rows before and after.
    fn shape(&mut self) -> String {
        let n = self.statement;
        let c = self.random.random_range(0..3);
        let (write, table) = (self.statement(), self.tables.choose(&mut self.random));
        let sql = match self.random.random_range(0..18) {
            14 => format!("ALTER TABLE shaped DROP COLUMN IF EXISTS c{c}, ADD COLUMN IF NOT EXISTS d{c} int;"),
            15 => format!("ALTER TABLE shaped RENAME v TO t; ALTER TABLE shaped ADD COLUMN IF NOT EXISTS d{c} text; ALTER TABLE shaped RENAME t TO v;"),
            16 => format!("ALTER TABLE plain ALTER n TYPE numeric({}, 2);", 12 + n % 20),
            17 => format!("ALTER TABLE parts ADD COLUMN IF NOT EXISTS c{c} int; ALTER TABLE parts DROP COLUMN IF EXISTS c{};", (c + 1) % 3),
            0 => format!("ALTER TABLE shaped ADD COLUMN IF NOT EXISTS c{c} int;"),
            1 => format!("ALTER TABLE shaped ADD COLUMN IF NOT EXISTS c{c} text DEFAULT 's{n}';"),
            2 => format!("ALTER TABLE shaped ADD COLUMN IF NOT EXISTS c{c} float8 DEFAULT random();"),
            3 => format!("ALTER TABLE shaped DROP COLUMN IF EXISTS c{c};"),
            // Names may be swapped, or taken by another column.
            4 => format!("ALTER TABLE shaped RENAME c{c} TO c{};", (c + 1) % 3),
            5 => "ALTER TABLE shaped RENAME v TO u; ALTER TABLE shaped RENAME u TO v;".to_owned(),
            6 => "ALTER TABLE shaped ALTER w TYPE bigint;".to_owned(),
            7 => "ALTER TABLE shaped ALTER w TYPE int USING (w % 1000)::int;".to_owned(),
            8 => format!(
                "ALTER TABLE shaped RENAME TO away; UPDATE away SET v = 's{n}' WHERE id % 9 = {c};
                 ALTER TABLE away RENAME TO shaped;"
            ),
            9 => format!("TRUNCATE parts_{c};"),
            10 => format!(
                "ALTER TABLE parts DETACH PARTITION parts_1; UPDATE parts_1 SET v = 's{n}' WHERE id % 3 = {c};
                 ALTER TABLE parts ATTACH PARTITION parts_1 FOR VALUES IN (1);"
            ),
            11 => "DROP TABLE IF EXISTS parts_1; CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);"
                .to_owned(),
            12 => format!("VACUUM FULL {};", table.unwrap_or(&"plain")),
            _ => "ALTER TABLE shaped ALTER v SET DEFAULT 'x'; ALTER TABLE plain ADD COLUMN IF NOT EXISTS more int;"
                .to_owned(),
        };
        // In one transaction, or each for itself.
        match self.one_in(2) && !sql.starts_with("VACUUM") {
            true => format!("BEGIN; {write} {sql} COMMIT;"),
            false => format!("{write} {sql}"),
        }
    }
}

fn bare(tables: &[&'static str]) -> Vec<&'static str> {
    tables.iter().map(|table| table.strip_prefix("public.").unwrap_or(table)).collect()
}
