//! The last part: one stream as an Iceberg table of a local warehouse, with a
//! catalog in SQLite, and the lines that query it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{DESTINATION, Files, driver_postgres, headline};

/// The stream that becomes a table.
const STREAM: &str = "trips";
/// What the readers need from Python's package index.
const PACKAGES: &str = "'pyiceberg[sql-sqlite,pyarrow]==0.12.0' duckdb==1.5.5 \
    duckdb-extension-iceberg==1.5.5 duckdb-extension-avro==1.5.5 duckdb-extension-httpfs==1.5.5";

/// A table of the lake.
pub struct Lake {
    directory: PathBuf,
}

impl Lake {
    /// Replicates [`STREAM`] below `directory`, with a state of its own.
    pub fn make(directory: &Path, files: &Files) -> Result<Lake> {
        headline("The taxi rides once more, as an Iceberg table");
        let lake = Lake { directory: directory.join("iceberg") };
        std::fs::create_dir(&lake.directory)?;
        let destination = json!({
            "type": "ICEBERG",
            "writer": {
                "catalog_type": "jdbc",
                "jdbc_url": format!("jdbc:sqlite:{}", lake.catalog().display()),
                "iceberg_s3_path": format!("file://{}", lake.warehouse().display()),
                "normalization": true,
            },
        });
        let mut streams: Value = serde_json::from_slice(&std::fs::read(&files.streams)?)?;
        streams["selected_streams"] =
            json!({"public": [{"stream_name": STREAM, "partition_regex": ""}]});
        let write = |name: &str, value: &Value| -> Result<String> {
            let path = lake.directory.join(name);
            std::fs::write(&path, serde_json::to_string_pretty(value)?)?;
            Ok(path.display().to_string())
        };
        let destination = write("destination.json", &destination)?;
        let streams = write("streams.json", &streams)?;
        let state = lake.directory.join("state.json").display().to_string();
        let mut sync = vec!["sync", "--config", &files.source, "--catalog", &streams];
        sync.extend(["--destination", &destination, "--state", &state]);
        ensure!(driver_postgres(&sync, Stdio::null())?, "sync failed: see above");
        Ok(lake)
    }

    fn catalog(&self) -> PathBuf {
        self.directory.join("catalog.db")
    }

    fn warehouse(&self) -> PathBuf {
        self.directory.join("warehouse")
    }

    /// The newest metadata file, for readers without a catalog.
    fn metadata(&self) -> Result<PathBuf> {
        let directory = self.warehouse().join(DESTINATION).join(STREAM).join("metadata");
        let entries = std::fs::read_dir(&directory)?.collect::<Result<Vec<_>, _>>()?;
        let files = entries.into_iter().map(|entry| entry.path());
        let metadata = files.filter(|path| path.to_string_lossy().ends_with(".metadata.json"));
        metadata.max().with_context(|| format!("no metadata in {}", directory.display()))
    }

    /// Prints lines to paste; they install what is missing here.
    pub fn farewell(&self) -> Result<()> {
        println!("\nThe Iceberg table {DESTINATION}.{STREAM}, in {}:", self.directory.display());
        let python = match tests::parts::iceberg_python() {
            Ok(python) => python.display().to_string(),
            Err(_) => {
                let (readers, python) = (self.directory.join("readers"), tests::parts::python()?);
                let (readers, python) = (readers.display(), python.display());
                println!(
                    "\n  first     {python} -m venv {readers} &&\n            \
                     {readers}/bin/python -m pip install --quiet {PACKAGES}"
                );
                format!("{readers}/bin/python")
            }
        };
        println!(
            "\n  PyIceberg {python} -c \"from pyiceberg.catalog.sql import SqlCatalog; print(\n            \
             SqlCatalog('olake_iceberg', uri='sqlite:///{}')\n            \
             .load_table('{DESTINATION}.{STREAM}').scan(row_filter='tip > 5', limit=3,\n            \
             selected_fields=('picked_up_at', 'payment', 'fare', 'tip')).to_arrow().to_pylist())\"",
            self.catalog().display(),
        );
        println!(
            "\n  DuckDB    {python} -c \"import duckdb, sysconfig; print([\n            \
             duckdb.sql(f'''LOAD '{{sysconfig.get_paths()['purelib']}}/duckdb_extension_{{name}}/extensions/\
             v{{duckdb.__version__}}/{{name}}.duckdb_extension' ''')\n            \
             for name in ('avro', 'httpfs', 'iceberg')] and duckdb.sql('''\n            \
             SELECT payment, count(*) AS trips, avg(fare) AS fare\n            \
             FROM iceberg_scan('file://{}')\n            \
             GROUP BY payment''').fetchall())\"",
            self.metadata()?.display(),
        );
        Ok(())
    }
}
