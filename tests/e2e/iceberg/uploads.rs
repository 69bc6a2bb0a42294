//! Files that are larger than a part: whole, or not there.

use anyhow::{Result, ensure};
use tests::iceberg::engine::Engine;
use tests::iceberg::pair::{Catalog, Pair, Store};
use tests::run::Project;

use super::Lake;
use crate::plain;

/// The smallest part that S3 takes, and row groups small enough to fill some.
const SMALL: [(&str, &str); 2] =
    [("TIDEWATER_UPLOAD_PART_BYTES", "5242880"), ("TIDEWATER_ROW_GROUP_BYTES", "1048576")];
const PART: u64 = 5 << 20;
const ROWS: u64 = 400_000;

#[test]
fn a_file_of_many_parts_is_whole_and_one_that_is_given_up_leaves_nothing() -> Result<()> {
    // 256 digits in a row, half of which are left when compressed, in four chunks.
    let lake = Lake::new(
        Pair::new(Catalog::Sqlite, Store::S3),
        "parts",
        &format!(
            "CREATE TABLE t (id int PRIMARY KEY, at date, v text);
             INSERT INTO t SELECT i, NULL,
                 (SELECT string_agg(md5(i + n / 10.0 || ''), '') FROM generate_series(1, 8) n)
             FROM generate_series(1, {ROWS}) i"
        ),
    )?;
    let project = &lake.project;
    project.edit("source.json", |file| file["max_threads"] = 1.into())?;
    project.select(&["public.t"], plain())?;
    project.start_with(&Project::SYNC, &SMALL)?.wait()?.succeeded()?;
    let table = lake.table("t");
    let before = table.describe()?;
    let largest = before.data_files().map(|file| file.bytes).max().unwrap_or_default();
    ensure!(largest > 2 * PART, "no file of three parts: {largest}");
    for engine in Engine::ALL {
        assert_eq!(table.count(engine, "id > 0")?, ROWS, "{engine:?}");
    }
    assert_eq!(lake.warehouse.uploads()?, [""; 0]);

    // The last row read ends the stream, in the middle of an upload.
    project.database().psql(&format!("UPDATE t SET at = 'infinity' WHERE id = {ROWS}"))?;
    project.edit("destination.json", |file| {
        file["writer"]["on_unrepresentable"] = "fail".into();
    })?;
    let told = project.start_with(&Project::SYNC, &SMALL)?.wait()?.failed()?;
    assert!(told.contains("infinity"), "{told}");
    assert_eq!(table.describe()?.metadata_location, before.metadata_location);
    assert_eq!(lake.warehouse.uploads()?, [""; 0]);
    Ok(())
}
