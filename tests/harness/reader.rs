//! What DuckDB and pyarrow say the destination holds (`readers/reader.py`).

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::answers::Script;
use crate::compare::{Cell, Rows};
use crate::parts;

/// A reading engine that is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// `read_parquet` of DuckDB.
    DuckDb,
    /// `pyarrow.dataset`.
    PyArrow,
}

impl Engine {
    /// Every engine.
    pub const ALL: [Engine; 2] = [Engine::DuckDb, Engine::PyArrow];

    fn name(self) -> &'static str {
        match self {
            Engine::DuckDb => "duckdb",
            Engine::PyArrow => "pyarrow",
        }
    }
}

/// A table as an engine read it.
#[derive(Clone, Debug)]
pub struct ReadTable {
    /// Every row, metadata columns included.
    pub rows: Rows,
    /// Column → the engine's name of its type.
    pub types: BTreeMap<String, String>,
    /// Leaf column path → (physical type, logical type) in the file's footer.
    pub parquet: BTreeMap<String, (String, String)>,
    /// The files, relative to the table's directory.
    pub files: Vec<ReadFile>,
}

/// One data file.
#[derive(Clone, Debug, Deserialize)]
pub struct ReadFile {
    /// Relative to the table's directory.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

#[derive(Deserialize)]
struct Head {
    columns: Vec<String>,
    types: BTreeMap<String, String>,
    parquet: BTreeMap<String, (String, String)>,
    files: Vec<ReadFile>,
}

impl ReadTable {
    /// The names of the source's columns, as the destination has them.
    pub fn source_columns(&self) -> Vec<String> {
        let metadata = |name: &&String| !METADATA.contains(&name.as_str());
        self.rows.columns.iter().filter(metadata).cloned().collect()
    }
}

/// The columns added to every destination table.
pub const METADATA: [&str; 5] =
    ["_olake_id", "_olake_timestamp", "_op_type", "_cdc_timestamp", "_cdc_lsn"];

static READER: Script = Script::new(script);

fn script() -> Result<Command> {
    let mut command = Command::new(parts::python()?);
    command.arg("-B").arg(parts::package().join("readers/reader.py"));
    Ok(command)
}

/// Reads one table.
pub fn read(engine: Engine, directory: &Path) -> Result<ReadTable> {
    let mut tables = read_all(engine, &[directory.to_owned()])?;
    tables.pop().context("the reader printed no table")
}

/// Reads many tables with one request.
pub fn read_all(engine: Engine, directories: &[PathBuf]) -> Result<Vec<ReadTable>> {
    let request = json!({ "engine": engine.name(), "directories": directories });
    let text = READER.ask(&request).with_context(|| format!("{} could not read", engine.name()))?;
    tables_in(&text, directories.len())
}

/// The tables in a reader's output: so many, else it is an error.
pub(crate) fn tables_in(text: &str, count: usize) -> Result<Vec<ReadTable>> {
    let mut tables = Vec::new();
    let mut lines = text.lines();
    while let Some(head) = lines.next() {
        tables.push(table(head, lines.by_ref().take_while(|line| !line.is_empty()))?);
    }
    if tables.len() != count {
        bail!("{count} tables asked for, {} read", tables.len());
    }
    Ok(tables)
}

fn table<'a>(head: &str, lines: impl Iterator<Item = &'a str>) -> Result<ReadTable> {
    let head: Head = serde_json::from_str(head).context("the reader's first line")?;
    let mut rows = Vec::new();
    for line in lines {
        let cells: Vec<Value> = serde_json::from_str(line)?;
        rows.push(cells.into_iter().map(cell).collect::<Result<Vec<Cell>>>()?);
    }
    let rows = Rows { columns: head.columns, rows };
    Ok(ReadTable { rows, types: head.types, parquet: head.parquet, files: head.files })
}

fn cell(value: Value) -> Result<Cell> {
    Ok(match value {
        Value::Null => Cell::Null,
        Value::String(text) => Cell::Text(text),
        Value::Array(items) => Cell::List(items.into_iter().map(cell).collect::<Result<_>>()?),
        other => bail!("the reader printed {other} for a cell"),
    })
}

/// What a watching reader saw in one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Observation {
    /// Value of the watched column → rows that have it.
    Values(BTreeMap<String, u64>),
    /// The table, or a file just listed, was not there.
    Missing(bool),
    /// What a user would have been told.
    Error(String),
}

/// A reader that reads one column again and again.
#[derive(Debug)]
pub struct Watcher {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Watcher {
    /// Starts reading `column` of the table in `directory`, and returns when
    /// the first attempt is over.
    pub fn start(engine: Engine, directory: &Path, column: &str) -> Result<(Watcher, Observation)> {
        let mut child = script()?
            .args(["watch", engine.name()])
            .arg(directory)
            .arg(column)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the reader")?;
        let stdout = child.stdout.take().context("the reader without stdout")?;
        let mut watcher = Watcher { child, lines: BufReader::new(stdout).lines() };
        let first = watcher.next()?.context("the reader ended at once")?;
        Ok((watcher, first))
    }

    /// Lets the reader make one more attempt and returns all it saw.
    pub fn stop(mut self) -> Result<Vec<Observation>> {
        drop(self.child.stdin.take());
        let mut seen = Vec::new();
        while let Some(observation) = self.next()? {
            seen.push(observation);
        }
        Ok(seen)
    }

    fn next(&mut self) -> Result<Option<Observation>> {
        let Some(line) = self.lines.next() else { return Ok(None) };
        let line = line?;
        Ok(Some(serde_json::from_str(&line).with_context(|| line.clone())?))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
