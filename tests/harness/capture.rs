//! source-svc's change capture by its own calls, with a writer that keeps what
//! it gets: what the log said, change by change, before any destination.
//!
//! ```text
//! let mut capture = Capture::new(&database)?;
//! let opened = capture.open("slot", &["public.t"])?;
//! database.psql("INSERT …")?;
//! let run = capture.run("slot", &["public.t"], |_| ())?;      // up to now, confirmed
//! run.rows("public.t")                                        // ["c id=1 …", …]
//! ```

pub mod writer;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use arrow::array::{Array, BinaryArray, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::util::display::array_value_to_string;
use prost::Message;
use proto::Fault;
use proto::columns::{UNCHANGED, unchanged};
use proto::v1::source_client::SourceClient;
use proto::v1::{
    CloseLoadRequest, ConfirmRequest, IntervalStaged, LoadStream, OpenCaptureRequest,
    OpenCaptureResponse, OpenLoadRequest, OpenLoadResponse, ReadChunkRequest, ReplicateRequest,
    ReplicateTable, SourceCheckRequest, SourceConfig, StageRequest, Table, TableLost,
    replicate_response::Event,
};
use tokio::runtime::Runtime;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::postgres::{Database, PASSWORD, USER};
use crate::services::{Service, TOKEN};
use writer::{Kept, Staged};

/// Nothing comes for so long: nothing will.
const QUIET: Duration = Duration::from_secs(1);

/// Columns of a change that are not its row's.
pub fn reserved(batch: &RecordBatch) -> usize {
    3 + usize::from(batch.schema().fields()[3].metadata().contains_key(UNCHANGED))
}

/// Puts the token on every call.
#[derive(Clone)]
pub struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// A source-svc, a writer in memory, and a database.
pub struct Capture {
    /// What the source reads; tests change it.
    pub config: SourceConfig,
    kept: Kept,
    writer: String,
    client: SourceClient<InterceptedService<Channel, Bearer>>,
    source: Service,
    database: Database,
    _stop: DropGuard,
    runtime: Runtime,
}

/// What one Replicate told.
#[derive(Debug, Default)]
pub struct Run {
    /// In their order.
    pub intervals: Vec<IntervalStaged>,
    /// Tables that are lost.
    pub lost: Vec<TableLost>,
    /// Where it ended; empty: it did not.
    pub finished: String,
    staged: BTreeMap<String, Vec<Staged>>,
}

impl Capture {
    /// Starts both services for `database`.
    pub fn new(database: &Database) -> Result<Capture> {
        Capture::with(database, &[])
    }

    /// As [`Capture::new`], source-svc with further arguments.
    pub fn with(database: &Database, arguments: &[&str]) -> Result<Capture> {
        let source = Service::source(arguments)?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (kept, stop) = (Kept::default(), CancellationToken::new());
        let (writer, client) = runtime.block_on(async {
            let writer = writer::serve(kept.clone(), stop.clone()).await?;
            let endpoint = Endpoint::from_shared(format!("http://{}", source.address()))?;
            let bearer = Bearer(format!("Bearer {TOKEN}").parse()?);
            let channel = endpoint.connect().await?;
            anyhow::Ok((writer, SourceClient::with_interceptor(channel, bearer)))
        })?;
        let config = SourceConfig {
            host: "127.0.0.1".to_owned(),
            port: database.server.port().into(),
            database: database.name.clone(),
            username: USER.to_owned(),
            password: PASSWORD.to_owned(),
            ..Default::default()
        };
        let database = database.clone();
        let _stop = stop.drop_guard();
        Ok(Capture { config, kept, writer, client, source, database, _stop, runtime })
    }

    /// The service under test.
    pub fn source(&mut self) -> &mut Service {
        &mut self.source
    }

    /// The most DoPuts that the writer had at once.
    pub fn most_open(&self) -> usize {
        self.kept.most_open()
    }

    /// Check with change capture configured; its notices.
    pub fn check(&mut self, slot: &str, publication: &str) -> Result<Vec<String>, Fault> {
        let request = SourceCheckRequest {
            config: Some(self.config.clone()),
            slot: slot.to_owned(),
            publication: publication.to_owned(),
        };
        Ok(self.runtime.block_on(self.client.check(request))?.into_inner().notices)
    }

    /// OpenCapture with the default publication, which creates what is missing.
    pub fn open(&mut self, slot: &str, tables: &[&str]) -> Result<OpenCaptureResponse, Fault> {
        self.open_with(slot, tables, |_| ())
    }

    /// As [`Capture::open`], the request changed.
    pub fn open_with(
        &mut self,
        slot: &str,
        tables: &[&str],
        change: impl FnOnce(&mut OpenCaptureRequest),
    ) -> Result<OpenCaptureResponse, Fault> {
        let mut request = OpenCaptureRequest {
            config: Some(self.config.clone()),
            slot: slot.to_owned(),
            streams: tables.iter().map(|table| stream(table)).collect(),
            create: true,
            ..Default::default()
        };
        change(&mut request);
        Ok(self.runtime.block_on(self.client.open_capture(request))?.into_inner())
    }

    /// Loads by hand-off: the answer of OpenLoad, and what came of each table.
    pub fn load(
        &mut self,
        slot: &str,
        tables: &[&str],
    ) -> Result<(OpenLoadResponse, BTreeMap<String, RecordBatch>)> {
        let opened = self.open_load(slot, tables)?;
        let read = self.read_load(&opened)?;
        Ok((opened, read))
    }

    /// OpenLoad alone.
    pub fn open_load(&mut self, slot: &str, tables: &[&str]) -> Result<OpenLoadResponse, Fault> {
        let request = OpenLoadRequest {
            config: Some(self.config.clone()),
            streams: tables.iter().map(|table| stream(table)).collect(),
            slot: slot.to_owned(),
            ..Default::default()
        };
        Ok(self.runtime.block_on(self.client.open_load(request))?.into_inner())
    }

    /// Reads every chunk of a load and closes it.
    pub fn read_load(&mut self, load: &OpenLoadResponse) -> Result<BTreeMap<String, RecordBatch>> {
        let mut read = BTreeMap::new();
        for table in &load.tables {
            let name = format!("{}.{}", table.namespace, table.name);
            let mut staged = Vec::new();
            for chunk in &table.chunks {
                let request = ReadChunkRequest {
                    load_id: load.load_id.clone(),
                    namespace: table.namespace.clone(),
                    name: table.name.clone(),
                    chunk_id: chunk.id,
                    writer_address: self.writer.clone(),
                    writer_token: TOKEN.to_owned(),
                    stage: stage(&name, "load").into(),
                };
                let client = &mut self.client;
                let answer = self.runtime.block_on(async {
                    let mut events = client.read_chunk(request).await?.into_inner();
                    let mut last = None;
                    while let Some(event) = events.message().await? {
                        last = Some(event);
                    }
                    anyhow::Ok(last)
                })?;
                staged.push(self.kept.of(&answer.context("a last message")?.staged)?);
            }
            read.insert(name, together(&staged)?);
        }
        let close = CloseLoadRequest { load_id: load.load_id.clone() };
        self.runtime.block_on(self.client.close_load(close))?;
        Ok(read)
    }

    /// Where a bounded run ends that begins now.
    pub fn now(&self) -> Result<String> {
        // What was committed is flushed: commits here may not wait for that.
        self.database.psql("SELECT pg_logical_emit_message(true, 'tidewater tests', '')")?;
        let all = "SELECT pg_current_wal_insert_lsn()";
        let wanted = self.database.psql(all)?;
        loop {
            let reached = format!(
                "SELECT pg_current_wal_flush_lsn() >= '{wanted}', pg_current_wal_flush_lsn()"
            );
            let answer = self.database.psql(&reached)?;
            match answer.split_once('|') {
                Some(("t", flushed)) => return Ok(flushed.to_owned()),
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// A request for everything up to now, from position 0/0.
    pub fn request(&self, slot: &str, tables: &[&str]) -> Result<ReplicateRequest> {
        let table = |name: &&str| ReplicateTable {
            stream: Some(stream(name)),
            writer_address: self.writer.clone(),
            writer_token: TOKEN.to_owned(),
            stage: stage(name, "run").into(),
            ..Default::default()
        };
        Ok(ReplicateRequest {
            config: Some(self.config.clone()),
            slot: slot.to_owned(),
            to: self.now()?,
            tables: tables.iter().map(table).collect(),
            ..Default::default()
        })
    }

    /// Replicates up to now and confirms every interval as it comes.
    pub fn run(
        &mut self,
        slot: &str,
        tables: &[&str],
        change: impl FnOnce(&mut ReplicateRequest),
    ) -> Result<Run> {
        let mut request = self.request(slot, tables)?;
        change(&mut request);
        self.replicate(request, true)
    }

    /// One Replicate, to its end; `confirm`: each interval, as it comes.
    pub fn replicate(&mut self, request: ReplicateRequest, confirm: bool) -> Result<Run> {
        self.replicate_while(request, confirm, |_| Ok(()))
    }

    /// The same; `staged` is told each interval before it is confirmed.
    pub fn replicate_while(
        &mut self,
        request: ReplicateRequest,
        confirm: bool,
        mut staged: impl FnMut(&IntervalStaged) -> Result<()>,
    ) -> Result<Run> {
        let mut run = Run::default();
        let slot = request.slot.clone();
        let (client, config, kept) = (&mut self.client, &self.config, &self.kept);
        self.runtime.block_on(async {
            let mut events = client.replicate(request).await.map_err(Fault::from)?.into_inner();
            while let Some(event) = events.message().await.map_err(Fault::from)? {
                match event.event.context("an event")? {
                    Event::Progress(_) => {}
                    Event::Staged(interval) => {
                        for table in interval.tables.iter().filter(|t| !t.staged.is_empty()) {
                            let name = format!("{}.{}", table.namespace, table.name);
                            run.staged.entry(name).or_default().push(kept.of(&table.staged)?);
                        }
                        staged(&interval)?;
                        if confirm {
                            let request = ConfirmRequest {
                                config: Some(config.clone()),
                                slot: slot.clone(),
                                lsn: interval.to.clone(),
                                ..Default::default()
                            };
                            client.confirm(request).await.map_err(Fault::from)?;
                        }
                        run.intervals.push(interval);
                    }
                    Event::Lost(lost) => run.lost.push(lost),
                    Event::Finished(finished) => run.finished = finished.to,
                }
            }
            if run.finished.is_empty() {
                bail!("Replicate ended without saying that it had finished");
            }
            Ok(run)
        })
    }

    /// How many intervals come while nothing is confirmed, and whether the end
    /// did. Looks for more for a while; what comes later still is not seen.
    pub fn staged_without_confirming(
        &mut self,
        request: ReplicateRequest,
    ) -> Result<(usize, bool)> {
        let client = &mut self.client;
        self.runtime.block_on(async {
            let mut events = client.replicate(request).await.map_err(Fault::from)?.into_inner();
            let (mut staged, mut finished) = (0, false);
            while let Ok(event) = tokio::time::timeout(QUIET, events.message()).await {
                match event?.and_then(|event| event.event) {
                    Some(Event::Staged(_)) => staged += 1,
                    Some(Event::Finished(_)) => finished = true,
                    Some(_) => {}
                    None => break,
                }
            }
            Ok((staged, finished))
        })
    }

    /// Confirm alone.
    pub fn confirm(&mut self, slot: &str, lsn: &str) -> Result<String, Fault> {
        let request = ConfirmRequest {
            config: Some(self.config.clone()),
            slot: slot.to_owned(),
            lsn: lsn.to_owned(),
            ..Default::default()
        };
        Ok(self.runtime.block_on(self.client.confirm(request))?.into_inner().confirmed_flush)
    }
}

impl Run {
    /// A table's changes: operation, then `column=value` of what is not null.
    pub fn rows(&self, table: &str) -> Result<Vec<String>> {
        Ok(self.intervals_of(table)?.concat())
    }

    /// As [`Run::rows`], interval by interval, of those that have any.
    pub fn intervals_of(&self, table: &str) -> Result<Vec<Vec<String>>> {
        let staged = self.staged.get(table).into_iter().flatten();
        staged.map(|one| changes(&together(std::slice::from_ref(one))?)).collect()
    }

    /// A table's changes as one batch.
    pub fn batch(&self, table: &str) -> Result<RecordBatch> {
        together(self.staged.get(table).with_context(|| format!("{table} has no changes"))?)
    }

    /// Why a table was lost.
    pub fn lost(&self, table: &str) -> Option<&str> {
        let name = |lost: &&TableLost| format!("{}.{}", lost.namespace, lost.name) == table;
        self.lost.iter().find(name).map(|lost| lost.reason.as_str())
    }
}

/// Changes as texts; the columns that an UPDATE does not carry follow: "v?", and
/// "moved" with both changes of a row that got another key without them.
fn changes(batch: &RecordBatch) -> Result<Vec<String>> {
    let reserved = reserved(batch);
    let mut rows = rows(batch, reserved, true)?;
    let bits = batch.column(3).as_any().downcast_ref::<BinaryArray>();
    for (row, text) in rows.iter_mut().enumerate() {
        let Some(bits) = bits.filter(|_| reserved > 3) else { continue };
        for place in unchanged(bits.value(row)) {
            match batch.schema().fields().get(reserved + place) {
                Some(field) if text.starts_with('u') => {
                    text.push_str(&format!(" {}?", field.name()));
                }
                Some(_) => {}
                None => text.push_str(" moved"),
            }
        }
    }
    Ok(rows)
}

/// Rows as texts: the columns from `from` on that are not null; before them, if
/// wanted, the first column's value.
pub fn rows(batch: &RecordBatch, from: usize, operation: bool) -> Result<Vec<String>> {
    (0..batch.num_rows())
        .map(|row| {
            let mut parts = Vec::new();
            if operation {
                parts.push(array_value_to_string(batch.column(0), row)?);
            }
            for (index, field) in batch.schema().fields().iter().enumerate().skip(from) {
                let column = batch.column(index);
                if !column.is_null(row) {
                    // One of a named zone is shown as it is stored.
                    let value = array_value_to_string(column, row)
                        .unwrap_or_else(|_| format!("{:?}", column.slice(row, 1)));
                    parts.push(format!("{}={value}", field.name()));
                }
            }
            Ok(parts.join(" "))
        })
        .collect()
}

/// The texts of one column.
pub fn texts(batch: &RecordBatch, column: &str) -> Result<Vec<String>> {
    let array = batch.column_by_name(column).with_context(|| format!("a column {column}"))?;
    let array = array.as_any().downcast_ref::<StringArray>().context("a column of texts")?;
    Ok(array.iter().map(|text| text.unwrap_or_default().to_owned()).collect())
}

fn together(staged: &[Staged]) -> Result<RecordBatch> {
    let schema = &staged.first().context("nothing was staged")?.schema;
    Ok(concat_batches(schema, staged.iter().flat_map(|staged| &staged.batches))?)
}

/// "schema.name"
fn stream(table: &str) -> LoadStream {
    let (namespace, name) = table.split_once('.').unwrap_or(("public", table));
    LoadStream { namespace: namespace.to_owned(), name: name.to_owned(), ..Default::default() }
}

fn stage(table: &str, load_id: &str) -> Vec<u8> {
    let table = Table { stream: table.to_owned(), ..Default::default() };
    let request =
        StageRequest { table: Some(table), load_id: load_id.to_owned(), ..Default::default() };
    request.encode_to_vec()
}
