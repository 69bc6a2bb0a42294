//! The log, interval after interval, each table's changes to its writer.
//!
//! ```text
//! window ─► pgoutput ─► relation ─► table (transcode ► decode ► batch) ─► DoPut    one per table
//!    └── its end: every table staged ─► IntervalStaged ─► … ─► Confirm ─► slot
//! ```
//!
//! A window holds whole transactions, and so does an interval. While one is
//! being staged the server looks for the next, and while it is being committed
//! that one is read; no more than `intervals_in_flight` are
//! staged and not confirmed. Nothing here moves the permanent slot: Confirm
//! does, and it alone.
//!
//! Where the log cannot say what a table holds, that table is lost: it is told,
//! nothing more of it is sent, and the others go on. Where columns have changed
//! since they were looked at, the log is read [`again`] from where it is staged.

mod again;
pub mod confirm;
mod exclusive;
mod form;
pub mod pgoutput;
mod progress;
mod put;
mod relation;
mod row;
mod selection;
mod shapes;
mod spool;
mod table;
mod window;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt, TryStreamExt};
use proto::lsn::Lsn;
use proto::v1::replicate_response::Event;
use proto::v1::{self, ReplicateResponse};
use tokio::sync::mpsc;
use tonic::Status;
use tracing::{Instrument, info_span};

use crate::batch::Bounds;
use crate::capture::publication::Names;
use crate::capture::{server, slot};
use crate::check;
use crate::config::Config;
use crate::connect::Session;
use crate::error::SourceError;
use crate::identity;
use crate::send::Writers;
use crate::service::Limits;
use again::Begun;
use confirm::{Confirmations, InFlight};
use pgoutput::{Message, Tuple};
use progress::Report;
use relation::{Known, Relations};
use selection::Selection;
use spool::Spool;
use table::{Followed, Refused, Shared, Transaction};
use window::{Log, Window, bad};

/// Messages of a window when the request does not say: for each window the server
/// reads again what it has kept since the oldest transaction was running.
const INTERVAL_CHANGES: u32 = 1_000_000;
/// Intervals staged and not confirmed when the request does not say.
const INTERVALS_IN_FLIGHT: u32 = 2;
/// Rows that wait, of all tables together.
const PENDING_BYTES: usize = 64 << 20;
/// DoPuts that are open before an interval's end. A writer has room for 16 by
/// default, and loads may go on beside.
const MAX_OPEN: usize = 8;
/// Tables that are finished at once, those that are open first.
const FINISHING: usize = 4;
/// Between two looks for a first change.
const POLL: Duration = Duration::from_millis(200);
/// Microseconds from 1970 to 2000, where PostgreSQL's clock begins.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// Where events go.
pub type Events = mpsc::Sender<Result<ReplicateResponse, Status>>;

/// Reads the log up to `to`.
pub async fn replicate(
    config: &Config,
    mut request: v1::ReplicateRequest,
    limits: Limits,
    writers: Writers,
    confirmations: &Confirmations,
    events: &Events,
) -> Result<(), SourceError> {
    let mut begun = Begun::default();
    while !request.tables.is_empty() || begun.is_first() {
        let (asked, writers) = (request.clone(), writers.clone());
        let mut reader =
            Reader::open(config, asked, limits, writers, confirmations, events, &begun).await?;
        if reader.run().await? {
            break;
        }
        begun = reader.begin_again(begun, &mut request).await?;
    }
    Ok(())
}

struct Reader<'a> {
    log: Log,
    names: Names,
    to: Lsn,
    initial_wait: Duration,
    /// New files of a table say nothing of its rows.
    ignore_rewrites: bool,
    /// Rows of partitions that are gone stay.
    keep_removed: bool,
    tables: Vec<Followed>,
    /// Tables that cannot be followed, to be told first.
    apart: Vec<v1::TableLost>,
    relations: Relations,
    shared: Shared,
    in_flight: InFlight,
    /// Everything that ends at or before it is staged.
    staged: Lsn,
    /// Of the interval at hand.
    number: u64,
    /// Columns that change do not make it begin again.
    is_last: bool,
    /// Places of the tables that it has changes of.
    touched: Vec<usize>,
    /// Bytes that they have pending.
    pending: usize,
    /// Whether any change was of a table of ours.
    any: bool,
    /// Of the interval's last transaction, as an interval says it.
    committed_at: i64,
    report: Report,
    events: &'a Events,
}

impl<'a> Reader<'a> {
    async fn open(
        config: &Config,
        request: v1::ReplicateRequest,
        limits: Limits,
        writers: Writers,
        confirmations: &Confirmations,
        events: &'a Events,
        begun: &Begun,
    ) -> Result<Self, SourceError> {
        slot::check_name(&request.slot)?;
        let names = Names::new(&request.publication, &request.slot)?;
        let wrong = |what: String| SourceError::Config(vec![what]);
        let mut to: Lsn = request.to.parse().map_err(|error| wrong(format!("to: {error}")))?;
        let window = match request.interval_changes {
            0 => INTERVAL_CHANGES,
            changes => changes,
        };
        let window = i32::try_from(window).unwrap_or(i32::MAX);
        let limit = match request.intervals_in_flight {
            0 => INTERVALS_IN_FLIGHT,
            intervals => intervals,
        };
        let session = Session::open(config, "tidewater replicate").await?;
        check::require_version(&session)?;
        server::require(&session).await?;
        exclusive::exclude_others(&session, &request.slot, config).await?;
        slot::find(&session, &request.slot).await?.ok_or_else(|| slot::gone(&request.slot))?;
        let mut selection = Selection::find(&session, &names, config, request.tables).await?;
        if request.keep_removed_partitions {
            selection.tables.iter_mut().for_each(Followed::keep_removed);
        }
        let option = names.option(selection.inserts);
        let database = identity::database(&session).await?;
        if !selection.tables.iter().all(Followed::has_the_same_columns) {
            // How they are now is told at the end: then they must have been so.
            to = to.max(server::end_of_log(&session).await?);
        }
        let log = Log::open(session, &request.slot, option, window).await?;
        Ok(Reader {
            staged: log.position().max(begun.staged),
            log,
            names,
            to,
            initial_wait: Duration::from_millis(request.initial_wait_ms.into()),
            ignore_rewrites: request.ignore_rewrites,
            relations: Relations::new(selection.tables.iter().map(|followed| &followed.table)),
            keep_removed: request.keep_removed_partitions,
            tables: selection.tables,
            apart: selection.apart,
            shared: Shared {
                writers,
                spool: Spool::default(),
                database,
                bounds: Bounds { rows: config.reader_batch_size, bytes: limits.batch_bytes },
                max_row_bytes: config.max_row_bytes.min(limits.max_row_bytes),
            },
            in_flight: confirmations.follow(config, &request.slot, limit as usize),
            number: begun.number,
            is_last: begun.is_last(),
            touched: Vec::new(),
            pending: 0,
            any: begun.any,
            committed_at: 0,
            report: Report::new(),
            events,
        })
    }

    /// Reads and stages all of it; `false`: columns have changed meanwhile.
    async fn run(&mut self) -> Result<bool, SourceError> {
        for lost in std::mem::take(&mut self.apart) {
            self.emit(Event::Lost(lost)).await?;
        }
        let mut next = self.next().await?;
        while let Some(window) = next {
            self.read(window, self.to).await?;
            if !self.look_between().await? {
                return Ok(false);
            }
            // While the server looks for the next one, this one is staged.
            let asked = self.next();
            let span = info_span!("interval", to = %self.log.position(), interval = self.number);
            (next, ()) = futures::try_join!(asked, self.stage().instrument(span))?;
        }
        if !self.any {
            self.wait_for_a_change().await?;
            if self.log.position() > self.staged {
                if !self.look_between().await? {
                    return Ok(false);
                }
                self.stage().await?;
            }
        }
        let Some(shapes) = self.shapes().await? else { return Ok(false) };
        let finished = v1::ReplicateFinished { to: self.staged.to_string(), shapes };
        self.emit(Event::Finished(finished)).await?;
        Ok(true)
    }

    async fn emit(&self, event: Event) -> Result<(), SourceError> {
        let sent = self.events.send(Ok(ReplicateResponse { event: Some(event) })).await;
        sent.map_err(|_| SourceError::Cancelled)
    }

    /// The window that comes next; `None`: the end is reached.
    fn next(&self) -> impl Future<Output = Result<Option<Window>, SourceError>> + Send + use<> {
        let wanted = self.log.position() < self.to;
        let asked = wanted.then(|| self.ask(self.to));
        async move {
            match asked {
                Some(asked) => asked.await.map(Some),
                None => Ok(None),
            }
        }
    }

    fn ask(&self, to: Lsn) -> impl Future<Output = Result<Window, SourceError>> + Send + use<> {
        self.log.window(to, self.shared.max_row_bytes)
    }

    /// Reads a window that reaches `to` if it does not fill before.
    async fn read(&mut self, mut window: Window, to: Lsn) -> Result<(), SourceError> {
        self.in_flight.room().await?;
        self.relations.forget();
        let mut transaction = None;
        while window.more().await {
            self.messages(&mut window, &mut transaction).await?;
        }
        window.finish().await?;
        if transaction.is_some() {
            return Err(bad("a transaction without its end".to_owned()));
        }
        let before = self.log.position();
        if self.log.end().await? <= before && before < to {
            return Err(SourceError::Busy {
                what: format!("the log does not go on from {before} to {to}"),
                remedy: "sync again".to_owned(),
            });
        }
        Ok(())
    }

    /// Takes the messages that have come.
    async fn messages(
        &mut self,
        window: &mut Window,
        transaction: &mut Option<Transaction>,
    ) -> Result<(), SourceError> {
        while let Some(bytes) = window.messages().next_message()? {
            self.report.bytes += bytes.len() as u64;
            let message = pgoutput::parse(bytes).map_err(|error| bad(error.to_string()))?;
            let change = match (message, transaction.as_ref()) {
                (Message::Begin { commit_lsn, commit_time, xid }, None) => {
                    *transaction = Some(Transaction::new(commit_lsn, commit_time, xid));
                    continue;
                }
                (Message::Commit { commit_lsn, end_lsn }, Some(begun))
                    if begun.commit_lsn == commit_lsn =>
                {
                    self.committed_at = begun.commit_time + POSTGRES_EPOCH;
                    *transaction = None;
                    self.progress(end_lsn);
                    continue;
                }
                (Message::Relation(relation), Some(begun)) => {
                    let tables = &self.tables;
                    self.relations.learn(&relation, begun.xid, |place| &tables[place]);
                    continue;
                }
                (Message::Other, _) => continue,
                (change, Some(_)) => change,
                (_, None) => return Err(bad("a message outside a transaction".to_owned())),
            };
            let Some(transaction) = transaction.as_ref() else { continue };
            match change {
                Message::Insert { relation, new } => {
                    self.change(transaction, relation, Change::Insert(new)).await?;
                }
                Message::Update { relation, old, new } => {
                    self.change(transaction, relation, Change::Update(old, new)).await?;
                }
                Message::Delete { relation, old } => {
                    self.change(transaction, relation, Change::Delete(old)).await?;
                }
                Message::Truncate { relations } => {
                    for relation in relations {
                        self.change(transaction, relation, Change::Truncate).await?;
                    }
                }
                _ => return Err(bad("a message out of its place".to_owned())),
            }
        }
        Ok(())
    }

    async fn change(
        &mut self,
        transaction: &Transaction,
        relation: u32,
        change: Change<'_>,
    ) -> Result<(), SourceError> {
        let unsaid = || bad(format!("a change of relation {relation}, of which it says nothing"));
        let (place, form) = match self.relations.of(relation).ok_or_else(unsaid)? {
            Known::Ignored => return Ok(()),
            Known::Table(place, form) => (*place, Ok(form)),
            Known::Changed(place, what) => (*place, Err(what)),
        };
        let table = &mut self.tables[place];
        if !table.lacks(transaction) {
            return Ok(());
        }
        self.any = true;
        let form = match form {
            Ok(form) => form,
            Err(what) => {
                table.doubt = Some(what.clone());
                self.discard(place);
                return Ok(());
            }
        };
        let (untouched, before) = (!table.is_touched(), table.pending_bytes());
        let taken = match change {
            Change::Insert(new) => table.insert(transaction, form, new),
            Change::Update(old, new) => table.update(transaction, form, old, new),
            Change::Delete(old) => table.delete(transaction, form, old),
            Change::Truncate => {
                table.truncate(transaction);
                Ok(0)
            }
        };
        let rows = match taken {
            Ok(rows) => rows,
            Err(Refused::Lost(why)) => return self.lose(place, why).await,
            Err(Refused::Failed(error)) => return Err(error),
        };
        self.report.rows += rows;
        self.pending = self.pending - before + table.pending_bytes();
        if untouched {
            self.touched.push(place);
        }
        // Once, where it may not be sent yet.
        let enough = self.shared.bounds.bytes;
        let table = &self.tables[place];
        if table.pending_bytes() >= enough && (before < enough || table.is_open()) {
            self.send(place).await?;
        }
        while self.pending > PENDING_BYTES {
            self.make_room().await?;
        }
        Ok(())
    }

    /// Sends what a table has pending, if its DoPut may be open.
    async fn send(&mut self, place: usize) -> Result<(), SourceError> {
        if !self.tables[place].is_open() && self.uploads() >= MAX_OPEN {
            return Ok(());
        }
        let table = &mut self.tables[place];
        self.pending -= table.pending_bytes();
        table.flush(&self.shared, self.number).await
    }

    /// DoPuts that have begun.
    fn uploads(&self) -> usize {
        self.touched.iter().filter(|place| self.tables[**place].is_open()).count()
    }

    /// Takes the rows of the table that has most of them out of memory.
    async fn make_room(&mut self) -> Result<(), SourceError> {
        let pending = |place: &usize| self.tables[*place].pending_bytes();
        let Some(place) = self.touched.iter().copied().max_by_key(pending) else { return Ok(()) };
        if self.tables[place].is_open() || self.uploads() < MAX_OPEN {
            return self.send(place).await;
        }
        self.pending -= self.tables[place].pending_bytes();
        self.tables[place].put_aside(&self.shared).await
    }

    /// Tells that a table is lost.
    async fn lose(&mut self, place: usize, reason: String) -> Result<(), SourceError> {
        let table = &mut self.tables[place];
        tracing::warn!(table = table.label, reason, "the log does not say what the table holds");
        table.lost = true;
        self.discard(place);
        let relation = &self.tables[place].table.stream.relation;
        let (namespace, name) = (relation.namespace.clone(), relation.name.clone());
        let lost = v1::TableLost { namespace, name, reason, ..Default::default() };
        self.emit(Event::Lost(lost)).await
    }

    /// What has come of a table in this interval is not wanted.
    fn discard(&mut self, place: usize) {
        self.tables[place].discard();
        self.touched.retain(|touched| *touched != place);
        let pending = |place: &usize| self.tables[*place].pending_bytes();
        self.pending = self.touched.iter().map(pending).sum();
    }

    /// Completes the interval `(staged, position of the log]`.
    async fn stage(&mut self) -> Result<(), SourceError> {
        let (from, to) = (self.staged, self.log.position());
        if to <= from {
            return Ok(());
        }
        // What is open already gives its place at the writer back first.
        self.touched.sort_by_key(|place| !self.tables[*place].is_open());
        let (shared, number) = (&self.shared, self.number);
        let touched: HashMap<usize, usize> =
            self.touched.drain(..).enumerate().map(|(order, place)| (place, order)).collect();
        let mut finishing = Vec::with_capacity(touched.len());
        for (place, table) in self.tables.iter_mut().enumerate() {
            if let Some(order) = touched.get(&place) {
                finishing.push((*order, table.finish(shared, number).boxed()));
            }
        }
        finishing.sort_by_key(|(order, _)| *order);
        let finishing: Vec<_> = finishing.into_iter().map(|(_, finish)| finish).collect();
        let tables: Vec<_> =
            futures::stream::iter(finishing).buffered(FINISHING).try_collect().await?;
        self.pending = 0;
        self.shared.spool.clear();
        self.report_now(to).await?;
        let committed_at = std::mem::take(&mut self.committed_at);
        let (from_text, to_text) = (from.to_string(), to.to_string());
        let interval =
            v1::IntervalStaged { number, from: from_text, to: to_text, tables, committed_at };
        self.in_flight.add(to);
        self.emit(Event::Staged(interval)).await?;
        self.number += 1;
        self.staged = to;
        Ok(())
    }

    /// Reads on beyond `to` until there is a change of a table of ours, for as
    /// long as the request says. Silence is not the end.
    async fn wait_for_a_change(&mut self) -> Result<(), SourceError> {
        let deadline = Instant::now() + self.initial_wait;
        while !self.any {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            tokio::time::sleep(POLL.min(left)).await;
            let end = server::end_of_log(self.log.session()).await?;
            if end > self.log.position() {
                let window = self.ask(end).await?;
                self.read(window, end).await?;
            }
        }
        Ok(())
    }
}

/// A change of one relation.
enum Change<'a> {
    Insert(Tuple<'a>),
    Update(Option<Tuple<'a>>, Tuple<'a>),
    Delete(Tuple<'a>),
    Truncate,
}
