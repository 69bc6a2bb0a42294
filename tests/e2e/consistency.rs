//! Writes go on during the load: the result is one point in time.

use anyhow::{Context, Result};
use serde_json::json;
use tests::reader::{Engine, read_all};

use crate::{plain, project};

/// Money moves between two tables, and rows move from one to the other; in
/// every snapshot the sum of both and the number of rows are the same.
const ACCOUNTS: &str = "
    CREATE TABLE left_side (id int PRIMARY KEY, balance bigint, padding char(700)) WITH (fillfactor = 30);
    CREATE TABLE right_side (id int PRIMARY KEY, balance bigint, padding char(700)) WITH (fillfactor = 30);
    INSERT INTO left_side SELECT i, 1000, '' FROM generate_series(1, 8000) i;
    INSERT INTO right_side SELECT i, 1000, '' FROM generate_series(8001, 16000) i;
    CREATE TABLE moves (n bigint);
    INSERT INTO moves VALUES (0);";

const MOVING: &str = "
    DO $$
    DECLARE a int; b int;
    BEGIN
      LOOP
        SELECT id INTO a FROM left_side WHERE id >= random() * 16000 LIMIT 1;
        SELECT id INTO b FROM right_side WHERE id >= random() * 16000 LIMIT 1;
        CONTINUE WHEN a IS NULL OR b IS NULL;
        UPDATE left_side SET balance = balance - 7 WHERE id = a;
        UPDATE right_side SET balance = balance + 7 WHERE id = b;
        WITH moved AS (DELETE FROM left_side WHERE id = a RETURNING *) INSERT INTO right_side SELECT * FROM moved;
        WITH moved AS (DELETE FROM right_side WHERE id = b RETURNING *) INSERT INTO left_side SELECT * FROM moved;
        UPDATE moves SET n = n + 1;
        COMMIT;
      END LOOP;
    END $$;";

#[test]
fn a_load_under_writes_is_one_point_in_time() -> Result<()> {
    let project = project("moving", ACCOUNTS)?;
    project.edit("source.json", |source| source["max_threads"] = json!(4))?;
    project.select(&["public.left_side", "public.right_side"], plain())?;
    let mut writer = project.database().psql_background(MOVING)?;
    let moves = || -> Result<i64> { Ok(project.database().psql("SELECT n FROM moves")?.parse()?) };
    while moves()? == 0 {
        assert!(writer.running()?, "the writer ended early");
    }
    for _ in 0..3 {
        let before = moves()?;
        project.sync()?;
        assert!(moves()? > before && writer.running()?, "nothing was written meanwhile");
        let tables = ["left_side", "right_side"].map(|name| project.table("public", name));
        let (mut rows, mut sum, mut ids) = (0, 0, Vec::new());
        for table in read_all(Engine::DuckDb, &tables)? {
            for balance in table.rows.column("balance")? {
                sum += balance.as_str().context("a balance")?.parse::<i64>()?;
                rows += 1;
            }
            ids.extend(table.rows.column("id")?);
        }
        ids.sort();
        ids.dedup();
        assert_eq!((rows, sum, ids.len()), (16_000, 16_000_000, 16_000));
    }
    Ok(())
}
