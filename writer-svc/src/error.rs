//! What can go wrong in the writer, and the one place that says what each
//! means to a user: [`WriterError`] → [`proto::Fault`].

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow::error::ArrowError;
use parquet::errors::ParquetError;
use proto::Fault;
use proto::v1::ErrorCode;
use rustix::io::Errno;

use crate::s3::Names;
use crate::s3::refusal::Refusal;
use crate::storage::PRIVATE;

/// An error of the writer. `Display` says itself, never its source.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    /// The file system refused.
    #[error("{doing} {}", path.display())]
    Io {
        /// A verb and its preposition: "writing", "syncing".
        doing: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// The operating system's word.
        source: io::Error,
    },
    /// An object store refused, or did not answer.
    #[error("{doing} {location}: {said}")]
    Store {
        /// A verb: "writing", "listing".
        doing: &'static str,
        /// What it was done to.
        location: String,
        /// What the store's settings are called.
        names: &'static Names,
        /// Which kind of refusal.
        refusal: Refusal,
        /// The store's word, without secrets.
        said: String,
    },
    /// Arrow refused to decode or compute.
    #[error("{doing}")]
    Arrow {
        /// What was being done to what: "decoding a batch of public.t".
        doing: String,
        /// Arrow's word.
        source: ArrowError,
    },
    /// Parquet refused to encode.
    #[error("encoding {}", path.display())]
    Parquet {
        /// The file being written.
        path: PathBuf,
        /// Parquet's word.
        source: ParquetError,
    },
    /// A request that no correct client makes.
    #[error("{0}")]
    InvalidRequest(String),
    /// A destination, database, table or column that cannot be as configured.
    #[error("{problem}")]
    InvalidTable {
        /// What is wrong with what.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
    /// A place that the writer may not write to.
    #[error("this writer may not write to {place:?}")]
    NotAllowed {
        /// What was asked for, or what a catalog led to.
        place: String,
    },
    /// A `partition_regex` that cannot be used.
    #[error("partition_regex {regex:?}: {problem}")]
    InvalidPartition {
        /// As in streams.json.
        regex: String,
        /// What is wrong with it.
        problem: String,
        /// A good one for this kind of table.
        example: &'static str,
    },
    /// A value that has no representation at the destination.
    #[error("{problem}")]
    Unrepresentable {
        /// Which value of which column, and why.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
    /// A stream that ended before it was complete.
    #[error("the stream of {stream} is incomplete and was discarded: {problem}")]
    IncompleteStream {
        /// "schema.table chunk 3".
        stream: String,
        /// How it was found out.
        problem: String,
    },
    /// A message beyond what a row may have.
    #[error("{stream} holds a row larger than this writer takes: {problem}")]
    RowTooLarge {
        /// "schema.table chunk 3".
        stream: String,
        /// Sizes seen and allowed.
        problem: String,
    },
    /// Bytes that are not what they claim to be.
    #[error("{0}")]
    BadData(String),
    /// A staged chunk that no longer is as it was staged.
    #[error("the staged chunk {} cannot be used: {problem}", manifest.display())]
    StageGone {
        /// The chunk's manifest.
        manifest: PathBuf,
        /// What is missing or different.
        problem: String,
    },
    /// A table directory with content that no commit of ours made.
    #[error("{} holds {found}, which Tidewater did not write; nothing was changed", path.display())]
    ForeignTable {
        /// The table's directory.
        path: PathBuf,
        /// What was found there.
        found: String,
    },
    /// Another commit to the same table is under way.
    #[error("another run holds {} (waited {} s)", lock.display(), waited.as_secs())]
    Locked {
        /// The lock file.
        lock: PathBuf,
        /// For how long it was tried.
        waited: Duration,
    },
    /// The `iceberg` crate refused to read or to build something.
    #[error("{doing}")]
    Iceberg {
        /// What was being done to what.
        doing: String,
        /// Its word.
        source: Box<iceberg::Error>,
    },
    /// A catalog refused or failed.
    #[error("{doing}")]
    Catalog {
        /// What was being done, where.
        doing: String,
        /// Whether trying again may succeed.
        transient: bool,
        /// What to do about it; empty when that is not known.
        remedy: &'static str,
        /// Its word.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A table that its catalog knows and that cannot be read.
    #[error("the table {table} is damaged: {problem}")]
    BadTable {
        /// "database.table".
        table: String,
        /// What is missing or wrong.
        problem: String,
    },
    /// Another run of ours has committed to the table since this one began to.
    #[error("the table {table} was meanwhile committed to by another run ({by})")]
    Fenced {
        /// "database.table".
        table: String,
        /// Its commit id.
        by: String,
    },
    /// Our last commit is no longer part of the table's history.
    #[error(
        "the table {table} was rolled back to before its last commit ({last}): what it lacks \
         cannot be told from what is new"
    )]
    RolledBack {
        /// "database.table".
        table: String,
        /// The commit id.
        last: String,
    },
    /// Others commit to the table faster than this writer can.
    #[error("the table {table} changed {attempts} times while a commit to it was tried")]
    Contended {
        /// "database.table".
        table: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// A swap that failed, and the table cannot be asked whether it was made.
    #[error("whether the commit to {table} has been made is not known ({cause})")]
    CommitUnclear {
        /// "database.table".
        table: String,
        /// What became of the swap.
        cause: String,
        /// Why nothing more can be said.
        source: Box<WriterError>,
    },
    /// More streams than the writer was told to take.
    #[error("this writer already receives {limit} streams")]
    Busy {
        /// `--max-streams`.
        limit: usize,
    },
    /// The caller went away.
    #[error("the call was cancelled")]
    Cancelled,
    /// A defect of ours.
    #[error("{0}")]
    Internal(String),
}

impl WriterError {
    /// For `map_err` on file operations: what was done, to what. An error of
    /// ours inside of it comes out as it is.
    pub fn io(doing: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.downcast::<WriterError>() {
            Ok(error) => error,
            Err(source) => WriterError::Io { doing, path: path.as_ref().to_owned(), source },
        }
    }

    /// The same for the calls of `rustix`.
    pub fn errno(doing: &'static str, path: impl AsRef<Path>) -> impl FnOnce(Errno) -> Self {
        move |errno| WriterError::Io { doing, path: path.as_ref().to_owned(), source: errno.into() }
    }

    /// For `map_err` on Arrow's functions.
    pub fn arrow(doing: impl Into<String>) -> impl FnOnce(ArrowError) -> Self {
        move |source| WriterError::Arrow { doing: doing.into(), source }
    }

    /// For `map_err` on Parquet's functions; what the file system said inside
    /// of it comes out as [`WriterError::Io`].
    pub fn parquet(path: impl AsRef<Path>) -> impl FnOnce(ParquetError) -> Self {
        move |error| {
            let path = path.as_ref().to_owned();
            match error {
                ParquetError::External(inner) => match inner.downcast::<io::Error>() {
                    Ok(source) => WriterError::io("writing", path)(*source),
                    Err(inner) => {
                        WriterError::Parquet { path, source: ParquetError::External(inner) }
                    }
                },
                source => WriterError::Parquet { path, source },
            }
        }
    }

    /// For `map_err` on the functions of the `iceberg` crate.
    pub fn iceberg(doing: impl Into<String>) -> impl FnOnce(iceberg::Error) -> Self {
        move |source| WriterError::Iceberg { doing: doing.into(), source: Box::new(source) }
    }

    /// A table or destination that cannot be as configured.
    pub fn invalid_table(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        WriterError::InvalidTable { problem: problem.into(), remedy: remedy.into() }
    }

    /// Whether trying again may succeed.
    pub fn is_transient(&self) -> bool {
        match self {
            WriterError::Catalog { transient, .. } => *transient,
            WriterError::Store { refusal, .. } => refusal.is_transient(),
            // The other run's content is as good: nothing to try again.
            WriterError::Fenced { .. } | WriterError::RolledBack { .. } => false,
            other => Fault::new(other.code_and_remedy().0, "").transient,
        }
    }

    fn code_and_remedy(&self) -> (ErrorCode, String) {
        use WriterError as E;
        match self {
            E::Io { path, source, .. } => io_code(path, source),
            E::Store { refusal, names, .. } => refusal.code_and_remedy(names),
            E::Arrow { .. } | E::BadData(_) => (ErrorCode::BadData, String::new()),
            E::Parquet { .. } | E::Internal(_) => (ErrorCode::Internal, String::new()),
            E::InvalidRequest(_) => (ErrorCode::InvalidConfig, String::new()),
            E::InvalidTable { remedy, .. } => (ErrorCode::InvalidConfig, remedy.clone()),
            E::NotAllowed { .. } => (
                ErrorCode::DestinationPermission,
                "start writer-svc with --allow and this place, or write below one that it allows"
                    .to_owned(),
            ),
            E::InvalidPartition { example, .. } => (
                ErrorCode::InvalidConfig,
                format!("correct partition_regex in streams.json, for example {example:?}"),
            ),
            E::Unrepresentable { remedy, .. } => (ErrorCode::Unrepresentable, remedy.clone()),
            E::IncompleteStream { .. } => (ErrorCode::IncompleteStream, String::new()),
            E::RowTooLarge { .. } => (
                ErrorCode::RowTooLarge,
                "leave the row or the column out, or raise max_row_bytes for both services"
                    .to_owned(),
            ),
            E::StageGone { .. } => {
                (ErrorCode::LoadGone, "run the sync again: the table is loaded anew".to_owned())
            }
            E::ForeignTable { path, .. } => (
                ErrorCode::InvalidConfig,
                format!(
                    "move or delete {}, or give the stream another destination_table \
                     or destination_database",
                    path.display()
                ),
            ),
            E::Locked { .. } => (
                ErrorCode::Conflict,
                "wait for the other run to end, or stop it, then try again".to_owned(),
            ),
            E::Iceberg { .. } | E::BadTable { .. } => (ErrorCode::Destination, String::new()),
            E::Catalog { remedy, .. } if !remedy.is_empty() => {
                (ErrorCode::Destination, (*remedy).to_owned())
            }
            E::Catalog { .. } => (
                ErrorCode::Destination,
                "make sure that the catalog of destination.json can be reached and written"
                    .to_owned(),
            ),
            E::Fenced { .. } => (
                ErrorCode::Conflict,
                "let one run at a time write a table; sync again for the content of now".to_owned(),
            ),
            E::RolledBack { .. } => (
                ErrorCode::Conflict,
                "load the table anew (a full refresh), or set its main branch back to that \
                 commit's snapshot"
                    .to_owned(),
            ),
            E::Contended { .. } => {
                (ErrorCode::Conflict, "run again when fewer others write to the table".to_owned())
            }
            E::CommitUnclear { .. } => (
                ErrorCode::Unavailable,
                "run the same command again: a commit that was made is found and not repeated"
                    .to_owned(),
            ),
            E::Busy { .. } => (
                ErrorCode::Unavailable,
                "lower max_threads, or start writer-svc with a higher --max-streams".to_owned(),
            ),
            E::Cancelled => (ErrorCode::Cancelled, String::new()),
        }
    }
}

/// What an error of the operating system means for the destination.
fn io_code(path: &Path, error: &io::Error) -> (ErrorCode, String) {
    let errno = Errno::from_io_error(error);
    match errno {
        Some(Errno::NOSPC) => (
            ErrorCode::DestinationFull,
            format!(
                "free space on the file system of {}, then run again; the table's \
                 former content is untouched",
                visible(path).display()
            ),
        ),
        Some(Errno::DQUOT) => (
            ErrorCode::DestinationFull,
            format!("raise the disk quota that {} counts to, then run again", path.display()),
        ),
        Some(Errno::ACCESS | Errno::PERM) => (
            ErrorCode::DestinationPermission,
            format!(
                "let the user that writer-svc runs as (uid {}) write to {}",
                rustix::process::getuid().as_raw(),
                path.display()
            ),
        ),
        Some(Errno::ROFS) => (
            ErrorCode::DestinationPermission,
            format!("{} is on a read-only file system: mount it writable", path.display()),
        ),
        Some(Errno::NOTDIR) => (
            ErrorCode::Destination,
            format!(
                "a part of {} is a file: correct local_path (of Iceberg: iceberg_s3_path) in \
                 destination.json, or move that file away",
                path.display()
            ),
        ),
        _ => (ErrorCode::Destination, String::new()),
    }
}

/// The part of a path that a user knows.
fn visible(path: &Path) -> &Path {
    let hidden = |dir: &&Path| dir.file_name().is_some_and(|name| name == PRIVATE);
    path.ancestors().find(hidden).and_then(Path::parent).unwrap_or(path)
}

impl From<WriterError> for Fault {
    /// The message is the error and all of its causes.
    fn from(error: WriterError) -> Self {
        let (code, remedy) = error.code_and_remedy();
        let transient = error.is_transient();
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            let text = inner.to_string();
            // Some foreign errors print their source themselves.
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            cause = inner.source();
        }
        let fault = Fault::new(code, message).remedy(remedy);
        Fault { transient, ..fault }
    }
}

impl From<WriterError> for tonic::Status {
    fn from(error: WriterError) -> Self {
        Fault::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    fn fault_of(errno: Errno) -> Fault {
        let error = WriterError::io("writing", "/data/t/a.parquet")(errno.into());
        Fault::from(error)
    }

    #[test]
    fn a_full_disk_and_a_missing_permission_have_their_codes_and_remedies() {
        for (errno, code) in [
            (Errno::NOSPC, ErrorCode::DestinationFull),
            (Errno::DQUOT, ErrorCode::DestinationFull),
            (Errno::ACCESS, ErrorCode::DestinationPermission),
            (Errno::ROFS, ErrorCode::DestinationPermission),
        ] {
            let fault = fault_of(errno);
            assert_eq!(fault.code, code);
            assert!(fault.message.starts_with("writing /data/t/a.parquet: "), "{fault}");
            assert!(fault.remedy.contains("/data/t/a.parquet"), "{fault}");
        }
        assert_eq!(fault_of(Errno::IO).code, ErrorCode::Destination);
    }

    #[test]
    fn a_full_disk_met_inside_parquet_is_still_a_full_disk() {
        let full = File::options().write(true).open("/dev/full").expect("Linux has /dev/full");
        let error = (&full).write_all(b"x").expect_err("/dev/full takes nothing");
        let error = ParquetError::External(Box::new(error));
        let fault = Fault::from(WriterError::parquet("/data/t/a.parquet")(error));
        assert_eq!(fault.code, ErrorCode::DestinationFull);
    }
}
