//! Which chunk is read next, and which writer takes it.

use std::cmp::Reverse;
use std::sync::{Arc, Mutex, PoisonError};

use proto::v1::{Chunk, LoadTable};

/// A chunk to read: the table's index in the run, and the chunk.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub table: usize,
    pub chunk: Chunk,
}

/// All chunks to read, in the order in which readers take them.
///
/// The largest table comes first, so that its commit overlaps with reading the
/// others and no long one is left for the end; a table's chunks stay together,
/// so that it finishes early and what it has staged is soon safe.
pub fn order<'a>(tables: impl Iterator<Item = (usize, &'a LoadTable, Vec<Chunk>)>) -> Vec<Job> {
    let mut tables: Vec<_> = tables.collect();
    tables.sort_by_key(|(index, table, _)| {
        (Reverse(table.bytes), Reverse(table.estimated_rows), *index)
    });
    let jobs = tables
        .into_iter()
        .flat_map(|(table, _, chunks)| chunks.into_iter().map(move |chunk| Job { table, chunk }));
    jobs.collect()
}

/// Spreads work over writers: each time the one with the least in flight, in
/// turn among equals.
#[derive(Clone, Debug)]
pub struct Assigner(Arc<Mutex<Load>>);

#[derive(Debug)]
struct Load {
    in_flight: Vec<usize>,
    next: usize,
}

/// A writer in use; dropping it gives it back.
#[derive(Debug)]
pub struct Assigned {
    /// The writer's index.
    pub writer: usize,
    assigner: Assigner,
}

impl Assigner {
    /// For `writers` of them, at least one.
    pub fn new(writers: usize) -> Self {
        Assigner(Arc::new(Mutex::new(Load { in_flight: vec![0; writers.max(1)], next: 0 })))
    }

    /// Takes a writer, another than `avoid` where there is one.
    pub fn take(&self, avoid: Option<usize>) -> Assigned {
        let mut load = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = load.in_flight.len();
        let turn = (0..count).map(|step| (load.next + step) % count);
        let writer = turn
            .min_by_key(|&writer| (avoid == Some(writer), load.in_flight[writer]))
            .unwrap_or_default();
        load.in_flight[writer] += 1;
        load.next = (writer + 1) % count;
        Assigned { writer, assigner: self.clone() }
    }
}

impl Drop for Assigned {
    fn drop(&mut self) {
        let mut load = self.assigner.0.lock().unwrap_or_else(PoisonError::into_inner);
        load.in_flight[self.writer] -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(count: u32) -> Vec<Chunk> {
        (0..count).map(|id| Chunk { id, ..Default::default() }).collect()
    }

    #[test]
    fn the_largest_table_comes_first_and_its_chunks_stay_together() {
        let table =
            |bytes, estimated_rows| LoadTable { bytes, estimated_rows, ..Default::default() };
        let tables = [table(10, 0), table(99, 0), table(0, 7), table(10, 0)];
        let jobs = order(tables.iter().enumerate().map(|(at, table)| (at, table, chunks(2))));
        let taken: Vec<_> = jobs.iter().map(|job| (job.table, job.chunk.id)).collect();
        assert_eq!(taken, [(1, 0), (1, 1), (0, 0), (0, 1), (3, 0), (3, 1), (2, 0), (2, 1)]);
    }

    #[test]
    fn writers_take_turns_and_the_idle_one_is_preferred() {
        let assigner = Assigner::new(3);
        let mut taken: Vec<_> = (0..6).map(|_| assigner.take(None)).collect();
        let writers: Vec<_> = taken.iter().map(|assigned| assigned.writer).collect();
        assert_eq!(writers, [0, 1, 2, 0, 1, 2]);
        taken.remove(4);
        assert_eq!(assigner.take(None).writer, 1);
    }

    #[test]
    fn a_retry_goes_to_another_writer_if_there_is_one() {
        let assigner = Assigner::new(2);
        let _busy: Vec<_> = (0..4).map(|_| assigner.take(Some(0))).collect();
        assert_eq!(assigner.take(Some(0)).writer, 1);
        assert_eq!(Assigner::new(1).take(Some(0)).writer, 0);
        assert_eq!(Assigner::new(0).take(None).writer, 0);
    }
}
