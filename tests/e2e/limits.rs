//! What a writer refuses of whoever has its token: names that lead elsewhere, messages
//! that are too large, too many calls. Each with a clear status, one line in the
//! writer's log, and nothing written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrow::array::{Int64Array, RecordBatch, StringArray};
use proto::v1::destination::Kind;
use proto::v1::iceberg::Catalog;
use proto::v1::{
    CommitRequest, Destination, ErrorCode, Iceberg, JdbcCatalog, Parquet, PrepareRequest,
    StageRequest, StagedChunk, Table, commit_request::Mode,
};
use tests::changes::Writer;
use tests::run::poll;
use tests::services::Service;
use tests::watch;

fn batch() -> Result<RecordBatch> {
    let ids: arrow::array::ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    Ok(RecordBatch::try_from_iter([("id", ids)])?)
}

fn parquet(lake: &Path) -> Destination {
    let local_path = lake.display().to_string();
    Destination { kind: Some(Kind::Parquet(Parquet { local_path, ..Default::default() })) }
}

fn iceberg(lake: &Path) -> Destination {
    let url = format!("jdbc:sqlite:{}/catalog.db", lake.display());
    let jdbc = JdbcCatalog { url, catalog_name: "c".to_owned(), ..Default::default() };
    Destination {
        kind: Some(Kind::Iceberg(Iceberg {
            warehouse: format!("file://{}", lake.display()),
            catalog: Some(Catalog::Jdbc(jdbc)),
            ..Default::default()
        })),
    }
}

fn table(database: &str, name: &str) -> Table {
    Table {
        database: database.to_owned(),
        name: name.to_owned(),
        normalization: true,
        stream: "public.t".to_owned(),
        ..Default::default()
    }
}

fn stage_of(destination: &Destination, table: &Table, load_id: &str) -> StageRequest {
    StageRequest {
        destination: Some(destination.clone()),
        table: Some(table.clone()),
        load_id: load_id.to_owned(),
        op_type: "r".to_owned(),
        ..Default::default()
    }
}

/// Lines of the log that tell of a call that was refused.
fn told(service: &Service) -> usize {
    service.log().lines().filter(|line| line.contains("a call was refused")).count()
}

/// A directory that may be written to, one that may not, and a writer.
struct Place {
    directory: tempfile::TempDir,
    service: Service,
    writer: Writer,
}

impl Place {
    fn new(further: &[&str]) -> Result<Place> {
        let directory = tempfile::tempdir()?;
        let lake = directory.path().join("lake");
        std::fs::create_dir(&lake)?;
        std::fs::create_dir(directory.path().join("secret"))?;
        std::fs::write(directory.path().join("secret/file"), "x")?;
        let allowed = lake.display().to_string();
        let mut arguments = vec!["--allow", &allowed];
        arguments.extend(further);
        let service = Service::writer(&arguments)?;
        let writer = Writer::connect(&service)?;
        Ok(Place { directory, service, writer })
    }

    fn lake(&self) -> PathBuf {
        self.directory.path().join("lake")
    }

    fn has_no_rows(&self) -> Result<()> {
        let files = watch::files(&self.lake());
        let rows = |file: &&PathBuf| {
            let name = file.to_string_lossy();
            name.ends_with(".parquet") || name.ends_with(".staged")
        };
        ensure!(!files.iter().any(|file| rows(&file)), "written: {files:?}");
        Ok(())
    }

    /// Demands that nothing be outside the lake but what was, and so many refusals in
    /// the log.
    fn is_untouched(&self, refused: usize) -> Result<()> {
        let mut files = watch::files(self.directory.path());
        let lake = self.lake();
        files.retain(|file| !file.starts_with(&lake));
        ensure!(files.len() == 1, "outside: {files:?}");
        poll("the log has each refusal", || Ok(told(&self.service) >= refused))?;
        ensure!(told(&self.service) == refused, "{}", self.service.log());
        Ok(())
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused_and_nothing_is_written() -> Result<()> {
    let place = Place::new(&[])?;
    let mut refused = 0;
    let long = "x".repeat(300);
    let bad = ["", ".", "..", "../secret", "a/../../secret", "/etc", "a/b", "a\0b", long.as_str()];
    for destination in [parquet(&place.lake()), iceberg(&place.lake())] {
        for name in bad {
            for table in [table(name, "t"), table("d", name)] {
                let prepared = place.writer.prepare(PrepareRequest {
                    destination: Some(destination.clone()),
                    table: Some(table.clone()),
                    ..Default::default()
                });
                let fault = prepared.err().with_context(|| format!("{name:?} was taken"))?;
                ensure!(fault.code == ErrorCode::InvalidConfig, "{name:?}: {fault:?}");
                let staged = place.writer.stage(&stage_of(&destination, &table, "load"), &batch()?);
                ensure!(staged.is_err(), "{name:?} was staged");
                refused += 2;
            }
            let request = stage_of(&destination, &table("d", "t"), name);
            ensure!(place.writer.stage(&request, &batch()?).is_err(), "load {name:?} was staged");
            refused += 1;
        }
    }
    place.has_no_rows()?;
    place.is_untouched(refused)
}

#[test]
fn manifests_and_commits_that_lead_elsewhere_are_refused() -> Result<()> {
    let place = Place::new(&[])?;
    let mut refused = 0;
    for destination in [parquet(&place.lake()), iceberg(&place.lake())] {
        let table = table("d", "t");
        let staged = place.writer.stage(&stage_of(&destination, &table, "load"), &batch()?)?;
        let commit = |commit_id: &str, staged: StagedChunk| {
            place.writer.commit(CommitRequest {
                destination: Some(destination.clone()),
                table: Some(table.clone()),
                commit_id: commit_id.to_owned(),
                load_id: "load".to_owned(),
                mode: Mode::Replace.into(),
                staged: vec![staged],
                ..Default::default()
            })
        };
        let secret = place.directory.path().join("secret/file").display().to_string();
        let (parent, name) = staged.manifest.rsplit_once('/').context("a path")?;
        let up = format!("{parent}/../../../secret/{name}");
        for manifest in ["/etc/passwd", "../manifest.json", "a\0b", "", &secret, &up] {
            let elsewhere = StagedChunk { manifest: manifest.to_owned(), ..staged.clone() };
            let fault = commit("c", elsewhere).err().with_context(|| format!("{manifest:?}"))?;
            ensure!(!fault.message.contains("root:"), "{fault}");
            refused += 1;
        }
        for commit_id in ["../c", "/c", "..", "a\0b", ""] {
            ensure!(commit(commit_id, staged.clone()).is_err(), "commit {commit_id:?} was made");
            refused += 1;
        }
        commit("c", staged.clone()).map_err(|fault| anyhow::anyhow!("{fault}"))?;
    }
    place.is_untouched(refused)
}

#[test]
fn a_table_that_is_a_link_to_elsewhere_is_refused() -> Result<()> {
    let place = Place::new(&[])?;
    let secret = place.directory.path().join("secret");
    std::fs::create_dir(place.lake().join("d"))?;
    for link in ["d/t", "linked"] {
        std::os::unix::fs::symlink(&secret, place.lake().join(link))?;
    }
    let mut refused = 0;
    for destination in [parquet(&place.lake()), iceberg(&place.lake())] {
        for table in [table("d", "t"), table("linked", "t")] {
            let request = stage_of(&destination, &table, "load");
            let said = place.writer.stage(&request, &batch()?).err().context("it was staged")?;
            ensure!(said.to_string().contains("may not write to"), "{said:#}");
            refused += 1;
        }
    }
    place.is_untouched(refused)
}

#[test]
fn a_message_that_is_too_large_is_refused_and_nothing_of_its_stream_is_kept() -> Result<()> {
    let place = Place::new(&["--max-row-bytes", "65536"])?;
    let texts: arrow::array::ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(20 << 20)]));
    let large = RecordBatch::try_from_iter([("v", texts)])?;
    for destination in [parquet(&place.lake()), iceberg(&place.lake())] {
        let request = stage_of(&destination, &table("d", "t"), "load");
        let said = place.writer.stage(&request, &large).err().context("it was staged")?;
        ensure!(said.to_string().contains("larger than"), "{said:#}");
        // The connection is as good as before.
        place.writer.stage(&request, &batch()?)?;
    }
    place.is_untouched(2)
}

#[test]
fn one_peer_has_no_more_calls_than_allowed() -> Result<()> {
    let place = Place::new(&["--max-peer-streams", "2"])?;
    let request = stage_of(&parquet(&place.lake()), &table("d", "t"), "load");
    let schema = batch()?.schema();
    let held = [place.writer.begin(&request, &schema)?, place.writer.begin(&request, &schema)?];
    poll("two calls are in flight", || {
        let fault = place.writer.prepare(PrepareRequest::default()).err().context("taken")?;
        Ok(fault.code == ErrorCode::Unavailable)
    })?;
    let fault = place.writer.prepare(PrepareRequest::default()).err().context("taken")?;
    ensure!(fault.remedy.contains("--max-peer-streams") && fault.transient, "{fault}");
    ensure!(place.service.log().contains("2 calls of this address"), "{}", place.service.log());
    drop(held);
    // Room again: it is refused for what it lacks.
    poll("the calls have ended", || {
        let fault = place.writer.prepare(PrepareRequest::default()).err().context("taken")?;
        Ok(fault.code == ErrorCode::InvalidConfig)
    })?;
    poll("what was begun is gone", || Ok(place.has_no_rows().is_ok()))
}
