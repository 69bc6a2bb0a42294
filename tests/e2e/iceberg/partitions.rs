//! Tables by partitions: every row where its values say, and no reader that
//! looks only there misses one.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::json;
use tests::compare::Cell;
use tests::iceberg::engine::Engine;
use tests::iceberg::pair::Pair;

use super::Lake;
use crate::plain;

/// Moments on both sides of 1970, within a second of a day's end too; negative
/// numbers; text of several bytes a character; nulls everywhere.
const ROWS: &str = "
    (i int, l bigint, n9 numeric(9,2), n18 numeric(18,4), n38 numeric(38,10), day date,
     clock time, ts timestamp, tz timestamptz, s text, u uuid, y bytea, b boolean);
    INSERT INTO @ VALUES
      (1, 1, 10.65, 14.2, 1e20, '2017-11-16', '22:31:08', '2017-11-16 22:31:08', '2017-11-16 22:31:08+00',
       'iceberg', 'f79c3e09-677c-4bbd-a479-3f349cb785e7', '\\x00010203', true),
      (-1, -1, -0.05, -0.0001, -0.0000000001, '1969-12-31', '23:59:59.999999', '1969-12-31 23:59:59.999999',
       '1969-12-31 23:59:59.999999+00', '日本語のテキスト', '00000000-0000-0000-0000-000000000000', '\\x00', false),
      (-10, -10, -10, -10, -10, '1969-12-30', '00:00:00', '1969-12-30 23:59:59.5', '1969-12-30 23:59:59.5+00',
       '🦀🦀🦀🦀', 'ffffffff-ffff-ffff-ffff-ffffffffffff', '\\xff', true),
      (-11, -11, -10.01, -10.0001, -10.0000000001, '0001-01-01', '00:00:00.000001', '0001-01-01 00:00:00',
       '0001-01-01 00:00:00+00', '', '80000000-0000-0000-0000-000000000000', '\\x', false),
      (2147483647, 9223372036854775807, 9999999.99, 99999999999999.9999, 9999999999999999999999999999.9999999999,
       '9999-12-31', '12:00:00', '9999-12-31 23:59:59.999999', '9999-12-31 23:59:59.999999+00',
       repeat('z', 100), '7fffffff-ffff-ffff-ffff-ffffffffffff', decode(repeat('ff', 40), 'hex'), true),
      (0, 0, 0, 0, 0, '1970-01-01', '12:00:00', '1970-01-01 00:00:00', '1970-01-01 00:00:00+00', 'é/=%',
       'a0000000-0000-0000-0000-000000000000', '\\x2f3d', false),
      (34, 34, 14.20, 0.5, 14.2, '2000-02-29', '01:02:03.000004', '2000-02-29 12:00:00.5', '2000-02-29 12:00:00.5+00',
       'null', 'b0000000-0000-0000-0000-000000000000', '\\x6e756c6c', true),
      (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
      (1, 1, 10.65, 14.2, 1e20, '2017-11-16', '22:31:08', '2017-11-16 22:31:08', '2017-11-16 22:31:08+00',
       'iceberg', 'f79c3e09-677c-4bbd-a479-3f349cb785e7', '\\x00010203', true)";
const COUNT: u64 = 9;

/// A table for each, by every type that takes the transform (but identity of a
/// time, which ClickHouse takes for seconds).
const TABLES: [(&str, &str, &[&str]); 10] = [
    ("by_identity", "identity", &["i", "l", "day", "ts", "tz", "s", "y", "b"]),
    (
        "by_bucket",
        "bucket[7]",
        &["i", "l", "n9", "n18", "n38", "day", "clock", "ts", "tz", "s", "u", "y"],
    ),
    ("by_truncate", "truncate[3]", &["i", "l", "s", "y"]),
    ("by_decimal", "identity", &["n9", "n18", "n38"]),
    // ClickHouse truncates no decimal of more than 18 digits.
    ("by_cut_decimal", "truncate[3]", &["n9", "n18"]),
    ("by_year", "year", &["day", "ts", "tz"]),
    ("by_month", "month", &["day", "ts", "tz"]),
    ("by_day", "day", &["day", "ts", "tz"]),
    ("by_hour", "hour", &["ts", "tz"]),
    ("by_void", "void", &["i", "s"]),
];

/// Conditions that all engines and PostgreSQL understand alike.
const CONDITIONS: [&str; 22] = [
    "i = -1",
    "i < -9",
    "i >= 34",
    "i is null",
    "l = -11",
    "l > 34",
    "n9 <= -10",
    "n9 = 14.20",
    "n18 < 0",
    "n38 > 1000",
    "day = '1969-12-31'",
    "day < '1970-01-01'",
    "day >= '2000-02-29'",
    "ts = '1969-12-30T23:59:59.500000'",
    "ts <= '1969-12-31T23:59:59.999999'",
    "ts > '2000-01-01T00:00:00'",
    "tz < '1969-12-31T00:00:00+00:00'",
    "tz >= '1969-12-31T23:59:59.999999+00:00'",
    "s = '日本語のテキスト'",
    "s = 'null'",
    "s is null",
    "b = true",
];

pub fn every_transform_puts_every_row_where_readers_look_for_it(pair: Pair) -> Result<()> {
    let sql: String = TABLES
        .iter()
        .map(|(name, ..)| format!("CREATE TABLE {name} {};", ROWS.replace('@', name)))
        .collect();
    let lake = Lake::new(pair, "transforms", &sql)?;
    let project = &lake.project;
    let streams = TABLES.map(|(name, ..)| format!("public.{name}"));
    let streams: Vec<&str> = streams.iter().map(String::as_str).collect();
    project.select(&streams, plain())?;
    for (name, transform, columns) in TABLES {
        let fields: String =
            columns.iter().map(|column| format!("/{{{column}, {transform}}}")).collect();
        project.edit("streams.json", |catalog| {
            let selected = catalog["selected_streams"]["public"].as_array_mut();
            for stream in selected.into_iter().flatten().filter(|it| it["stream_name"] == name) {
                stream["partition_regex"] = json!(fields);
            }
        })?;
    }
    project.sync()?;
    lake.equals_source(&streams)?;

    let mut faults = Vec::new();
    for (name, transform, columns) in TABLES {
        let table = lake.table(name);
        table.rows_are_in_their_partitions(COUNT)?;
        let described = table.describe()?;
        let found: Vec<_> = described
            .partition
            .iter()
            .map(|field| (field.source.as_str(), field.transform.as_str()))
            .collect();
        let wanted: Vec<_> = columns.iter().map(|column| (*column, transform)).collect();
        assert_eq!(found, wanted, "{name}");
        for engine in Engine::ALL {
            let conditions: Vec<&str> = CONDITIONS
                .into_iter()
                .filter(|condition| understands(engine, transform, columns, condition))
                .collect();
            for (condition, found) in conditions.iter().zip(table.counts(engine, &conditions)?) {
                let count = project
                    .database()
                    .psql(&format!("SELECT count(*) FROM {name} WHERE {condition}"))?;
                if found.to_string() != count {
                    faults.push(format!("{name}: {condition} by {engine:?}: {found}, not {count}"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));

    // Partitions are there to be skipped.
    for (name, condition, files) in [
        ("by_identity", "s = 'null'", 1),
        ("by_bucket", "u = '00000000-0000-0000-0000-000000000000'", 1),
        ("by_truncate", "s = '日本語のテキスト'", 1),
        ("by_day", "ts = '1969-12-30T23:59:59.500000'", 1),
        ("by_year", "day < '0002-01-01'", 1),
        ("by_hour", "tz = '1970-01-01T00:00:00+00:00'", 1),
    ] {
        let opened = lake.table(name).plans(&[condition])?;
        assert_eq!(opened.iter().map(Vec::len).collect::<Vec<_>>(), [files], "{name}: {condition}");
    }
    Ok(())
}

/// What an engine can be asked of a table: DuckDB fails on partition values
/// that are negative decimals; it and ClickHouse cut times before 1970 towards
/// it where Iceberg floors them, and so look for them in the wrong partition.
fn understands(engine: Engine, transform: &str, columns: &[&str], condition: &str) -> bool {
    let by_time = ["year", "month", "day", "hour"].contains(&transform);
    match engine {
        Engine::PyIceberg | Engine::Spark => true,
        Engine::DuckDb if columns[0] == "n9" => false,
        Engine::DuckDb | Engine::ClickHouse => !(by_time && condition.contains("'19")),
    }
}

/// Of identity and void; ClickHouse fails on uuids in manifests.
pub fn uuids_are_partition_values(pair: Pair) -> Result<()> {
    let sql = format!("CREATE TABLE t {}", ROWS.replace('@', "t"));
    let lake = Lake::new(pair, "by_uuid", &sql)?;
    let regex = "/{u, identity}/{u, void}/{i, bucket[2]}";
    lake.project.select(&["public.t"], json!({"partition_regex": regex}))?;
    let uuids = || lake.project.database().psql("SELECT DISTINCT u FROM t WHERE u IS NOT NULL");
    for _ in 0..2 {
        lake.project.sync()?;
        let table = lake.table("t");
        let described = table.describe()?;
        assert_eq!(described.partition.len(), 3);
        let found: BTreeSet<_> =
            described.files.iter().filter_map(|file| file.partition["u"].clone()).collect();
        assert_eq!(found, uuids()?.lines().map(str::to_owned).collect());
        for engine in [Engine::PyIceberg, Engine::DuckDb, Engine::Spark] {
            let rows = table.read(engine)?.rows;
            let mut read: Vec<_> = rows.column("u")?;
            read.sort();
            let mut written: Vec<_> = lake
                .project
                .database()
                .psql("SELECT coalesce(u::text, '') FROM t")?
                .lines()
                .map(|u| if u.is_empty() { Cell::Null } else { Cell::text(u) })
                .collect();
            written.resize(COUNT as usize, Cell::Null);
            written.sort();
            assert_eq!(read, written, "{engine:?}");
            // It compares no uuid of a file with one of a condition.
            let conditions = if engine == Engine::PyIceberg { String::new() } else { uuids()? };
            for uuid in conditions.lines() {
                let condition = format!("u = '{uuid}'");
                let expected = lake
                    .project
                    .database()
                    .psql(&format!("SELECT count(*) FROM t WHERE {condition}"))?;
                let count = table.count(engine, &condition)?;
                assert_eq!(count.to_string(), expected, "{condition} by {engine:?}");
            }
        }
    }
    // Who looks for one opens the files of its partition: the others may be gone.
    let (table, uuids) = (lake.table("t"), uuids()?);
    let uuid = uuids.lines().next().context("a uuid")?;
    let files = table.describe()?.files.into_iter();
    let others = files.filter(|file| file.partition["u"].as_deref() != Some(uuid));
    lake.warehouse.remove(&others.map(|file| file.path).collect::<Vec<_>>())?;
    for engine in [Engine::DuckDb, Engine::Spark] {
        assert!(table.count(engine, &format!("u = '{uuid}'"))? > 0, "{engine:?}");
        assert!(table.count(engine, "i > -100").is_err(), "{engine:?} reads what is gone");
    }
    Ok(())
}

pub fn a_table_is_partitioned_anew_by_the_sync_after_the_change(pair: Pair) -> Result<()> {
    let lake = Lake::new(
        pair,
        "repartitioned",
        "CREATE TABLE t (id int PRIMARY KEY, \"Kind of\" text, at timestamptz);
         INSERT INTO t SELECT i, 'k' || i % 3, timestamptz '2024-01-30 12:00+00' + i * interval '1 hour'
         FROM generate_series(1, 100) i",
    )?;
    let table = lake.table("t");
    // What is set, the spec's fields (name, column, transform), partitions with rows.
    type Round = (&'static str, &'static [(&'static str, &'static str, &'static str)], usize);
    let rounds: [Round; 5] = [
        ("", &[], 1),
        // Source's spelling, destination's spelling; in the order of the text.
        (
            "/{Kind of, identity}/{at, month}",
            &[("kind_of", "kind_of", "identity"), ("at_month", "at", "month")],
            6,
        ),
        ("/{kind_of, identity}", &[("kind_of", "kind_of", "identity")], 3),
        ("{now(), day}", &[("_olake_timestamp_day", "_olake_timestamp", "day")], 1),
        ("", &[], 1),
    ];
    let mut snapshots = 0;
    for (regex, fields, partitions) in rounds {
        lake.project.select(&["public.t"], json!({"partition_regex": regex}))?;
        lake.project.sync()?;
        lake.equals_source(&["public.t"])?;
        table.rows_are_in_their_partitions(100)?;
        let described = table.describe()?;
        let found: Vec<_> = described
            .partition
            .iter()
            .map(|field| (field.name.as_str(), field.source.as_str(), field.transform.as_str()))
            .collect();
        assert_eq!(found, fields, "{regex}");
        let found: BTreeSet<_> = described.files.iter().map(|file| &file.partition).collect();
        assert_eq!(found.len(), partitions, "{regex}");
        snapshots += 1;
        assert_eq!(described.snapshots.len(), snapshots, "each in one commit");
    }
    Ok(())
}

pub fn rows_of_json_have_their_partition_columns_beside_them(pair: Pair) -> Result<()> {
    let lake = Lake::new(
        pair,
        "json_parts",
        "CREATE TABLE t (id int PRIMARY KEY, amount numeric(10,2), data text);
         INSERT INTO t VALUES (1, 1.50, 'x'), (2, 2.50, 'y'), (3, NULL, NULL)",
    )?;
    let settings = |regex: &str| json!({"normalization": false, "partition_regex": regex});
    lake.project.select(&["public.t"], settings("/{amount, truncate[100]}"))?;
    lake.project.sync()?;
    let table = lake.table("t");
    table.rows_are_in_their_partitions(3)?;
    for engine in Engine::ALL {
        let rows = table.read(engine)?.rows;
        let mut amounts = rows.column("amount")?;
        amounts.sort();
        assert_eq!(amounts, [Cell::Null, Cell::text("1.50"), Cell::text("2.50")], "{engine:?}");
        assert_eq!(rows.column("data")?.len(), 3, "{engine:?}");
    }
    // The column of that name holds the rows.
    lake.project.select(&["public.t"], settings("/{data, identity}"))?;
    let told = lake.project.run(&tests::run::Project::SYNC)?.failed()?;
    assert!(told.contains("cannot be partitioned by \"data\""), "{told}");
    Ok(())
}

pub fn chunks_share_partitions_and_bounded_files(pair: Pair) -> Result<()> {
    let lake = Lake::new(
        pair,
        "many_parts",
        "CREATE TABLE t (id int PRIMARY KEY, k int, filler text);
         INSERT INTO t SELECT i, i % 300, repeat(md5(i::text), 8) FROM generate_series(1, 60000) i",
    )?;
    lake.project.select(&["public.t"], json!({"partition_regex": "/{k, identity}"}))?;
    lake.project.sync()?;
    lake.equals_source(&["public.t"])?;
    let table = lake.table("t");
    table.rows_are_in_their_partitions(60_000)?;
    let described = table.describe()?;
    let partitions: BTreeSet<_> =
        described.files.iter().map(|file| file.partition["k"].clone()).collect();
    assert_eq!(partitions.len(), 300);
    let current = described.current()?;
    let total = current.summary.get("total-data-files").context("total-data-files")?;
    assert_eq!(*total, described.files.len().to_string());
    assert_eq!(table.plans(&["k = 17"])?[0].len(), described.files.len() / 300);
    for engine in Engine::ALL {
        assert_eq!(table.count(engine, "k = 17")?, 200, "{engine:?}");
    }
    Ok(())
}
