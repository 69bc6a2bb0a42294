//! `sync --continuous`: changes are committed while they are made, until
//! SIGTERM.

use anyhow::{Context, Result, ensure};
use tests::follow;
use tests::going::end;
use tests::run::poll;
use tests::workload::{SCHEMA, TABLES, Workload};

use super::{Followed, Into};

#[test]
fn changes_are_committed_while_they_are_made_and_sigterm_completes_them() -> Result<()> {
    for (into, seed) in [(Into::Parquet, 31), (Into::Iceberg, 32)] {
        let followed = Followed::new(into, "continuous", SCHEMA)?;
        let mut workload = Workload::new(seed).with_truncates();
        let mut going = followed.go_on()?;
        for _ in 0..3 {
            let mut writer =
                followed.project.database().psql_background(&workload.transactions(40))?;
            poll("the writer is done", || Ok(!writer.running()?))?;
            followed.caught_up(&mut going)?;
            followed.equals(&TABLES)?;
        }
        followed.psql(&workload.transactions(20))?;
        // Whatever was committed before the signal is there afterwards.
        let last = followed.psql("SELECT pg_current_wal_flush_lsn()")?;
        let outcome = end(going)?;
        followed.equals(&TABLES)?;
        ensure!(followed.is_confirmed(&last)?);
        let plain = follow::outcome(&outcome.stdout, "public.plain")?;
        assert_eq!(plain["how"], "loaded");
        ensure!(plain["changes"].as_u64() > Some(100), "{plain}");
        followed.psql(&workload.transactions(5))?;
        let outcome = followed.sync_equals(&TABLES)?;
        assert_eq!(Followed::how(&outcome, "public.plain")?, "followed");
    }
    Ok(())
}

#[test]
fn a_table_that_is_lost_is_loaded_anew_in_the_same_run() -> Result<()> {
    let followed = Followed::new(
        Into::Iceberg,
        "continuous_reload",
        "CREATE TABLE a (id int PRIMARY KEY, v text);
         CREATE TABLE b (id int PRIMARY KEY, v text);
         INSERT INTO a SELECT i, 'a' FROM generate_series(1, 100) i;
         INSERT INTO b SELECT i, 'b' FROM generate_series(1, 100) i;",
    )?;
    let streams = ["public.a", "public.b"];
    let mut going = followed.go_on()?;
    followed.caught_up(&mut going)?;
    for sql in [
        "ALTER TABLE a ADD COLUMN w int NOT NULL DEFAULT 7",
        "UPDATE a SET w = id; ALTER TABLE a ALTER v TYPE varchar(10) USING v || '!'",
        "VACUUM FULL a",
    ] {
        followed.psql(sql)?;
        followed.psql("UPDATE b SET v = v || '.' WHERE id % 3 = 0; DELETE FROM b WHERE id = 50")?;
        followed.caught_up(&mut going)?;
        followed.equals(&streams).with_context(|| sql.to_owned())?;
    }
    let outcome = end(going)?;
    assert_eq!(follow::outcome(&outcome.stdout, "public.a")?["how"], "loaded");
    followed.equals(&streams)
}
