//! Rows with equal keys → groups with a path each.

use std::collections::HashMap;

use arrow::array::UInt32Array;
use arrow::buffer::ScalarBuffer;

/// The paths met in one batch.
#[derive(Debug, Default)]
pub struct Groups {
    by_key: HashMap<Vec<u8>, u32>,
    // Different keys can have one path: a null and the default's own text.
    by_path: HashMap<String, u32>,
    paths: Vec<String>,
    of_row: Vec<u32>,
    last: Vec<u8>,
}

impl Groups {
    /// For a batch of so many rows.
    pub fn with_capacity(rows: usize) -> Self {
        Groups { of_row: Vec::with_capacity(rows), ..Groups::default() }
    }

    /// Takes the next row. Equal keys have equal paths; `path` is asked for
    /// each key's first row.
    pub fn push<E>(
        &mut self,
        key: &[u8],
        path: impl FnOnce() -> Result<String, E>,
    ) -> Result<(), E> {
        let group = match self.of_row.last() {
            // Neighbours are often alike.
            Some(&group) if key == self.last => group,
            _ => self.find(key, path)?,
        };
        self.of_row.push(group);
        self.last.clear();
        self.last.extend_from_slice(key);
        Ok(())
    }

    fn find<E>(&mut self, key: &[u8], path: impl FnOnce() -> Result<String, E>) -> Result<u32, E> {
        if let Some(&group) = self.by_key.get(key) {
            return Ok(group);
        }
        let path = path()?;
        // A batch has fewer than 2^32 rows, so it has fewer groups.
        let next = self.paths.len() as u32;
        let group = *self.by_path.entry(path).or_insert_with_key(|path| {
            self.paths.push(path.clone());
            next
        });
        self.by_key.insert(key.to_vec(), group);
        Ok(group)
    }

    /// All rows' numbers in one buffer, group by group; each group is a slice.
    pub fn collect(self) -> Vec<(String, UInt32Array)> {
        let of_row = &self.of_row;
        let mut ends = vec![0usize; self.paths.len() + 1];
        for &group in of_row {
            ends[group as usize + 1] += 1;
        }
        for group in 1..ends.len() {
            ends[group] += ends[group - 1];
        }
        let mut next = ends.clone();
        let mut rows = vec![0u32; of_row.len()];
        for (row, &group) in of_row.iter().enumerate() {
            let slot = &mut next[group as usize];
            rows[*slot] = row as u32;
            *slot += 1;
        }
        let rows = ScalarBuffer::from(rows);
        let slice = |group: usize| {
            let (start, end) = (ends[group], ends[group + 1]);
            UInt32Array::new(rows.slice(start, end - start), None)
        };
        self.paths.into_iter().enumerate().map(|(group, path)| (path, slice(group))).collect()
    }
}
