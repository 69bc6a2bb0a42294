//! Columns that come, and types that change, while a sync is under way: at the
//! source, and in the table by others.

use anyhow::Result;
use serde_json::{Value, json};
use tests::gate::{self, Gate};
use tests::iceberg::engine::Engine;
use tests::iceberg::pair::Pair;
use tests::moment;
use tests::postgres::Database;
use tests::run::{Project, Running, poll};

use super::Lake;
use super::renames::{Truth, ids};

/// A table of several chunks that was synced once, whose next sync waits for
/// the gate "second" when the rest is staged.
fn gated(pair: Pair, label: &str) -> Result<Lake> {
    let database = Database::new(label)?;
    gate::create(&database)?;
    gate::table(&database, "t", 3 * gate::CHUNK, &[(3 * gate::CHUNK - 10, "second")])?;
    let lake = Lake::on(pair, &database)?;
    lake.project.select(&["public.t"], gate::selection())?;
    lake.project.sync()?;
    database.psql("UPDATE t SET v = 'later ' || id")?;
    Ok(lake)
}

/// Starts a sync, which stays at the gate with all but its last chunk staged.
fn held(lake: &Lake) -> Result<Running> {
    let mut sync = lake.project.start(&Project::SYNC)?;
    moment::reached(&lake.project, &mut sync, "all but one chunk is staged", |state| {
        state["run"]["status"] == "running" && moment::all_but_one(state, "t")
    })?;
    Ok(sync)
}

pub fn a_column_added_at_the_source_during_a_sync_comes_with_the_next(pair: Pair) -> Result<()> {
    // Between discover and the load: it comes with it.
    let lake = gated(pair, "added")?;
    let (project, database) = (&lake.project, lake.project.database());
    let table = lake.table("t");
    database.psql("ALTER TABLE t ADD early int DEFAULT 7")?;
    let shut = Gate::shut(database, "second")?;
    let sync = held(&lake)?;
    let then = Truth::now(database)?;
    // During the load: it waits for its end.
    let mut ddl = database.psql_background("ALTER TABLE t ADD late text DEFAULT 'new'")?;
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 't'::regclass";
    poll("the DDL waits", || Ok(database.psql(waits)? == "1"))?;
    drop(shut);
    sync.wait()?.succeeded()?;
    then.is_read(|engine| table.read(engine))?;
    poll("the DDL is done", || Ok(!ddl.running()?))?;
    assert!(!ids(&table.describe()?).contains_key("late"));
    project.sync()?;
    assert!(ids(&table.describe()?).contains_key("late"));
    lake.equals_source(&["public.t"])
}

/// Others change the table's schema while a sync, which has just met this DDL,
/// is held; then it ends well.
fn evolved(lake: &Lake, ddl: &str, changes: Value) -> Result<()> {
    let database = lake.project.database();
    database.psql(ddl)?;
    lake.project.discover()?;
    lake.project.select(&["public.t"], gate::selection())?;
    let shut = Gate::shut(database, "second")?;
    let sync = held(lake)?;
    lake.table("t").evolve(changes)?;
    drop(shut);
    sync.wait()?.succeeded()?;
    Truth::now(database)?.is_read(|engine| lake.table("t").read(engine))
}

pub fn what_others_change_during_a_sync_is_neither_lost_nor_taken_for_ours(
    pair: Pair,
) -> Result<()> {
    let lake = gated(pair, "evolved")?;
    let table = lake.table("t");
    let first = table.describe()?;
    // Beside a rename of ours.
    evolved(&lake, "ALTER TABLE t RENAME v TO w", json!([["add", "theirs", "string"]]))?;
    let after = table.describe()?;
    let theirs = ids(&after)["theirs"];
    assert_eq!(ids(&after)["w"], ids(&first)["v"]);
    for engine in Engine::ALL {
        assert_eq!(
            table.count(engine, "theirs is null")?,
            3 * u64::from(gate::CHUNK),
            "{engine:?}"
        );
    }
    // With the very id that a column of ours was to have.
    evolved(&lake, "ALTER TABLE t ADD ours int DEFAULT 1", json!([["add", "more", "string"]]))?;
    let after = table.describe()?;
    assert_eq!(ids(&after)["theirs"], theirs);
    assert_ne!(ids(&after)["more"], ids(&after)["ours"]);
    // With the very name.
    evolved(&lake, "ALTER TABLE t ADD same text DEFAULT 'x'", json!([["add", "same", "string"]]))?;
    // The name that a column of ours gets.
    evolved(&lake, "ALTER TABLE t RENAME w TO x", json!([["add", "x", "int"]]))?;
    // A column of ours: dropped, or of another name or type.
    evolved(&lake, "UPDATE t SET x = 'y'", json!([["rename", "padding", "filling"]]))?;
    assert!(!ids(&table.describe()?).contains_key("filling"));
    evolved(&lake, "UPDATE t SET x = 'z'", json!([["type", "ours", "long"]]))?;
    evolved(&lake, "UPDATE t SET x = NULL", json!([["drop", "padding"]]))
}
