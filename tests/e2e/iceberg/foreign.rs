//! A table of ours that PyIceberg writes, too.

use anyhow::Result;
use tests::compare::{Cell, Rows};
use tests::iceberg::engine::Engine;
use tests::iceberg::pair::Pair;

use super::Lake;
use crate::plain;

const TABLE: &str = "
    CREATE TABLE t (id int PRIMARY KEY, amount numeric(10,2), words text[], moment timestamptz);
    INSERT INTO t SELECT i, i / 3.0, ARRAY['a', NULL, i::text], '2024-02-29 12:00:00.123456+00'
    FROM generate_series(1, 500) i;";

/// A row that the source does not have.
fn stranger() -> Rows {
    let columns = ["_olake_id", "_olake_timestamp", "_op_type", "id", "amount", "words", "moment"];
    let row = vec![
        Cell::text("-1"),
        Cell::text("2024-02-29 12:00:00+00"),
        Cell::text("c"),
        Cell::text("-1"),
        Cell::text("0.01"),
        Cell::List(vec![Cell::text("foreign"), Cell::Null]),
        Cell::text("1969-12-31 23:59:59.999999+00"),
    ];
    Rows { columns: columns.map(str::to_owned).to_vec(), rows: vec![row] }
}

pub fn what_another_writer_appended_is_read_then_replaced(pair: Pair) -> Result<()> {
    let lake = Lake::new(pair, "appended", TABLE)?;
    lake.project.select(&["public.t"], plain())?;
    lake.project.sync()?;
    let table = lake.table("t");
    let ours = table.describe()?;
    for _ in 0..2 {
        table.append(&stranger())?;
        for engine in Engine::ALL {
            assert_eq!(table.counts(engine, &["id = -1", "id > 0"])?, [1, 500], "{engine:?}");
        }
        let theirs = table.describe()?;
        lake.project.sync()?;
        lake.equals_source(&["public.t"])?;
        // Theirs stays in the table's history.
        assert_eq!(table.describe()?.current()?.parent, theirs.current_snapshot_id);
    }
    assert_eq!(table.describe()?.snapshots.len(), ours.snapshots.len() + 4);
    Ok(())
}

pub fn a_table_that_another_writer_rewrote_is_replaced(pair: Pair) -> Result<()> {
    let lake = Lake::new(pair, "rewritten", TABLE)?;
    lake.project.select(&["public.t"], plain())?;
    lake.project.sync()?;
    let table = lake.table("t");
    let before = table.describe()?;
    table.rewrite()?;
    let rewritten = table.describe()?;
    assert!(
        rewritten.files.iter().all(|file| before.files.iter().all(|old| old.path != file.path))
    );
    lake.equals_source(&["public.t"])?;
    lake.project.database().psql("DELETE FROM t WHERE id > 100")?;
    lake.project.sync()?;
    lake.equals_source(&["public.t"])
}
