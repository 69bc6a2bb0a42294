//! A load: one snapshot, the session that keeps it, the readers that share it.
//!
//! ```text
//! open:  snapshot (locks, verified) → stream (held against discover) → plan (chunks)
//!                                  incremental: increment (cursor, mark, content)
//! read:  readers → copy → decode → batch → send        one task per chunk
//! end:   close · keeper lost · unused for the grace time · shutdown
//! ```
//!
//! A load that has ended says so to every chunk that is still being read: its
//! `gone` token is cancelled, once, with a reason.

mod compare;
mod content;
mod copy;
mod cursor;
mod handoff;
mod increment;
mod mark;
mod plan;
mod readers;
mod snapshot;
mod split;
pub(crate) mod stream;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use proto::v1;
use tokio_util::sync::CancellationToken;

pub use copy::{ChunkJob, Progress};

use crate::capture::selected;
use crate::config::Config;
use crate::connect::Session;
use crate::error::SourceError;
use crate::identity;
use crate::send::Writers;
use increment::Wanted;
use plan::PlannedChunk;
use readers::Readers;
use stream::Stream;

/// Loads open at once; each holds a server connection and a snapshot.
const MAX_LOADS: usize = 256;
/// A silent keeper is asked after this time, and given up after as much more.
const KEEPER_PING: Duration = Duration::from_secs(15);
/// How often ended and abandoned loads are looked for, at most.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// All open loads of the service.
pub struct Loads {
    loads: Mutex<HashMap<String, Arc<Load>>>,
    /// Ids of loads that have ended lately, and why.
    ended: Mutex<VecDeque<(String, String)>>,
    /// How long a load outlives its last caller.
    grace: Duration,
    shutdown: CancellationToken,
}

/// One open load.
pub struct Load {
    /// How its server is reached.
    pub config: Arc<Config>,
    /// As [`identity::database`] has it.
    pub database: String,
    /// What one row may have in COPY's binary form.
    pub max_row_bytes: u64,
    /// Its reader sessions.
    pub readers: Readers,
    /// Connections to the writers its chunks went to.
    pub writers: Writers,
    id: String,
    keeper: Arc<Session>,
    /// What was asked for, to recognise the same load again.
    streams: Vec<v1::LoadStream>,
    slot: String,
    tables: Vec<LoadedTable>,
    response: v1::OpenLoadResponse,
    gone: CancellationToken,
    reason: OnceLock<String>,
    callers: Mutex<Callers>,
}

/// A stream with its chunks.
pub struct LoadedTable {
    /// What is read.
    pub stream: Stream,
    /// The parts it is read in, by id.
    pub chunks: Vec<PlannedChunk>,
}

struct Callers {
    reading: usize,
    last_seen: Instant,
}

/// A caller that is reading a chunk; the grace time begins when it is dropped.
pub struct Caller(Arc<Load>);

impl Loads {
    /// No loads yet. [`Self::sweep`] must run beside.
    pub fn new(grace: Duration, shutdown: CancellationToken) -> Self {
        let (loads, ended) = (Mutex::new(HashMap::new()), Mutex::new(VecDeque::new()));
        Loads { loads, ended, grace, shutdown }
    }

    /// Opens a load, or answers for one that still lives.
    pub async fn open(
        &self,
        config: Config,
        request: &v1::OpenLoadRequest,
        row_bytes_bound: u64,
        writers: Writers,
    ) -> Result<v1::OpenLoadResponse, SourceError> {
        if !request.resume_load_id.is_empty() {
            let load = self.get(&request.resume_load_id)?;
            let same = load.streams == request.streams && load.slot == request.slot;
            if !same || *load.config != config {
                return Err(gone(&load.id, "it was opened for other streams or another source"));
            }
            drop(Caller::new(&load));
            return Ok(load.response.clone());
        }
        if self.locked().len() >= MAX_LOADS {
            return Err(SourceError::Busy {
                what: format!("{MAX_LOADS} loads are open already"),
                remedy: "close some, or wait until their grace time is over".to_owned(),
            });
        }
        let load = Load::open(config, request, row_bytes_bound, writers, &self.shutdown).await?;
        let (id, tables) = (&load.id, load.tables.len());
        tracing::info!(load = id, tables, snapshot = load.response.snapshot, "load opened");
        let response = load.response.clone();
        self.locked().insert(load.id.clone(), load);
        Ok(response)
    }

    /// A load that still lives.
    pub fn get(&self, id: &str) -> Result<Arc<Load>, SourceError> {
        let load = self.locked().get(id).cloned();
        let Some(load) = load else {
            let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            let known = ended.iter().find(|(ended, _)| ended == id);
            return Err(gone(id, known.map_or("the service was restarted", |(_, why)| why)));
        };
        load.check_alive()?;
        Ok(load)
    }

    /// Ends a load; an unknown one has ended already.
    pub fn close(&self, id: &str) {
        let load = self.locked().remove(id);
        if let Some(load) = load {
            load.end("it was closed");
            self.remember(&load);
            tracing::info!(load = id, "load closed");
        }
    }

    fn remember(&self, load: &Load) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.truncate(MAX_LOADS - 1);
        ended.push_front((load.id.clone(), load.reason().to_owned()));
    }

    /// Ends loads that nobody uses any more and forgets those that have ended,
    /// until shutdown ends them all.
    pub async fn sweep(&self) {
        let every = (self.grace / 4).clamp(Duration::from_millis(50), SWEEP_EVERY);
        while self.shutdown.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
            self.locked().retain(|id, load| {
                if load.abandoned(self.grace) {
                    tracing::warn!(load = id, grace = ?self.grace, "load closed: no caller left");
                    load.end("nobody had used it for the grace time");
                }
                let alive = load.check_alive().is_ok();
                if !alive {
                    self.remember(load);
                }
                alive
            });
        }
        for (_, load) in self.locked().drain() {
            load.end("the service is stopping");
        }
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<String, Arc<Load>>> {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load {
    async fn open(
        config: Config,
        request: &v1::OpenLoadRequest,
        row_bytes_bound: u64,
        writers: Writers,
        shutdown: &CancellationToken,
    ) -> Result<Arc<Load>, SourceError> {
        if request.streams.is_empty() {
            return Err(SourceError::Config(vec!["streams: none to load".to_owned()]));
        }
        let keeper = Session::open(&config, "tidewater load keeper").await?;
        let database = identity::database(&keeper).await?;
        let snapshot = snapshot::take(&keeper, request, &config).await?;
        let plans = try_join_all(
            snapshot
                .streams
                .iter()
                .map(|stream| plan::plan(&keeper, stream, config.max_threads, &database)),
        )
        .await?;
        let max_row_bytes = config.max_row_bytes.min(row_bytes_bound);
        let mut response = v1::OpenLoadResponse {
            load_id: uuid::Uuid::now_v7().to_string(),
            snapshot: snapshot.name.clone(),
            consistent_point: snapshot.consistent_point.to_string(),
            ..Default::default()
        };
        if max_row_bytes < config.max_row_bytes {
            response.notices.push(format!(
                "rows are limited to {max_row_bytes} bytes by source-svc's --max-row-bytes"
            ));
        }
        let mut tables = Vec::with_capacity(plans.len());
        let mut planned = snapshot.streams.into_iter().zip(plans);
        for v1::LoadStream { namespace, name, .. } in &request.streams {
            let key = (namespace.clone(), name.clone());
            if let Some(error) = snapshot.apart.get(&key) {
                let ((namespace, name), trouble) = (key, Some(selected::told(error)));
                let table = v1::LoadTable { namespace, name, trouble, ..Default::default() };
                response.tables.push(table);
                continue;
            }
            let Some((stream, plan)) = planned.next() else { break };
            let relation = &stream.relation;
            let shape = snapshot.shapes.get(&(relation.namespace.clone(), relation.name.clone()));
            // Whether partitions that go are kept, the next Replicate knows.
            let shape = shape.map(|shape| shape.text(true)).unwrap_or_default();
            response.tables.push(v1::LoadTable { shape, ..load_table(&stream, &plan)? });
            response.notices.extend(plan.notices);
            tables.push(LoadedTable { stream, chunks: plan.chunks });
        }
        let config = Arc::new(config);
        let load = Arc::new(Load {
            readers: Readers::new(config.clone(), snapshot.name, &tables),
            writers,
            config,
            database,
            max_row_bytes,
            id: response.load_id.clone(),
            keeper: Arc::new(keeper),
            streams: request.streams.clone(),
            slot: request.slot.clone(),
            tables,
            response,
            gone: shutdown.child_token(),
            reason: OnceLock::new(),
            callers: Mutex::new(Callers { reading: 0, last_seen: Instant::now() }),
        });
        tokio::spawn(watch(Arc::downgrade(&load), load.keeper.clone(), load.gone.clone()));
        Ok(load)
    }

    /// The table and the place of a chunk in it.
    pub fn chunk(
        &self,
        namespace: &str,
        name: &str,
        chunk: u32,
    ) -> Result<(&LoadedTable, usize), SourceError> {
        let unknown = |what: String| SourceError::NotFound {
            what,
            remedy: "use the answer of OpenLoad".to_owned(),
        };
        let table = self
            .tables
            .iter()
            .find(|t| t.stream.relation.namespace == namespace && t.stream.relation.name == name)
            .ok_or_else(|| unknown(format!("load {} has no table {namespace}.{name}", self.id)))?;
        match usize::try_from(chunk) {
            Ok(chunk) if chunk < table.chunks.len() => Ok((table, chunk)),
            _ => Err(unknown(format!("{namespace}.{name} has no chunk {chunk}"))),
        }
    }

    /// An error once the load has ended, for whatever reason.
    pub fn check_alive(&self) -> Result<(), SourceError> {
        if self.keeper.is_closed() {
            self.end("the connection that held its snapshot was lost");
        }
        if self.gone.is_cancelled() { Err(self.gone_error()) } else { Ok(()) }
    }

    /// Resolves when the load has ended.
    pub async fn ended(&self) -> SourceError {
        self.gone.cancelled().await;
        self.gone_error()
    }

    fn gone_error(&self) -> SourceError {
        gone(&self.id, self.reason())
    }

    fn reason(&self) -> &str {
        self.reason.get().map_or("the service is stopping", String::as_str)
    }

    fn end(&self, reason: &str) {
        // The first reason stands.
        let _ = self.reason.set(reason.to_owned());
        self.gone.cancel();
    }

    fn abandoned(&self, grace: Duration) -> bool {
        let callers = self.callers();
        callers.reading == 0 && callers.last_seen.elapsed() >= grace
    }

    fn callers(&self) -> MutexGuard<'_, Callers> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.gone.cancel();
    }
}

impl Caller {
    /// Counts as reading until dropped.
    pub fn new(load: &Arc<Load>) -> Self {
        load.callers().reading += 1;
        Caller(load.clone())
    }
}

impl std::ops::Deref for Caller {
    type Target = Load;

    fn deref(&self) -> &Load {
        &self.0
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let mut callers = self.0.callers();
        callers.reading -= 1;
        callers.last_seen = Instant::now();
    }
}

/// Ends the load when its keeper is lost: closed by the server, or silent.
async fn watch(load: std::sync::Weak<Load>, keeper: Arc<Session>, gone: CancellationToken) {
    let lost = loop {
        tokio::select! {
            () = gone.cancelled() => return,
            why = keeper.closed() => break why,
            () = tokio::time::sleep(KEEPER_PING) => {}
        }
        match tokio::time::timeout(KEEPER_PING, keeper.simple_query("SELECT 1")).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => break error.to_string(),
            Err(_) => break format!("no answer for {} s", KEEPER_PING.as_secs()),
        }
    };
    if let Some(load) = load.upgrade() {
        tracing::warn!(load = load.id, "the load's snapshot is lost: {lost}");
        load.end(&format!("the connection that held its snapshot was lost ({lost})"));
    }
}

fn gone(id: &str, why: &str) -> SourceError {
    SourceError::LoadGone(format!("load {id} no longer exists: {why}"))
}

fn load_table(stream: &Stream, plan: &plan::Plan) -> Result<v1::LoadTable, SourceError> {
    let relation = &stream.relation;
    let part = matches!(&plan.increment, Some(it) if !matches!(it.wanted, Wanted::Everything(_)));
    let mark = plan.increment.as_ref().map(|increment| serde_json::to_string(&increment.mark));
    let mark = mark.transpose().map_err(|error| SourceError::Internal(error.to_string()))?;
    let cursor = plan.increment.as_ref().map(|increment| increment.values.clone());
    Ok(v1::LoadTable {
        namespace: relation.namespace.clone(),
        name: relation.name.clone(),
        columns: stream.columns.iter().map(|column| column.to_proto()).collect(),
        primary_key: relation.primary_key.clone(),
        estimated_rows: if part { -1 } else { relation.estimated_rows },
        bytes: plan.bytes,
        chunks: plan.chunks.iter().map(|planned| planned.chunk.clone()).collect(),
        shape: String::new(),
        mark: mark.unwrap_or_default(),
        cursor: cursor.unwrap_or_default(),
        trouble: None,
    })
}
