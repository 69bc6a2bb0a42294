//! Change capture against services that keep everything in memory. A table's
//! content is where it was loaded and which changes were added since: complete
//! means each change after the load once.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use prost::Message;
use proto::lsn::Lsn;
use proto::v1::commit_request::Mode;
use proto::v1::replicate_response::Event;
use tonic::{Response, Status};

use super::fake::World;
use super::*;

/// The server's log and slot, and what the tables hold of it.
#[derive(Default)]
pub(super) struct Log {
    pub(super) end: u64,
    pub(super) confirmed: u64,
    system: String,
    /// Ends of transactions, and the table each has changed.
    changes: Vec<(u64, String)>,
    /// Transactions that the stream cannot tell.
    pub(super) untold: BTreeSet<u64>,
    /// Tables that were dropped.
    pub(super) gone: BTreeSet<String>,
    /// Tables that will be, when a Replicate has begun.
    pub(super) going: BTreeSet<String>,
    /// Tables that may not be read, and are published.
    pub(super) revoked: BTreeSet<String>,
    /// Tables that will be, when a Replicate has begun.
    pub(super) revoking: BTreeSet<String>,
    pub(super) contents: BTreeMap<String, Content>,
    /// Calls of Replicate so far.
    pub(super) replicates: usize,
    /// Calls of all services so far.
    calls: usize,
    /// The call that fails, and whether it has done its work before.
    failing: Option<(usize, bool)>,
    /// The failure passes.
    passing: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Content {
    loaded: u64,
    pub(super) added: Vec<u64>,
}

impl Log {
    pub(super) fn trouble(&self, name: &String) -> Option<TableTrouble> {
        let (what, remedy) = match (self.gone.contains(name), self.revoked.contains(name)) {
            (true, _) => ("no longer exists", "run discover"),
            (_, true) => ("may not be read", "GRANT SELECT"),
            _ => return None,
        };
        let what = format!("public.{name} {what}");
        Some(TableTrouble { what, remedy: remedy.into(), recoverable: remedy != "run discover" })
    }
}

impl World {
    /// One more call, which may fail before it does anything …
    pub(super) fn fail_before(&mut self) -> Result<(), Status> {
        self.log.calls += 1;
        self.fail(false)
    }

    /// … or when it has done it.
    pub(super) fn answer<T>(&mut self, answer: T) -> Result<Response<T>, Status> {
        self.fail(true)?;
        Ok(Response::new(answer))
    }

    pub(super) fn call<T>(
        &mut self,
        work: impl FnOnce(&mut World) -> Result<T, Status>,
    ) -> Result<Response<T>, Status> {
        self.fail_before()?;
        let answer = work(self)?;
        self.answer(answer)
    }

    fn fail(&mut self, after: bool) -> Result<(), Status> {
        if self.log.failing != Some((self.log.calls, after)) {
            return Ok(());
        }
        let code = if self.log.passing { ErrorCode::Unavailable } else { ErrorCode::Internal };
        Err(Fault::new(code, "as the test wants it").into())
    }

    pub(super) fn open_capture(
        &mut self,
        request: OpenCaptureRequest,
    ) -> Result<OpenCaptureResponse, Status> {
        let table = |stream: &LoadStream| CaptureTable {
            namespace: stream.namespace.clone(),
            name: stream.name.clone(),
            identity: vec!["id".into()],
            trouble: self.log.trouble(&stream.name),
            ..Default::default()
        };
        assert!(request.spare_others);
        if request.streams.iter().all(|stream| self.log.trouble(&stream.name).is_some()) {
            return Err(Fault::new(ErrorCode::SchemaChanged, "all are gone").into());
        }
        Ok(OpenCaptureResponse {
            system_identifier: self.log.system.clone(),
            timeline: 1,
            confirmed_flush: Lsn(self.log.confirmed).to_string(),
            end: Lsn(self.log.end).to_string(),
            tables: request.streams.iter().map(table).collect(),
            publication: "p".into(),
            ..Default::default()
        })
    }

    /// Two transactions an interval.
    pub(super) fn replicate(
        &mut self,
        request: ReplicateRequest,
    ) -> BoxStream<'static, Result<ReplicateResponse, Status>> {
        let lsn = |text: &str| text.parse::<Lsn>().unwrap().0;
        let to = lsn(&request.to);
        self.log.replicates += 1;
        let (mut events, mut lost) = (Vec::new(), BTreeSet::new());
        let going = std::mem::take(&mut self.log.going);
        for name in &going {
            let (namespace, name) = ("public".into(), name.clone());
            lost.insert(name.clone());
            let reason = "dropped".into();
            events.push(Event::Lost(TableLost { namespace, name, reason, ..Default::default() }));
        }
        self.log.gone.extend(going);
        let revoking = std::mem::take(&mut self.log.revoking);
        for name in &revoking {
            lost.insert(name.clone());
            events.push(Event::Lost(TableLost {
                namespace: "public".into(),
                name: name.clone(),
                reason: "it may not be read".into(),
                remedy: "GRANT SELECT".into(),
                recoverable: true,
            }));
        }
        self.log.revoked.extend(revoking);
        let mut from = self.log.confirmed;
        let pending: Vec<_> =
            self.log.changes.iter().filter(|(at, _)| *at > from && *at <= to).cloned().collect();
        for (number, changes) in pending.chunks(2).enumerate() {
            let end = changes[changes.len() - 1].0;
            let mut staged = BTreeMap::<&String, Vec<u64>>::new();
            for (at, name) in changes {
                let table = request
                    .tables
                    .iter()
                    .find(|t| t.stream.as_ref().unwrap().name == *name && lsn(&t.position) < *at);
                if table.is_none() || lost.contains(name) {
                    continue;
                }
                if self.log.untold.remove(at) {
                    lost.insert(name.clone());
                    staged.remove(name);
                    let reason = "it was rewritten".into();
                    let (namespace, name) = ("public".into(), name.clone());
                    let lost = TableLost { namespace, name, reason, ..Default::default() };
                    events.push(Event::Lost(lost));
                } else {
                    staged.entry(name).or_default().push(*at);
                }
            }
            let mut tables = Vec::new();
            for (name, changes) in staged {
                let table =
                    request.tables.iter().find(|t| t.stream.as_ref().unwrap().name == *name);
                let stage = StageRequest::decode(table.unwrap().stage.clone()).unwrap();
                assert!(stage.row_metadata);
                let load_id = format!("{}-{}", stage.load_id, number + 1);
                let list: Vec<_> = changes.iter().map(u64::to_string).collect();
                let manifest = format!("{load_id}/{name}/{}", list.join(","));
                self.staged.insert(manifest.clone());
                let chunk = StagedChunk {
                    load_id,
                    settings_hash: stage.settings_hash,
                    manifest,
                    rows: changes.len() as u64,
                    ..Default::default()
                };
                tables.push(StagedTable {
                    namespace: "public".into(),
                    name: name.clone(),
                    staged: chunk.encode_to_vec().into(),
                    ..Default::default()
                });
            }
            events.push(Event::Staged(IntervalStaged {
                number: number as u64 + 1,
                from: Lsn(from).to_string(),
                to: Lsn(end).to_string(),
                tables,
                ..Default::default()
            }));
            from = end;
        }
        let to = Lsn(to.max(from)).to_string();
        events.push(Event::Finished(ReplicateFinished { to, ..Default::default() }));
        let events = events.into_iter().map(|event| Ok(ReplicateResponse { event: Some(event) }));
        stream::iter(events.collect::<Vec<_>>()).boxed()
    }

    pub(super) fn confirm(&mut self, request: ConfirmRequest) -> ConfirmResponse {
        let lsn = |text: &str| text.parse::<Lsn>().unwrap().0;
        let hold = Some(request.hold.as_str()).filter(|hold| !hold.is_empty());
        let to = hold.map_or(u64::MAX, lsn).min(lsn(&request.lsn));
        assert!(to >= self.log.confirmed, "a slot moves forward");
        self.log.confirmed = to;
        let (confirmed_flush, end) = (Lsn(to).to_string(), Lsn(self.log.end).to_string());
        ConfirmResponse { confirmed_flush, end, ..Default::default() }
    }

    /// What a commit makes of a table.
    pub(super) fn apply(&mut self, name: &str, request: &CommitRequest) {
        let content = self.log.contents.entry(name.to_owned()).or_default();
        if request.mode() == Mode::Replace {
            let position: Option<Position> = request.position.parse().ok();
            let loaded = position.map(|position| position.lsn.0).unwrap_or_default();
            *content = Content { loaded, added: Vec::new() };
            return;
        }
        for chunk in &request.staged {
            let list = chunk.manifest.rsplit('/').next().unwrap();
            content.added.extend(list.split(',').map(|at| at.parse::<u64>().unwrap()));
        }
    }

    /// Transactions that have just been committed at the source.
    pub(super) fn write(&mut self, tables: &[&str]) {
        for table in tables {
            self.log.end += 10;
            self.log.changes.push((self.log.end, (*table).to_owned()));
        }
        self.log.end += 1;
    }

    pub(super) fn assert_complete(&self, what: &str) {
        for name in self.tables.keys().filter(|name| !self.log.gone.contains(*name)) {
            let content = self.log.contents.get(name).cloned().unwrap_or_default();
            let expected: Vec<_> = self
                .log
                .changes
                .iter()
                .filter(|(at, table)| table == name && *at > content.loaded)
                .map(|(at, _)| *at)
                .collect();
            assert_eq!(content.added, expected, "{name}, {what}");
        }
    }
}

/// Tables that are followed, with some transactions before the first sync.
pub(super) async fn bench(tables: &[(&str, u32)]) -> Bench {
    let mut bench = Bench::new(tables).await;
    for stream in &mut bench.streams {
        stream.sync_mode = SyncMode::Cdc;
    }
    let mut world = bench.fake.world();
    world.log.system = "7".into();
    world.log.end = 100;
    world.write(&["a", "b", "a"]);
    drop(world);
    bench
}

pub(super) fn reads(bench: &Bench) -> Vec<String> {
    let mut world = bench.fake.world();
    std::mem::take(&mut world.reads).into_iter().map(|read| read.1).collect()
}

#[tokio::test]
async fn a_table_is_loaded_once_and_then_followed() {
    let bench = bench(&[("a", 2), ("b", 1)]).await;
    bench.sync().await.unwrap();
    assert_eq!(reads(&bench), ["a", "a", "b"]);
    for round in 0..3 {
        bench.fake.world().write(&["a", "a", "b", "a"]);
        let summary = bench.sync().await.unwrap();
        assert_eq!(reads(&bench), [] as [&str; 0]);
        bench.fake.world().assert_complete(&format!("round {round}"));
        assert_eq!(summary.outcomes[0].changes, Some(3));
        let state = bench.state();
        assert_eq!(state.certified("public", "a").unwrap().lsn.0, bench.fake.world().log.end);
        assert_eq!(state.global.unwrap().streams, ["public.a", "public.b"]);
        assert_eq!(state.streams[0].sync_mode, "cdc");
        assert_eq!(state.streams[0].state.chunks, Some(vec![]));
    }
    // Nothing happens: nothing is committed.
    let commits = bench.fake.world().commits.len();
    bench.sync().await.unwrap();
    assert_eq!(bench.fake.world().commits.len(), commits);
}

#[tokio::test]
async fn a_table_that_joins_later_is_loaded_and_a_refreshed_one_stays_so() {
    let mut bench = bench(&[("a", 1), ("b", 1), ("c", 1)]).await;
    let c = bench.streams.pop().unwrap();
    bench.streams[1].sync_mode = SyncMode::FullRefresh;
    bench.sync().await.unwrap();
    bench.fake.world().write(&["a", "c"]);
    reads(&bench);
    bench.streams.push(c);
    bench.sync().await.unwrap();
    assert_eq!(reads(&bench), ["b", "c"]);
    bench.fake.world().write(&["a", "c"]);
    bench.streams.remove(1);
    bench.fake.world().tables.remove("b");
    bench.sync().await.unwrap();
    bench.fake.world().assert_complete("a and c");
    assert_eq!(reads(&bench), [] as [&str; 0]);
}

#[tokio::test]
async fn a_table_that_was_left_out_for_a_while_is_loaded_anew() {
    let mut bench = bench(&[("a", 1), ("b", 1)]).await;
    bench.sync().await.unwrap();
    let b = bench.streams.pop().unwrap();
    bench.fake.world().write(&["a", "b"]);
    bench.sync().await.unwrap();
    bench.streams.push(b);
    reads(&bench);
    bench.sync().await.unwrap();
    assert_eq!(reads(&bench), ["b"]);
    bench.fake.world().assert_complete("b has missed a change");
}

#[tokio::test]
async fn a_lost_or_old_state_costs_work_and_no_row() {
    for (old, certified) in [(false, false), (false, true), (true, false), (true, true)] {
        let bench = bench(&[("a", 1), ("b", 1)]).await;
        bench.sync().await.unwrap();
        let kept = std::fs::read_to_string(bench.state_path()).unwrap();
        bench.fake.world().write(&["a", "a"]);
        bench.sync().await.unwrap();
        bench.fake.world().write(&["a", "b"]);
        match old {
            true => std::fs::write(bench.state_path(), kept).unwrap(),
            false => std::fs::remove_file(bench.state_path()).unwrap(),
        }
        if !certified {
            bench.fake.world().certificate = None;
        }
        reads(&bench);
        bench.sync().await.unwrap();
        // Both are behind the slot, as it goes on when nothing happens: whether
        // they were followed all the while only the certificate says.
        match certified {
            true => assert_eq!(reads(&bench), [] as [&str; 0]),
            false => assert_eq!(reads(&bench), ["a", "b"]),
        }
        bench.fake.world().assert_complete("without the state");
    }
}

#[tokio::test]
async fn a_slot_that_others_have_moved_or_made_anew_costs_a_load() {
    let bench = bench(&[("a", 1), ("b", 1)]).await;
    bench.sync().await.unwrap();
    bench.fake.world().write(&["a", "b", "b"]);
    let end = bench.fake.world().log.end;
    bench.fake.world().log.confirmed = end;
    reads(&bench);
    bench.sync().await.unwrap();
    assert_eq!(reads(&bench), ["a", "b"]);
    bench.fake.world().assert_complete("the slot was moved");

    bench.fake.world().log.system = "8".into();
    bench.sync().await.unwrap();
    assert_eq!(reads(&bench), ["a", "b"], "another server");
}

#[tokio::test]
async fn other_columns_or_settings_cost_a_load() {
    let mut bench = bench(&[("a", 1)]).await;
    bench.sync().await.unwrap();
    bench.streams[0].load.selected = vec!["id".into()];
    reads(&bench);
    bench.sync().await.unwrap();
    assert_eq!(reads(&bench), ["a"]);
    bench.sync().await.unwrap();
    assert_eq!(reads(&bench), [] as [&str; 0]);
}

#[tokio::test]
async fn a_table_that_cannot_be_followed_is_loaded_anew_while_the_others_go_on() {
    let bench = bench(&[("a", 1), ("b", 1)]).await;
    bench.sync().await.unwrap();
    bench.fake.world().write(&["a", "b", "a", "b", "a"]);
    let untold = bench.fake.world().log.changes[5].0;
    bench.fake.world().log.untold.insert(untold);
    reads(&bench);
    let summary = bench.sync().await.unwrap();
    assert_eq!(reads(&bench), ["a"]);
    bench.fake.world().assert_complete("a was lost");
    assert_eq!(summary.outcomes[1].changes, Some(2));
    bench.fake.world().write(&["a", "b"]);
    bench.sync().await.unwrap();
    assert_eq!(reads(&bench), [] as [&str; 0], "it is followed again");
    bench.fake.world().assert_complete("a is followed again");
}

#[tokio::test]
async fn tables_are_committed_together_where_the_writer_can() {
    for is_able in [true, false] {
        let mut bench = bench(&[("a", 1), ("b", 1), ("c", 1)]).await;
        let catalog = Some(proto::v1::iceberg::Catalog::Rest(Default::default()));
        let iceberg = Iceberg { catalog, ..Default::default() };
        let kind = proto::v1::destination::Kind::Iceberg(iceberg);
        bench.destination = Destination { kind: Some(kind) };
        bench.fake.world().together = is_able.then(Vec::new);
        bench.sync().await.unwrap();
        bench.fake.world().write(&["a", "b"]);
        let summary = bench.sync().await.unwrap();
        let world = bench.fake.world();
        world.assert_complete(if is_able { "together" } else { "by an earlier version" });
        assert_eq!(world.together, is_able.then(|| vec![2]));
        assert_eq!(summary.outcomes[0].changes, Some(1));
    }
}

/// More than the scenario below makes.
const CALLS: usize = 90;

/// A first sync, and another in which a table is lost: every call of all
/// services fails once, before or after it did its work, for good (as if the
/// process had been killed) or for the moment.
#[tokio::test]
async fn whichever_call_fails_nothing_is_lost_or_doubled() {
    for owns_source in [false, true] {
        let cases = (1..CALLS).flat_map(|call| {
            [(false, false), (false, true), (true, false), (true, true)]
                .map(|(after, passing)| (call, after, passing))
        });
        let failed = stream::iter(cases)
            .map(|(call, after, passing)| fails_once(call, after, passing, owns_source))
            .buffer_unordered(24)
            .filter(|failed| std::future::ready(*failed))
            .count()
            .await;
        assert!((80..4 * (CALLS - 1)).contains(&failed), "{failed} calls failed");
    }
}

/// Whether there was such a call.
async fn fails_once(call: usize, after: bool, passing: bool, owns_source: bool) -> bool {
    let what = format!("call {call}, its work done: {after}, passing: {passing}, {owns_source}");
    let mut bench = bench(&[("a", 2), ("b", 1), ("c", 1)]).await;
    bench.owns_source = owns_source;
    bench.fake.world().log.failing = Some((call, after));
    bench.fake.world().log.passing = passing;
    for untold in [false, true] {
        let first = bench.fake.world().log.changes.len();
        bench.fake.world().write(&["a", "b", "b", "a", "a"]);
        if untold {
            let at = bench.fake.world().log.changes[first].0;
            bench.fake.world().log.untold.insert(at);
        }
        if bench.sync().await.is_ok() {
            bench.fake.world().assert_complete(&what);
        }
    }
    let called = bench.fake.world().log.calls;
    bench.fake.world().log.failing = None;
    bench.sync().await.unwrap_or_else(|stop| panic!("{what}: {stop:?}"));
    bench.fake.world().assert_complete(&what);
    called >= call
}
