//! TLS to the server, as `source.json` asks for it: what of its certificate is
//! verified ([`proto::tls`]), and our own.

use proto::tls::{Verifier, Verify, certificates};
use proto::v1::ssl::Mode;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use tokio_postgres::config::SslNegotiation;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::Secret;
use crate::params::Params;

/// TLS as configured; PEM texts, each empty when absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    pub verify: Verify,
    /// Empty: the system's certificates.
    pub server_ca: String,
    pub client_cert: String,
    pub client_key: Secret,
}

/// As `source.json` writes it.
pub fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Disable => "disable",
        Mode::Require => "require",
        Mode::VerifyCa => "verify-ca",
        Mode::VerifyFull => "verify-full",
    }
}

impl TlsConfig {
    /// Adds what is wrong with the PEM texts to `faults`.
    pub fn check(&self, faults: &mut Vec<String>) {
        if !self.server_ca.is_empty()
            && let Err(fault) = Verifier::new(Verify::Chain, &self.server_ca)
        {
            faults.push(format!("ssl.server_ca: {fault}"));
        }
        if self.client_cert.is_empty() != self.client_key.is_empty() {
            faults
                .push("ssl: client_cert and client_key belong together; one is missing".to_owned());
        } else if !self.client_cert.is_empty() {
            if let Err(fault) = certificates(&self.client_cert) {
                faults.push(format!("ssl.client_cert: {fault}"));
            }
            if let Err(fault) = private_key(&self.client_key) {
                faults.push(format!("ssl.client_key: {fault}"));
            }
        }
    }

    /// Builds the connector. Reads the system's certificates where `server_ca`
    /// is empty and they matter, which blocks the first time.
    pub fn connector(&self, params: &Params) -> Result<MakeRustlsConnect, String> {
        let versions: &[&rustls::SupportedProtocolVersion] = if params.tls13_only {
            &[&rustls::version::TLS13]
        } else {
            &[&rustls::version::TLS13, &rustls::version::TLS12]
        };
        let verifier = Verifier::new(self.verify, &self.server_ca);
        let builder =
            verifier.map_err(|problem| format!("{problem} (ssl.server_ca)"))?.client(versions)?;
        let mut config = if self.client_cert.is_empty() {
            builder.with_no_client_auth()
        } else {
            builder
                .with_client_auth_cert(
                    certificates(&self.client_cert)?,
                    private_key(&self.client_key)?,
                )
                .map_err(|error| format!("the client certificate and its key: {error}"))?
        };
        if params.ssl_negotiation == SslNegotiation::Direct {
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        Ok(MakeRustlsConnect::new(config))
    }
}

fn private_key(pem: &Secret) -> Result<PrivateKeyDer<'static>, String> {
    if pem.reveal().contains("ENCRYPTED") {
        return Err("is encrypted; decrypt it with \"openssl pkey -in key.pem\"".to_owned());
    }
    // The parser's own words could show parts of the key.
    PrivateKeyDer::from_pem_slice(pem.reveal().as_bytes())
        .map_err(|_| "holds no private key in PEM".to_owned())
}

/// What to do about a failed handshake, from what TLS said of it.
pub fn remedy(said: &str) -> &'static str {
    if said.contains("does not support TLS") {
        "turn TLS on at the server (ssl = on), or set ssl.mode to \"disable\" if the network \
         is trusted"
    } else if said.contains("UnknownIssuer") || said.contains("BadSignature") {
        // The latter of an authority of the same name with another key.
        "give the authority that signed the server's certificate as ssl.server_ca"
    } else if said.contains("not valid for name") || said.contains("NotValidForName") {
        "use the host name that the certificate has as subjectAltName, or ssl.mode \"verify-ca\""
    } else if said.contains("xpired") {
        "renew the server's certificate"
    } else if said.contains("alert") {
        "the server refused us: check ssl.client_cert and ssl.client_key, and that it speaks \
         TLS 1.2 or later"
    } else {
        "check ssl in the source configuration and the server's certificate"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(server_ca: &str, client_cert: &str, client_key: &str) -> Vec<String> {
        let config = TlsConfig {
            verify: Verify::Chain,
            server_ca: server_ca.into(),
            client_cert: client_cert.into(),
            client_key: Secret::new(client_key),
        };
        let mut faults = Vec::new();
        config.check(&mut faults);
        faults
    }

    #[test]
    fn bad_pem_is_found_before_anything_connects() {
        assert!(faults("", "", "").is_empty());
        assert!(faults("/etc/ssl/ca.pem", "", "")[0].contains("ssl.server_ca"));
        assert!(faults("", "x", "")[0].contains("belong together"));
        let both = faults("", "x", "-----BEGIN ENCRYPTED PRIVATE KEY-----");
        assert!(both[0].contains("client_cert") && both[1].contains("is encrypted"), "{both:?}");
    }
}
