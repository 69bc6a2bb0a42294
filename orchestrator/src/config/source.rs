//! source.json: how to reach PostgreSQL. Certificates, keys and known hosts
//! may be text or a path; they are read here, so that the source service gets
//! text and needs no file of the caller's.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::v1::{SourceConfig, SshConfig, Ssl, ssl};
use serde::Deserialize;
use serde_json::Value;

use super::validate::{self, SOURCE};
use super::{ConfigError, ConfigFault, read, secrets};
use crate::streams::SyncMode;

/// A validated source.json.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// What the source service is sent.
    pub config: SourceConfig,
    /// The sync mode that discover writes.
    pub default_mode: SyncMode,
    /// Change capture, when it is configured.
    pub update_method: Option<UpdateMethod>,
    /// The database's name, which names the destination's databases.
    pub database: String,
    /// What was odd but no fault; logged already.
    pub warnings: Vec<String>,
}

/// `update_method`: the slot that changes come through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpdateMethod {
    /// The slot's name.
    pub replication_slot: String,
    /// The publication's name.
    pub publication: String,
    /// Seconds to wait for a first change.
    pub initial_wait_time: u64,
    /// Continuous: the most that lies between two looks for changes.
    pub commit_interval: Duration,
    /// Messages of the log after which a commit is made before that; 0: the
    /// source's default.
    pub commit_changes: u32,
    /// Continuous: how long to go on trying when nothing works; none: for ever.
    pub give_up_after: Option<Duration>,
    /// A table that was rewritten is not loaded anew.
    pub ignore_rewrites: bool,
    /// Rows of partitions that are detached or dropped stay.
    pub keep_removed_partitions: bool,
    /// Between two messages of ours in the log; none: there are none.
    pub heartbeat_interval: Option<Duration>,
    /// Bytes of WAL held for the slot that are worth a warning.
    pub retained_wal_warning: u64,
    /// A lag that is worth a warning; none: whatever it is.
    pub lag_warning: Option<Duration>,
}

/// The file's keys and defaults.
#[derive(Deserialize)]
struct Raw {
    host: String,
    port: u16,
    database: String,
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    jdbc_url_params: HashMap<String, Value>,
    ssl: Option<RawSsl>,
    #[serde(default = "default_threads")]
    max_threads: u32,
    #[serde(default = "default_batch")]
    reader_batch_size: u32,
    default_mode: Option<SyncMode>,
    #[serde(default = "default_retries")]
    retry_count: u32,
    #[serde(default)]
    schemas: Vec<String>,
    ssh_config: Option<RawSsh>,
    update_method: Option<RawUpdateMethod>,
    #[serde(default)]
    max_row_bytes: u64,
    #[serde(default)]
    lock_timeout_ms: u32,
    #[serde(default)]
    connect_timeout_ms: u32,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawSsl {
    mode: String,
    server_ca: String,
    client_cert: String,
    client_key: String,
}

#[derive(Deserialize)]
struct RawSsh {
    host: String,
    #[serde(default = "default_ssh_port")]
    port: u16,
    username: String,
    #[serde(default)]
    private_key: String,
    #[serde(default)]
    passphrase: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    known_hosts: String,
}

#[derive(Deserialize)]
struct RawUpdateMethod {
    replication_slot: String,
    #[serde(default)]
    publication: String,
    initial_wait_time: Option<u64>,
    intial_wait_time: Option<u64>,
    #[serde(default = "default_commit_interval")]
    commit_interval: u64,
    #[serde(default)]
    commit_changes: u32,
    #[serde(default)]
    give_up_after: u64,
    #[serde(default)]
    on_rewrite: OnRewrite,
    #[serde(default)]
    on_partition_removed: OnPartitionRemoved,
    #[serde(default = "default_heartbeat")]
    heartbeat_interval: u64,
    #[serde(default = "default_wal_warning")]
    retained_wal_warning_mb: u64,
    #[serde(default)]
    lag_warning: u64,
}

/// What a rewrite of a table, of which the log tells nothing, means for it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OnRewrite {
    #[default]
    Reload,
    Ignore,
}

/// What a partition that is detached or dropped means for its table.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OnPartitionRemoved {
    #[default]
    Reload,
    Keep,
}

fn default_threads() -> u32 {
    3
}

fn default_batch() -> u32 {
    100_000
}

fn default_retries() -> u32 {
    3
}

fn default_commit_interval() -> u64 {
    10
}

fn default_heartbeat() -> u64 {
    60
}

fn default_wal_warning() -> u64 {
    10_000
}

fn default_ssh_port() -> u16 {
    22
}

/// Reads, decrypts and validates a source.json; warnings are logged.
pub fn load(path: &Path, key: Option<&str>) -> Result<SourceFile, ConfigError> {
    let mut value = read::json(path, key)?;
    validate::drop_nulls(&mut value);
    let mut faults = secrets::resolve(&mut value);
    faults.extend(validate::faults(&SOURCE, &value));
    faults.extend(beyond_the_schema(&value));
    let warnings = validate::unknown_keys(&SOURCE, &value);
    for warning in &warnings {
        tracing::warn!("{}: {warning}", path.display());
    }
    let invalid = |faults| ConfigError::Invalid { path: path.to_owned(), faults };
    if !faults.is_empty() {
        return Err(invalid(faults));
    }
    // The schema is at least as strict; its numbers may be written 3.0, though.
    let raw: Raw = serde_json::from_value(value)
        .map_err(|e| invalid(vec![ConfigFault::new("", format!("cannot be used: {e}"))]))?;
    build(raw, warnings).map_err(invalid)
}

/// Faults that a JSON Schema cannot express well.
fn beyond_the_schema(value: &Value) -> Vec<ConfigFault> {
    let mut faults = Vec::new();
    if let Some(host) = value["host"].as_str()
        && (host.contains("://") || host.contains(['/', ' ', '@']))
    {
        let seen = validate::seen("host", &value["host"]);
        let problem = format!("is {seen}; it must be a host name or address without a scheme");
        faults.push(ConfigFault::new("host", problem));
    }
    let ssl = &value["ssl"];
    let set = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    for (have, lack) in [("client_cert", "client_key"), ("client_key", "client_cert")] {
        if set(&ssl[have]) && !set(&ssl[lack]) {
            let problem = format!("is missing; it must be set because ssl.{have} is");
            faults.push(ConfigFault::new(format!("ssl.{lack}"), problem));
        }
    }
    let ssh = &value["ssh_config"];
    if ssh.is_object() && !set(&ssh["private_key"]) && !set(&ssh["password"]) {
        let problem = "has neither private_key nor password; one of them must be set";
        faults.push(ConfigFault::new("ssh_config", problem));
    }
    faults
}

fn build(raw: Raw, warnings: Vec<String>) -> Result<SourceFile, Vec<ConfigFault>> {
    let mut faults = Vec::new();
    let ssl = raw.ssl.map(|ssl| build_ssl(ssl, &mut faults));
    let ssh_config = raw.ssh_config.map(|ssh| build_ssh(ssh, &mut faults));
    if !faults.is_empty() {
        return Err(faults);
    }
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    Ok(SourceFile {
        database: raw.database.clone(),
        default_mode: raw.default_mode.unwrap_or(SyncMode::FullRefresh),
        update_method: raw.update_method.map(build_update_method),
        config: SourceConfig {
            host: raw.host,
            port: raw.port.into(),
            database: raw.database,
            username: raw.username,
            password: raw.password,
            jdbc_url_params: raw.jdbc_url_params.into_iter().map(|(k, v)| (k, text(v))).collect(),
            ssl,
            max_threads: raw.max_threads,
            reader_batch_size: raw.reader_batch_size,
            retry_count: raw.retry_count,
            ssh_config,
            schemas: raw.schemas,
            max_row_bytes: raw.max_row_bytes,
            lock_timeout_ms: raw.lock_timeout_ms,
            connect_timeout_ms: raw.connect_timeout_ms,
        },
        warnings,
    })
}

fn build_ssl(raw: RawSsl, faults: &mut Vec<ConfigFault>) -> Ssl {
    let mode = match raw.mode.as_str() {
        "require" => ssl::Mode::Require,
        "verify-ca" => ssl::Mode::VerifyCa,
        "verify-full" => ssl::Mode::VerifyFull,
        _ => ssl::Mode::Disable,
    };
    if mode == ssl::Mode::Disable {
        // Files that are not used need not exist.
        return Ssl::default();
    }
    Ssl {
        mode: mode.into(),
        server_ca: pem("ssl.server_ca", raw.server_ca, faults),
        client_cert: pem("ssl.client_cert", raw.client_cert, faults),
        client_key: pem("ssl.client_key", raw.client_key, faults),
    }
}

fn build_ssh(raw: RawSsh, faults: &mut Vec<ConfigFault>) -> SshConfig {
    SshConfig {
        host: raw.host,
        port: raw.port.into(),
        username: raw.username,
        private_key: pem("ssh_config.private_key", raw.private_key, faults),
        passphrase: raw.passphrase,
        password: raw.password,
        known_hosts: known_hosts(raw.known_hosts, faults),
    }
}

fn build_update_method(raw: RawUpdateMethod) -> UpdateMethod {
    let publication = match raw.publication.as_str() {
        "" => format!("tidewater_{}", raw.replication_slot),
        given => given.to_owned(),
    };
    UpdateMethod {
        publication,
        replication_slot: raw.replication_slot,
        initial_wait_time: raw.initial_wait_time.or(raw.intial_wait_time).unwrap_or(0),
        commit_interval: Duration::from_secs(raw.commit_interval),
        commit_changes: raw.commit_changes,
        give_up_after: unless_zero(raw.give_up_after),
        ignore_rewrites: raw.on_rewrite == OnRewrite::Ignore,
        keep_removed_partitions: raw.on_partition_removed == OnPartitionRemoved::Keep,
        heartbeat_interval: unless_zero(raw.heartbeat_interval),
        retained_wal_warning: raw.retained_wal_warning_mb.saturating_mul(1_000_000),
        lag_warning: unless_zero(raw.lag_warning),
    }
}

fn unless_zero(seconds: u64) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// PEM text as it is, or the content of the file it names. A fault never
/// repeats what was given unless it looks like a path.
fn pem(key: &str, given: String, faults: &mut Vec<ConfigFault>) -> String {
    if given.is_empty() || given.contains("-----BEGIN") {
        return given;
    }
    match fs::read_to_string(&given) {
        Ok(text) if text.contains("-----BEGIN") => text,
        Ok(_) => {
            let problem = format!("names {given:?}, which holds no PEM text (-----BEGIN …)");
            faults.push(ConfigFault::new(key, problem));
            String::new()
        }
        Err(error) => {
            let path =
                if looks_like_a_path(&given) { format!("{given:?}") } else { "text".to_owned() };
            let problem = format!(
                "is {path}; it must be PEM text (-----BEGIN …) or the path of a PEM file: {error}"
            );
            faults.push(ConfigFault::new(key, problem));
            String::new()
        }
    }
}

/// A key pasted without its PEM frame must not end up in a message.
fn looks_like_a_path(given: &str) -> bool {
    let base64 = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
    given.len() < 256 && !given.contains('\n') && (given.len() < 40 || !given.chars().all(base64))
}

/// known_hosts lines: given as text, as a path, or the user's own file.
fn known_hosts(given: String, faults: &mut Vec<ConfigFault>) -> String {
    if given.is_empty() {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        // Without one nothing is known, and the source refuses every host key.
        return home
            .and_then(|home| fs::read_to_string(home.join(".ssh/known_hosts")).ok())
            .unwrap_or_default();
    }
    // A line has at least "host type key"; a path rarely has two spaces.
    if given.lines().any(|line| line.split_whitespace().count() >= 3) {
        return given;
    }
    fs::read_to_string(&given).unwrap_or_else(|error| {
        let problem = format!(
            "is {given:?}; it must be known_hosts lines or the path of such a file: {error}"
        );
        faults.push(ConfigFault::new("ssh_config.known_hosts", problem));
        String::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(text: &str) -> Result<SourceFile, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        load(file.path(), None)
    }

    const SAMPLE: &str = r#"{
      "host": "postgres-host",
      "port": 5432,
      "database": "postgres_db",
      "username": "postgres_user",
      "password": "postgres_pass",
      "jdbc_url_params": {},
      "ssl": {
        "mode": "disable"
      },
      "update_method": {
        "replication_slot": "postgres_slot",
        "intial_wait_time": 10
      },
      "reader_batch_size": 100000,
      "default_mode": "cdc",
      "max_threads": 50,
      "split-region": ""
    }"#;

    #[test]
    fn the_documented_sample_loads_without_a_warning() {
        let file = load_text(SAMPLE).unwrap();
        assert_eq!(file.warnings, [""; 0]);
        assert_eq!((file.config.port, file.config.max_threads), (5432, 50));
        assert_eq!(file.config.retry_count, 3);
        assert_eq!(file.default_mode, SyncMode::Cdc);
        let method = file.update_method.unwrap();
        assert_eq!(method.initial_wait_time, 10);
        assert_eq!(method.publication, "tidewater_postgres_slot");
        assert_eq!((method.commit_interval, method.give_up_after), (Duration::from_secs(10), None));
    }

    #[test]
    fn certificates_are_text_or_a_path() {
        let pem = tempfile::NamedTempFile::new().unwrap();
        fs::write(pem.path(), "-----BEGIN CERTIFICATE-----\nx\n").unwrap();
        let text = |ca: &str| {
            let ssl = serde_json::json!({"mode": "verify-ca", "server_ca": ca});
            let mut value: Value = serde_json::from_str(SAMPLE).unwrap();
            value["ssl"] = ssl;
            load_text(&value.to_string())
        };
        let by_path = text(pem.path().to_str().unwrap()).unwrap();
        let by_text = text("-----BEGIN CERTIFICATE-----\nx\n").unwrap();
        assert_eq!(by_path.config.ssl.unwrap().server_ca, by_text.config.ssl.unwrap().server_ca);
        let missing = text("no/such/file.pem").unwrap_err().to_string();
        assert!(missing.contains("ssl.server_ca is \"no/such/file.pem\""), "{missing}");
    }

    #[test]
    fn faults_of_schema_and_meaning_come_together() {
        let error = load_text(
            r#"{"host": "http://h", "port": "1", "database": "d", "username": "u",
                "ssl": {"mode": "require", "client_cert": "c"}, "ssh_config": {"host": "s"}}"#,
        )
        .unwrap_err()
        .to_string();
        for part in [
            "5 faults",
            "host is \"http://h\"",
            "port is \"1\"",
            "ssl.client_key is missing",
            "ssh_config.username is missing",
            "neither private_key nor password",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
