//! Before anything is read: what do the tables hold, and what is left of the
//! interrupted run?

use futures::{StreamExt, TryStreamExt, stream};
use proto::Fault;
use proto::v1::{ErrorCode, PrepareRequest, PrepareResponse};

use super::follow::{Known, judge};
use super::incremental;
use super::resume::{self, Action};
use super::retry::Retry;
use super::settings::{self, Settings};
use super::{Context, Stop, Sync, TableRun};
use crate::error::together;
use crate::load::{self, OpenLoad};
use crate::state::SavedLoad;

/// Tables prepared at once.
const AT_ONCE: usize = 8;

impl Sync<'_> {
    /// Asks the writers about every table and decides what is left to do; the
    /// load is one of the interrupted run that still lives and can go on.
    pub(super) async fn prepare(&mut self) -> Result<Option<OpenLoad>, Stop> {
        let all: Vec<_> = (0..self.tables.len()).collect();
        let kept = self.kept();
        self.ask_writers(&all).await?;
        self.look_at_marks()?;
        self.open_capture().await?;
        if !self.resumed {
            return Ok(None);
        }
        let last: Vec<_> = self.tables.iter().map(|table| table.last_commit.as_ref()).collect();
        if resume::is_outdated(&self.run, &last) {
            self.context.progress.note(
                "the state file is older than the tables: every selected stream is refreshed anew",
            );
            return self.start_anew(None).await;
        }
        let hoped = self.hoped_load();
        self.decide(hoped.as_deref());
        let mut load = None;
        if self.tables.iter().any(|table| table.action == Action::ReadMissing) {
            load = self.resume_load().await?;
            self.decide(load.as_ref().map(|load| load.live.id.as_str()));
        }
        if let (Some(id), None) = (hoped, &load) {
            // Nothing goes on under it.
            load::close(&self.context, &id).await;
            self.run.load = None;
        }
        // Of a load that is gone, or of a commit that was made and not cleaned up.
        let still = self.kept();
        let stale: Vec<_> = kept.into_iter().filter(|index| !still.contains(index)).collect();
        self.ask_writers(&stale).await?;
        let staged =
            |table: &TableRun| table.saved(&self.keeper).map_or(0, |saved| saved.staged.len());
        let left: Vec<_> = self.tables.iter().map(|table| (table.action, staged(table))).collect();
        if resume::is_worth_it(&left) {
            return Ok(load);
        }
        self.start_anew(load).await
    }

    /// The load that may live: only a source service of its own keeps one.
    fn hoped_load(&self) -> Option<String> {
        let live = self.run.load.as_ref().filter(|_| !self.context.owns_source)?;
        Some(live.id.clone())
    }

    fn decide(&mut self, live_load: Option<&str>) {
        for table in &mut self.tables {
            if table.action == Action::Follow {
                continue;
            }
            let mut saved = table.saved(&self.keeper);
            let mut last_commit = table.last_commit.as_ref();
            if table.is_captured() {
                // What it holds cannot be followed, whoever has made it.
                last_commit = None;
                let from = |saved: &&SavedLoad| {
                    let position = saved.position.as_ref();
                    self.capture.as_ref().is_some_and(|capture| {
                        let known = Known { position, ..Default::default() };
                        judge(&capture.log, &known).is_ok()
                    })
                };
                saved = saved.filter(from);
            }
            let saved = saved.filter(|saved| incremental::fits(table, saved));
            table.action = resume::decide(&table.settings, last_commit, saved, live_load);
        }
    }

    async fn resume_load(&mut self) -> Result<Option<OpenLoad>, Stop> {
        let Some(live) = self.run.load.clone() else { return Ok(None) };
        load::resume(&self.context, &live, self.capture.as_ref(), &self.tables, &self.keeper).await
    }

    /// Gives the interrupted run up for a new one.
    async fn start_anew(&mut self, load: Option<OpenLoad>) -> Result<Option<OpenLoad>, Stop> {
        let kept = self.kept();
        let stale = load.map(|load| load.live.id).or_else(|| self.hoped_load());
        if let Some(id) = stale {
            load::close(&self.context, &id).await;
        }
        self.run = settings::new_run();
        self.resumed = false;
        for table in &mut self.tables {
            table.settings = Settings::of_table(&self.run, self.context.destination, table);
            if table.action != Action::Follow {
                table.action = Action::ReadAll;
            }
        }
        // What those loads had staged goes.
        self.ask_writers(&kept).await?;
        Ok(None)
    }

    /// The snapshot died: what is not committed and not fully staged is read
    /// anew, and what it had staged goes.
    pub(super) async fn restart_unfinished(&mut self) -> Result<(), Stop> {
        let mut restarted = Vec::new();
        for (index, table) in self.tables.iter_mut().enumerate() {
            let left = table.outcome.is_none() && table.trouble.is_none();
            if !left || table.action == Action::Follow {
                continue;
            }
            table.action = resume::decide(&table.settings, None, table.saved(&self.keeper), None);
            if table.action == Action::ReadAll {
                self.keeper.change().remove(&table.stream.namespace, &table.stream.name);
                self.context.progress.restart(index);
                restarted.push(index);
            }
        }
        self.ask_writers(&restarted).await
    }

    pub(super) async fn ask_writers(&mut self, tables: &[usize]) -> Result<(), Stop> {
        let requests: Vec<_> = tables
            .iter()
            .map(|&index| (index, self.prepare_request(&self.tables[index])))
            .collect();
        let context = &self.context;
        let asked = stream::iter(requests)
            .map(|(index, request)| async move {
                match prepare(context, request).await {
                    // What is wrong with one table says nothing of the others.
                    Err(fault) if fault.code != ErrorCode::InvalidConfig => Err(fault),
                    answer => Ok((index, answer)),
                }
            })
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<_>>();
        let mut answers = context.cancellable(asked).await??;
        answers.sort_by_key(|(index, _)| *index);
        if answers.iter().any(|(_, answer)| answer.is_err()) {
            let faults = answers.into_iter().filter_map(|(_, answer)| answer.err());
            return Err(Stop::Failed(together(faults)));
        }
        for (index, answer) in answers {
            let answer = answer?;
            self.tables[index].location = answer.location;
            self.tables[index].last_commit = answer.last_commit;
        }
        Ok(())
    }

    fn prepare_request(&self, table: &TableRun) -> PrepareRequest {
        PrepareRequest {
            destination: Some(self.context.destination.clone()),
            table: Some(table.stream.table.clone()),
            keep_load_ids: self.keep_load_ids(table),
            columns: table.stream.columns.clone(),
            look: false,
        }
    }

    /// The tables of which something is staged that may still be used.
    fn kept(&self) -> Vec<usize> {
        let kept = |index: &usize| !self.keep_load_ids(&self.tables[*index]).is_empty();
        (0..self.tables.len()).filter(kept).collect()
    }

    /// What is staged and may still be used.
    fn keep_load_ids(&self, table: &TableRun) -> Vec<String> {
        let saved = table
            .saved(&self.keeper)
            .filter(|_| self.resumed && !matches!(table.action, Action::Done | Action::Follow))
            .filter(|saved| match table.is_captured() && table.seen.is_none() {
                // Its settings are known only when change capture is open.
                true => resume::is_of_run(saved, &self.run),
                false => resume::is_of(saved, &table.settings),
            });
        let usable = |load: &&SavedLoad| {
            load.is_complete() || self.hoped_load().as_deref() == Some(load.id.as_str())
        };
        saved.filter(usable).map(|load| load.id.clone()).into_iter().collect()
    }
}

async fn prepare(context: &Context<'_>, request: PrepareRequest) -> Result<PrepareResponse, Fault> {
    let stream = request.table.as_ref().map(|table| table.stream.clone()).unwrap_or_default();
    let what = format!("preparing {stream}");
    let mut retry = Retry::new(context.source_config.retry_count);
    loop {
        let assigned = context.writers.take();
        let mut client = assigned.writer().client.clone();
        match client.prepare(request.clone()).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => {
                assigned.failed();
                let say = |line: &str| context.progress.note(line);
                let tried = retry.again(&what, Fault::from(status), say).await;
                tried.map_err(|fault| match fault.message.contains(&stream) {
                    true => fault,
                    false => fault.context(&what),
                })?;
            }
        }
    }
}
