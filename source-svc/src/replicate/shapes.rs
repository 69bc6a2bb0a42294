//! Are the tables still what they were, but for what the log has told?
//!
//! What changes rows without an event changes a table's shape
//! ([`crate::capture::shape`]).
//!
//! ```text
//! window read ─► look: columns, partitions ─► staged ─► … ─► look: files and counts, too
//! ```
//!
//! Whatever a window's transactions have done to a table's form is there to be seen
//! when the window has been read. So rows that were read by other columns than their
//! own, though of the same names, are never staged: a column that was dropped and
//! added again has another number, and everything is read [`super::again`]. A file may
//! be a TRUNCATE's of which the log is yet to tell, and is looked at when all of it was
//! read, unless what columns have become says nothing without the same files.
//!
//! A partition that is new is no loss if the log brings all of its rows
//! ([`parts::doubtful`]). One that its own transaction has filled may have been
//! emptied in it, too, in the same file, of which nobody tells.

use proto::v1;

use super::Reader;
use crate::capture::parts::{self, Newcomer};
use crate::capture::server;
use crate::capture::shape::{self, Rules, Shape};
use crate::error::SourceError;

const GONE: &str = "it was dropped or renamed";
const RESTLESS: &str = "its columns change again and again while the log is read";
const FILLED: &str = "a partition is new whose rows have not all come through the log, or may not \
                      have";

/// One table beside its shape.
struct Seen {
    place: usize,
    shape: Shape,
    /// Its partitions that are new, or why it is lost.
    new: Result<Vec<Newcomer>, &'static str>,
}

impl Reader<'_> {
    /// Before what was read is staged: tables of which it may be wrong are lost;
    /// `false`: it was read by columns that are others now.
    pub(super) async fn look_between(&mut self) -> Result<bool, SourceError> {
        let mut seen = self.look(Shape::grown_since, false).await?;
        let others =
            |seen: &Seen| seen.new.is_ok() && seen.shape.columns != self.tables[seen.place].looked;
        if !self.is_last && seen.iter().any(others) {
            return Ok(false);
        }
        for seen in seen.iter_mut().filter(|seen| others(seen)) {
            seen.new = Err(RESTLESS);
        }
        for Seen { place, shape, new } in seen {
            let held = self.judge(place, &shape, new).await?.is_some();
            if let Some(what) = self.tables[place].doubt.take().filter(|_| held) {
                self.lose(place, what).await?;
            }
        }
        Ok(true)
    }

    /// The tables' shapes at the end. One that is not as it was told has rows
    /// that changed without an event: that table is lost. `None`: columns are others.
    pub(super) async fn shapes(&mut self) -> Result<Option<Vec<v1::TableShape>>, SourceError> {
        let mut held = Vec::new();
        let mut newcomers = Vec::new();
        for Seen { place, mut shape, new } in self.look(Shape::changed_since, true).await? {
            if let Some(new) = self.judge(place, &shape, new).await? {
                // By those that everything was read by: the log may say more of others.
                shape.columns = self.tables[place].looked.clone();
                held.push((place, shape));
                newcomers.extend(new.into_iter().map(|new| (place, new)));
            }
        }
        if !newcomers.is_empty() {
            // What made them, if it was committed since the log was read.
            if !self.read_to_now().await? {
                return Ok(None);
            }
        }
        for (place, newcomer) in newcomers {
            if !self.tables[place].lost && self.filled_by_its_own(newcomer) {
                self.lose(place, FILLED.to_owned()).await?;
            }
        }
        held.retain(|(place, _)| !self.tables[*place].lost);
        let shapes = held.into_iter().map(|(place, shape)| {
            let relation = &self.tables[place].table.stream.relation;
            v1::TableShape {
                namespace: relation.namespace.clone(),
                name: relation.name.clone(),
                shape: shape.text(self.keep_removed),
            }
        });
        Ok(Some(shapes.collect()))
    }

    /// Its new partitions, if it is not lost.
    async fn judge(
        &mut self,
        place: usize,
        shape: &Shape,
        new: Result<Vec<Newcomer>, &'static str>,
    ) -> Result<Option<Vec<Newcomer>>, SourceError> {
        let new = match (new, shape.root()) {
            (Ok(new), Some(root)) if !new.is_empty() => {
                let doubtful = parts::doubtful(self.log.session(), root, &new).await?;
                let sound = doubtful.is_empty() && !new.iter().any(|n| self.filled_by_its_own(*n));
                if sound { Ok(new) } else { Err(FILLED) }
            }
            (new, _) => new,
        };
        match new {
            Ok(new) => Ok(Some(new)),
            Err(why) => {
                self.lose(place, why.to_owned()).await?;
                Ok(None)
            }
        }
    }

    /// Whether the transaction that made a partition may have changed rows of it: the
    /// first that has is not a later one.
    fn filled_by_its_own(&self, new: Newcomer) -> bool {
        let first = self.relations.first_change(new.oid);
        first.is_some_and(|first| !parts::follows(first, new.linked_by))
    }

    /// The tables that are not lost. `at_end`: what was done to columns since the log
    /// was read is for the next time to tell, by the files that there are now.
    async fn look(
        &self,
        compare: impl Fn(&Shape, &str, Rules) -> Result<Vec<Newcomer>, &'static str>,
        at_end: bool,
    ) -> Result<Vec<Seen>, SourceError> {
        let relations: Vec<_> =
            self.tables.iter().map(|followed| &followed.table.stream.relation).collect();
        let namespaces: Vec<&str> = relations.iter().map(|of| of.namespace.as_str()).collect();
        let names: Vec<&str> = relations.iter().map(|of| of.name.as_str()).collect();
        let publications = self.names.both();
        let mut found = shape::of(self.log.session(), &namespaces, &names, &publications).await?;
        let mut seen = Vec::new();
        for (place, followed) in self.tables.iter().enumerate().filter(|(_, table)| !table.lost) {
            let relation = &followed.table.stream.relation;
            let key = (relation.namespace.clone(), relation.name.clone());
            let Some(shape) = found.remove(&key) else {
                seen.push(Seen { place, shape: Shape::default(), new: Err(GONE) });
                continue;
            };
            let rules = Rules {
                ignore_rewrites: self.ignore_rewrites,
                truncated_by: followed.truncated_by,
                keyless: !followed.table.publishable,
                keep_removed: self.keep_removed,
                needs_same_files: followed.since.needs_same_files()
                    || at_end && shape.columns != followed.looked,
            };
            let new = match (followed.shape.as_str(), followed.log) {
                ("", _) => Ok(Vec::new()),
                (told, true) => shape.unpublished_since(told).map_or(Ok(Vec::new()), Err),
                (told, false) => compare(&shape, told, rules),
            };
            seen.push(Seen { place, shape, new });
        }
        Ok(seen)
    }

    /// Reads the log, and stages it, to where it ends now; `false`: columns are others.
    async fn read_to_now(&mut self) -> Result<bool, SourceError> {
        let end = server::end_of_log(self.log.session()).await?;
        while self.log.position() < end {
            let window = self.ask(end).await?;
            self.read(window, end).await?;
            if !self.look_between().await? {
                return Ok(false);
            }
            self.stage().await?;
        }
        Ok(true)
    }
}
