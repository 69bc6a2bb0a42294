//! The bounds of many files at the edges of every type.

use anyhow::{Context, Result};
use tests::iceberg::engine::Engine;
use tests::iceberg::pair::Pair;
use tests::iceberg::table::{File, Table};

use super::Lake;
use crate::plain;

/// A chunk, and so a file, for each of the four children.
const TABLE: &str = "
    CREATE TABLE edges (part int, id int, i int, l bigint, f real, d double precision,
      n9 numeric(9,2), n18 numeric(18,4), n38 numeric(38,10), day date, clock time,
      ts timestamp, tz timestamptz, s text, u uuid, y bytea, b boolean, all_null text,
      PRIMARY KEY (part, id)) PARTITION BY LIST (part);
    CREATE TABLE edges_1 PARTITION OF edges FOR VALUES IN (1);
    CREATE TABLE edges_2 PARTITION OF edges FOR VALUES IN (2);
    CREATE TABLE edges_3 PARTITION OF edges FOR VALUES IN (3);
    CREATE TABLE edges_4 PARTITION OF edges FOR VALUES IN (4);
    INSERT INTO edges VALUES
      (1, 1, -2147483648, -9223372036854775808, -1.5, -1e300, -9999999.99, -99999999999999.9999,
       -9999999999999999999999999999.9999999999, '0001-01-01', '00:00:00', '0001-01-01 00:00:00',
       '1969-12-31 23:59:59.999999+00', '', '00000000-0000-0000-0000-000000000000', '\\x', false, NULL),
      (1, 2, -1, -1, -0.5, -0.5, -0.01, -0.0001, -0.0000000001, '1969-12-31', '00:00:00.000001',
       '1969-12-31 23:59:59.999999', '1970-01-01 00:00:00+00', 'a', '7fffffff-ffff-ffff-ffff-ffffffffffff', '\\x00', false, NULL),
      (2, 3, 0, 0, 0, 0, 0, 0, 0, '1970-01-01', '12:00:00', '1970-01-01 00:00:00',
       '2000-02-29 12:00:00.5+00', 'abcdefghijklmnop', '80000000-0000-0000-0000-000000000000', '\\x7f', true, NULL),
      (2, 4, 1, 1, 1.5, 'NaN', 0.01, 0.0001, 0.0000000001, '2000-02-29', '23:59:59.999999',
       '2000-02-29 12:00:00.000001', '2000-02-29 12:00:00.500001+00', 'abcdefghijklmnopq', 'ffffffff-ffff-ffff-ffff-ffffffffffff', '\\x80', true, NULL),
      (3, 5, 2147483646, 9223372036854775806, 3.4e38, 1e300, 9999999.98, 99999999999999.9998,
       9999999999999999999999999999.9999999998, '9999-12-30', '23:59:59', '9999-12-30 00:00:00',
       '9999-12-30 00:00:00+00', repeat('ü', 40), 'a0000000-0000-0000-0000-000000000000', decode(repeat('ff', 40), 'hex'), true, NULL),
      (3, 6, 2147483647, 9223372036854775807, 'Infinity', 'Infinity', 9999999.99, 99999999999999.9999,
       9999999999999999999999999999.9999999999, '9999-12-31', '23:59:59.999998', '9999-12-31 23:59:59.999999',
       '9999-12-31 23:59:59.999999+00', repeat('\u{10ffff}', 20), 'b0000000-0000-0000-0000-000000000000', decode(repeat('ff', 41), 'hex'), true, NULL),
      (4, 7, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
      (4, 8, 500, 500, 500, 500, 500, 500, 500, '2024-01-01', '01:02:03.000004', '2024-01-01 01:02:03.000004',
       '2024-01-01 01:02:03.000004+00', repeat('z', 100) || 'end', 'c0000000-0000-0000-0000-000000000000', '\\xc0ffee', NULL, NULL)";

/// Conditions that all engines and PostgreSQL understand alike.
const CONDITIONS: [&str; 37] = [
    "i = -2147483648",
    "i <= -2147483648",
    "i = 2147483647",
    "i > 2147483646",
    "i < 0",
    "l = -9223372036854775808",
    "l = 9223372036854775807",
    "l > 9223372036854775806",
    "f < -1",
    "f <= -0.5",
    "d < -1000.5",
    "n9 <= -9999999.99",
    "n9 = -0.01",
    "n9 >= 9999999.99",
    "n18 > 99999999999998",
    "n18 < 0",
    "n38 > 0",
    "n38 < 0",
    "day = '0001-01-01'",
    "day <= '1969-12-31'",
    "day = '9999-12-31'",
    "ts <= '1969-12-31T23:59:59.999999'",
    "ts = '2000-02-29T12:00:00.000001'",
    "tz = '1969-12-31T23:59:59.999999+00:00'",
    "tz < '1970-01-01T00:00:00+00:00'",
    "tz >= '2000-02-29T12:00:00.500001+00:00'",
    "s = ''",
    "s = 'abcdefghijklmnop'",
    "s = 'abcdefghijklmnopq'",
    "s > 'abcdefghijklmnop'",
    "s > 'zzzzzzzzzzzzzzzzzzzz'",
    "s = 'üüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüü'",
    "s > 'üüüüüüüüüüüüüüüüüüüüüüüüüüüüüü'",
    "b = true",
    "i is null",
    "all_null is null",
    "all_null is not null",
];

pub fn no_row_at_the_edge_of_a_bound_is_lost(pair: Pair) -> Result<()> {
    let lake = Lake::new(pair, "edges", TABLE)?;
    let project = &lake.project;
    project.select(&["public.edges"], plain())?;
    project.sync()?;
    lake.equals_source(&["public.edges"])?;
    let table = lake.table("edges");
    let mut faults = Vec::new();
    for engine in Engine::ALL {
        let found = table.counts(engine, &CONDITIONS)?;
        assert_eq!(found.len(), CONDITIONS.len());
        for (condition, found) in CONDITIONS.iter().zip(found) {
            let count = project.database().psql(&format!(
                "SELECT count(*) FROM edges WHERE {}",
                condition.replace("s >", "s COLLATE \"C\" >")
            ))?;
            if found.to_string() != count {
                faults.push(format!("{condition} by {engine:?}: {found}, not {count}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    nan_and_time(&table)?;
    files_are_skipped(&table)
}

/// What not every engine has a word for.
fn nan_and_time(table: &Table) -> Result<()> {
    // PyIceberg is not asked: it finds no NaN in a file whose Parquet bounds,
    // which leave NaN out, are there.
    assert_eq!(table.count(Engine::DuckDb, "isnan(d)")?, 1);
    assert_eq!(table.count(Engine::ClickHouse, "isNaN(d)")?, 1);
    assert_eq!(table.count(Engine::Spark, "isnan(d)")?, 1);
    assert_eq!(table.count(Engine::DuckDb, "clock >= '23:59:59.999999'")?, 1);
    assert_eq!(table.count(Engine::DuckDb, "clock <= '00:00:00.000001'")?, 2);
    // Ordered as bytes by some, as signed numbers by others: no bounds. (pyarrow
    // compares no UUIDs, so PyIceberg cannot be asked.)
    for engine in [Engine::DuckDb, Engine::ClickHouse, Engine::Spark] {
        for id in ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"] {
            assert_eq!(table.count(engine, &format!("u = '{id}'"))?, 1, "{engine:?}: {id}");
        }
    }
    Ok(())
}

/// The bounds are there, and tight enough to be of use.
fn files_are_skipped(table: &Table) -> Result<()> {
    let described = table.describe()?;
    assert_eq!(described.files.len(), 4);
    let of = |id: &str| -> Result<&File> {
        let found = described.files.iter().find(|file| file.lower["id"] == id);
        found.with_context(|| format!("a file that begins with the row {id}"))
    };
    let (first, second, third, last) = (of("1")?, of("3")?, of("5")?, of("7")?);
    assert_eq!((first.lower["i"].as_str(), first.upper["i"].as_str()), ("-2147483648", "-1"));
    assert_eq!(first.lower["n38"], "-9999999999999999999999999999.9999999999");
    assert_eq!(first.upper["tz"], "1970-01-01 00:00:00+00");
    assert_eq!((second.nans["d"], second.upper.get("d")), (1, None));
    assert_eq!(second.upper["s"], "abcdefghijklmnoq", "16 code points, the last one raised");
    assert_eq!(third.lower["s"], "ü".repeat(16));
    assert_eq!(third.upper.get("s"), None, "nothing of 16 code points is greater");
    assert_eq!(third.upper.get("y"), None);
    assert_eq!((last.values["i"], last.nulls["i"], last.nulls["all_null"]), (2, 1, 2));
    assert!(described.files.iter().all(|file| !file.lower.contains_key("u")));
    assert!(described.files.iter().all(|file| !file.lower.contains_key("all_null")));
    let conditions = ["i < -1", "i > 2147483645", "s > 'y'", "all_null is not null"];
    let opened: Vec<usize> = table.plans(&conditions)?.iter().map(Vec::len).collect();
    assert_eq!(opened, [1, 1, 2, 0], "{conditions:?}");
    Ok(())
}
