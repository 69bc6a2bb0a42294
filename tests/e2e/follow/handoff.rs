//! From the load to the changes: no gap, no overlap, also for a table without a
//! key, and for tables that join later.

use anyhow::Result;
use tests::run::poll;

use super::{Followed, Into};

const TICKS: &str = "
    CREATE TABLE ticks (n bigserial, at timestamptz DEFAULT now());
    CREATE TABLE keyed (n bigserial PRIMARY KEY, v int DEFAULT 0);
    INSERT INTO ticks SELECT FROM generate_series(1, 20000);
    INSERT INTO keyed SELECT FROM generate_series(1, 20000);
";

/// One transaction a row, and one for an update of it.
const WRITES: &str = "DO $$ BEGIN FOR i IN 1..3000 LOOP
    INSERT INTO ticks DEFAULT VALUES; COMMIT;
    INSERT INTO keyed DEFAULT VALUES; COMMIT;
    UPDATE keyed SET v = v + 1 WHERE n = i * 5; COMMIT;
    DELETE FROM keyed WHERE n = i * 7; COMMIT;
  END LOOP; END $$;";

#[test]
fn writes_during_the_load_are_neither_lost_nor_doubled_in_parquet() -> Result<()> {
    written_all_the_while(Into::Parquet)
}

#[test]
fn writes_during_the_load_are_neither_lost_nor_doubled_in_iceberg() -> Result<()> {
    written_all_the_while(Into::Iceberg)
}

fn written_all_the_while(into: Into) -> Result<()> {
    const STREAMS: [&str; 2] = ["public.ticks", "public.keyed"];
    let followed = Followed::new(into, "handoff", TICKS)?;
    let mut writer = followed.project.database().psql_background(WRITES)?;
    let first = followed.sync()?;
    assert_eq!(Followed::how(&first, "public.ticks")?, "loaded");
    // Others are loaded and followed while it is still written.
    let mut rounds = 0;
    while writer.running()? && rounds < 3 {
        followed.sync()?;
        rounds += 1;
    }
    poll("the writer is done", || Ok(!writer.running()?))?;
    let last = followed.sync_equals(&STREAMS)?;
    assert_eq!(Followed::how(&last, "public.ticks")?, "followed");
    Ok(())
}

#[test]
fn a_table_that_is_added_later_joins_the_slot() -> Result<()> {
    for into in [Into::Parquet, Into::Iceberg] {
        let followed = Followed::new(into, "joins", TICKS)?;
        followed.select(&["public.keyed"])?;
        followed.sync_equals(&["public.keyed"])?;
        followed.psql(
            "UPDATE keyed SET v = 7 WHERE n < 100; INSERT INTO ticks DEFAULT VALUES;
             CREATE TABLE late (id int PRIMARY KEY, v text); INSERT INTO late VALUES (1, 'a'), (2, 'b')",
        )?;
        followed.project.discover()?;
        let all = ["public.keyed", "public.ticks", "public.late"];
        followed.select(&all)?;
        let joined = followed.sync_equals(&all)?;
        assert_eq!(Followed::how(&joined, "public.keyed")?, "followed");
        assert_eq!(Followed::how(&joined, "public.late")?, "loaded");
        followed.psql(
            "UPDATE late SET id = 3 WHERE id = 1; DELETE FROM late WHERE id = 2;
             INSERT INTO ticks DEFAULT VALUES; UPDATE keyed SET v = 8 WHERE n = 5",
        )?;
        let after = followed.sync_equals(&all)?;
        assert_eq!(Followed::how(&after, "public.late")?, "followed");
    }
    Ok(())
}

#[test]
fn a_followed_table_and_a_refreshed_one_share_a_sync() -> Result<()> {
    let followed = Followed::new(Into::Iceberg, "mixed", TICKS)?;
    followed.project.edit("streams.json", |catalog| {
        for entry in catalog["streams"].as_array_mut().into_iter().flatten() {
            if entry["stream"]["name"] == "ticks" {
                entry["stream"]["sync_mode"] = "full_refresh".into();
            }
        }
    })?;
    let all = ["public.keyed", "public.ticks"];
    followed.sync_equals(&all)?;
    followed.psql("DELETE FROM ticks WHERE n < 10; UPDATE keyed SET v = 1 WHERE n = 1")?;
    let second = followed.sync_equals(&all)?;
    assert_eq!(Followed::how(&second, "public.ticks")?, "loaded");
    assert_eq!(Followed::how(&second, "public.keyed")?, "followed");
    Ok(())
}
