//! `jdbc:postgresql:` URLs, as PostgreSQL's JDBC driver reads them:
//! `jdbc:postgresql://host:port,host:port/database?parameter=value&…`.
//!
//! Parameters that tune the driver mean nothing here. Those that say whom to
//! trust are heeded or refused, never passed over.

use std::path::PathBuf;

use proto::tls::Verify;
use proto::v1::JdbcCatalog;
use tokio_postgres::Config;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};

use crate::error::WriterError;

/// What follows here is ours to read.
pub const SCHEME: &str = "jdbc:postgresql:";
const PORT: u16 = 5432;
const EXAMPLE: &str =
    "set jdbc_url to jdbc:postgresql://host:5432/database?sslmode=require in destination.json";

/// A database to connect to.
#[derive(Clone, Debug)]
pub struct Address {
    /// For the connection; its Debug shows no password.
    pub config: Config,
    /// Which certificates of the server, where there is TLS.
    pub trust: Trust,
    /// The URL without its parameters, for messages.
    pub name: String,
}

/// Which certificates are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// What of them must be right.
    pub verify: Verify,
    /// PEM file of the authorities, on this machine; none: the system's.
    pub roots: Option<PathBuf>,
}

/// The database that a catalog names. Messages show no parameter's value that
/// may be a secret.
pub fn parse(jdbc: &JdbcCatalog) -> Result<Address, WriterError> {
    let refuse = |problem: &str| {
        WriterError::invalid_table(format!("the catalog's jdbc_url {problem}"), EXAMPLE)
    };
    let rest = jdbc.url.strip_prefix(SCHEME).ok_or_else(|| refuse("is none of PostgreSQL"))?;
    let (place, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    if place.contains('@') {
        // libpq's form. What is before the @ must not get into a message.
        return Err(WriterError::invalid_table(
            "the catalog's jdbc_url has an @, as if user and password were before it",
            "write jdbc:postgresql://host:5432/database, and set jdbc_username and \
             jdbc_password in destination.json",
        ));
    }
    let (hosts, database) = match place.strip_prefix("//") {
        Some(place) => place.split_once('/').unwrap_or((place, "")),
        None => ("", place.trim_start_matches('/')),
    };
    let database = decoded(database).ok_or_else(|| refuse("has a malformed % in the database"))?;
    let mut settings = Settings::of(jdbc);
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value = decoded(value).ok_or_else(|| refuse("has a malformed % in a parameter"))?;
        settings.take(key, value).map_err(|problem| refuse(&problem))?;
    }
    if settings.user.is_empty() {
        return Err(WriterError::invalid_table(
            "the catalog in PostgreSQL has no user",
            "set jdbc_username in destination.json",
        ));
    }
    // As the driver has it.
    let database = if database.is_empty() { settings.user.clone() } else { database };
    let trust = settings.trust().map_err(|problem| refuse(&problem))?;
    let mut config = settings.config(&database);
    let mut named = Vec::new();
    for host in hosts.split(',') {
        let (host, port) = host_and_port(host).ok_or_else(|| refuse("has a malformed port"))?;
        named.push(format!("{host}:{port}"));
        config.host(host.trim_matches(['[', ']'])).port(port);
    }
    Ok(Address { config, trust, name: format!("{SCHEME}//{}/{database}", named.join(",")) })
}

/// What the parameters say, on top of destination.json.
struct Settings {
    user: String,
    password: String,
    /// What `sslmode` says.
    ssl_mode: Option<(SslMode, Verify)>,
    /// `ssl=true`, which by itself asks for a verified certificate.
    ssl: bool,
    /// `sslrootcert`
    roots: Option<PathBuf>,
    options: String,
    application: String,
    target: TargetSessionAttrs,
}

impl Settings {
    fn of(jdbc: &JdbcCatalog) -> Self {
        Settings {
            user: jdbc.username.clone(),
            password: jdbc.password.clone(),
            ssl_mode: None,
            ssl: false,
            roots: None,
            options: String::new(),
            application: "tidewater".to_owned(),
            target: TargetSessionAttrs::Any,
        }
    }

    /// Heeds a parameter, or says what is wrong with it. As in the driver, the
    /// URL's user and password come before those given apart.
    fn take(&mut self, key: &str, value: String) -> Result<(), String> {
        match key {
            "user" => self.user = value,
            "password" => self.password = value,
            "ssl" => self.ssl = value.is_empty() || value.eq_ignore_ascii_case("true"),
            "sslmode" => {
                self.ssl_mode = Some(match value.as_str() {
                    "disable" => (SslMode::Disable, Verify::Nothing),
                    "prefer" => (SslMode::Prefer, Verify::Nothing),
                    "require" => (SslMode::Require, Verify::Nothing),
                    "verify-ca" => (SslMode::Require, Verify::Chain),
                    "verify-full" => (SslMode::Require, Verify::ChainAndName),
                    "allow" => {
                        return Err("has sslmode=allow, which this version does not know for a \
                             catalog; use prefer"
                            .to_owned());
                    }
                    _ => return Err("has an unknown sslmode".to_owned()),
                });
            }
            "sslrootcert" => self.roots = (!value.is_empty()).then(|| value.into()),
            "sslcert" | "sslkey" | "sslpassword" | "sslfactory" => {
                return Err(format!("has {key}, which this version does not know for a catalog"));
            }
            "currentSchema" => self.option(&format!("search_path={value}")),
            "options" => self.options = format!("{value} {}", self.options),
            "ApplicationName" => self.application = value,
            "targetServerType" => {
                self.target = match value.as_str() {
                    "any" => TargetSessionAttrs::Any,
                    "primary" | "master" => TargetSessionAttrs::ReadWrite,
                    _ => return Err("has a targetServerType other than any and primary".into()),
                };
            }
            // Not even its name is logged: after a & of a password it is secret.
            _ => {}
        }
        Ok(())
    }

    fn option(&mut self, setting: &str) {
        let escaped = setting.replace('\\', "\\\\").replace(' ', "\\ ");
        self.options.push_str(&format!(" -c {escaped}"));
    }

    fn ssl(&self) -> (SslMode, Verify) {
        match (self.ssl_mode, self.ssl) {
            (Some(mode), _) => mode,
            // The driver's defaults.
            (None, false) => (SslMode::Prefer, Verify::Nothing),
            (None, true) => (SslMode::Require, Verify::ChainAndName),
        }
    }

    /// Authorities that would not be asked are a mistake.
    fn trust(&self) -> Result<Trust, String> {
        let (_, verify) = self.ssl();
        match (&self.roots, verify) {
            (Some(_), Verify::Nothing) => {
                Err("has sslrootcert without sslmode=verify-ca or sslmode=verify-full".to_owned())
            }
            (roots, verify) => Ok(Trust { verify, roots: roots.clone() }),
        }
    }

    fn config(&self, database: &str) -> Config {
        let mut config = Config::new();
        config.user(&self.user).dbname(database).ssl_mode(self.ssl().0);
        config.application_name(&self.application).target_session_attrs(self.target);
        if !self.password.is_empty() {
            config.password(&self.password);
        }
        if !self.options.trim().is_empty() {
            config.options(self.options.trim());
        }
        config
    }
}

/// `host`, `host:port`, `[::1]:port`; empty ones are the driver's.
fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = match text.rsplit_once(':') {
        // The colon of an address in brackets, or none.
        Some((_, end)) if end.ends_with(']') => (text, ""),
        Some(split) => split,
        None => (text, ""),
    };
    let host = if host.is_empty() { "localhost" } else { host };
    match port {
        "" => Some((host, PORT)),
        port => port.parse().ok().map(|port| (host, port)),
    }
}

/// Without its `%` codes; `None` when they, or the text, are malformed.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'%' => {
                let &[high, low] = after.first_chunk()?;
                let digit = |byte: u8| char::from(byte).to_digit(16);
                bytes.push(u8::try_from(digit(high)? * 16 + digit(low)?).ok()?);
                rest = &after[2..];
            }
            b'+' => bytes.push(b' '),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::Host;

    use super::*;

    fn parsed(rest: &str) -> Result<Address, WriterError> {
        let url = format!("{SCHEME}{rest}");
        let (username, password) = ("me".to_owned(), "s3cret".to_owned());
        parse(&JdbcCatalog { url, username, password, ..Default::default() })
    }

    #[test]
    fn the_forms_of_the_driver_are_understood() {
        for (rest, name) in [
            ("//h:5433/d", "//h:5433/d"),
            ("//h/d?sslmode=disable", "//h:5432/d"),
            ("//h:5433/", "//h:5433/me"),
            ("//h", "//h:5432/me"),
            ("d", "//localhost:5432/d"),
            ("//[::1]:6/d", "//[::1]:6/d"),
            ("//[::1]/d", "//[::1]:5432/d"),
            ("//one:1,two:2/d", "//one:1,two:2/d"),
            ("//h/my%20lake", "//h:5432/my lake"),
        ] {
            assert_eq!(parsed(rest).unwrap().name, format!("{SCHEME}{name}"), "{rest}");
        }
        let six = parsed("//[::1]:6/d").unwrap().config;
        assert_eq!(six.get_hosts(), [Host::Tcp("::1".into())]);
    }

    #[test]
    fn parameters_are_heeded() {
        let address =
            parsed("//h/d?user=you&password=a%26b&sslmode=require&currentSchema=my lake&x=y");
        let config = address.unwrap().config;
        assert_eq!((config.get_user(), config.get_password()), (Some("you"), Some(&b"a&b"[..])));
        assert_eq!(config.get_ssl_mode(), SslMode::Require);
        assert_eq!(config.get_options(), Some("-c search_path=my\\ lake"));
        assert_eq!(parsed("//h/d").unwrap().config.get_ssl_mode(), SslMode::Prefer);
    }

    #[test]
    fn whom_to_trust_is_heeded() {
        for (parameters, mode, verify, roots) in [
            ("", SslMode::Prefer, Verify::Nothing, None),
            ("sslmode=require", SslMode::Require, Verify::Nothing, None),
            ("sslmode=verify-ca", SslMode::Require, Verify::Chain, None),
            ("ssl=true", SslMode::Require, Verify::ChainAndName, None),
            (
                "sslmode=verify-full&sslrootcert=/my%20ca.pem",
                SslMode::Require,
                Verify::ChainAndName,
                Some("/my ca.pem"),
            ),
        ] {
            let address = parsed(&format!("//h/d?{parameters}")).unwrap();
            assert_eq!(address.config.get_ssl_mode(), mode, "{parameters}");
            assert_eq!(address.trust, Trust { verify, roots: roots.map(PathBuf::from) });
        }
    }

    #[test]
    fn what_is_refused_is_named_without_a_secret() {
        for (rest, part) in [
            ("//h:x/d?password=s3cret", "port"),
            ("//h/d?password=s3cret&sslmode=allow", "sslmode=allow"),
            ("//h/d?sslrootcert=/ca.pem&password=s3cret", "sslrootcert without"),
            ("//h/d?password=s3cret%2", "malformed %"),
            ("//h/d?sslkey=s3cret", "sslkey"),
            ("//h/d?user=", "no user"),
            ("//you:s3cret@h:5433/d", "an @"),
        ] {
            let error = parsed(rest).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains("s3cret"), "{rest}: {error}");
        }
        let shown = format!("{:?}", parsed("//h/d?password=s3cret").unwrap());
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
