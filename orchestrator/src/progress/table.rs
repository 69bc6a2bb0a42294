//! How far a table is: pure arithmetic over the events.

use crate::sync::lag::Measured;
use std::collections::HashMap;
use std::time::Instant;

use proto::v1::{Chunk, LoadTable};

use super::human;

/// A chunk that still runs is never shown as done.
const ALMOST: f64 = 0.99;

/// Totals over all tables.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counters {
    /// Rows read in this process, those of lost attempts not counted.
    pub rows: u64,
    /// Bytes of COPY's binary form, likewise.
    pub bytes: u64,
    /// Chunks that are on their way to a writer.
    pub reading: u64,
    /// Since the display was made.
    pub seconds: f64,
    /// Of all the work, 0 to 1.
    pub fraction: f64,
    /// Of the tables that are followed.
    pub lag: Option<Measured>,
}

/// One table's part of the display.
pub(super) struct Table {
    name: String,
    pub(super) done: bool,
    chunks: usize,
    estimated_rows: Option<u64>,
    /// Weight of each chunk that was missing at the start: its share of the
    /// table's bytes, or equal shares.
    weights: HashMap<u32, f64>,
    /// Sum of all chunks' weights, the kept ones' among them.
    total: f64,
    staged: f64,
    active: HashMap<u32, Attempt>,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) kept_rows: u64,
    started: Option<Instant>,
}

#[derive(Clone, Copy, Default)]
struct Attempt {
    rows: u64,
    bytes: u64,
}

impl Table {
    pub(super) fn new(name: String) -> Self {
        Table {
            name,
            done: false,
            chunks: 0,
            estimated_rows: None,
            weights: HashMap::new(),
            total: 0.0,
            staged: 0.0,
            active: HashMap::new(),
            rows: 0,
            bytes: 0,
            kept_rows: 0,
            started: None,
        }
    }

    pub(super) fn begin(&mut self, plan: &LoadTable, missing: &[Chunk], kept_rows: u64) {
        // One page each at least: an empty leaf is work too.
        let weight = |chunk: &Chunk| chunk.bytes.max(8192) as f64;
        self.chunks = missing.len();
        self.estimated_rows = u64::try_from(plan.estimated_rows).ok();
        self.weights = missing.iter().map(|chunk| (chunk.id, weight(chunk))).collect();
        self.total = plan.chunks.iter().map(weight).sum();
        self.staged = self.total - self.weights.values().sum::<f64>();
        self.kept_rows = kept_rows;
    }

    /// Whether it is the table's first.
    pub(super) fn chunk_begins(&mut self, chunk: u32) -> bool {
        self.active.insert(chunk, Attempt::default());
        let first = self.started.is_none();
        self.started.get_or_insert_with(Instant::now);
        first
    }

    pub(super) fn read(&mut self, chunk: u32, rows: u64, bytes: u64) {
        let attempt = self.active.entry(chunk).or_default();
        attempt.rows += rows;
        attempt.bytes += bytes;
        self.rows += rows;
        self.bytes += bytes;
    }

    pub(super) fn chunk_staged(&mut self, chunk: u32) {
        self.active.remove(&chunk);
        self.staged += self.weights.get(&chunk).copied().unwrap_or_default();
    }

    /// Rows and bytes that no longer count.
    pub(super) fn chunk_lost(&mut self, chunk: u32) -> (u64, u64) {
        let lost = self.active.remove(&chunk).unwrap_or_default();
        self.rows -= lost.rows;
        self.bytes -= lost.bytes;
        (lost.rows, lost.bytes)
    }

    /// Rows and bytes that no longer count.
    pub(super) fn restart(&mut self) -> (u64, u64) {
        let lost = (self.rows, self.bytes);
        *self = Table::new(std::mem::take(&mut self.name));
        lost
    }

    /// 0 to 1: finished chunks exactly, running ones by their expected rows.
    pub(super) fn fraction(&self) -> f64 {
        if self.done {
            return 1.0;
        }
        if self.total <= 0.0 {
            return 0.0;
        }
        let running = self.active.iter().map(|(chunk, attempt)| {
            let weight = self.weights.get(chunk).copied().unwrap_or_default();
            let expected = self.estimated_rows.unwrap_or_default() as f64 * weight / self.total;
            let part = if expected > 0.0 { attempt.rows as f64 / expected } else { 0.0 };
            weight * part.min(ALMOST)
        });
        ((self.staged + running.sum::<f64>()) / self.total).clamp(0.0, 1.0)
    }

    pub(super) fn seconds(&self) -> f64 {
        self.started.map(|started| started.elapsed().as_secs_f64()).unwrap_or_default()
    }

    pub(super) fn announcement(&self) -> String {
        let plural = if self.chunks == 1 { "" } else { "s" };
        let mut line = format!("{}: reading {} chunk{plural}", self.name, self.chunks);
        if let Some(rows) = self.estimated_rows.filter(|rows| *rows > 0) {
            line.push_str(&format!(" of about {} rows", human::count(rows)));
        }
        if self.kept_rows > 0 {
            line.push_str(&format!(" ({} are staged already)", human::count(self.kept_rows)));
        }
        line
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// Of all tables: each weighs what it has to read, those not yet planned as
/// much as the average.
pub(super) fn overall(tables: &[Table]) -> f64 {
    let planned: Vec<_> = tables.iter().filter(|table| table.total > 0.0).collect();
    let total: f64 = planned.iter().map(|table| table.total).sum();
    if total <= 0.0 {
        return 0.0;
    }
    planned.iter().map(|table| table.fraction() * table.total).sum::<f64>() / total
}

/// Seconds left at the pace so far; `None` while that would be a guess.
pub(super) fn remaining(fraction: f64, seconds: f64) -> Option<f64> {
    (fraction > 0.01 && seconds > 0.5).then(|| seconds / fraction * (1.0 - fraction))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(bytes: &[u64], estimated_rows: i64) -> LoadTable {
        let chunk = |(id, bytes): (usize, &u64)| Chunk {
            id: id as u32,
            bytes: *bytes,
            ..Default::default()
        };
        LoadTable {
            estimated_rows,
            chunks: bytes.iter().enumerate().map(chunk).collect(),
            ..Default::default()
        }
    }

    fn begun(plan: &LoadTable, missing: &[Chunk]) -> Table {
        let mut table = Table::new("public.t".into());
        table.begin(plan, missing, 0);
        table
    }

    #[test]
    fn finished_chunks_count_by_their_bytes_and_running_ones_by_rows() {
        let plan = plan(&[30_000, 10_000], 400);
        let mut table = begun(&plan, &plan.chunks);
        table.chunk_begins(0);
        table.read(0, 150, 1);
        assert!((table.fraction() - 0.375).abs() < 1e-9, "150 of the 300 rows of three quarters");
        table.read(0, 1_000_000, 1);
        assert!(table.fraction() < 0.75);
        table.chunk_staged(0);
        assert!((table.fraction() - 0.75).abs() < 1e-9);
    }

    #[test]
    fn what_is_kept_counts_from_the_start() {
        let plan = plan(&[10_000, 10_000], -1);
        let table = begun(&plan, &plan.chunks[1..]);
        assert!((table.fraction() - 0.5).abs() < 1e-9);
        assert!(table.announcement().starts_with("public.t: reading 1 chunk"));
    }

    #[test]
    fn no_estimate_is_made_of_nothing() {
        assert_eq!(remaining(0.0, 9.0), None);
        assert_eq!(remaining(0.5, 0.1), None);
        assert_eq!(remaining(0.25, 10.0), Some(30.0));
        assert_eq!(overall(&[Table::new("t".into())]), 0.0);
    }
}
