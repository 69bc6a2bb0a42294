//! `max_file_size_mb`: a new file when the last is large enough.

use anyhow::Result;
use serde_json::json;
use tests::reader::{Engine, read};
use tests::verify;

use crate::{plain, project};

#[test]
fn files_roll_at_the_configured_size() -> Result<()> {
    let project = project(
        "rolled",
        "CREATE TABLE hashes (id int PRIMARY KEY, a text, b uuid);
         INSERT INTO hashes SELECT i, md5(i::text) || md5('x' || i), md5('b' || i)::uuid
         FROM generate_series(1, 60000) i;",
    )?;
    project.edit("destination.json", |file| file["writer"]["max_file_size_mb"] = json!(1))?;
    // One chunk, so that only rolling makes more than one file.
    project.edit("source.json", |source| source["reader_batch_size"] = json!(2000))?;
    project.select(&["public.hashes"], plain())?;
    project.sync()?;
    verify::equals_source(&project, &["public.hashes"])?;
    let files = read(Engine::DuckDb, &project.table("public", "hashes"))?.files;
    let total: u64 = files.iter().map(|file| file.bytes).sum();
    let largest = files.iter().map(|file| file.bytes).max().unwrap_or_default();
    assert!(total > 2_500_000, "the test needs more than two files' worth, not {total} bytes");
    assert!(largest < 1_500_000, "the largest file has {largest} bytes");
    assert!(files.len() as u64 <= total / 500_000 + 1, "{} files for {total} bytes", files.len());
    Ok(())
}
