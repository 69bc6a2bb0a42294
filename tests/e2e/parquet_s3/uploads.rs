//! Files that are larger than a part, over connections that break.

use anyhow::{Result, ensure};
use tests::proxy::Fault;
use tests::run::Project;
use tests::verify;
use tests::watch;

use super::{nothing_else, placed};

/// The smallest part that S3 takes, and row groups small enough to fill some.
const SMALL: [(&str, &str); 2] =
    [("TIDEWATER_UPLOAD_PART_BYTES", "5242880"), ("TIDEWATER_ROW_GROUP_BYTES", "1048576")];
const PART: u64 = 5 << 20;

#[test]
fn a_file_of_many_parts_is_whole_though_connections_break() -> Result<()> {
    // 256 digits in a row, half of which are left when compressed, in four chunks.
    let (project, place) = placed(
        "parts_s3",
        "CREATE TABLE t (id int PRIMARY KEY, at date, v text);
         INSERT INTO t SELECT i, NULL,
             (SELECT string_agg(md5(i + n / 10.0 || ''), '') FROM generate_series(1, 8) n)
         FROM generate_series(1, 400000) i",
    )?;
    project.edit("source.json", |file| {
        file["max_threads"] = 1.into();
        // What the store's client repeats is not repeated by others.
        file["retry_count"] = 0.into();
    })?;
    let proxy = place.through_proxy(&project)?;
    let faults = [
        proxy.once("partNumber=1", Fault::LoseRequest),
        proxy.once("partNumber=2", Fault::LoseAnswer),
        proxy.once(".parquet?uploadId=", Fault::LoseAnswer),
        proxy.once("PUT /lake/parquet/", Fault::LoseRequest),
        // Of the table's record.
        proxy.once("if-none-match: ", Fault::LoseRequest),
        proxy.once("if-match: ", Fault::LoseAnswer),
    ];
    project.start_with(&Project::SYNC, &SMALL)?.wait()?.succeeded()?;
    ensure!(faults.iter().all(|fault| fault.is_met()), "{faults:?}");
    place.mirror(&project)?;
    verify::same_as_source(&project, &["public.t"])?;
    nothing_else(&project, &place, &["public.t"])?;
    let files = watch::parquet_files(&project.output());
    let sizes = files.iter().filter_map(|file| file.metadata().ok()).map(|meta| meta.len());
    let largest = sizes.max().unwrap_or_default();
    ensure!(largest > 2 * PART, "no file of three parts: {largest}");

    // The last row read ends the stream, in the middle of an upload.
    project.database().psql("UPDATE t SET at = 'infinity' WHERE id = 400000")?;
    let before = place.objects()?;
    project.edit("destination.json", |file| {
        file["writer"]["on_unrepresentable"] = "fail".into();
    })?;
    let told = project.start_with(&Project::SYNC, &SMALL)?.wait()?.failed()?;
    ensure!(told.contains("infinity"), "{told}");
    // The table is as it was; what was staged before is removed by the next run.
    let kept = |keys: &[String]| -> Vec<String> {
        keys.iter().filter(|key| !key.contains(".tidewater/")).cloned().collect()
    };
    assert_eq!(kept(&place.objects()?), kept(&before));
    project.edit("destination.json", |file| {
        file["writer"]["on_unrepresentable"] = "null".into();
    })?;
    project.sync()?;
    place.mirror(&project)?;
    nothing_else(&project, &place, &["public.t"])
}
