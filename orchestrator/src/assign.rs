//! Which chunk is read next.

use std::cmp::Reverse;

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
}
