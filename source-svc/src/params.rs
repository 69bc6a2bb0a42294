//! libpq's connection parameters, as `jdbc_url_params` gives them.
//!
//! Each one is honoured, or it is an error that says where the same is set or
//! why it cannot be: a parameter that is silently ignored may be the one that
//! was to make the connection safe.

use std::collections::HashMap;
use std::time::Duration;

use proto::v1::ssl::Mode;
use tokio_postgres::config::{ChannelBinding, SslNegotiation};

/// The longest that one attempt may take: a failure must be known soon.
const MAX_CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// What the server must be (libpq's `target_session_attrs`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetSession {
    /// Anything; `prefer-standby` too, as there is only one host.
    #[default]
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
}

/// When a silent connection is taken for dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keepalive {
    pub on: bool,
    pub idle: Duration,
    pub interval: Duration,
    pub count: u32,
    /// Unacknowledged data for so long ends the connection. `None`: the system's.
    pub user_timeout: Option<Duration>,
}

impl Default for Keepalive {
    /// A reader that lost its server should know within two minutes, not two hours.
    fn default() -> Self {
        Keepalive {
            on: true,
            idle: Duration::from_secs(60),
            interval: Duration::from_secs(10),
            count: 6,
            user_timeout: None,
        }
    }
}

/// The parameters that have no field of their own in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    /// `None`: ours.
    pub application_name: Option<String>,
    /// Comes before our own settings in the startup packet.
    pub options: String,
    /// At most 20 s.
    pub connect_timeout: Option<Duration>,
    pub target_session: TargetSession,
    pub keepalive: Keepalive,
    pub channel_binding: ChannelBinding,
    pub ssl_negotiation: SslNegotiation,
    /// `sslmode`; `None`: not given.
    pub ssl_mode: Option<Mode>,
    /// Refuse TLS 1.2.
    pub tls13_only: bool,
}

impl Default for Params {
    fn default() -> Self {
        Params {
            application_name: None,
            options: String::new(),
            connect_timeout: None,
            target_session: TargetSession::default(),
            keepalive: Keepalive::default(),
            channel_binding: ChannelBinding::Prefer,
            ssl_negotiation: SslNegotiation::Postgres,
            ssl_mode: None,
            tls13_only: false,
        }
    }
}

impl Params {
    /// Reads the parameters in the order of their names; faults name them.
    pub fn read(given: &HashMap<String, String>, faults: &mut Vec<String>) -> Params {
        let mut params = Params::default();
        let mut names: Vec<&String> = given.keys().collect();
        names.sort();
        for name in names {
            let value = given[name].trim();
            if value.contains('\0') {
                faults.push(format!("jdbc_url_params.{name}: holds a NUL character"));
            } else if let Err(fault) = params.set(name, value) {
                faults.push(format!("jdbc_url_params.{name}: {fault}"));
            }
        }
        params
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "application_name" => self.application_name = Some(value.to_owned()),
            "fallback_application_name" => {
                self.application_name.get_or_insert_with(|| value.to_owned());
            }
            "options" => self.options = value.to_owned(),
            "connect_timeout" => self.connect_timeout = connect_timeout(value)?,
            "target_session_attrs" => self.target_session = target_session(value)?,
            "keepalives" => self.keepalive.on = switch(value)?,
            "keepalives_idle" => set_seconds(&mut self.keepalive.idle, value)?,
            "keepalives_interval" => set_seconds(&mut self.keepalive.interval, value)?,
            "keepalives_count" => match number(value)? {
                0 => {}
                count => self.keepalive.count = count,
            },
            "tcp_user_timeout" => {
                self.keepalive.user_timeout = Some(number(value)?)
                    .filter(|&ms| ms > 0)
                    .map(|ms| Duration::from_millis(ms.into()));
            }
            "channel_binding" => {
                self.channel_binding = match value {
                    "disable" => ChannelBinding::Disable,
                    "prefer" => ChannelBinding::Prefer,
                    "require" => ChannelBinding::Require,
                    _ => return Err(expected(value, "disable, prefer, require")),
                };
            }
            "sslmode" => self.ssl_mode = Some(ssl_mode(value)?),
            "sslnegotiation" => {
                self.ssl_negotiation = match value {
                    "postgres" => SslNegotiation::Postgres,
                    "direct" => SslNegotiation::Direct,
                    _ => return Err(expected(value, "postgres, direct")),
                };
            }
            "ssl_min_protocol_version" => match value {
                "" | "TLSv1" | "TLSv1.1" | "TLSv1.2" => {}
                "TLSv1.3" => self.tls13_only = true,
                _ => return Err(expected(value, "TLSv1.2, TLSv1.3")),
            },
            _ => return accept_or_refuse(name, value),
        }
        Ok(())
    }
}

/// Parameters that need nothing done when they say what happens anyway.
fn accept_or_refuse(name: &str, value: &str) -> Result<(), String> {
    let happens_anyway: &[&str] = match name {
        "client_encoding" => &["UTF8", "utf8", "UTF-8", "utf-8", "auto"],
        "gssencmode" => &["disable", "prefer"],
        "sslcompression" => &["0"],
        "sslsni" => &["1"],
        "load_balance_hosts" => &["disable", "random"],
        "sslrootcert" => &["system"],
        "ssl_max_protocol_version" => &["", "TLSv1.3"],
        "min_protocol_version" => &["", "3.0"],
        "max_protocol_version" => &["", "3.0", "3.2", "latest"],
        _ => &[],
    };
    if happens_anyway.contains(&value) {
        return Ok(());
    }
    Err(match name {
        "host" | "hostaddr" => "give it as `host`".to_owned(),
        "port" => "give it as `port`".to_owned(),
        "dbname" => "give it as `database`".to_owned(),
        "user" => "give it as `username`".to_owned(),
        "password" | "passfile" => "give it as `password`".to_owned(),
        "sslrootcert" => "give the certificate as `ssl.server_ca`".to_owned(),
        "sslcert" => "give the certificate as `ssl.client_cert`".to_owned(),
        "sslkey" | "sslpassword" => "give the key, not encrypted, as `ssl.client_key`".to_owned(),
        _ if !happens_anyway.is_empty() => expected(value, &happens_anyway.join(", ")),
        "service"
        | "servicefile"
        | "replication"
        | "requirepeer"
        | "require_auth"
        | "sslcrl"
        | "sslcrldir"
        | "sslcertmode"
        | "sslkeylogfile"
        | "krbsrvname"
        | "gsslib"
        | "gssdelegation"
        | "scram_client_key"
        | "scram_server_key"
        | "oauth_issuer"
        | "oauth_client_id"
        | "oauth_client_secret"
        | "oauth_scope" => "is not supported; leave it out".to_owned(),
        _ => match libpq_name(name) {
            Some(libpq) => format!("is JDBC's name; use libpq's, {libpq}"),
            None => "is not a connection parameter of libpq".to_owned(),
        },
    })
}

/// The libpq parameter that a JDBC property of another name stands for.
fn libpq_name(jdbc: &str) -> Option<&'static str> {
    Some(match jdbc {
        "ApplicationName" => "application_name",
        "connectTimeout" | "loginTimeout" => "connect_timeout (seconds)",
        "tcpKeepAlive" => "keepalives (0 or 1)",
        "ssl" => "sslmode, or the field `ssl`",
        "targetServerType" => "target_session_attrs",
        "currentSchema" => "options, as in \"-c search_path=my_schema\"",
        "channelBinding" => "channel_binding",
        _ => return None,
    })
}

fn expected(value: &str, allowed: &str) -> String {
    format!("{value:?} is not allowed; allowed: {allowed}")
}

fn number(value: &str) -> Result<u32, String> {
    value.parse().map_err(|_| expected(value, "a whole number, 0 or more"))
}

fn switch(value: &str) -> Result<bool, String> {
    match value {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(expected(value, "0, 1")),
    }
}

/// 0 keeps the default, as libpq has it.
fn set_seconds(slot: &mut Duration, value: &str) -> Result<(), String> {
    match number(value)? {
        0 => {}
        seconds => *slot = Duration::from_secs(seconds.into()),
    }
    Ok(())
}

fn connect_timeout(value: &str) -> Result<Option<Duration>, String> {
    let seconds: i64 = value.parse().map_err(|_| expected(value, "seconds, a whole number"))?;
    // libpq waits for ever at 0 or less; we never do.
    let wait = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    Ok(Some(if wait.is_zero() { MAX_CONNECT_TIMEOUT } else { wait.min(MAX_CONNECT_TIMEOUT) }))
}

fn target_session(value: &str) -> Result<TargetSession, String> {
    Ok(match value {
        "any" | "prefer-standby" => TargetSession::Any,
        "read-write" => TargetSession::ReadWrite,
        "read-only" => TargetSession::ReadOnly,
        "primary" => TargetSession::Primary,
        "standby" => TargetSession::Standby,
        _ => {
            let allowed = "any, read-write, read-only, primary, standby, prefer-standby";
            return Err(expected(value, allowed));
        }
    })
}

fn ssl_mode(value: &str) -> Result<Mode, String> {
    Ok(match value {
        "disable" => Mode::Disable,
        "require" => Mode::Require,
        "verify-ca" => Mode::VerifyCa,
        "verify-full" => Mode::VerifyFull,
        "allow" | "prefer" => {
            return Err(format!(
                "{value:?} may silently send everything in clear text; \
                 say \"require\" or \"disable\""
            ));
        }
        _ => return Err(expected(value, "disable, require, verify-ca, verify-full")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: &[(&str, &str)]) -> Result<Params, Vec<String>> {
        let given = given.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        let mut faults = Vec::new();
        let params = Params::read(&given, &mut faults);
        if faults.is_empty() { Ok(params) } else { Err(faults) }
    }

    #[test]
    fn libpqs_parameters_are_honoured() {
        let params = read(&[
            ("application_name", "nightly"),
            ("fallback_application_name", "other"),
            ("options", "-c work_mem=64MB"),
            ("connect_timeout", "5"),
            ("target_session_attrs", "standby"),
            ("keepalives_idle", "7"),
            ("keepalives_count", "0"),
            ("channel_binding", "require"),
            ("client_encoding", "UTF8"),
        ])
        .unwrap();
        assert_eq!(params.application_name.as_deref(), Some("nightly"));
        assert_eq!(params.options, "-c work_mem=64MB");
        assert_eq!(params.connect_timeout, Some(Duration::from_secs(5)));
        assert_eq!(params.target_session, TargetSession::Standby);
        assert_eq!((params.keepalive.idle.as_secs(), params.keepalive.count), (7, 6));
        assert_eq!(params.channel_binding, ChannelBinding::Require);
    }

    #[test]
    fn an_attempt_never_waits_without_end() {
        for value in ["0", "-1", "600"] {
            let params = read(&[("connect_timeout", value)]).unwrap();
            assert_eq!(params.connect_timeout, Some(MAX_CONNECT_TIMEOUT), "{value}");
        }
    }

    #[test]
    fn what_cannot_be_honoured_says_what_to_do_instead() {
        for (name, value, words) in [
            ("aplication_name", "x", "not a connection parameter"),
            ("ApplicationName", "x", "application_name"),
            ("sslmode", "prefer", "clear text"),
            ("sslrootcert", "/etc/ca.pem", "ssl.server_ca"),
            ("require_auth", "scram-sha-256", "not supported"),
            ("client_encoding", "LATIN1", "allowed: UTF8"),
            ("host", "x", "`host`"),
            ("connect_timeout", "soon", "seconds"),
        ] {
            let faults = read(&[(name, value)]).unwrap_err();
            assert!(faults[0].contains(words) && faults[0].contains(name), "{faults:?}");
        }
    }
}
