//! TLS to a PostgreSQL server, for both services that connect to one: what of its
//! certificate is verified.
//!
//! Whatever the strength, the handshake's signature is checked: channel binding
//! ties the password to the certificate, so the server must own it.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    WantsClientCert, verify_server_cert_signed_by_trust_anchor, verify_server_name,
};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};

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

/// rustls' verification in the three strengths of `sslmode`.
#[derive(Debug)]
pub struct Verifier {
    provider: Arc<CryptoProvider>,
    verify: Verify,
    roots: RootCertStore,
    /// A server's own certificate given as its authority is trusted as it is:
    /// a self-signed one is often marked as an authority, which the chain check
    /// does not let a server use.
    pinned: Vec<CertificateDer<'static>>,
}

impl Verifier {
    /// `server_ca` is PEM text; empty: the system's certificates, which are read
    /// where they matter, and that blocks the first time. An error says what is
    /// wrong with the text, or that there are none.
    pub fn new(verify: Verify, server_ca: &str) -> Result<Self, String> {
        let (roots, pinned) = match verify {
            Verify::Nothing => (RootCertStore::empty(), Vec::new()),
            _ if server_ca.is_empty() => (system_roots()?, Vec::new()),
            _ => {
                let certs = certificates(server_ca)?;
                (roots_of(&certs)?, certs)
            }
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Ok(Verifier { provider, verify, roots, pinned })
    }

    /// A client's configuration up to its own certificate.
    pub fn client(
        self,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, String> {
        Ok(ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(versions)
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self)))
    }
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

/// The certificates in a PEM text; an error says what is wrong with it.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certs: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("is not valid PEM: {error}"))?;
    if certs.is_empty() {
        return Err("holds no certificate; PEM begins with -----BEGIN CERTIFICATE-----".to_owned());
    }
    Ok(certs)
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
        return Err("this machine has no trusted certificates".to_owned());
    }
    Ok(roots.clone())
}
