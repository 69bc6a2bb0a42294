//! What `./build.sh soak` does in its real size.

use anyhow::Result;
use tests::builds::Build;
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
