//! The commits of several tables whose swaps are one, where their catalog can.
//!
//! ```text
//!   ┌─► each: load, found? else derive ─► one swap of all ──Swapped──► each: clean up, done
//!   │                                          │    └─refused for good─► apart
//!   └──────── Conflict, Unknown ◄──────────────┘
//! ```
//!
//! An attempt derives every table anew: a catalog does not say which of them it
//! refuses. Each is asked for its own commit id first, so that nothing depends
//! on a catalog's keeping its word of all or none. What cannot be made so is
//! left to commits of single tables, of which each has its own outcome; they
//! find what has been made all the same by its id. So nothing that is unclear has
//! to be cleared up before.

use std::sync::{Mutex, PoisonError};

use proto::v1::CommitRequest;
use tracing::Span;

use super::{Commit, Ready, Step, Then, wait};
use crate::error::WriterError;
use crate::iceberg::IcebergTable;
use crate::iceberg::catalog::{Swap, TableChange};
use crate::target::Committed;

/// Swaps to try; then single ones, which are not all hindered by one table.
const ATTEMPTS: u32 = 5;
/// Tables that are derived at once.
const AT_ONCE: usize = 8;

/// One of the tables.
struct Member<'a> {
    /// Its place in the request.
    at: usize,
    commit: Commit<'a>,
    ready: Option<(TableChange, Then)>,
}

/// Makes all of the commits, of tables of one catalog. `None`: they have to be
/// made one by one.
pub fn commit(
    tables: &[(IcebergTable, CommitRequest)],
) -> Result<Option<Vec<Committed>>, WriterError> {
    let Some((any, _)) = tables.first() else { return Ok(None) };
    if !any.catalog.swaps_together()? {
        return Ok(None);
    }
    let mut open = Vec::with_capacity(tables.len());
    for (at, (table, request)) in tables.iter().enumerate() {
        open.push(Member { at, commit: Commit::new(table, request)?, ready: None });
    }
    let outcome = attempts(any, &mut open, tables.len());
    if !matches!(&outcome, Ok(Some(_))) {
        open.iter_mut().for_each(|member| member.commit.give_up());
    }
    match outcome {
        Err(error) if !error.is_transient() => {
            tracing::warn!("{} tables are committed one by one: {error}", tables.len());
            Ok(None)
        }
        outcome => outcome,
    }
}

fn attempts(
    any: &IcebergTable,
    open: &mut Vec<Member<'_>>,
    count: usize,
) -> Result<Option<Vec<Committed>>, WriterError> {
    let mut done = Vec::with_capacity(count);
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            std::thread::sleep(wait(attempt));
        }
        let found = each(open, |member| member.derive(attempt));
        let found = found.into_iter().collect::<Result<Vec<_>, _>>()?;
        done.extend(found.into_iter().flatten());
        open.retain(|member| member.ready.is_some());
        if open.is_empty() {
            return Ok(Some(in_order(done)));
        }
        let ready = open.iter().filter_map(|member| member.ready.as_ref());
        let changes: Vec<&TableChange> = ready.map(|(change, _)| change).collect();
        match any.catalog.swap_all(&changes)? {
            None => return Ok(None),
            Some(Swap::Swapped) => {
                done.extend(each(open, Member::swapped).into_iter().flatten());
                return Ok(Some(in_order(done)));
            }
            Some(Swap::Conflict) => {
                let looked = each(open, |member| member.commit.refused());
                looked.into_iter().collect::<Result<(), _>>()?;
            }
            Some(Swap::Unknown(cause)) => {
                for member in open.iter_mut() {
                    if let Some((_, then)) = member.ready.take() {
                        member.commit.unanswered(&then, &cause);
                    }
                }
            }
        }
    }
    tracing::warn!("{} tables changed {ATTEMPTS} times while they were committed", open.len());
    Ok(None)
}

impl Member<'_> {
    /// Gets ready for the swap, unless the table has the commit.
    fn derive(&mut self, attempt: u32) -> Result<Option<(usize, Committed)>, WriterError> {
        self.ready = None;
        let table = self.commit.table;
        let Ready { base, made, then } = match self.commit.attempt(attempt)? {
            Step::Found(committed) => return Ok(Some((self.at, committed))),
            Step::Swap(ready) => *ready,
        };
        let base = base.ok_or_else(|| WriterError::BadTable {
            table: table.name.to_string(),
            problem: "it is not there".into(),
        })?;
        // Of the metadata only what changes is kept.
        self.ready = Some((TableChange::of(&table.name, &base, &made.next), then));
        Ok(None)
    }

    fn swapped(&mut self) -> Option<(usize, Committed)> {
        let (_, then) = self.ready.take()?;
        Some((self.at, self.commit.swapped(then)))
    }
}

fn in_order(mut done: Vec<(usize, Committed)>) -> Vec<Committed> {
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, committed)| committed).collect()
}

/// What `work` makes of each, some of them at once.
fn each<T: Send, R: Send>(items: &mut [T], work: impl Fn(&mut T) -> R + Sync) -> Vec<R> {
    let mut results: Vec<Option<R>> = items.iter().map(|_| None).collect();
    let threads = items.len().min(AT_ONCE);
    let queue = Mutex::new(items.iter_mut().zip(&mut results));
    let span = Span::current();
    let take_turns = || {
        let _in = span.enter();
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((item, result)) = next else { return };
            *result = Some(work(item));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(take_turns);
        }
    });
    results.into_iter().flatten().collect()
}
