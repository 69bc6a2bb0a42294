//! What a person sees of a running sync: bars on a terminal, plain lines
//! elsewhere; and the counters behind stats.json.
//!
//! The sync reports events (a table begins, rows were read, a chunk ended, a
//! table is committed); [`table`] makes fractions and rates of them, [`bars`]
//! draws them, [`plain`] writes them as lines. Nothing here can fail the sync:
//! a closed stderr leaves nobody to tell.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use proto::lsn::Lsn;
use proto::v1::{Chunk, LoadTable};

mod bars;
pub mod human;
mod plain;
mod table;

pub use table::Counters;

use bars::Bars;
use plain::Plain;
use table::Table;

use crate::output;
use crate::sync::lag::{HeldWal, Lag, Measured};

/// The display of one sync; clones show the same.
#[derive(Clone)]
pub struct Progress(Arc<Mutex<Inner>>);

struct Inner {
    started: Instant,
    tables: Vec<Table>,
    counters: Counters,
    lag: Option<Lag>,
    view: View,
    /// What need not be said again.
    told: HashSet<String>,
}

enum View {
    Bars(Bars),
    Plain(Plain),
}

impl Progress {
    /// For `streams`, "schema.table" each, in the order in which later calls
    /// number them. `bars`: draw; else write lines.
    pub fn new(streams: Vec<String>, bars: bool) -> Self {
        let view = if bars { View::Bars(Bars::new()) } else { View::Plain(Plain::new()) };
        let tables = streams.into_iter().map(Table::new).collect();
        let counters = Counters::default();
        Progress(Arc::new(Mutex::new(Inner {
            started: Instant::now(),
            tables,
            counters,
            lag: None,
            view,
            told: HashSet::new(),
        })))
    }

    /// Says something in passing.
    pub fn note(&self, line: &str) {
        self.inner().line(line);
    }

    /// The same, but only the first time that it is said.
    pub fn note_once(&self, line: &str) {
        let mut inner = self.inner();
        if inner.told.insert(line.to_owned()) {
            inner.line(line);
        }
    }

    /// A table will be read: `missing` of its chunks; `staged` rows are kept
    /// from before.
    pub fn begin(&self, table: usize, plan: &LoadTable, missing: &[Chunk], staged: u64) {
        self.inner().tables[table].begin(plan, missing, staged);
    }

    /// A reader has taken a chunk.
    pub fn chunk_begins(&self, table: usize, chunk: u32) {
        let mut inner = self.inner();
        inner.counters.reading += 1;
        if inner.tables[table].chunk_begins(chunk) {
            inner.show(table);
            let Inner { tables, view, .. } = &mut *inner;
            if let View::Plain(plain) = view {
                plain.line(&tables[table].announcement());
            }
        }
    }

    /// More of a chunk has been read.
    pub fn read(&self, table: usize, chunk: u32, rows: u64, bytes: u64) {
        let mut inner = self.inner();
        inner.counters.rows += rows;
        inner.counters.bytes += bytes;
        inner.tables[table].read(chunk, rows, bytes);
        inner.show(table);
    }

    /// More changes have been read, of whichever tables.
    pub fn streamed(&self, rows: u64, bytes: u64) {
        let mut inner = self.inner();
        inner.counters.rows += rows;
        inner.counters.bytes += bytes;
        inner.draw();
    }

    /// The log of the tables that are followed ends at `end` now.
    pub fn log(&self, confirmed: Lsn, end: Lsn, held: HeldWal) {
        let mut inner = self.inner();
        inner.lag = Some(Lag::look(inner.lag.as_ref(), confirmed, end, held));
    }

    /// An interval is confirmed, or more is known of the log.
    pub fn confirmed(&self, change: impl FnOnce(&mut Lag)) {
        if let Some(lag) = &mut self.inner().lag {
            change(lag);
        }
    }

    /// How far the tables that are followed are behind.
    pub fn lag(&self) -> Option<Measured> {
        self.inner().lag.as_ref().map(Lag::measure)
    }

    /// A chunk is staged.
    pub fn chunk_staged(&self, table: usize, chunk: u32) {
        let mut inner = self.inner();
        inner.counters.reading = inner.counters.reading.saturating_sub(1);
        inner.tables[table].chunk_staged(chunk);
        inner.show(table);
    }

    /// A chunk's attempt came to nothing: what it read does not count.
    pub fn chunk_lost(&self, table: usize, chunk: u32) {
        let mut inner = self.inner();
        let (rows, bytes) = inner.tables[table].chunk_lost(chunk);
        inner.counters.reading = inner.counters.reading.saturating_sub(1);
        inner.counters.rows = inner.counters.rows.saturating_sub(rows);
        inner.counters.bytes = inner.counters.bytes.saturating_sub(bytes);
    }

    /// A table starts again under another snapshot.
    pub fn restart(&self, table: usize) {
        let mut inner = self.inner();
        let (rows, bytes) = inner.tables[table].restart();
        inner.counters.rows = inner.counters.rows.saturating_sub(rows);
        inner.counters.bytes = inner.counters.bytes.saturating_sub(bytes);
        inner.hide(table);
    }

    /// A table is committed (or was before): `line` says so.
    pub fn table_done(&self, table: usize, line: &str) {
        let mut inner = self.inner();
        inner.tables[table].done = true;
        inner.hide(table);
        inner.line(line);
    }

    /// Seconds since the table's first chunk was taken; 0: it was not.
    pub fn seconds(&self, table: usize) -> f64 {
        self.inner().tables[table].seconds()
    }

    /// To be called about once a second: refreshes what only time changes.
    pub fn tick(&self) {
        let mut inner = self.inner();
        inner.draw();
        let total = inner.total();
        if let View::Plain(plain) = &mut inner.view {
            plain.total(&total);
        }
    }

    /// Takes the bars away; lines stay, and where there were bars the one over
    /// everything.
    pub fn finish(&self) {
        let inner = self.inner();
        if let View::Bars(bars) = &inner.view {
            bars.clear();
            output::human(inner.total());
        }
    }

    /// What stats.json shows.
    pub fn counters(&self) -> Counters {
        let inner = self.inner();
        Counters {
            seconds: inner.started.elapsed().as_secs_f64(),
            fraction: table::overall(&inner.tables),
            lag: inner.lag.as_ref().map(Lag::measure),
            ..inner.counters
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn line(&mut self, line: &str) {
        match &mut self.view {
            View::Bars(bars) => bars.line(line),
            View::Plain(plain) => plain.line(line),
        }
    }

    /// Shows how far a table is.
    fn show(&mut self, table: usize) {
        if let View::Bars(bars) = &mut self.view {
            bars.show(table, &self.tables[table]);
        }
        self.draw();
    }

    /// A table is no longer being read.
    fn hide(&mut self, table: usize) {
        if let View::Bars(bars) = &mut self.view {
            bars.remove(table);
        }
        self.draw();
    }

    fn draw(&mut self) {
        let total = self.total();
        if let View::Bars(bars) = &mut self.view {
            bars.total(total);
            bars.draw();
        }
    }

    /// One line over everything.
    fn total(&self) -> String {
        let done = self.tables.iter().filter(|table| table.done).count();
        let seconds = self.started.elapsed().as_secs_f64();
        let mut line = format!(
            "{done}/{} streams, {} rows, {}",
            self.tables.len(),
            human::count(self.counters.rows),
            human::rate(self.counters.bytes, seconds)
        );
        if let Some(lag) = &self.lag {
            line.push_str(&format!(", {}", lag.measure().line()));
        }
        let left = table::remaining(table::overall(&self.tables), seconds);
        if let Some(left) = left.filter(|_| done < self.tables.len()) {
            line.push_str(&format!(", about {} left", human::seconds(left)));
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_lost_chunk_read_does_not_count() {
        let progress = Progress::new(vec!["public.t".into()], false);
        let chunks: Vec<_> =
            (0..2).map(|id| Chunk { id, bytes: 10, ..Default::default() }).collect();
        let plan = LoadTable { estimated_rows: 100, chunks: chunks.clone(), ..Default::default() };
        progress.begin(0, &plan, &chunks, 0);
        progress.chunk_begins(0, 0);
        progress.chunk_begins(0, 1);
        progress.read(0, 0, 50, 500);
        progress.read(0, 1, 20, 200);
        progress.chunk_lost(0, 1);
        progress.chunk_staged(0, 0);
        let counters = progress.counters();
        assert_eq!((counters.rows, counters.bytes, counters.reading), (50, 500, 0));
        assert!((counters.fraction - 0.5).abs() < 1e-9);
        progress.restart(0);
        assert_eq!((progress.counters().rows, progress.counters().bytes), (0, 0));
    }
}
