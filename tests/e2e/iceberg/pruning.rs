//! Engines that skip files by the bounds in manifests find every row.

use anyhow::{Context, Result};
use tests::iceberg::engine::Engine;
use tests::iceberg::pair::Pair;

use super::Lake;
use crate::plain;

/// Strings are longer than what a bound keeps of them, and end in characters
/// whose code points have no next one; timestamps lie before and after 1970.
const TABLE: &str = "
    CREATE TABLE t (
      id int PRIMARY KEY, big bigint, amount numeric(12,3), wide numeric(30,5), word text, day date,
      moment timestamptz, ratio float8, flag bool, only_null int
    );
    INSERT INTO t SELECT
      i, i * -4000000000, i / 7.0, i * 12345678901234567.12345, repeat('ü😀', 20) || chr(1114109 + i % 3) || i,
      date '1969-12-20' + i, timestamptz '1969-12-31 23:00:00+00' + i * interval '1 hour 0.000001 s',
      CASE i % 10 WHEN 0 THEN 'NaN' ELSE i * -0.5 END, i % 2 = 0, NULL
    FROM generate_series(-20, 3000) i;
    INSERT INTO t (id, word) VALUES (100000, repeat(chr(1114111), 30)), (100001, ''), (100002, repeat('z', 16)),
      (100003, repeat('z', 17));";

/// Conditions that PostgreSQL and all engines understand alike, at the edges
/// of what the table holds. Whether NaN is above all numbers they differ in.
const CONDITIONS: [&str; 20] = [
    "id = -20",
    "id < -19",
    "id >= 100000",
    "big <= -11999999999999",
    "big > 79999999999",
    "amount <= -2.857",
    "amount >= 428.571",
    "wide < -200000000000000000.00000",
    "wide > 37000000000000000000.00000",
    "day = '1969-11-30'",
    "day > '1978-03-06'",
    "moment < '1969-12-31T03:00:01+00:00'",
    "moment > '1970-05-05T22:59:59+00:00'",
    "moment = '1969-12-31T23:00:00+00:00'",
    "ratio < -1499.0",
    "ratio > 9.0 and ratio < 1000000.0",
    "flag = true",
    "word = ''",
    "word > 'zzzzzzzzzzzzzzzz'",
    "only_null is null",
];

/// Conditions that no row fulfils, so that no file needs to be opened.
const NOWHERE: [&str; 8] = [
    "id < -20",
    "id > 100003",
    "big > 80000000000",
    "amount > 429.000",
    "day < '1969-11-30'",
    "moment > '1980-01-01T00:00:00+00:00'",
    "moment < '1969-12-01T00:00:00+00:00'",
    "only_null is not null",
];

pub fn engines_that_prune_lose_no_row(pair: Pair) -> Result<()> {
    let lake = Lake::new(pair, "pruned", TABLE)?;
    lake.project.select(&["public.t"], plain())?;
    lake.project.sync()?;
    let table = lake.table("t");
    let rows = CONDITIONS.iter().map(|condition| source(&lake, condition));
    let rows: Vec<u64> = rows.collect::<Result<_>>()?;
    for engine in Engine::ALL {
        let found = table.counts(engine, &CONDITIONS)?;
        for ((condition, rows), found) in CONDITIONS.iter().zip(&rows).zip(found) {
            assert!(*rows > 0, "{condition} is fulfilled by some row");
            assert_eq!(found, *rows, "{condition} by {engine:?}");
        }
    }
    for (condition, files) in NOWHERE.iter().zip(table.plans(&NOWHERE)?) {
        assert_eq!(source(&lake, condition)?, 0, "{condition}");
        assert_eq!(files, Vec::<String>::new(), "{condition} opens no file");
    }
    Ok(())
}

fn source(lake: &Lake, condition: &str) -> Result<u64> {
    let query = format!("SELECT count(*) FROM t WHERE {condition}");
    let text = lake.project.database().psql(&query)?;
    text.parse().with_context(|| format!("{condition}: {text}"))
}
