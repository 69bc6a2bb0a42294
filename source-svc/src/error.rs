//! What can go wrong at the source, and how it leaves the service.
//!
//! Variants say what an error *is*; [`SourceError::to_fault`] is the one place
//! that says what it means to a caller: code, remedy, and whether a retry can
//! help. PostgreSQL's own errors are judged by their SQLSTATE.

use std::error::Error;
use std::time::Duration;

use proto::Fault;
use proto::v1::ErrorCode;
use tokio_postgres::error::DbError;

use crate::decode::DecodeError;

/// An error of source-svc. `Display` says itself, never its source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The configuration is wrong: every fault of it, not only the first.
    #[error("the source configuration is wrong:\n  - {}", .0.join("\n  - "))]
    Config(Vec<String>),
    /// The request is wrong, or what it names cannot be replicated.
    #[error("{what}")]
    Invalid { what: String, remedy: String },
    /// PostgreSQL refused, or its connection broke.
    #[error("{doing}")]
    Postgres { doing: String, source: tokio_postgres::Error },
    /// The server could not be reached.
    #[error("{target} cannot be reached: {what}")]
    Connect { target: String, what: String, remedy: String, transient: bool },
    /// The server wants a login that we cannot give.
    #[error("login to {target} failed: {what}")]
    Authentication { target: String, what: String, remedy: String },
    /// The server refuses TLS, or we refuse its certificate.
    #[error("TLS with {target} failed: {what}")]
    Tls { target: String, what: String, remedy: String },
    /// The SSH tunnel could not be made. `login`: the SSH server refused us.
    #[error("the SSH tunnel through {target} failed: {what}")]
    Ssh { target: String, what: String, remedy: String, transient: bool, login: bool },
    /// A schema, relation or column does not exist.
    #[error("{what}")]
    NotFound { what: String, remedy: String },
    /// The role may not read something.
    #[error("{what}")]
    Permission { what: String, remedy: String },
    /// Tables are no longer what discover saw: the faults of all tables.
    #[error("tables have changed since discover:\n  - {}", .0.join("\n  - "))]
    SchemaChanged(Vec<String>),
    /// A row does not fit into one message.
    #[error("a row of {table} has {bytes} bytes, more than the {limit} allowed; its key: {key}")]
    RowTooLarge { table: String, key: String, bytes: u64, limit: u64 },
    /// The server's bytes are not what they claim to be.
    #[error("bad data in {table}, row with key {key}: {what}")]
    BadData { table: String, key: String, what: String },
    /// A value has no representation at the destination, and the policy is fail.
    #[error("{table}.{column} has no representation for {value}, row with key {key}")]
    Unrepresentable { table: String, column: String, key: String, value: String },
    /// The writer's own fault, passed on unchanged.
    #[error("{}", .0.message)]
    Writer(Fault),
    /// The load does not exist any more, and with it its snapshot.
    #[error("{0}")]
    LoadGone(String),
    /// A lock was not granted in time.
    #[error("{what} was still locked after {} s{}", .waited.as_secs(), held_by(.blockers))]
    LockTimeout { what: String, waited: Duration, blockers: Vec<String> },
    /// The server, a slot or a publication cannot serve change capture.
    #[error("{what}")]
    Capture { what: String, remedy: String },
    /// Others keep changing what must hold still for a moment.
    #[error("{what}")]
    Busy { what: String, remedy: String },
    /// The service is asked to end.
    #[error("the service is stopping")]
    Stopping,
    /// The caller has gone.
    #[error("cancelled by the caller")]
    Cancelled,
    /// A defect of ours.
    #[error("{0}")]
    Internal(String),
}

fn held_by(blockers: &[String]) -> String {
    if blockers.is_empty() { String::new() } else { format!(", held by {}", blockers.join("; ")) }
}

/// Every message of an error and its sources, once each.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        // Many libraries repeat their source in their own message.
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}

impl SourceError {
    /// For `map_err`: a PostgreSQL error with what was being done, as in
    /// "reading public.orders".
    pub fn postgres(doing: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> SourceError {
        let doing = doing.into();
        move |source| SourceError::Postgres { doing, source }
    }

    /// A row of `table` that could not be decoded.
    pub fn decode(table: &str, error: DecodeError) -> SourceError {
        let table = table.to_owned();
        match error {
            DecodeError::BadData { key, what } => SourceError::BadData { table, key, what },
            DecodeError::RowTooLarge { key, bytes, limit } => {
                SourceError::RowTooLarge { table, key, bytes, limit }
            }
            DecodeError::Unrepresentable { key, column, value } => {
                SourceError::Unrepresentable { table, column, key, value }
            }
        }
    }

    /// PostgreSQL's SQLSTATE, if the error came from there.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            SourceError::Postgres { source, .. } => source.code().map(|state| state.code()),
            _ => None,
        }
    }

    /// Whether trying the same again may succeed.
    pub fn is_transient(&self) -> bool {
        self.to_fault().transient
    }

    /// The error as its caller meets it: the whole chain in one message.
    pub fn to_fault(&self) -> Fault {
        use SourceError as S;
        let message = self.to_string();
        let fault = |code| Fault::new(code, message.clone());
        match self {
            S::Config(_) => fault(ErrorCode::InvalidConfig),
            S::Invalid { remedy, .. } => fault(ErrorCode::InvalidConfig).remedy(remedy),
            S::Postgres { doing, source } => postgres_fault(doing, source),
            S::Connect { remedy, transient, .. } => {
                Fault { transient: *transient, ..fault(ErrorCode::Unreachable).remedy(remedy) }
            }
            S::Authentication { remedy, .. } => fault(ErrorCode::Authentication).remedy(remedy),
            S::Tls { remedy, .. } => fault(ErrorCode::Tls).remedy(remedy),
            S::Ssh { remedy, transient, login, .. } => {
                let code = if *login { ErrorCode::Authentication } else { ErrorCode::Unreachable };
                Fault { transient: *transient, ..fault(code).remedy(remedy) }
            }
            S::NotFound { remedy, .. } => fault(ErrorCode::NotFound).remedy(remedy),
            S::Permission { remedy, .. } => fault(ErrorCode::Permission).remedy(remedy),
            S::SchemaChanged(_) => fault(ErrorCode::SchemaChanged).remedy(
                "run discover again with --streams to bring streams.json up to date, then sync",
            ),
            S::RowTooLarge { .. } => fault(ErrorCode::RowTooLarge)
                .remedy("raise max_row_bytes of both services; of a load, a filter can leave the row out"),
            S::BadData { .. } => fault(ErrorCode::BadData)
                .remedy(
                "leave the column out of the stream, or correct the row at the source (which does \
                 not help where the log has it already)",
            ),
            S::Unrepresentable { .. } => fault(ErrorCode::Unrepresentable)
                .remedy(
                "set on_unrepresentable to \"null\", or correct the value at the source (which does \
                 not help where the log has it already)",
            ),
            S::Writer(fault) => fault.clone(),
            S::LoadGone(_) => fault(ErrorCode::LoadGone),
            S::LockTimeout { .. } => fault(ErrorCode::Conflict).remedy(
                "wait for the other session to end its transaction, or end it with \
                 pg_terminate_backend(), then try again",
            ),
            S::Capture { remedy, .. } => fault(ErrorCode::Source).remedy(remedy),
            S::Busy { remedy, .. } => fault(ErrorCode::Conflict).remedy(remedy),
            S::Stopping => fault(ErrorCode::Unavailable),
            S::Cancelled => fault(ErrorCode::Cancelled),
            S::Internal(_) => fault(ErrorCode::Internal),
        }
    }
}

impl From<SourceError> for Fault {
    fn from(error: SourceError) -> Self {
        error.to_fault()
    }
}

fn postgres_fault(doing: &str, source: &tokio_postgres::Error) -> Fault {
    let Some(db) = source.as_db_error() else {
        // Without words of the server: the connection broke or was closed.
        return Fault::new(ErrorCode::SourceTransient, format!("{doing}: {}", chain(source)));
    };
    let (code, transient, remedy) = judge(db.code().code(), db.message());
    let mut fault = Fault::new(code, format!("{doing}: {}", words(db))).remedy(remedy);
    if let Some(transient) = transient {
        fault.transient = transient;
    }
    fault
}

/// The server's message, detail, hint and SQLSTATE.
fn words(db: &DbError) -> String {
    let mut text = db.message().to_owned();
    for (label, more) in [("detail", db.detail()), ("hint", db.hint())] {
        if let Some(more) = more {
            text.push_str(&format!("; {label}: {more}"));
        }
    }
    format!("{text} (SQLSTATE {})", db.code().code())
}

/// What a SQLSTATE means: code, retryability where it is not the code's usual
/// one, and the remedy.
fn judge(state: &str, message: &str) -> (ErrorCode, Option<bool>, &'static str) {
    use ErrorCode as E;
    let class = state.get(..2).unwrap_or_default();
    match state {
        "28P01" => (E::Authentication, None, "check `username` and `password`"),
        "28000" if message.contains("no encryption") => (
            E::Authentication,
            None,
            "set ssl.mode to \"require\" or stricter: pg_hba.conf admits this role only over TLS",
        ),
        "28000" if message.contains("client certificate") => (
            E::Authentication,
            None,
            "give ssl.client_cert and ssl.client_key, issued for this role",
        ),
        "28000" => (
            E::Authentication,
            None,
            "check `username`, and that pg_hba.conf admits it from this machine to this database",
        ),
        "3D000" => (E::NotFound, None, "check `database`; \"psql -l\" lists what the server has"),
        "42501" if message.contains("row-level security") => (
            E::Permission,
            None,
            "row-level security would hide rows from this role: ALTER ROLE <role> BYPASSRLS, \
             or read as the table's owner",
        ),
        "42501" => (
            E::Permission,
            None,
            "GRANT USAGE ON SCHEMA <schema> TO <role>; GRANT SELECT ON <schema>.<table> TO <role>",
        ),
        "42P01" | "3F000" | "42703" => {
            (E::NotFound, None, "it was dropped or renamed: run discover again")
        }
        "55P03" => (E::Conflict, None, "another session holds the lock; try again when it is done"),
        "08P01" if message.contains("unsupported startup parameter") => (
            E::Source,
            None,
            "connect to PostgreSQL itself and not to a connection pooler, which cannot carry \
             the settings of a session",
        ),
        "08P01" => (E::Source, None, ""),
        "53300" => (
            E::SourceTransient,
            None,
            "the server has no free connection: lower max_threads or raise max_connections",
        ),
        "57P01" | "57P02" | "57P03" | "57P05" | "57014" | "53200" | "40001" | "40P01" => {
            (E::SourceTransient, None, "")
        }
        "22021" | "22P05" => (
            E::BadData,
            None,
            "a text of the table is not valid in the database's encoding, or has no equivalent in \
             UTF-8: correct it at the source, or leave its column out of selected_columns",
        ),
        "22P02" | "22007" | "42883" => (
            E::InvalidConfig,
            None,
            "check the stream's filter and split_column against the types of their columns",
        ),
        _ if class == "08" => (E::Unreachable, None, ""),
        _ => (E::Source, None, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sqlstate_decides_code_and_retryability() {
        let code = |state| judge(state, "").0;
        assert_eq!(code("28P01"), ErrorCode::Authentication);
        assert_eq!(code("3D000"), ErrorCode::NotFound);
        assert_eq!(code("42501"), ErrorCode::Permission);
        assert_eq!(code("55P03"), ErrorCode::Conflict);
        assert_eq!(code("08006"), ErrorCode::Unreachable);
        for state in ["57P01", "57P03", "53300", "40001"] {
            assert!(Fault::new(code(state), "").transient, "{state}");
        }
        assert!(!Fault::new(code("22012"), "").transient);
        assert!(
            judge("42501", "query would be affected by row-level security").2.contains("BYPASS")
        );
        assert_eq!(code(""), ErrorCode::Source);
    }

    #[test]
    fn all_faults_of_a_configuration_are_in_its_message() {
        let fault: Fault = SourceError::Config(vec!["host: empty".into(), "port: 0".into()]).into();
        assert_eq!(fault.code, ErrorCode::InvalidConfig);
        assert!(fault.message.contains("host: empty") && fault.message.contains("port: 0"));
    }

    #[test]
    fn the_writers_fault_comes_out_as_it_went_in() {
        let fault = Fault::new(ErrorCode::DestinationFull, "no space").remedy("free some");
        assert_eq!(Fault::from(SourceError::Writer(fault.clone())), fault);
    }

    #[test]
    fn a_lock_timeout_names_who_holds_the_lock() {
        let error = SourceError::LockTimeout {
            what: "public.orders".into(),
            waited: Duration::from_secs(10),
            blockers: vec!["pid 7 (psql)".into()],
        };
        assert_eq!(
            error.to_string(),
            "public.orders was still locked after 10 s, held by pid 7 (psql)"
        );
    }
}
