//! The table's record: what it holds, and what is being done to it. It changes
//! by conditional puts only, so of two hands that would change it one does.
//!
//! ```text
//! commit a, files a ─► + next: b, its uploads ─► commit b, files b, remove: files a ─► commit b, files b
//!                        │ all completed ──────┘                     │ all removed ──┘
//!                        └ one is gone ─► commit a, files a, remove: what b has ─► commit a, files a
//! ```
//!
//! A commit that appends removes nothing: files a and b are the content then.

use proto::v1::CommitRecord;
use serde::{Deserialize, Serialize};

use super::BucketTable;
use crate::error::WriterError;
use crate::parquet::record::RECORD;
use crate::record::Stored;
use crate::s3::bucket::Condition;

/// How often a put that failed is tried.
const ATTEMPTS: u32 = 5;

/// What the object says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The commit that made the content; none: there is no content yet.
    pub commit: Option<Stored>,
    /// Paths in the table of the files that are the content, all there.
    pub files: Vec<String>,
    /// A commit that is being made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Next>,
    /// Paths in the table of objects that are to go, named by nobody else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

/// A commit whose files are being completed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Next {
    /// As it will be.
    pub commit: Stored,
    /// What it is made of.
    pub files: Vec<Held>,
    /// What is to go once it is made.
    pub remove: Vec<String>,
    /// The files are added to the content; else they take its place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub append: bool,
}

/// A file that is an upload held open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// Its path in the table: partitions and a name.
    pub path: String,
    /// Rows in it.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// The store's name of the upload.
    pub upload: String,
    /// What the store answered to its parts.
    pub parts: Vec<String>,
}

/// A record as it was read, and what a change of it must name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Nothing, when there is none.
    pub record: Record,
    /// None when there is none.
    tag: Option<String>,
}

impl Found {
    /// Whether there is a record.
    pub fn exists(&self) -> bool {
        self.tag.is_some()
    }

    /// The commit that made the content.
    pub fn commit(&self) -> Option<CommitRecord> {
        self.record.commit.clone().map(CommitRecord::from)
    }

    /// Whether nothing is half done.
    pub fn is_settled(&self) -> bool {
        self.record.next.is_none() && self.record.remove.is_empty()
    }
}

/// Where a table's record is.
pub fn location(table: &BucketTable) -> String {
    format!("{}/{RECORD}", table.paths.live)
}

/// Reads a table's record.
pub fn read(table: &BucketTable) -> Result<Found, WriterError> {
    let location = location(table);
    let Some(object) = table.bucket.read(&location)? else { return Ok(Found::default()) };
    let record = serde_json::from_slice(&object.content).map_err(|e| {
        let found = format!("a commit record that cannot be read ({e})");
        WriterError::ForeignTable { path: table.paths.live.clone().into(), found }
    })?;
    let tag = object.tag.ok_or_else(|| {
        WriterError::invalid_table(
            format!("the S3 store gives {location} no ETag"),
            "use a store that knows conditional writes (If-Match, If-None-Match)",
        )
    })?;
    Ok(Found { record, tag: Some(tag) })
}

/// Makes `next` the record provided that it still is `base`; `None`: it is
/// another one meanwhile.
pub fn swap(table: &BucketTable, base: &Found, next: Record) -> Result<Option<Found>, WriterError> {
    let content = serde_json::to_vec(&next)
        .map_err(|e| WriterError::Internal(format!("writing a commit record: {e}")))?;
    let condition = base.tag.as_deref().map_or(Condition::Absent, Condition::Is);
    let mut attempt = 1;
    loop {
        let written = table.bucket.write_if(&location(table), &content, condition);
        // A put that was repeated meets its own first try, and an answer may be
        // lost: what is there decides.
        let found = match read(table) {
            Ok(found) => found,
            Err(unread) => return Err(written.err().unwrap_or(unread)),
        };
        match written {
            _ if found.record == next => return Ok(Some(found)),
            Ok(_) => return Ok(None),
            // The store's client does not repeat a put with a condition.
            Err(WriterError::Store { refusal, said, .. })
                if refusal.is_transient() && attempt < ATTEMPTS && found == *base =>
            {
                tracing::warn!("a put of {} failed and is repeated: {said}", location(table));
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parquet::bucket::stage::tests::table;
    use crate::s3::fake::{Fake, blocking};
    use std::sync::Arc;

    fn record(files: &[&str]) -> Record {
        let files = files.iter().map(|file| (*file).to_owned()).collect();
        Record { files, ..Default::default() }
    }

    #[test]
    fn of_two_changes_of_one_record_one_is_made() {
        blocking(|| {
            let table = table(&Arc::<Fake>::default());
            let none = read(&table).unwrap();
            assert!(!none.exists() && none.is_settled());
            let first = swap(&table, &none, record(&["a"])).unwrap().unwrap();
            assert_eq!(swap(&table, &none, record(&["b"])).unwrap(), None);
            let second = swap(&table, &first, record(&["c"])).unwrap().unwrap();
            assert_eq!(swap(&table, &first, record(&["d"])).unwrap(), None);
            assert_eq!(read(&table).unwrap(), second);
            // What was made already, by a request that was repeated, is made.
            assert_eq!(swap(&table, &first, record(&["c"])).unwrap(), Some(second));
        });
    }

    #[test]
    fn a_change_that_was_not_made_is_an_error_when_the_store_fails() {
        blocking(|| {
            let fake = Arc::<Fake>::default();
            let table = table(&fake);
            let none = read(&table).unwrap();
            fake.failing.lock().unwrap().push("put lake");
            fake.failing.lock().unwrap().push(RECORD);
            assert!(swap(&table, &none, record(&["a"])).is_err());
            fake.failing.lock().unwrap().clear();
            assert_eq!(read(&table).unwrap(), none);
        });
    }
}
