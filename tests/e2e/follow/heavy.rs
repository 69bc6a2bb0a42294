//! What `./build.sh soak` does in its real size.

use anyhow::{Result, ensure};
use tests::builds::Build;
use tests::follow::{Followed, Into};
use tests::run::Project;
use tests::{follow, heavy};

#[test]
fn many_tables_share_a_slot() -> Result<()> {
    heavy::many_tables(&follow::server(&Build::newest()?)?, 60)
}

#[test]
fn a_large_transaction_arrives_whole_and_one_that_is_rolled_back_does_not() -> Result<()> {
    heavy::large_transaction(&follow::server(&Build::newest()?)?, 150_000)
}

#[test]
fn a_large_row_comes_and_changes_and_goes() -> Result<()> {
    heavy::large_row(&follow::server(&Build::newest()?)?, 8_000_000)
}

#[test]
fn pgbench_at_full_speed_ends_in_equality() -> Result<()> {
    heavy::pgbench(&follow::server(&Build::newest()?)?, 1, 1_000)
}

#[test]
fn a_server_with_little_room_for_temporary_files_is_read_in_small_windows() -> Result<()> {
    let sql = "CREATE TABLE t (id serial PRIMARY KEY, v text); INSERT INTO t (v) VALUES ('a')";
    let followed = Followed::new(Into::Iceberg, "little_room", sql)?;
    let database = &followed.project.database().name;
    followed.psql(&format!(
        "ALTER DATABASE {database} SET temp_file_limit = '1MB';
         ALTER DATABASE {database} SET work_mem = '64kB'"
    ))?;
    followed.sync()?;
    followed.psql(
        "DO $$ BEGIN FOR i IN 1..8000 LOOP
           INSERT INTO t (v) VALUES (repeat('x', 100)); COMMIT;
         END LOOP; END $$",
    )?;
    followed.sync_equals(&["public.t"])?;
    // One transaction is one window, whatever it holds.
    followed.psql("INSERT INTO t (v) SELECT repeat('x', 100) FROM generate_series(1, 40000)")?;
    let told = followed.project.run(&Project::SYNC)?.failed()?;
    ensure!(told.contains("raise temp_file_limit"), "{told}");
    followed.psql(&format!("ALTER DATABASE {database} RESET temp_file_limit"))?;
    followed.sync_equals(&["public.t"]).map(drop)
}
