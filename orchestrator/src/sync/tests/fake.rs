//! Services that keep everything in memory, and a sync through them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use prost::Message;
use proto::Tls;
use proto::dial::Connection;
use proto::v1::source_client::SourceClient;
use proto::v1::source_server::{Source, SourceServer};
use proto::v1::writer_client::WriterClient;
use proto::v1::writer_server::{Writer as WriterService, WriterServer};
use proto::v1::*;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

use super::super::*;
use super::capture::Log;
use crate::config::source::UpdateMethod;
use crate::progress::Progress;
use crate::writers::{Writer, Writers};

/// PostgreSQL, the source, the writer and its disk, in one.
#[derive(Default)]
pub(super) struct World {
    /// Chunks of each table, ten rows each.
    pub(super) tables: BTreeMap<String, u32>,
    pub(super) live: HashMap<String, OpenLoadResponse>,
    pub(super) opened: u32,
    /// What was read: load, table, chunk.
    pub(super) reads: Vec<(String, String, u32)>,
    /// Faults that reading a chunk meets first, the last one first.
    pub(super) read_faults: HashMap<(String, u32), Vec<Fault>>,
    /// Chunks of tables that wait.
    pub(super) held: HashSet<(String, u32)>,
    /// After so many reads the sync is interrupted.
    pub(super) interrupt: Option<(usize, CancellationToken)>,
    /// Manifests on disk.
    pub(super) staged: HashSet<String>,
    pub(super) committed: HashMap<String, CommitRecord>,
    pub(super) commits: Vec<CommitRequest>,
    /// The table whose next commit fails.
    pub(super) refused: Option<String>,
    /// The writer can commit several tables at once; how many they were.
    pub(super) together: Option<Vec<usize>>,
    /// Kept beside the tables.
    pub(super) certificate: Option<Vec<u8>>,
    pub(super) log: Log,
}

#[derive(Clone, Default)]
pub(super) struct Fake(Arc<Mutex<World>>);

impl Fake {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    pub(super) fn reads_of(&self, table: &str) -> Vec<u32> {
        let world = self.world();
        world.reads.iter().filter(|read| read.1 == table).map(|read| read.2).collect()
    }
}

#[tonic::async_trait]
impl Source for Fake {
    type ReadChunkStream = BoxStream<'static, Result<ReadChunkResponse, Status>>;
    type ReplicateStream = BoxStream<'static, Result<ReplicateResponse, Status>>;

    async fn open_capture(
        &self,
        request: Request<OpenCaptureRequest>,
    ) -> Result<Response<OpenCaptureResponse>, Status> {
        self.world().call(|world| world.open_capture(request.into_inner()))
    }

    async fn replicate(
        &self,
        request: Request<ReplicateRequest>,
    ) -> Result<Response<Self::ReplicateStream>, Status> {
        self.world().call(|world| Ok(world.replicate(request.into_inner())))
    }

    async fn confirm(
        &self,
        request: Request<ConfirmRequest>,
    ) -> Result<Response<ConfirmResponse>, Status> {
        self.world().call(|world| Ok(world.confirm(request.into_inner())))
    }

    async fn check(
        &self,
        _: Request<SourceCheckRequest>,
    ) -> Result<Response<SourceCheckResponse>, Status> {
        Err(Status::unimplemented("not part of a sync"))
    }

    async fn discover(
        &self,
        _: Request<DiscoverRequest>,
    ) -> Result<Response<DiscoverResponse>, Status> {
        Err(Status::unimplemented("not part of a sync"))
    }

    async fn open_load(
        &self,
        request: Request<OpenLoadRequest>,
    ) -> Result<Response<OpenLoadResponse>, Status> {
        let request = request.into_inner();
        let mut world = self.world();
        world.fail_before()?;
        assert!(request.spare_others);
        if !request.resume_load_id.is_empty() {
            let gone = Fault::new(ErrorCode::LoadGone, "no such load");
            let load = world.live.get(&request.resume_load_id).cloned();
            return load.map(Response::new).ok_or_else(|| gone.into());
        }
        world.opened += 1;
        let load_id = format!("L{}", world.opened);
        let chunks = |name: &String| match world.log.trouble(name) {
            Some(_) => 0,
            None => world.tables[name],
        };
        let plan = |stream: &LoadStream| LoadTable {
            namespace: stream.namespace.clone(),
            name: stream.name.clone(),
            trouble: world.log.trouble(&stream.name),
            chunks: (0..chunks(&stream.name))
                .map(|id| Chunk {
                    id,
                    min: format!("'({id},0)'"),
                    bytes: 1 << 20,
                    ..Default::default()
                })
                .collect(),
            shape: "seen".into(),
            ..Default::default()
        };
        let answer = OpenLoadResponse {
            load_id: load_id.clone(),
            snapshot: "s".into(),
            consistent_point: match request.slot.as_str() {
                "" => "0/1".into(),
                _ => proto::lsn::Lsn(world.log.end).to_string(),
            },
            tables: request.streams.iter().map(plan).collect(),
            notices: vec![],
        };
        if answer.tables.iter().all(|table| table.trouble.is_some()) {
            return Err(Fault::new(ErrorCode::SchemaChanged, "all are gone").into());
        }
        world.live.insert(load_id, answer.clone());
        world.answer(answer)
    }

    async fn read_chunk(
        &self,
        request: Request<ReadChunkRequest>,
    ) -> Result<Response<Self::ReadChunkStream>, Status> {
        let request = request.into_inner();
        let chunk = (request.name.clone(), request.chunk_id);
        while self.world().held.contains(&chunk) {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        let mut world = self.world();
        if !world.live.contains_key(&request.load_id) {
            return Err(Fault::new(ErrorCode::LoadGone, "the snapshot is gone").into());
        }
        if let Some((after, shutdown)) = &world.interrupt
            && world.reads.len() >= *after
        {
            shutdown.cancel();
            return Ok(Response::new(stream::pending().boxed()));
        }
        let key = (request.name.clone(), request.chunk_id);
        if let Some(fault) = world.read_faults.get_mut(&key).and_then(Vec::pop) {
            match fault.code {
                ErrorCode::LoadGone => world.live.clear(),
                ErrorCode::Permission => {
                    world.log.revoked.insert(request.name);
                }
                _ => {}
            }
            return Err(fault.into());
        }
        let stage = StageRequest::decode(request.stage).unwrap();
        let manifest = format!("{}/{}/{}", stage.load_id, request.name, stage.chunk_id);
        world.staged.insert(manifest.clone());
        world.reads.push((stage.load_id.clone(), request.name, stage.chunk_id));
        let staged = StagedChunk {
            load_id: stage.load_id,
            chunk_id: stage.chunk_id,
            settings_hash: stage.settings_hash,
            manifest,
            rows: 10,
            files: 1,
            bytes: 100,
            ..Default::default()
        };
        let event = ReadChunkResponse {
            rows: 10,
            bytes: 1000,
            staged: staged.encode_to_vec().into(),
            unrepresentable: vec![UnrepresentableCount { column: "d".into(), values: 1 }],
        };
        Ok(Response::new(stream::iter([Ok(event)]).boxed()))
    }

    async fn close_load(
        &self,
        request: Request<CloseLoadRequest>,
    ) -> Result<Response<CloseLoadResponse>, Status> {
        self.world().live.remove(&request.into_inner().load_id);
        Ok(Response::new(CloseLoadResponse {}))
    }
}

#[tonic::async_trait]
impl WriterService for Fake {
    async fn check(
        &self,
        _: Request<WriterCheckRequest>,
    ) -> Result<Response<WriterCheckResponse>, Status> {
        Err(Status::unimplemented("not part of a sync"))
    }

    async fn prepare(
        &self,
        request: Request<PrepareRequest>,
    ) -> Result<Response<PrepareResponse>, Status> {
        let request = request.into_inner();
        let name = request.table.unwrap().name;
        let mut world = self.world();
        world.fail_before()?;
        world.staged.retain(|manifest| {
            let mut parts = manifest.split('/');
            let (load, table) = (parts.next().unwrap(), parts.next().unwrap());
            table != name || request.keep_load_ids.iter().any(|kept| kept == load)
        });
        let last_commit = world.committed.get(&name).cloned();
        world.answer(PrepareResponse { last_commit, location: format!("/data/{name}") })
    }

    async fn complete(
        &self,
        _: Request<CompleteRequest>,
    ) -> Result<Response<CompleteResponse>, Status> {
        Err(Status::unimplemented("nothing lacks values"))
    }

    async fn commit(
        &self,
        request: Request<CommitRequest>,
    ) -> Result<Response<CommitResponse>, Status> {
        let request = request.into_inner();
        let mut world = self.world();
        world.fail_before()?;
        let name = request.table.as_ref().map(|table| table.name.clone());
        if name.is_some() && world.refused == name {
            world.refused = None;
            return Err(Fault::new(ErrorCode::Internal, "as the test wants it").into());
        }
        let made = world.commit(request)?;
        world.answer(made)
    }

    async fn commit_together(
        &self,
        request: Request<CommitTogetherRequest>,
    ) -> Result<Response<CommitTogetherResponse>, Status> {
        let commits = request.into_inner().commits;
        let mut world = self.world();
        world.fail_before()?;
        let Some(together) = &mut world.together else {
            return Err(Status::unimplemented("of an earlier version"));
        };
        together.push(commits.len());
        let commits = commits.into_iter().map(|request| world.commit(request));
        let commits = commits.collect::<Result<_, _>>()?;
        world.answer(CommitTogetherResponse { commits })
    }

    async fn drop(&self, _: Request<DropRequest>) -> Result<Response<DropResponse>, Status> {
        Err(Status::unimplemented("not part of a sync"))
    }

    async fn certify(
        &self,
        request: Request<CertifyRequest>,
    ) -> Result<Response<CertifyResponse>, Status> {
        let request = request.into_inner();
        let mut world = self.world();
        world.fail_before()?;
        if let Some(certificate) = request.certificate {
            world.certificate = Some(certificate);
        }
        let certificate = world.certificate.clone();
        world.answer(CertifyResponse { certificate })
    }
}

impl World {
    fn commit(&mut self, request: CommitRequest) -> Result<CommitResponse, Status> {
        let name = request.table.clone().unwrap().name;
        let location = format!("/data/{name}");
        let last = self.committed.get(&name).cloned().unwrap_or_default();
        if last.commit_id == request.commit_id {
            let record = Some(last);
            return Ok(CommitResponse { record, already_committed: true, location });
        }
        if request.expected_commit_id.as_ref().is_some_and(|expected| *expected != last.commit_id) {
            return Err(Fault::new(ErrorCode::Conflict, "another run has committed").into());
        }
        if !request.staged.iter().all(|chunk| self.staged.contains(&chunk.manifest)) {
            return Err(Fault::new(ErrorCode::LoadGone, "the staged chunk is gone").into());
        }
        assert!(request.staged.iter().all(|chunk| chunk.load_id == request.load_id));
        let record = CommitRecord {
            commit_id: request.commit_id.clone(),
            load_id: request.load_id.clone(),
            rows: request.staged.iter().map(|chunk| chunk.rows).sum(),
            files: request.staged.len() as u64,
            position: request.position.clone(),
            ..Default::default()
        };
        self.committed.insert(name.clone(), record.clone());
        self.apply(&name, &request);
        self.commits.push(request);
        let record = Some(record);
        Ok(CommitResponse { record, already_committed: false, location })
    }
}

/// Served fakes, the state file, and what the user selected.
pub(super) struct Bench {
    pub(super) fake: Fake,
    pub(super) source: SourceClient<Connection>,
    pub(super) writers: Writers,
    pub(super) directory: tempfile::TempDir,
    pub(super) streams: Vec<SelectedStream>,
    pub(super) update_method: UpdateMethod,
    pub(super) destination: Destination,
    pub(super) owns_source: bool,
    pub(super) stop: CancellationToken,
}

impl Bench {
    pub(super) async fn new(tables: &[(&str, u32)]) -> Self {
        let fake = Fake::default();
        let owned = tables.iter().map(|(name, chunks)| ((*name).to_owned(), *chunks));
        fake.world().tables = owned.collect();
        let stop = CancellationToken::new();
        let (for_source, for_writer) = (fake.clone(), fake.clone());
        let source = serve(&stop, "source-svc", |routes| {
            routes.add_service(SourceServer::new(for_source));
        })
        .await;
        let writer = serve(&stop, "writer-svc", |routes| {
            routes.add_service(WriterServer::new(for_writer));
        })
        .await;
        let tls = Tls::default();
        let source = proto::dial::dial(&source, "source-svc", None, &tls).await.unwrap();
        let client =
            WriterClient::new(proto::dial::dial(&writer, "writer-svc", None, &tls).await.unwrap());
        Bench {
            fake,
            source: SourceClient::new(source),
            writers: Writers::new([Writer {
                address: writer,
                token: None,
                is_behind_name: false,
                client,
            }]),
            directory: tempfile::tempdir().unwrap(),
            streams: tables.iter().map(|(name, _)| selected(name)).collect(),
            update_method: UpdateMethod { replication_slot: "slot".into(), ..Default::default() },
            destination: Destination::default(),
            owns_source: false,
            stop,
        }
    }

    /// One sync, as a new process would run it.
    pub(super) async fn sync(&self) -> Result<Summary, Stop> {
        self.sync_on(None).await
    }

    /// The same, or one that goes on.
    pub(super) async fn sync_on(&self, continuous: Option<Continuous>) -> Result<Summary, Stop> {
        let shutdown = continuous
            .as_ref()
            .map_or_else(CancellationToken::new, |continuous| continuous.shutdown().clone());
        if let Some((_, token)) = &mut self.fake.world().interrupt {
            *token = shutdown.clone();
        }
        let config = SourceConfig { max_threads: 1, retry_count: 2, ..Default::default() };
        let names = self.streams.iter().map(SelectedStream::id).collect();
        let context = Context {
            source: self.source.clone(),
            owns_source: self.owns_source,
            source_config: &config,
            update_method: Some(&self.update_method),
            writers: &self.writers,
            destination: &self.destination,
            progress: Progress::new(names, false),
            shutdown,
            continuous,
        };
        let (file, state) = StateFile::open(&self.state_path(), true).unwrap();
        let mut sync = Sync::new(context, &self.streams, StateKeeper::new(file, state));
        let done = sync.run().await;
        sync.keeper.save().await.unwrap();
        done.map(|()| sync.summary())
    }

    pub(super) async fn interrupted_after(&self, reads: usize) {
        let after = self.fake.world().reads.len() + reads;
        self.fake.world().interrupt = Some((after, CancellationToken::new()));
        assert!(matches!(self.sync().await, Err(Stop::Interrupted)));
        self.fake.world().interrupt = None;
        self.fake.world().reads.clear();
    }

    /// As if the run had been killed when the first load's chunks of the table
    /// were staged and the state said so, before it said anything of a commit.
    pub(super) fn staged_by_the_interrupted_run(&self, table: &str, chunk_count: u32) {
        let mut state = self.state();
        let stream = selected(table);
        let run = state.run.clone().unwrap();
        let settings =
            Settings::of(&run, &Destination::default(), &stream.table, &stream.load, None);
        let mut load = crate::state::SavedLoad {
            id: "L1".into(),
            commit_id: settings.commit_id,
            settings_hash: settings.hash,
            chunk_count,
            ..Default::default()
        };
        for chunk_id in 0..chunk_count {
            let manifest = format!("L1/{table}/{chunk_id}");
            self.fake.world().staged.insert(manifest.clone());
            load.add(&StagedChunk { chunk_id, manifest, rows: 10, ..Default::default() });
        }
        state.begin_load("public", table, SyncMode::FullRefresh, load);
        std::fs::write(self.state_path(), state.to_text()).unwrap();
    }

    pub(super) fn state_path(&self) -> std::path::PathBuf {
        self.directory.path().join("state.json")
    }

    pub(super) fn state(&self) -> crate::state::State {
        let text = std::fs::read_to_string(self.state_path()).unwrap();
        crate::state::State::parse(&text).unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(super) async fn serve(
    stop: &CancellationToken,
    service: &'static str,
    add: impl FnOnce(&mut tonic::service::RoutesBuilder) + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(proto::serve::serve(service, listener, None, Tls::default(), stop.clone(), add));
    address
}

pub(super) fn selected(name: &str) -> SelectedStream {
    SelectedStream {
        namespace: "public".into(),
        name: name.into(),
        sync_mode: SyncMode::FullRefresh,
        cursor_field: String::new(),
        normalization: true,
        append_mode: false,
        load: LoadStream { namespace: "public".into(), name: name.into(), ..Default::default() },
        table: Table { name: name.into(), stream: format!("public.{name}"), ..Default::default() },
        columns: vec![],
    }
}
