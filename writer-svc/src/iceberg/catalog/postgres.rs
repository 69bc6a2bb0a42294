//! A catalog's database in PostgreSQL.
//!
//! A connection lives on a small runtime of its own, on the thread that uses
//! it: catalogs block. A statement with its values goes out in one message, so
//! that nothing is prepared on the server and a proxy may pool connections.
//!
//! Whether a statement took effect is certain when the server says ERROR: then
//! it did not. When the connection, or the session, ends before an answer,
//! nothing is certain. A statement without an answer in time is cancelled
//! first, which mostly brings the answer that it had no effect.

use std::error::Error as _;
use std::io;
use std::pin::pin;
use std::time::Duration;

use proto::tls::Verifier;
use proto::v1::JdbcCatalog;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::{DbError, Severity, SqlState};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, Error};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::Failure;
use super::jdbc_url::{self, Address, Trust};
use super::sql::{Connection, Database};
use crate::error::WriterError;

/// For connecting, with TLS and password: a few attempts fit into the half
/// minute that a user waits for an error.
const CONNECT: Duration = Duration::from_secs(5);
/// For a statement, which may wait for another writer's.
const STATEMENT: Duration = Duration::from_secs(15);
/// For the request to cancel it, and again for the answer to that.
const CANCEL: Duration = Duration::from_secs(3);

/// Columns of a table, wherever the search path finds it.
const COLUMNS: &str = "SELECT attname::text FROM pg_catalog.pg_attribute \
    WHERE attrelid = pg_catalog.to_regclass($1) AND attnum > 0 AND NOT attisdropped";

/// A database of a server.
#[derive(Debug)]
pub struct Postgres {
    address: Address,
}

impl Postgres {
    /// Connects to nothing yet.
    pub fn new(jdbc: &JdbcCatalog) -> Result<Self, WriterError> {
        let mut address = jdbc_url::parse(jdbc)?;
        // One that is silent leaves time for the others, and for a second
        // address of its name.
        let hosts = u32::try_from(address.config.get_hosts().len()).unwrap_or(u32::MAX);
        address.config.connect_timeout(CONNECT / hosts.saturating_mul(2).max(1));
        Ok(Postgres { address })
    }

    fn open(&self) -> Result<Session, Failure> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(defect)?;
        let tls = connector(&self.address.trust)?;
        let connected = runtime.block_on(async {
            let connected = timeout(CONNECT, connect(&self.address.config, &tls)).await;
            connected.map_err(|_| Failure {
                source: format!("no answer within {CONNECT:?}").into(),
                undone: true,
                transient: true,
                remedy: UNREACHABLE,
            })?
        });
        match connected {
            Ok(client) => Ok(Session { client, tls, runtime }),
            Err(failure) => {
                // A name server that does not answer is not waited for.
                runtime.shutdown_background();
                Err(failure)
            }
        }
    }
}

/// What connections are made with; it serves those without TLS as well.
fn connector(trust: &Trust) -> Result<MakeRustlsConnect, Failure> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Failure {
        source,
        undone: true,
        transient: false,
        remedy: ROOTS,
    };
    let authorities = match &trust.roots {
        None => String::new(),
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| failed(format!("reading {}: {error}", path.display()).into()))?,
    };
    let named = |problem: String| match &trust.roots {
        None => failed(problem.into()),
        Some(path) => failed(format!("{} {problem}", path.display()).into()),
    };
    let client = Verifier::new(trust.verify, &authorities)
        .and_then(|verifier| verifier.client(rustls::DEFAULT_VERSIONS))
        .map_err(named)?;
    Ok(MakeRustlsConnect::new(client.with_no_client_auth()))
}

/// Connects, and lets the runtime move the connection's bytes. As in the
/// driver, a server that refuses what is only preferred is asked without TLS.
async fn connect(config: &Config, tls: &MakeRustlsConnect) -> Result<Client, Failure> {
    let (client, connection) = match config.connect(tls.clone()).await {
        Err(error)
            if config.get_ssl_mode() == SslMode::Prefer
                && error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION) =>
        {
            let mut plain = config.clone();
            // Of the two, the first says more.
            plain.ssl_mode(SslMode::Disable).connect(tls.clone()).await.map_err(|_| error)?
        }
        connected => connected?,
    };
    // Ends with the client, or with the runtime.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!("the connection to the catalog ended: {error}");
        }
    });
    Ok(client)
}

impl Database for Postgres {
    fn name(&self) -> String {
        self.address.name.clone()
    }

    /// Databases are not ours to create.
    fn connect(&self, _create: bool) -> Result<Option<Box<dyn Connection>>, Failure> {
        Ok(Some(Box::new(self.open()?)))
    }

    fn check(&self) -> Result<(), Failure> {
        let mut session = self.open()?;
        let id = uuid::Uuid::new_v4().simple();
        let steps = if session.columns("iceberg_tables")?.is_empty() {
            format!("CREATE TABLE tidewater_check_{id} (x integer)")
        } else {
            let this = format!("WHERE catalog_name = 'tidewater-check-{id}'");
            format!(
                "INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name) \
                 VALUES ('tidewater-check-{id}', 'check', 'check'); \
                 UPDATE iceberg_tables SET metadata_location = 'none' {this}; \
                 DELETE FROM iceberg_tables {this}"
            )
        };
        session.wait(session.client.batch_execute(&format!("BEGIN; {steps}; ROLLBACK")))
    }
}

/// A connection with what moves its bytes. The client goes first.
struct Session {
    client: Client,
    /// To cancel with.
    tls: MakeRustlsConnect,
    runtime: Runtime,
}

impl Session {
    /// Waits for a statement, but not forever.
    fn wait<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
        self.runtime.block_on(async {
            let mut work = pin!(work);
            if let Ok(done) = timeout(STATEMENT, &mut work).await {
                return Ok(done?);
            }
            let token = self.client.cancel_token();
            let asked = timeout(CANCEL, token.cancel_query(self.tls.clone())).await;
            if !matches!(asked, Ok(Ok(()))) {
                tracing::debug!("the catalog could not be asked to cancel a statement");
            }
            match timeout(CANCEL, work).await {
                Ok(done) => Ok(done?),
                Err(_) => Err(Failure {
                    source: format!("no answer within {STATEMENT:?}").into(),
                    undone: false,
                    transient: true,
                    remedy: "",
                }),
            }
        })
    }
}

impl Connection for Session {
    fn columns(&mut self, table: &str) -> Result<Vec<String>, Failure> {
        Ok(self.query(COLUMNS, &[table])?.into_iter().flatten().collect())
    }

    fn query(&mut self, sql: &str, values: &[&str]) -> Result<Vec<Option<String>>, Failure> {
        let rows = self.wait(self.client.query_typed(sql, &texts(values)))?;
        Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
    }

    fn execute(&mut self, sql: &str, values: &[&str]) -> Result<u64, Failure> {
        self.wait(self.client.execute_typed(sql, &texts(values)))
    }
}

fn texts<'a>(values: &'a [&'a str]) -> Vec<(&'a (dyn ToSql + Sync), Type)> {
    values.iter().map(|value| (value as &(dyn ToSql + Sync), Type::TEXT)).collect()
}

fn defect(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure { source: error.into(), undone: true, transient: false, remedy: "" }
}

const UNREACHABLE: &str = "check host and port in jdbc_url of destination.json, that the server \
    runs and listens there, and that no firewall is in between";
const ROOTS: &str = "set sslrootcert in jdbc_url of destination.json to a file on writer-svc's \
    machine: the authority, in PEM, that signed the certificate of the catalog's server";
const NAME: &str = "use the host that the certificate of the catalog's server names \
    (subjectAltName) in jdbc_url of destination.json, or sslmode=verify-ca";
const LOGIN: &str = "correct jdbc_username and jdbc_password in destination.json, or let this \
    user in by the server's pg_hba.conf (with TLS: sslmode=require in jdbc_url)";

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        if let Some(said) = error.as_db_error() {
            return refused(said);
        }
        // The crate keeps the kind of an error to itself; its text tells.
        let text = error.to_string();
        let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
        // Bytes of a handshake that make no sense, not their absence.
        let refused = io.is_none_or(|io| io.kind() == io::ErrorKind::InvalidData);
        let said = io.map(io::Error::to_string).unwrap_or_default();
        let (definite, remedy) = if said.contains("UnknownIssuer") || said.contains("BadSignature")
        {
            // The latter of an authority of the same name with another key.
            (true, ROOTS)
        } else if said.contains("not valid for name") || said.contains("NotValidForName") {
            (true, NAME)
        } else if text.contains("TLS") && refused {
            (
                true,
                "check sslmode in jdbc_url of destination.json (disable, prefer, require, \
                    verify-ca, verify-full), and ssl at the server",
            )
        } else if text.contains("authentication") || text.contains("configuration") {
            (
                true,
                "set jdbc_username and jdbc_password in destination.json; the server must \
                    ask for a password by scram-sha-256 or md5, if for one",
            )
        } else if io.is_some() || text.contains("connect") {
            (false, UNREACHABLE)
        } else {
            (false, "")
        };
        Failure { source: error.into(), undone: false, transient: !definite, remedy }
    }
}

/// What the server's word means.
fn refused(said: &DbError) -> Failure {
    let code = said.code();
    let class = code.code().get(..2).unwrap_or_default();
    // A session that ends may have committed before it could say so.
    let error = matches!(said.parsed_severity(), Some(Severity::Error));
    let unclear = class == "08" || *code == SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN;
    // Connections, resources, an operator's hand; two that exclude each other.
    let transient =
        matches!(class, "08" | "40" | "53" | "57") || *code == SqlState::LOCK_NOT_AVAILABLE;
    let remedy = match code.code() {
        "28P01" | "28000" => LOGIN,
        "3D000" => "create that database, or correct it in jdbc_url of destination.json",
        "42501" => {
            "let jdbc_username create tables in its schema, and select, insert, update and \
             delete in iceberg_tables and iceberg_namespace_properties"
        }
        "25006" => "name the primary server in jdbc_url of destination.json",
        "57014" | "55P03" => "look who locks the rows of iceberg_tables (pg_locks)",
        _ => "",
    };
    Failure { source: said.clone().into(), undone: error && !unclear, transient, remedy }
}
