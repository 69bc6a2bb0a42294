//! Where a service is, as users and the orchestrator write it.
//!
//! | address | means |
//! |---|---|
//! | `host:port` | `https://` where the caller knows an authority, else `http://` |
//! | `http://host:port` | in the clear |
//! | `https://host:port` | TLS; the certificate must be for `host` |
//! | `https://name@address:port` | TLS at one of a name's addresses; the certificate must be for `name` |
//! | `unix-abstract:name` | a socket of this machine |

use tonic::codegen::http::Uri;

use crate::error::Fault;
use crate::listen;
use crate::secure::Tls;
use crate::v1::ErrorCode;

/// What to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// What the transport dials.
    pub uri: String,
    /// Whom the certificate must be for; `None`: no TLS.
    pub server_name: Option<String>,
    /// Whether it is of this machine.
    pub is_local: bool,
}

/// The address with what it leaves out: its scheme.
pub fn absolute(address: &str, tls: &Tls) -> String {
    if address.contains("://") || address.starts_with(listen::LOCAL) {
        return address.to_owned();
    }
    let scheme = if tls.verifies() { "https" } else { "http" };
    format!("{scheme}://{address}")
}

impl Address {
    /// Takes an address apart; `service` is for the message.
    pub fn parse(address: &str, service: &str, tls: &Tls) -> Result<Self, Fault> {
        if let Some(name) = address.strip_prefix(listen::LOCAL) {
            let uri = format!("unix:{}", listen::socket(name));
            return Ok(Address { uri, server_name: None, is_local: true });
        }
        let bad = |why: &str| {
            let message = format!("{address:?} is no address of a {service} (host:port): {why}");
            Fault::new(ErrorCode::InvalidConfig, message)
        };
        let uri: Uri = absolute(address, tls).parse().map_err(|e| bad(&format!("{e}")))?;
        let authority = uri.authority().ok_or_else(|| bad("it has no host"))?;
        let (name, place) = match authority.as_str().rsplit_once('@') {
            Some((name, place)) => (name, place),
            None => (authority.host(), authority.as_str()),
        };
        let host = authority.host().trim_matches(['[', ']']);
        let ip = host.parse::<std::net::IpAddr>();
        let is_local = host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback());
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad("its scheme is neither http nor https")),
        };
        let name = name.trim_matches(['[', ']']).to_owned();
        let scheme = if secure { "https" } else { "http" };
        Ok(Address {
            uri: format!("{scheme}://{place}"),
            server_name: secure.then_some(name),
            is_local,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_say_whom_to_trust_and_whether_they_are_of_this_machine() {
        let tls = Tls::default();
        for (given, uri, name, is_local) in [
            ("h:1", "http://h:1", None, false),
            ("localhost:1", "http://localhost:1", None, true),
            ("http://127.0.0.9:1", "http://127.0.0.9:1", None, true),
            ("http://[::1]:1", "http://[::1]:1", None, true),
            ("https://h:1", "https://h:1", Some("h"), false),
            ("https://w@10.0.0.3:1", "https://10.0.0.3:1", Some("w"), false),
            ("https://[fe80::1]:1", "https://[fe80::1]:1", Some("fe80::1"), false),
            ("unix-abstract:x", "unix:\0x", None, true),
        ] {
            let server_name = name.map(str::to_owned);
            let expected = Address { uri: uri.to_owned(), server_name, is_local };
            assert_eq!(Address::parse(given, "writer-svc", &tls).unwrap(), expected, "{given}");
        }
        for bad in ["", "ftp://h:1", "h h:1"] {
            let fault = Address::parse(bad, "writer-svc", &tls).unwrap_err();
            assert!(fault.message.contains("no address of a writer-svc"), "{bad}: {fault}");
        }
    }
}
