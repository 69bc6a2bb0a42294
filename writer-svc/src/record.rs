//! The commit record as it is stored with a table, in JSON.

use proto::v1::CommitRecord;
use serde::{Deserialize, Serialize};

/// The fields of [`CommitRecord`], under the same names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    commit_id: String,
    load_id: String,
    rows: u64,
    files: u64,
    bytes: u64,
    committed_at: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    position: String,
}

impl Stored {
    /// Which commit it is of.
    pub fn commit_id(&self) -> &str {
        &self.commit_id
    }
}

impl From<CommitRecord> for Stored {
    fn from(record: CommitRecord) -> Self {
        let CommitRecord { commit_id, load_id, rows, files, bytes, committed_at, position } =
            record;
        Stored { commit_id, load_id, rows, files, bytes, committed_at, position }
    }
}

impl From<Stored> for CommitRecord {
    fn from(stored: Stored) -> Self {
        let Stored { commit_id, load_id, rows, files, bytes, committed_at, position } = stored;
        CommitRecord { commit_id, load_id, rows, files, bytes, committed_at, position }
    }
}
