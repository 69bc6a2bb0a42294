//! A session at the server: dial → TLS → login → settings.
//!
//! Every session has the same settings, so a value's text is the same whichever
//! session reads it. Transient failures are tried again within one deadline;
//! a session that is dropped in the middle of its work stops it at the server.

use std::ops::Deref;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{AsyncMessage, CancelToken, Client, Connection, NoTls, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::config::Config;
use crate::dial::{Stream, dial, is_socket, no_answer, unreachable_server};
use crate::error::{SourceError, chain};
use crate::params::TargetSession;
use crate::tap::{Tap, Tapped, TappedTls};
use crate::tls;

/// All attempts to connect together, so that a failure is known soon.
const OPEN_DEADLINE: Duration = Duration::from_secs(20);
/// The wait before the second attempt; it doubles up to [`MAX_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// An idle session ends by itself in this time; one that works is cancelled.
const CLOSE_GRACE: Duration = Duration::from_millis(250);
/// For the cancel request, and again for what it stops.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// All sessions of this process that have not ended at the server.
static SESSIONS: LazyLock<TaskTracker> = LazyLock::new(TaskTracker::new);

/// Waits until no session is left, or the limit is over: what a dropped session
/// was doing is cancelled in the background, which the process must live to do.
pub async fn all_ended(limit: Duration) {
    SESSIONS.close();
    if timeout(limit, SESSIONS.wait()).await.is_err() {
        tracing::warn!("{} sessions had not ended at the server in {limit:?}", SESSIONS.len());
    }
}

/// A session at the server, with our settings. Dropping it ends it; what it was
/// doing is cancelled at the server, in the background.
pub struct Session {
    /// `None` only while it is being dropped.
    client: Option<Client>,
    connection: Option<JoinHandle<()>>,
    /// Why the connection ended, once it has.
    ended: watch::Receiver<Option<String>>,
    version: u32,
    /// The database does not know what its bytes mean (SQL_ASCII).
    raw_text: bool,
    tap: Tap,
    config: Config,
    /// See [`SESSIONS`].
    alive: TaskTrackerToken,
}

impl Session {
    /// Connects, trying again after transient failures, as often as
    /// `retry_count` says and the deadline allows. A definite failure (login,
    /// unknown database, TLS) is not tried again.
    pub async fn open(config: &Config, application_name: &str) -> Result<Session, SourceError> {
        Session::connect(config, application_name, Tap::default).await
    }

    /// As [`Session::open`], as a walsender: it takes the commands of
    /// replication, and only simple queries.
    pub async fn open_walsender(
        config: &Config,
        application_name: &str,
    ) -> Result<Session, SourceError> {
        Session::connect(config, application_name, Tap::of_walsender).await
    }

    async fn connect(
        config: &Config,
        application_name: &str,
        tap: fn() -> Tap,
    ) -> Result<Session, SourceError> {
        let deadline = Instant::now() + OPEN_DEADLINE;
        let mut backoff = FIRST_BACKOFF;
        let mut retries = config.retry_count;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let budget = config.connect_timeout.min(left);
            let error = match timeout(budget, attempt(config, application_name, tap())).await {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(error)) => error,
                Err(_) => no_answer(config, budget),
            };
            let pause = backoff.mul_f64(rand::random_range(0.75..1.25));
            if !error.is_transient() || retries == 0 || Instant::now() + pause >= deadline {
                return Err(error);
            }
            tracing::warn!(target = config.target(), "{}; trying again", chain(&error));
            tokio::time::sleep(pause).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
            retries -= 1;
        }
    }

    /// As `server_version_num`: 150019 for 15.19.
    pub fn server_version_num(&self) -> u32 {
        self.version
    }

    /// Where the data of a COPY can be had.
    pub fn tap(&self) -> &Tap {
        &self.tap
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// Waits until the connection has ended and says why. May be dropped.
    pub async fn closed(&self) -> String {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "the connection was dropped".to_owned(),
        }
    }

    /// Ends the session and waits until it has ended, its locks let go. Work
    /// that it was doing is cancelled.
    pub async fn close(mut self) {
        if let Some(end) = self.end() {
            end.await;
        }
    }

    /// Lets go of the client; the future makes sure that the server stops.
    fn end(&mut self) -> Option<impl Future<Output = ()> + Send + use<>> {
        let token = self.client.take()?.cancel_token();
        let connection = self.connection.take()?;
        let (config, alive) = (self.config.clone(), self.alive.clone());
        // The client is gone: an idle connection says goodbye by itself.
        Some(async move {
            let _alive = alive;
            let mut connection = AbortOnDrop(connection);
            if timeout(CLOSE_GRACE, &mut connection.0).await.is_ok() {
                return;
            }
            match timeout(CANCEL_TIMEOUT, cancel(&config, token)).await {
                Ok(Ok(())) => {
                    let _ = timeout(CANCEL_TIMEOUT, &mut connection.0).await;
                }
                // The socket is closed all the same: the server notices when
                // it next writes to it.
                Ok(Err(error)) => tracing::debug!("no cancel request: {}", chain(&error)),
                Err(_) => tracing::debug!("no cancel request: no answer in time"),
            }
        })
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.client.as_ref().expect("the client is taken only when the session is dropped")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(end) = self.end()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(end);
        }
    }
}

/// A connection's task that never outlives who waits for it.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One attempt, all the way to a session that can be used.
async fn attempt(
    config: &Config,
    application_name: &str,
    tap: Tap,
) -> Result<Session, SourceError> {
    let stream = dial(config).await?;
    let postgres = startup(config, application_name);
    // On the stream that the server's messages come from.
    let session = match connector(config).await? {
        None => login(config, &postgres, Tapped::new(stream, tap.clone()), NoTls, tap).await?,
        Some(mut tls) => {
            let tls = MakeTlsConnect::<Stream>::make_tls_connect(&mut tls, &config.host)
                .unwrap_or_else(|never| match never {});
            login(config, &postgres, stream, TappedTls::new(tls, tap.clone()), tap).await?
        }
    };
    // The setting exists from 17 on, and an unknown one is refused.
    if session.version >= 170_000 {
        let set = session.batch_execute("SET transaction_timeout = 0").await;
        set.map_err(|error| explain(config, error))?;
    }
    if session.raw_text {
        // Such a server has nothing to convert from. Asked for UTF-8 it refuses
        // other bytes without a word on where they are; the decoder names the row.
        let set = session.batch_execute("SET client_encoding = 'SQL_ASCII'").await;
        set.map_err(|error| explain(config, error))?;
    }
    check_target(config, &session).await?;
    Ok(session)
}

/// TLS, startup packet and password; then the connection runs by itself.
async fn login<S, T>(
    config: &Config,
    postgres: &tokio_postgres::Config,
    stream: S,
    tls: T,
    tap: Tap,
) -> Result<Session, SourceError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: TlsConnect<S>,
    T::Stream: Send + 'static,
{
    let (client, connection) =
        postgres.connect_raw(stream, tls).await.map_err(|error| explain(config, error))?;
    let version = version_num(connection.parameter("server_version").unwrap_or_default());
    let raw_text = connection.parameter("server_encoding") == Some("SQL_ASCII");
    let (end, ended) = watch::channel(None);
    let connection = tokio::spawn(async move {
        let why = drive(connection).await;
        end.send_replace(Some(why));
    });
    Ok(Session {
        client: Some(client),
        connection: Some(connection),
        ended,
        version,
        raw_text,
        tap,
        config: config.clone(),
        alive: SESSIONS.token(),
    })
}

/// Moves the connection's bytes until it ends, and says why it did.
async fn drive<S, T>(mut connection: Connection<S, T>) -> String
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            Some(Ok(AsyncMessage::Notice(notice))) => {
                tracing::debug!("the server says: {}: {}", notice.severity(), notice.message());
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => return chain(&error),
            None => return "the session was closed".to_owned(),
        }
    }
}

/// "15.19 (Debian …)" → 150019, "18beta1" → 180000.
fn version_num(text: &str) -> u32 {
    let mut parts = text
        .split(|letter: char| !letter.is_ascii_digit())
        .map(|digits| digits.parse::<u32>().unwrap_or(0));
    let major = parts.next().unwrap_or(0);
    let minor = if text.trim_start_matches(|l: char| l.is_ascii_digit()).starts_with('.') {
        parts.next().unwrap_or(0)
    } else {
        0
    };
    major * 10_000 + minor
}

/// What the startup packet says. Our settings come after the user's and win.
fn startup(config: &Config, application_name: &str) -> tokio_postgres::Config {
    let params = &config.params;
    let mut postgres = tokio_postgres::Config::new();
    postgres
        .user(&config.username)
        .dbname(&config.database)
        .application_name(params.application_name.as_deref().unwrap_or(application_name))
        .options(options(&params.options, config.lock_timeout))
        .channel_binding(params.channel_binding)
        .ssl_negotiation(params.ssl_negotiation)
        .ssl_mode(if config.ssl.is_some() && !is_socket(config) {
            SslMode::Require
        } else {
            SslMode::Disable
        });
    if !config.password.is_empty() {
        postgres.password(config.password.reveal());
    }
    postgres
}

/// The settings that make a value's text one and the same, and that keep a
/// long load alive. `row_security=off` turns rows that are hidden into an
/// error. A search path that the user chose is as fixed as ours.
fn options(users: &str, lock_timeout: Duration) -> String {
    let mut options = users.to_owned();
    for setting in [
        "DateStyle=ISO",
        "IntervalStyle=postgres",
        "TimeZone=UTC",
        "extra_float_digits=3",
        "bytea_output=hex",
        "client_encoding=UTF8",
        "row_security=off",
        "idle_in_transaction_session_timeout=0",
        "statement_timeout=0",
    ] {
        options.push_str(" -c ");
        options.push_str(setting);
    }
    options.push_str(&format!(" -c lock_timeout={}", lock_timeout.as_millis()));
    if !users.contains("search_path") {
        options.push_str(" -c search_path=pg_catalog,public");
    }
    options.trim_start().to_owned()
}

/// Reading the system's certificates and building the verifier may block.
async fn connector(config: &Config) -> Result<Option<MakeRustlsConnect>, SourceError> {
    let Some(settings) = config.ssl.clone().filter(|_| !is_socket(config)) else { return Ok(None) };
    let params = config.params.clone();
    let built = tokio::task::spawn_blocking(move || settings.connector(&params)).await;
    match built {
        Ok(Ok(connector)) => Ok(Some(connector)),
        Ok(Err(what)) => Err(SourceError::Tls {
            target: config.target(),
            what,
            remedy: "check ssl in the source configuration".to_owned(),
        }),
        Err(_) => Err(SourceError::Internal("preparing TLS was cut short".to_owned())),
    }
}

/// Asks the server to stop what the session is doing.
async fn cancel(config: &Config, token: CancelToken) -> Result<(), SourceError> {
    let stream = dial(config).await?;
    let sent = match connector(config).await? {
        None => token.cancel_query_raw(stream, NoTls).await,
        Some(mut tls) => {
            let tls = MakeTlsConnect::<Stream>::make_tls_connect(&mut tls, &config.host)
                .unwrap_or_else(|never| match never {});
            token.cancel_query_raw(stream, tls).await
        }
    };
    sent.map_err(SourceError::postgres("cancelling"))
}

/// libpq's `target_session_attrs`.
async fn check_target(config: &Config, session: &Session) -> Result<(), SourceError> {
    let wanted = config.params.target_session;
    if wanted == TargetSession::Any {
        return Ok(());
    }
    // A simple query: a walsender takes no other.
    let query = "SELECT pg_catalog.pg_is_in_recovery(), \
                 pg_catalog.current_setting('transaction_read_only') = 'on'";
    let answer = session.simple_query(query).await;
    let answer =
        answer.map_err(SourceError::postgres("asking the server whether it is a standby"))?;
    let yes = |column| {
        answer.iter().any(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(column) == Some("t"),
            _ => false,
        })
    };
    let (standby, read_only) = (yes(0), yes(1));
    let (fits, is) = match wanted {
        TargetSession::Any => (true, ""),
        TargetSession::ReadWrite => (!read_only, "read-only"),
        TargetSession::ReadOnly => (read_only, "not read-only"),
        TargetSession::Primary => (!standby, "a standby"),
        TargetSession::Standby => (standby, "not a standby"),
    };
    if fits {
        return Ok(());
    }
    Err(SourceError::Connect {
        target: config.target(),
        what: format!("the server is {is}, and target_session_attrs asks for another"),
        remedy: "change `host`, or target_session_attrs in jdbc_url_params".to_owned(),
        transient: false,
    })
}

/// What a failed login means. tokio-postgres keeps the kind of an error to
/// itself; without words of the server, its message tells.
fn explain(config: &Config, error: tokio_postgres::Error) -> SourceError {
    let target = config.target();
    if error.as_db_error().is_some() {
        return SourceError::Postgres { doing: format!("connecting to {target}"), source: error };
    }
    let what = chain(&error);
    if what.contains("TLS") || what.contains("fatal alert") {
        let remedy = tls::remedy(&what).to_owned();
        SourceError::Tls { target, what, remedy }
    } else if what.contains("password missing") {
        SourceError::Authentication {
            target,
            what: "the server asks for a password, and there is none".to_owned(),
            remedy: "give `password` in the source configuration".to_owned(),
        }
    } else if what.starts_with("authentication error") {
        SourceError::Authentication {
            target,
            what,
            remedy: "use a password login (scram-sha-256) for this role in pg_hba.conf; channel \
                     binding needs TLS"
                .to_owned(),
        }
    } else {
        unreachable_server(config, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_settings_come_after_the_users_and_win() {
        let text = options("-c statement_timeout=5s -c work_mem=64MB", Duration::from_secs(3));
        let users = text.find("statement_timeout=5s").unwrap();
        assert!(users < text.find("statement_timeout=0").unwrap());
        assert!(
            text.contains("lock_timeout=3000") && text.contains("search_path=pg_catalog,public")
        );
        assert!(!options("-c search_path=app", Duration::ZERO).contains("pg_catalog"));
    }

    #[test]
    fn versions_are_read_from_what_the_server_calls_itself() {
        assert_eq!(version_num("15.19 (Debian 15.19-0+deb12u1)"), 150_019);
        assert_eq!(version_num("18beta1"), 180_000);
        assert_eq!(version_num("14.23"), 140_023);
        assert_eq!(version_num(""), 0);
    }

    #[tokio::test]
    async fn a_refused_connection_says_where_and_what_to_do() {
        // Bound and closed again: nobody listens there now.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut wire = crate::config::tests::wire();
        wire.port = port.into();
        let config = Config::try_from(wire).unwrap();
        let Err(error) = Session::open(&config, "test").await else { panic!("it connected") };
        let fault = error.to_fault();
        assert_eq!(fault.code, proto::v1::ErrorCode::Unreachable);
        assert!(fault.message.contains(&format!("127.0.0.1:{port}")), "{fault}");
        assert!(fault.remedy.contains("`port`"));
    }
}
