//! TLS between the services: one authority for a deployment, and for each
//! process a certificate of that authority, which it shows as server and as
//! client.
//!
//! | a process has | it listens with | it dials `https://` with |
//! |---|---|---|
//! | certificate, key, authority | TLS; clients must show a certificate | the same certificate |
//! | certificate, key | TLS; clients need none | (nothing to trust) |
//! | authority | no TLS | no certificate of its own |
//!
//! Off loopback nothing goes in the clear unless the user says that the network
//! is trusted. With it go the bounds of the other side: how long it may be silent,
//! how many calls it may have in flight.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

use crate::error::Fault;
use crate::limits;
use crate::v1::ErrorCode;

/// The flags of every process that listens or dials.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct TlsArgs {
    /// PEM file of this process's certificate and what leads to the authority.
    #[arg(long, env = "TIDEWATER_TLS_CERT", requires = "tls_key", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// PEM file of the certificate's key.
    #[arg(long, env = "TIDEWATER_TLS_KEY", requires = "tls_cert", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// PEM file of the authority that the other side's certificate must be signed by.
    #[arg(long, env = "TIDEWATER_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,

    /// Speak without TLS to other machines, too: the network is trusted.
    #[arg(long, env = "TIDEWATER_PLAINTEXT", num_args = 0..=1, require_equals = true,
          default_value_t = false, default_missing_value = "true", value_name = "BOOL")]
    pub plaintext: bool,

    /// Seconds that the other side of a connection may be silent before it counts as
    /// gone. Both sides ask; a busy one answers.
    #[arg(long, env = "TIDEWATER_PEER_TIMEOUT", value_name = "SECONDS",
          value_parser = clap::value_parser!(u16).range(1..))]
    pub peer_timeout: Option<u16>,
}

/// What a process shows and whom it trusts. The default has nothing and speaks
/// in the clear on this machine only.
#[derive(Clone, Default)]
pub struct Tls {
    identity: Option<Identity>,
    authority: Option<Certificate>,
    plaintext: bool,
    peer_timeout: Option<Duration>,
    streams_per_peer: Option<u16>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(…)")
    }
}

impl TlsArgs {
    /// Reads the files.
    pub fn read(&self) -> Result<Tls, Fault> {
        let certificate = self.tls_cert.as_deref().map(pem).transpose()?;
        let key = self.tls_key.as_deref().map(pem).transpose()?;
        let identity =
            certificate.zip(key).map(|(certificate, key)| Identity::from_pem(certificate, key));
        let authority = self.tls_ca.as_deref().map(pem).transpose()?;
        let authority = authority.map(Certificate::from_pem);
        let peer_timeout = self.peer_timeout.map(|seconds| Duration::from_secs(seconds.into()));
        let plaintext = self.plaintext;
        Ok(Tls { identity, authority, plaintext, peer_timeout, streams_per_peer: None })
    }
}

fn pem(path: &Path) -> Result<String, Fault> {
    let problem = match std::fs::read_to_string(path) {
        Ok(text) if text.contains("-----BEGIN ") => return Ok(text),
        Ok(_) => "it holds no PEM text (-----BEGIN …)".to_owned(),
        Err(error) => error.to_string(),
    };
    let message = format!("reading {}: {problem}", path.display());
    Err(Fault::new(ErrorCode::InvalidConfig, message)
        .remedy("correct --tls-cert, --tls-key or --tls-ca"))
}

impl Tls {
    /// Of a listener; `None`: it speaks in the clear.
    pub fn server(&self) -> Option<ServerTlsConfig> {
        let identity = self.identity.clone()?;
        let config = ServerTlsConfig::new().identity(identity).timeout(self.connect_timeout());
        Some(match &self.authority {
            Some(authority) => config.client_ca_root(authority.clone()),
            None => config,
        })
    }

    /// For a service whose certificate must be for `name`.
    pub fn client(&self, name: &str) -> Result<ClientTlsConfig, Fault> {
        let authority = self.authority.clone().ok_or_else(|| {
            let message = "no authority is known that https:// addresses could be verified by";
            Fault::new(ErrorCode::InvalidConfig, message)
                .remedy("give --tls-ca, the certificate of the services' authority")
        })?;
        let config = ClientTlsConfig::new()
            .ca_certificate(authority)
            .domain_name(name)
            .timeout(self.connect_timeout());
        Ok(match &self.identity {
            Some(identity) => config.identity(identity.clone()),
            None => config,
        })
    }

    /// Whether addresses without a scheme are https.
    pub fn verifies(&self) -> bool {
        self.authority.is_some()
    }

    /// How long the other side may be silent before it counts as gone.
    pub fn peer_timeout(&self) -> Duration {
        self.peer_timeout.unwrap_or(limits::PEER_TIMEOUT)
    }

    /// The same with another bound of the calls that one peer may have in flight.
    pub fn with_streams_per_peer(self, streams: u16) -> Self {
        Tls { streams_per_peer: Some(streams), ..self }
    }

    /// Calls that one peer may have in flight, over all its connections.
    pub fn streams_per_peer(&self) -> usize {
        self.streams_per_peer.unwrap_or(limits::STREAMS_PER_PEER).into()
    }

    /// When a silent peer is asked whether it is there, and how long it then has.
    pub fn keepalive(&self) -> (Duration, Duration) {
        let whole = self.peer_timeout();
        (whole / 3, whole - whole / 3)
    }

    /// How long a connection, and the first answer over it, may take.
    pub fn connect_timeout(&self) -> Duration {
        limits::CONNECT_TIMEOUT.min(self.peer_timeout())
    }

    /// Whether other machines may be spoken to in the clear.
    pub fn allows_plaintext(&self) -> bool {
        self.plaintext
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_no_pem_are_named() {
        let tls_ca = Some(PathBuf::from("/no/such/file"));
        let missing = TlsArgs { tls_ca, ..Default::default() }.read().unwrap_err();
        assert!(missing.message.contains("/no/such/file"), "{missing}");
        let tls_ca = Some(PathBuf::from("Cargo.toml"));
        let other = TlsArgs { tls_ca, ..Default::default() }.read().unwrap_err();
        assert!(other.message.contains("no PEM"), "{other}");
    }

    #[test]
    fn a_silent_peer_is_asked_in_time() {
        assert_eq!(Tls::default().peer_timeout(), limits::PEER_TIMEOUT);
        let tls = TlsArgs { peer_timeout: Some(3), ..Default::default() }.read().unwrap();
        assert_eq!(tls.keepalive(), (Duration::from_secs(1), Duration::from_secs(2)));
        assert_eq!(tls.connect_timeout(), Duration::from_secs(3));
    }

    #[test]
    fn without_files_there_is_no_tls_and_no_plaintext_either() {
        let tls = TlsArgs::default().read().unwrap();
        assert!(tls.server().is_none() && !tls.verifies() && !tls.allows_plaintext());
        assert!(tls.client("h").unwrap_err().remedy.contains("--tls-ca"));
    }
}
