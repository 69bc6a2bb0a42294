//! TLS to the server: what of its certificate is verified, and our own.
//!
//! Whatever the mode, the handshake's signature is checked: channel binding
//! ties the password to the certificate, so the server must own it.

use std::sync::{Arc, OnceLock};

use proto::v1::ssl::Mode;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::config::SslNegotiation;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::Secret;
use crate::params::Params;

/// What of the server's certificate must be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// `require`: nothing, as libpq without a root certificate.
    Nothing,
    /// `verify-ca`: it chains to a trusted one.
    Chain,
    /// `verify-full`: … and names the host.
    ChainAndName,
}

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
            && let Err(fault) = certificates(&self.server_ca).and_then(|certs| roots_of(&certs))
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
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (roots, pinned) = match self.verify {
            Verify::Nothing => (RootCertStore::empty(), Vec::new()),
            _ if self.server_ca.is_empty() => (system_roots()?, Vec::new()),
            _ => {
                let certs = certificates(&self.server_ca)?;
                (roots_of(&certs)?, certs)
            }
        };
        let versions: &[&rustls::SupportedProtocolVersion] = if params.tls13_only {
            &[&rustls::version::TLS13]
        } else {
            &[&rustls::version::TLS13, &rustls::version::TLS12]
        };
        let verifier = Verifier { provider: provider.clone(), verify: self.verify, roots, pinned };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
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

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certs: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("is not valid PEM: {error}"))?;
    if certs.is_empty() {
        return Err("holds no certificate; PEM begins with -----BEGIN CERTIFICATE-----".to_owned());
    }
    Ok(certs)
}

fn private_key(pem: &Secret) -> Result<PrivateKeyDer<'static>, String> {
    if pem.reveal().contains("ENCRYPTED") {
        return Err("is encrypted; decrypt it with \"openssl pkey -in key.pem\"".to_owned());
    }
    // The parser's own words could show parts of the key.
    PrivateKeyDer::from_pem_slice(pem.reveal().as_bytes())
        .map_err(|_| "holds no private key in PEM".to_owned())
}

fn roots_of(certs: &[CertificateDer<'static>]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for cert in certs {
        roots
            .add(cert.clone())
            .map_err(|error| format!("cannot be used as an authority: {error}"))?;
    }
    Ok(roots)
}

/// The system's trusted certificates, read once.
fn system_roots() -> Result<RootCertStore, String> {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    });
    if roots.is_empty() {
        return Err("this machine has no trusted certificates; give ssl.server_ca".to_owned());
    }
    Ok(roots.clone())
}

/// rustls' verification in the three strengths of `sslmode`.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    verify: Verify,
    roots: RootCertStore,
    /// A server's own certificate given as its authority is trusted as it is:
    /// a self-signed one is often marked as an authority, which the chain check
    /// does not let a server use.
    pinned: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.verify == Verify::Nothing {
            return Ok(ServerCertVerified::assertion());
        }
        let cert = ParsedCertificate::try_from(end_entity)?;
        if !self.pinned.iter().any(|pinned| pinned.as_ref() == end_entity.as_ref()) {
            verify_server_cert_signed_by_trust_anchor(
                &cert,
                &self.roots,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            )?;
        }
        if self.verify == Verify::ChainAndName {
            verify_server_name(&cert, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
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
