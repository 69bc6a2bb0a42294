//! Loads beside the rounds of a sync: the others are followed while a table is loaded
//! anew, or for the first time.
//!
//! ```text
//! round ─► round ─► round ─► …                      ─► round, with the table
//!   └─ tables are lost ─► load: snapshot at C ─► chunks ─► commit at C ┘
//!                         the slot stays at or before C
//! ```
//!
//! The load is a sync of those tables alone, which the same task drives; what it has
//! staged is in no state file, and an attempt that fails begins it anew. While it
//! runs the slot is not moved beyond its consistent point (before that is known: not
//! at all), so that each round reads again from there what the others have, and
//! skip. One load at a time, under the settings of every load: who comes later waits.
//!
//! A load that is not over soon after the sync was asked to end is given up, and the
//! others are completed. What it has staged goes when the table is prepared the next
//! time.
//!
//! A sync that ends waits for the load when the others are where it is to end. Where the
//! load could outlive it, in a source service that is not its own, it comes first
//! instead, so that it can be continued if it is interrupted.

use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use proto::Fault;
use proto::lsn::Lsn;
use tracing::{Instrument, info_span};

use super::{Stop, Sync, TableRun};
use crate::load::{self, OpenLoad};
use crate::state::State;
use crate::state::file::StateFile;
use crate::state::keeper::StateKeeper;

/// Where the open load is, for those beside it: its id, and its consistent point.
#[derive(Clone, Default)]
pub(super) struct Place(Arc<Mutex<Option<(String, Lsn)>>>);

impl Place {
    /// The load is open.
    pub(super) fn tell(&self, load: &OpenLoad) -> Result<(), Fault> {
        let place = Some((load.live.id.clone(), load::consistent_point(load)?));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = place;
        Ok(())
    }

    fn get(&self) -> Option<(String, Lsn)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What keeps the slot back.
#[derive(Clone)]
pub(super) struct Hold {
    place: Place,
    /// Where the slot was when the load began.
    before: Lsn,
}

impl Hold {
    /// No further than this.
    pub(super) fn at(&self) -> Lsn {
        self.place.get().map_or(self.before, |(_, point)| point)
    }
}

/// A load that goes on.
pub(super) struct Beside<'a> {
    loading: LocalBoxFuture<'a, Loaded>,
    done: Option<Loaded>,
    /// Indices in the run.
    tables: Vec<usize>,
    place: Place,
}

/// What has come of it.
type Loaded = (Vec<TableRun>, Result<(), Stop>);

impl Beside<'_> {
    /// Runs a step of the others, and the load beside it.
    pub(super) async fn run<T>(&mut self, step: impl Future<Output = T>) -> T {
        let mut step = std::pin::pin!(step);
        loop {
            tokio::select! {
                done = &mut step => return done,
                loaded = &mut self.loading, if self.done.is_none() => self.done = Some(loaded),
            }
        }
    }
}

impl<'a> Sync<'a> {
    /// Whether what is to be loaded can be loaded beside what is followed.
    pub(super) fn can_load_beside(&self) -> bool {
        let mut left = self.tables.iter().filter(|table| load::is_left(table)).peekable();
        let goes_on = match &self.context.continuous {
            // Asked to end before anything was followed, nothing goes on beside it.
            Some(continuous) => !continuous.is_ending() || continuous.is_following(),
            None => self.context.owns_source,
        };
        goes_on
            && self.tables.iter().any(|table| table.is_captured() && table.goes_on())
            && left.peek().is_some()
            && left.all(TableRun::is_captured)
    }

    /// Begins to load what is to be loaded.
    pub(super) fn load_beside(&mut self) -> Beside<'a> {
        let before = self.capture.as_ref().map_or(Lsn(0), |capture| capture.log.confirmed);
        let place = Place::default();
        let nothing = StateKeeper::new(StateFile::none(), State::default());
        let mut sync = Sync {
            run: self.run.clone(),
            tables: self.tables.clone(),
            capture: self.capture.clone(),
            place: Some(place.clone()),
            ..Sync::new(self.context.clone(), &[], nothing)
        };
        let left = |index: &usize| load::is_left(&self.tables[*index]);
        let tables: Vec<_> = (0..self.tables.len()).filter(left).collect();
        for &index in &tables {
            self.tables[index].is_loaded_beside = true;
        }
        self.hold = Some(Hold { place: place.clone(), before });
        let loading = async move {
            let done = sync.load(None).await;
            (sync.tables, done)
        };
        let loading = loading.instrument(info_span!("load")).boxed_local();
        Beside { loading, done: None, tables, place }
    }

    /// The others are where the sync ends: waits for the load, while there is time.
    pub(super) async fn wait_for(&self, beside: &mut Beside<'a>) -> Result<(), Stop> {
        if beside.done.is_some() {
            return Ok(());
        }
        let loading = &mut beside.loading;
        let wait = async {
            match &self.context.continuous {
                None => Some(loading.await),
                Some(continuous) => tokio::select! {
                    loaded = loading => Some(loaded),
                    () = continuous.no_time_for_loads() => None,
                },
            }
        };
        beside.done = self.context.cancellable(wait).await?;
        Ok(())
    }

    /// Takes the tables in when they are loaded; the load, if it goes on.
    pub(super) async fn join(
        &mut self,
        mut beside: Beside<'a>,
    ) -> Result<Option<Beside<'a>>, Stop> {
        let Some((mut loaded, done)) = beside.done.take() else { return Ok(Some(beside)) };
        self.hold = None;
        let mut joined = Vec::new();
        for index in beside.tables {
            self.tables[index].is_loaded_beside = false;
            if loaded[index].outcome.is_none() && loaded[index].trouble.is_none() {
                continue;
            }
            std::mem::swap(&mut self.tables[index], &mut loaded[index]);
            joined.push(index);
            self.tables[index].is_loaded_beside = false;
            let table = &self.tables[index];
            if let (Some(position), None) = (&table.position, &table.trouble) {
                let (namespace, name) = (&table.stream.namespace, &table.stream.name);
                self.keeper.change().reach(namespace, name, position);
            }
        }
        if let Some(capture) = &self.capture {
            // They are where the load was, and the others may be further.
            let loaded = joined.iter().filter_map(|&index| self.tables[index].position.as_ref());
            let known = self.keeper.state().reached_in(&capture.log.origin);
            let least = loaded.map(|position| position.lsn).chain(known).min();
            let least = capture.at(least.unwrap_or(capture.log.confirmed));
            self.keeper.change().certify(&least);
        }
        self.keeper.save().await?;
        done.map(|()| None)
    }

    /// Gives a load up.
    pub(super) async fn leave(&mut self, beside: Beside<'a>) {
        self.hold = None;
        let Beside { loading, tables, place, .. } = beside;
        drop(loading);
        tables.into_iter().for_each(|index| self.tables[index].is_loaded_beside = false);
        if let Some((id, _)) = place.get() {
            load::close(&self.context, &id).await;
        }
    }

    /// At the end of a sync that went on: what is still to be loaded is left to the
    /// next one.
    pub(super) fn give_up_loads(&mut self) {
        let left = |table: &&mut TableRun| table.lost.is_some() || load::is_left(table);
        for table in self.tables.iter_mut().filter(left) {
            table.is_given_up = true;
            self.context.progress.note(&format!(
                "warning: {}: its load is given up, as the sync is to end; the table stays as it \
                 is, and the next sync begins its load anew",
                table.id
            ));
        }
    }

    /// Their ids.
    pub(super) fn given_up(&self) -> Vec<String> {
        let given_up = self.tables.iter().filter(|table| table.is_given_up);
        given_up.map(|table| table.id.clone()).collect()
    }
}
