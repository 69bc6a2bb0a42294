//! A catalog's database in an SQLite file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{ErrorCode, OpenFlags, params_from_iter};

use super::Failure;
use super::sql::{Connection, Database};
use crate::error::WriterError;

/// How long a statement waits for another writer.
const BUSY: Duration = Duration::from_secs(20);

/// A file.
#[derive(Debug)]
pub struct Sqlite {
    path: PathBuf,
}

impl Sqlite {
    /// `path` is what follows `jdbc:sqlite:`.
    pub fn new(path: &str) -> Result<Self, WriterError> {
        // Parameters of the JDBC driver mean nothing to us.
        let path = PathBuf::from(path.split('?').next().unwrap_or(path));
        if !path.is_absolute() {
            return Err(WriterError::invalid_table(
                format!("the catalog's database {path:?} is not an absolute path"),
                "set jdbc_url to jdbc:sqlite:/path/of/catalog.db",
            ));
        }
        Ok(Sqlite { path })
    }

    fn open(&self, flags: OpenFlags) -> Result<rusqlite::Connection, Failure> {
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = rusqlite::Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(BUSY)?;
        Ok(connection)
    }
}

impl Database for Sqlite {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn connect(&self, create: bool) -> Result<Option<Box<dyn Connection>>, Failure> {
        let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
        if create {
            flags |= OpenFlags::SQLITE_OPEN_CREATE;
            if let Some(parent) = self.path.parent() {
                std::fs::create_dir_all(parent).map_err(|source| Failure {
                    source: source.into(),
                    undone: true,
                    transient: false,
                    remedy: "",
                })?;
            }
        } else if !self.path.exists() {
            return Ok(None);
        }
        Ok(Some(Box::new(self.open(flags)?)))
    }

    fn check(&self) -> Result<(), Failure> {
        if self.path.exists() {
            let connection = self.open(OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            // Takes the right to write, and gives it back.
            return Ok(connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK")?);
        }
        let failed = |source: std::io::Error| Failure {
            source: source.into(),
            undone: true,
            transient: false,
            remedy: "",
        };
        let missing: Vec<_> =
            self.path.ancestors().skip(1).take_while(|dir| !dir.exists()).collect();
        let outcome = self.path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| {
            let mut probe = self.path.clone().into_os_string();
            probe.push(format!(".tidewater-check-{}", uuid::Uuid::new_v4().simple()));
            std::fs::write(&probe, b"")?;
            std::fs::remove_file(Path::new(&probe))
        });
        for dir in missing {
            // Somebody else may have begun to use it.
            let _ = std::fs::remove_dir(dir);
        }
        outcome.map_err(failed)
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        let code = error.sqlite_error_code();
        let transient = matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked));
        // What is left open: an error of the disk while the transaction ends.
        let unclear = matches!(code, Some(ErrorCode::SystemIoFailure | ErrorCode::DiskFull));
        Failure { source: error.into(), undone: !unclear, transient, remedy: "" }
    }
}

impl Connection for rusqlite::Connection {
    fn columns(&mut self, table: &str) -> Result<Vec<String>, Failure> {
        let columns = self.query("SELECT name FROM pragma_table_info($1)", &[table])?;
        Ok(columns.into_iter().flatten().collect())
    }

    fn query(&mut self, sql: &str, values: &[&str]) -> Result<Vec<Option<String>>, Failure> {
        let mut statement = self.prepare(sql)?;
        let rows = statement.query_map(params_from_iter(values), |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn execute(&mut self, sql: &str, values: &[&str]) -> Result<u64, Failure> {
        let changed = rusqlite::Connection::execute(self, sql, params_from_iter(values))?;
        Ok(changed as u64)
    }
}
