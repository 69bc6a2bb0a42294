//! Columns that get other names at the source stay the fields they were.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::compare::{Cell, Rows, same_rows};
use tests::iceberg::engine::Engine;
use tests::iceberg::pair::Pair;
use tests::iceberg::table::{Description, Table};
use tests::iceberg::verify::iceberg_type;
use tests::postgres::Database;
use tests::reader::ReadTable;
use tests::run::Project;
use tests::truth;

use super::Lake;
use crate::plain;

/// What PostgreSQL said that `public.t` holds, and of what types.
pub struct Truth {
    rows: Rows,
    kinds: Vec<String>,
}

impl Truth {
    pub fn now(database: &Database) -> Result<Truth> {
        let kinds = truth::columns(database, "t")?.iter().map(iceberg_type).collect();
        Ok(Truth { rows: truth::table(database, "t")?, kinds })
    }

    /// Every engine finds these rows in these columns, whatever others there are.
    pub fn is_read(&self, read: impl Fn(Engine) -> Result<ReadTable>) -> Result<()> {
        for engine in Engine::ALL {
            let table = read(engine).with_context(|| format!("{engine:?}"))?;
            let found = table.rows.project(&self.rows.columns)?;
            let told = engine.tells(&self.rows, &self.kinds);
            same_rows(&told, &found, &[]).with_context(|| format!("{engine:?}"))?;
            for (column, kind) in self.rows.columns.iter().zip(&self.kinds) {
                assert_eq!(table.types.get(column), Some(kind), "{column}");
            }
        }
        Ok(())
    }

    /// The same rows, with other names of columns.
    fn named(&self, names: &[(&str, &str)]) -> Truth {
        let mut rows = self.rows.clone();
        for column in &mut rows.columns {
            if let Some((_, new)) = names.iter().find(|(old, _)| old == column) {
                *column = (*new).to_owned();
            }
        }
        Truth { rows, kinds: self.kinds.clone() }
    }
}

/// Column → field id.
pub fn ids(described: &Description) -> BTreeMap<&str, i32> {
    described.schema.iter().map(|field| (field.name.as_str(), field.id)).collect()
}

/// Brings streams.json up to date, and syncs with these settings.
pub fn resync(lake: &Lake, settings: Value) -> Result<()> {
    lake.project.discover()?;
    lake.project.select(&["public.t"], settings)?;
    lake.project.sync()?;
    Ok(())
}

/// After some DDL and a sync, (column, the column it was at first) of all that
/// a table has; "": it is a new one.
fn step(
    lake: &Lake,
    table: &Table,
    sql: &str,
    first: &Description,
    now: &[(&str, &str)],
) -> Result<()> {
    lake.project.database().psql(sql)?;
    let before = table.describe()?;
    resync(lake, plain())?;
    let after = table.describe()?;
    let first = ids(first);
    for (column, was) in now {
        let id = *ids(&after).get(column).with_context(|| format!("{column} after {sql}"))?;
        match first.get(was) {
            Some(known) => assert_eq!(id, *known, "{column} was {was}, after {sql}"),
            None => assert!(!first.values().any(|known| *known == id), "{column} after {sql}"),
        }
    }
    assert_eq!(after.snapshots.len(), before.snapshots.len() + 1, "one commit each");
    let names: Vec<_> = after.schema.iter().map(|field| &field.name).collect();
    let expected = now.len() + tests::reader::METADATA.len();
    assert_eq!(names.len(), expected, "{names:?} after {sql}");
    Truth::now(lake.project.database())?.is_read(|engine| table.read(engine))
}

pub fn renamed_columns_stay_their_fields_and_earlier_snapshots_keep_the_names(
    pair: Pair,
) -> Result<()> {
    let lake = Lake::new(
        pair,
        "renamed",
        "CREATE TABLE t (id int PRIMARY KEY, a int, b int, c text, tags int[], gone int, amount numeric(9,2));
         INSERT INTO t VALUES (1, 10, 100, 'one', '{1,NULL}', 5, 1.25), (2, 20, 200, NULL, '{}', 6, -2.5)",
    )?;
    lake.project.select(&["public.t"], plain())?;
    lake.project.sync()?;
    let table = lake.table("t");
    let first = table.describe()?;
    let then = Truth::now(lake.project.database())?;
    then.is_read(|engine| table.read(engine))?;

    let rest = [("tags", "tags"), ("gone", "gone"), ("amount", "amount")];
    let with = |some: &[(&'static str, &'static str)]| [some, &rest[..]].concat();
    step(
        &lake,
        &table,
        "ALTER TABLE t RENAME a TO \"Z\"; ALTER TABLE t RENAME \"Z\" TO z",
        &first,
        &with(&[("id", "id"), ("z", "a"), ("b", "b"), ("c", "c")]),
    )?;
    step(
        &lake,
        &table,
        "ALTER TABLE t RENAME z TO x; ALTER TABLE t RENAME b TO z; ALTER TABLE t RENAME x TO b;
         UPDATE t SET z = z + 1",
        &first,
        &with(&[("id", "id"), ("z", "b"), ("b", "a"), ("c", "c")]),
    )?;
    // The old name goes to a new column; a column of the same name is another.
    let rest = [("tags", "tags"), ("gone", ""), ("amount", "amount")];
    let with = |some: &[(&'static str, &'static str)]| [some, &rest[..]].concat();
    step(
        &lake,
        &table,
        "ALTER TABLE t RENAME c TO d; ALTER TABLE t ADD c text;
         ALTER TABLE t DROP gone; ALTER TABLE t ADD gone int; UPDATE t SET c = 'new ' || id WHERE id = 1",
        &first,
        &with(&[("id", "id"), ("z", "b"), ("b", "a"), ("d", "c"), ("c", "")]),
    )?;
    // Key and widened columns.
    step(
        &lake,
        &table,
        "ALTER TABLE t RENAME id TO key; ALTER TABLE t ALTER b TYPE bigint; ALTER TABLE t RENAME b TO wide;
         ALTER TABLE t RENAME tags TO labels; ALTER TABLE t ALTER labels TYPE bigint[];
         ALTER TABLE t RENAME amount TO price; ALTER TABLE t ALTER price TYPE numeric(20,2);
         INSERT INTO t VALUES (3, 9223372036854775807, 300, 'd', '{9223372036854775807}', 123456789012345678.25, 'c', 1)",
        &first,
        &[("key", "id"), ("z", "b"), ("wide", "a"), ("d", "c"), ("c", ""), ("labels", "tags"), ("gone", ""), ("price", "amount")],
    )?;
    assert_eq!(table.describe()?.identifier_fields, ["key"]);
    // A column that is gone stays, and is null, until another takes its name.
    step(
        &lake,
        &table,
        "ALTER TABLE t DROP c",
        &first,
        &[
            ("key", "id"),
            ("z", "b"),
            ("wide", "a"),
            ("d", "c"),
            ("c", ""),
            ("labels", "tags"),
            ("gone", ""),
            ("price", "amount"),
        ],
    )?;
    for engine in Engine::ALL {
        let rows = table.read(engine)?.rows;
        assert_eq!(rows.column("c")?, [Cell::Null, Cell::Null, Cell::Null], "{engine:?}");
    }
    step(
        &lake,
        &table,
        "ALTER TABLE t RENAME d TO c",
        &first,
        &[
            ("key", "id"),
            ("z", "b"),
            ("wide", "a"),
            ("c", "c"),
            ("labels", "tags"),
            ("gone", ""),
            ("price", "amount"),
        ],
    )?;

    // As it was: names, types, values.
    let snapshot = first.current()?.id;
    then.is_read(|engine| table.read_at(engine, snapshot))?;
    // The same files under the names and types of now; gone is gone.
    table.roll_back(snapshot)?;
    let names = [("id", "key"), ("b", "z"), ("a", "wide"), ("tags", "labels"), ("amount", "price")];
    let mut renamed = then.named(&names);
    for (name, kind) in [("wide", "long"), ("labels", "list<long>"), ("price", "decimal(20,2)")] {
        let at = renamed.rows.columns.iter().position(|column| column == name);
        renamed.kinds[at.context(name)?] = kind.to_owned();
    }
    let kept: Vec<_> =
        renamed.rows.columns.iter().position(|column| column == "gone").into_iter().collect();
    for at in kept {
        renamed.rows.rows.iter_mut().for_each(|row| row[at] = Cell::Null);
    }
    renamed.is_read(|engine| table.read(engine))?;
    // And on from there.
    resync(&lake, plain())?;
    Truth::now(lake.project.database())?.is_read(|engine| table.read(engine))
}

pub fn a_table_made_anew_goes_by_names_and_is_followed_from_then_on(pair: Pair) -> Result<()> {
    let lake = Lake::new(
        pair,
        "anew",
        "CREATE TABLE t (id int PRIMARY KEY, a int, b int); INSERT INTO t VALUES (1, 10, 100)",
    )?;
    lake.project.select(&["public.t"], plain())?;
    lake.project.sync()?;
    let table = lake.table("t");
    let first = table.describe()?;
    let relation = lake.project.database().psql(
        "SELECT system_identifier || '/' || d.oid || '/' || 't'::regclass::oid
         FROM pg_control_system(), pg_database d WHERE datname = current_database()",
    )?;
    let known: Value = serde_json::from_str(&first.properties["tidewater.columns"])?;
    assert_eq!(known["relation"], relation.trim());
    let all = [("id", "id"), ("a", "a"), ("b", "b")];
    // Other places, and one that an earlier relation had for another column.
    let anew = "DROP TABLE t; CREATE TABLE t (b int, id int PRIMARY KEY, a int); INSERT INTO t VALUES (1, 2, 3)";
    step(&lake, &table, anew, &first, &all)?;
    let renamed = [("id", "id"), ("a", "b"), ("b", "a")];
    let swap =
        "ALTER TABLE t RENAME a TO x; ALTER TABLE t RENAME b TO a; ALTER TABLE t RENAME x TO b";
    step(&lake, &table, swap, &first, &renamed)?;

    // As an earlier version left it: by names once, then remembered.
    table.unset("tidewater.columns")?;
    step(&lake, &table, "INSERT INTO t VALUES (4, 5, 6)", &first, &renamed)?;
    step(&lake, &table, swap, &first, &all)?;
    // A rename that the table could not know of.
    table.unset("tidewater.columns")?;
    let unknown = [("id", "id"), ("a", "a"), ("b", "b"), ("c", "")];
    step(&lake, &table, "ALTER TABLE t RENAME b TO c", &first, &unknown)
}

pub fn a_renamed_partition_column_keeps_its_partitions(pair: Pair) -> Result<()> {
    let lake = Lake::new(
        pair,
        "renamed_parts",
        "CREATE TABLE t (id int PRIMARY KEY, at timestamp, k text);
         INSERT INTO t SELECT i, timestamp '2024-01-30 12:00' + i * interval '12 hours', 'k' || i % 3
         FROM generate_series(1, 12) i",
    )?;
    let (project, database) = (&lake.project, lake.project.database());
    let by = |regex: &str| json!({"partition_regex": regex});
    project.select(&["public.t"], by("/{at, day}/{k, identity}"))?;
    project.sync()?;
    let table = lake.table("t");
    let first = table.describe()?;

    database.psql("ALTER TABLE t RENAME at TO moment; ALTER TABLE t RENAME k TO kind")?;
    project.discover()?;
    let told = project.run(&Project::SYNC)?.failed()?;
    assert!(told.contains("there is no column \"at\"; there are"), "{told}");
    resync(&lake, by("/{moment, day}/{kind, identity}"))?;
    lake.equals_source(&["public.t"])?;
    table.rows_are_in_their_partitions(12)?;
    let after = table.describe()?;
    let spec = |described: &Description| -> Vec<(i32, String, String)> {
        let fields = described.partition.iter();
        fields.map(|it| (it.id, it.name.clone(), it.transform.clone())).collect()
    };
    assert_eq!(spec(&after), spec(&first));
    let sources: Vec<_> = after.partition.iter().map(|it| it.source.as_str()).collect();
    assert_eq!(sources, ["moment", "kind"]);
    assert_eq!(ids(&after)["moment"], ids(&first)["at"]);
    assert!(after.manifests.iter().all(|manifest| manifest.spec_id == 0));
    let conditions = ["kind = 'k1'", "moment >= '2024-02-02T00:00:00'", "kind is null"];
    for engine in Engine::ALL {
        for (condition, found) in conditions.iter().zip(table.counts(engine, &conditions)?) {
            let count = database.psql(&format!("SELECT count(*) FROM t WHERE {condition}"))?;
            assert_eq!(found.to_string(), count, "{condition} by {engine:?}");
        }
    }
    let opened: Vec<_> = table.plans(&conditions)?.iter().map(Vec::len).collect();
    assert!(opened[0] < after.files.len() && opened[1] < after.files.len(), "{opened:?}");

    // A partition is named k: not every reader would take a column of that name.
    database.psql("ALTER TABLE t ADD k int")?;
    project.discover()?;
    let told = project.run(&Project::SYNC)?.failed()?;
    for part in ["public.t", "column \"k\" would be named as a partition", "clear-destination"] {
        assert!(told.contains(part), "{told}");
    }
    assert_eq!(table.describe()?.metadata_location, after.metadata_location);
    project.run(&Project::CLEAR)?.succeeded()?;
    project.sync()?;
    lake.equals_source(&["public.t"])
}

pub fn beside_rows_of_json_a_partition_column_is_followed(pair: Pair) -> Result<()> {
    let lake = Lake::new(
        pair,
        "renamed_json",
        "CREATE TABLE t (id int PRIMARY KEY, k int, op text); INSERT INTO t VALUES (1, 7, 'x')",
    )?;
    let by = |regex: &str| json!({"normalization": false, "partition_regex": regex});
    let database = lake.project.database();
    lake.project.select(&["public.t"], by("/{k, identity}"))?;
    lake.project.sync()?;
    let table = lake.table("t");
    let first = table.describe()?;
    // A source's column that is named as metadata are is not these.
    database.psql(
        "ALTER TABLE t RENAME k TO kind; ALTER TABLE t RENAME op TO _op_type; INSERT INTO t VALUES (2, 8, 'y')",
    )?;
    resync(&lake, by("/{kind, identity}"))?;
    let after = table.describe()?;
    let (before, now) = (ids(&first), ids(&after));
    assert_eq!(now["kind"], before["k"]);
    for name in ["_olake_id", "_op_type", "data"] {
        assert_eq!(now[name], before[name], "{name}");
    }
    assert_eq!(after.schema.len(), first.schema.len());
    table.rows_are_in_their_partitions(2)?;
    for engine in Engine::ALL {
        let rows = table.read(engine)?.rows;
        let mut data = rows.column("data")?;
        data.sort();
        let text = |id, kind, op| format!(r#"{{"id":{id},"kind":{kind},"_op_type":"{op}"}}"#);
        assert_eq!(data, [text(1, 7, "x"), text(2, 8, "y")].map(Cell::text), "{engine:?}");
        assert!(rows.column("_op_type")?.iter().all(|op| *op == Cell::text("r")), "{engine:?}");
    }
    Ok(())
}

pub fn a_stale_catalog_is_told_what_was_renamed(pair: Pair) -> Result<()> {
    let lake = Lake::new(
        pair,
        "stale",
        "CREATE TABLE t (id int PRIMARY KEY, a int, b text); INSERT INTO t VALUES (1, 2, 'x')",
    )?;
    let (project, database) = (&lake.project, lake.project.database());
    project.select(&["public.t"], plain())?;
    project.sync()?;
    let table = lake.table("t");
    let before = table.describe()?;
    database.psql("ALTER TABLE t RENAME a TO z")?;
    let refused = |parts: &[&str]| -> Result<()> {
        let told = project.run(&Project::SYNC)?.failed()?;
        for part in parts {
            assert!(told.contains(part), "{part:?} is not in: {told}");
        }
        Ok(())
    };
    let renamed = ["public.t: column a no longer exists (renamed to z?)", "run discover again"];
    refused(&renamed)?;
    for settings in [
        json!({"selected_columns": {"columns": ["a"]}}),
        json!({"selected_columns": {"columns": ["b"]}, "filter": "a > 1"}),
        json!({"selected_columns": {"columns": ["b"]}, "split_column": "a"}),
    ] {
        project.select(&["public.t"], settings)?;
        refused(&renamed)?;
    }
    // Up to date, streams.json itself says what is left to be changed by hand.
    project.select(&["public.t"], json!({"filter": "a > 1"}))?;
    project.discover()?;
    refused(&["public.t", "filter names \"a\"", "was renamed"])?;
    assert_eq!(table.describe()?.metadata_location, before.metadata_location);
    resync(&lake, json!({"filter": "z > 1"}))?;
    assert_eq!(ids(&table.describe()?)["z"], ids(&before)["a"]);
    lake.equals_source(&["public.t"])
}
