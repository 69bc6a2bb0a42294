//! At the end: are the tables still what they were, but for what the log has told?
//!
//! What changes rows without an event changes a table's shape
//! ([`crate::capture::shape`]).

use proto::v1;

use super::Reader;
use crate::capture::shape;
use crate::error::SourceError;

impl Reader<'_> {
    /// The tables' shapes at the end. One that is not as it was told has rows
    /// that changed without an event: that table is lost.
    pub(super) async fn shapes(&mut self) -> Result<Vec<v1::TableShape>, SourceError> {
        let seen = self.look().await?;
        let mut shapes = Vec::new();
        for (place, shape) in seen {
            let relation = &self.tables[place].table.stream.relation;
            let (namespace, name) = (relation.namespace.clone(), relation.name.clone());
            match shape {
                Err(why) => self.lose(place, why.to_owned()).await?,
                Ok(shape) => shapes.push(v1::TableShape { namespace, name, shape }),
            }
        }
        Ok(shapes)
    }

    /// The shape of each table that is not lost, or what may have changed its
    /// rows.
    async fn look(&self) -> Result<Vec<(usize, Result<String, &'static str>)>, SourceError> {
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
            let Some(now) = found.remove(&key) else {
                seen.push((place, Err("it was dropped or renamed")));
                continue;
            };
            let keyless = !followed.table.publishable;
            // Of a log, rows of before a TRUNCATE do not matter.
            let truncated =
                followed.truncated_by.is_some_and(|xid| followed.log || now.is_filed_by(xid));
            let same_rows = truncated || self.ignore_rewrites;
            let changed = match (followed.shape.as_str(), followed.log) {
                ("", _) => None,
                (told, true) => now.unpublished_since(told),
                (told, false) => now.changed_since(told, same_rows, keyless),
            };
            seen.push((place, changed.map_or_else(|| Ok(now.text()), Err)));
        }
        Ok(seen)
    }
}
