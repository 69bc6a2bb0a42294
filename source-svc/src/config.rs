//! How to read one PostgreSQL database: what came over the wire, validated.
//!
//! Validation does no IO and reports every fault at once. What it accepts can
//! be used without looking again.

use std::fmt;
use std::time::Duration;

use proto::limits;
use proto::tls::Verify;
use proto::v1::{self, ssl};

use crate::error::SourceError;
use crate::params::Params;
use crate::tls::{self, TlsConfig};

/// Readers at once when the configuration does not say.
const DEFAULT_MAX_THREADS: u32 = 3;
/// More connections than any server that we know accepts.
const MAX_MAX_THREADS: u32 = 1000;
/// Rows in a batch when the configuration does not say.
const DEFAULT_READER_BATCH_SIZE: u32 = 100_000;
/// Batches are bounded in bytes as well; this only keeps counts in 32 bits.
const MAX_READER_BATCH_SIZE: u32 = 10_000_000;
/// Further attempts beyond which more of them only hide the trouble.
const MAX_RETRY_COUNT: u32 = 100;
/// Wait for a table lock when the configuration does not say.
const DEFAULT_LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// Wait for one connection when the configuration does not say.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A text that is never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` from being printed.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The secret itself, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "" } else { "…" })
    }
}

/// How to read one PostgreSQL database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// A host name, an IP address, or the directory of a Unix socket.
    pub host: String,
    pub port: u16,
    pub database: String,
    pub username: String,
    /// May be empty: the server decides whether it asks for one.
    pub password: Secret,
    /// The rest of libpq's parameters.
    pub params: Params,
    /// `None`: in clear text.
    pub ssl: Option<TlsConfig>,
    /// Connections that read at once, all streams of a load together.
    pub max_threads: usize,
    /// Rows in one record batch at most.
    pub reader_batch_size: usize,
    /// Further attempts after a transient failure; 0: none.
    pub retry_count: u32,
    /// `None`: connect directly.
    pub ssh: Option<SshTunnel>,
    /// Limits discover; empty: every schema but PostgreSQL's own.
    pub schemas: Vec<String>,
    /// Bytes that one row may have in COPY's binary form.
    pub max_row_bytes: u64,
    pub lock_timeout: Duration,
    /// For one attempt, tunnel and TLS included.
    pub connect_timeout: Duration,
}

/// A tunnel through an SSH server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshTunnel {
    pub host: String,
    pub port: u16,
    pub username: String,
    /// PEM or OpenSSH text; tried before the password. May be empty.
    pub private_key: Secret,
    pub passphrase: Secret,
    /// May be empty if there is a private key.
    pub password: Secret,
    /// Lines of known_hosts that the server's key must match; never empty.
    pub known_hosts: String,
}

impl Config {
    /// Where the server is, for messages: "PostgreSQL at db.example.com:5432".
    pub fn target(&self) -> String {
        format!("PostgreSQL at {}:{}", self.host, self.port)
    }
}

impl TryFrom<v1::SourceConfig> for Config {
    type Error = SourceError;

    fn try_from(wire: v1::SourceConfig) -> Result<Self, SourceError> {
        let mut faults = Vec::new();
        check_host("host", &wire.host, &mut faults);
        let port = check_port("port", wire.port, &mut faults);
        for (key, value) in [("database", &wire.database), ("username", &wire.username)] {
            check_name(key, value, &mut faults);
        }
        if wire.password.contains('\0') {
            faults.push("password: holds a NUL character".to_owned());
        }
        let params = Params::read(&wire.jdbc_url_params, &mut faults);
        let ssl = read_ssl(wire.ssl.as_ref(), params.ssl_mode, &mut faults);
        let ssh = wire.ssh_config.map(|ssh| read_ssh(ssh, &mut faults));
        let max_threads = bounded(
            "max_threads",
            wire.max_threads,
            DEFAULT_MAX_THREADS,
            MAX_MAX_THREADS,
            &mut faults,
        );
        let reader_batch_size = bounded(
            "reader_batch_size",
            wire.reader_batch_size,
            DEFAULT_READER_BATCH_SIZE,
            MAX_READER_BATCH_SIZE,
            &mut faults,
        );
        for schema in &wire.schemas {
            check_name("schemas", schema, &mut faults);
        }
        if !faults.is_empty() {
            return Err(SourceError::Config(faults));
        }
        let connect_timeout = params
            .connect_timeout
            .unwrap_or_else(|| millis(wire.connect_timeout_ms, DEFAULT_CONNECT_TIMEOUT));
        Ok(Config {
            host: wire.host,
            port,
            database: wire.database,
            username: wire.username,
            password: Secret(wire.password),
            params,
            ssl,
            max_threads: max_threads as usize,
            reader_batch_size: reader_batch_size as usize,
            retry_count: wire.retry_count.min(MAX_RETRY_COUNT),
            ssh,
            schemas: wire.schemas,
            max_row_bytes: match wire.max_row_bytes {
                0 => limits::MAX_ROW_BYTES,
                bytes => bytes,
            },
            lock_timeout: millis(wire.lock_timeout_ms, DEFAULT_LOCK_TIMEOUT),
            connect_timeout,
        })
    }
}

fn millis(value: u32, default: Duration) -> Duration {
    if value == 0 { default } else { Duration::from_millis(value.into()) }
}

fn bounded(key: &str, value: u32, default: u32, most: u32, faults: &mut Vec<String>) -> u32 {
    if value > most {
        faults.push(format!("{key}: {value} is too many; allowed are 1 to {most}"));
    }
    if value == 0 { default } else { value }
}

fn check_host(key: &str, host: &str, faults: &mut Vec<String>) {
    let fault = if host.trim().is_empty() {
        "is empty; give a host name or an IP address".to_owned()
    } else if host.contains("://") {
        format!("{host:?} has a scheme; give only the host name")
    } else if host.contains(',') {
        format!("{host:?} names several hosts; give one")
    } else if !host.starts_with('/') && host.contains(['/', '@'])
        || host.contains(char::is_whitespace)
    {
        format!("{host:?} is not a host name or an IP address")
    } else {
        return;
    };
    faults.push(format!("{key}: {fault}"));
}

fn check_port(key: &str, port: u32, faults: &mut Vec<String>) -> u16 {
    match u16::try_from(port) {
        Ok(port) if port > 0 => port,
        _ => {
            faults.push(format!("{key}: {port} is not a port; allowed are 1 to 65535"));
            0
        }
    }
}

fn check_name(key: &str, name: &str, faults: &mut Vec<String>) {
    if name.is_empty() {
        faults.push(format!("{key}: is empty; a name is required"));
    } else if name.contains('\0') {
        faults.push(format!("{key}: {name:?} holds a NUL character"));
    }
}

/// `ssl` decides; `sslmode` among the parameters may say it instead, or the same.
fn read_ssl(
    wire: Option<&v1::Ssl>,
    ssl_mode: Option<ssl::Mode>,
    faults: &mut Vec<String>,
) -> Option<TlsConfig> {
    let empty = v1::Ssl::default();
    let settings = wire.unwrap_or(&empty);
    let known = ssl::Mode::try_from(settings.mode);
    if known.is_err() {
        faults.push(format!("ssl.mode: {} is not a mode", settings.mode));
    }
    let mode = match (wire, ssl_mode) {
        (Some(_), Some(other)) if known.is_ok_and(|mode| mode != other) => {
            faults.push(format!(
                "jdbc_url_params.sslmode ({}) and ssl.mode ({}) say different things; \
                 leave sslmode out",
                tls::mode_name(other),
                tls::mode_name(settings.mode()),
            ));
            other
        }
        (None, Some(mode)) => mode,
        _ => settings.mode(),
    };
    let verify = match mode {
        ssl::Mode::Disable => return None,
        ssl::Mode::Require => Verify::Nothing,
        ssl::Mode::VerifyCa => Verify::Chain,
        ssl::Mode::VerifyFull => Verify::ChainAndName,
    };
    let config = TlsConfig {
        verify,
        server_ca: settings.server_ca.clone(),
        client_cert: settings.client_cert.clone(),
        client_key: Secret::new(&settings.client_key),
    };
    config.check(faults);
    Some(config)
}

fn read_ssh(wire: v1::SshConfig, faults: &mut Vec<String>) -> SshTunnel {
    check_host("ssh_config.host", &wire.host, faults);
    let port = if wire.port == 0 { 22 } else { wire.port };
    let port = check_port("ssh_config.port", port, faults);
    check_name("ssh_config.username", &wire.username, faults);
    if wire.private_key.is_empty() && wire.password.is_empty() {
        faults.push("ssh_config: neither private_key nor password is given".to_owned());
    }
    if wire.known_hosts.trim().is_empty() {
        faults.push(format!(
            "ssh_config.known_hosts: is empty, so the key of {0} cannot be checked; add its line \
             with \"ssh-keyscan -p {port} {0} >> ~/.ssh/known_hosts\", and compare the \
             fingerprint with its administrator's",
            wire.host
        ));
    }
    SshTunnel {
        host: wire.host,
        port,
        username: wire.username,
        private_key: Secret(wire.private_key),
        passphrase: Secret(wire.passphrase),
        password: Secret(wire.password),
        known_hosts: wire.known_hosts,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn wire() -> v1::SourceConfig {
        v1::SourceConfig {
            host: "127.0.0.1".into(),
            port: 5432,
            database: "shop".into(),
            username: "reader".into(),
            ..Default::default()
        }
    }

    fn faults(wire: v1::SourceConfig) -> Vec<String> {
        match Config::try_from(wire) {
            Err(SourceError::Config(faults)) => faults,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let config = Config::try_from(wire()).unwrap();
        assert_eq!((config.max_threads, config.reader_batch_size), (3, 100_000));
        assert_eq!(config.max_row_bytes, limits::MAX_ROW_BYTES);
        assert_eq!(config.connect_timeout, Duration::from_secs(10));
        assert_eq!((config.ssl, config.ssh), (None, None));
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let all = faults(v1::SourceConfig {
            host: "postgres://db".into(),
            port: 70_000,
            max_threads: 5000,
            jdbc_url_params: [("aplication_name".into(), "x".into())].into(),
            ssh_config: Some(v1::SshConfig { host: "jump".into(), ..Default::default() }),
            ..Default::default()
        });
        for key in [
            "host:",
            "port: 70000",
            "database:",
            "username:",
            "max_threads:",
            "aplication_name",
            "ssh_config.username",
            "ssh_config: neither",
            "ssh_config.known_hosts",
        ] {
            assert!(all.iter().any(|fault| fault.contains(key)), "{key} in {all:#?}");
        }
    }

    #[test]
    fn sslmode_may_say_what_ssl_does_not_but_never_the_contrary() {
        let mut config = wire();
        config.jdbc_url_params.insert("sslmode".into(), "require".into());
        let tls = Config::try_from(config.clone()).unwrap().ssl.unwrap();
        assert_eq!(tls.verify, Verify::Nothing);
        config.ssl = Some(v1::Ssl::default());
        assert!(faults(config)[0].contains("different things"));
    }

    #[test]
    fn no_secret_is_printed_by_debug() {
        let mut config = wire();
        config.password = "hunter2".into();
        let shown = format!("{:?}", Config::try_from(config).unwrap());
        assert!(!shown.contains("hunter2") && shown.contains('…'), "{shown}");
    }
}
