//! The SSH tunnel of `ssh_config`: TCP → SSH → host key checked → login →
//! direct-tcpip channel to the server.
//!
//! Each session has a tunnel of its own, which ends with it. Nothing secret is
//! sent before the server's key has been found in known_hosts.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use russh::ChannelStream;
use russh::client::{self, AuthResult, Handle, Msg};
use russh::keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::config::SshTunnel;
use crate::error::SourceError;
use crate::known_hosts::{KnownHosts, Verdict};

/// A silent SSH server is asked after this time whether it lives, and again
/// three times; then the tunnel ends.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// A stream to the server inside an SSH connection; dropping it ends both.
pub struct Tunnel {
    stream: ChannelStream<Msg>,
    /// Ends the SSH connection with the stream.
    _connection: Handle<HostKeyCheck>,
}

/// Opens a tunnel to `host:port` as seen from the SSH server, over `tcp`,
/// which is connected to that.
pub async fn open(
    config: &SshTunnel,
    tcp: TcpStream,
    host: &str,
    port: u16,
) -> Result<Tunnel, SourceError> {
    let known = KnownHosts::read(&config.known_hosts, &config.host, config.port);
    let mut ssh =
        client::Config { keepalive_interval: Some(KEEPALIVE), nodelay: true, ..Default::default() };
    ssh.preferred.key = known.preferred_algorithms(&ssh.preferred.key).into();
    let check = HostKeyCheck { target: config.clone(), known };
    let mut connection =
        client::connect_stream(Arc::new(ssh), tcp, check).await.map_err(|error| match error {
            TunnelError::HostKey(error) => error,
            TunnelError::Ssh(error) => failed(config, &error),
        })?;
    log_in(config, &mut connection).await?;
    let channel = connection
        .channel_open_direct_tcpip(host, port.into(), "127.0.0.1", 0)
        .await
        .map_err(|error| no_channel(config, host, port, &error))?;
    Ok(Tunnel { stream: channel.into_stream(), _connection: connection })
}

async fn log_in(
    config: &SshTunnel,
    connection: &mut Handle<HostKeyCheck>,
) -> Result<(), SourceError> {
    let mut tried = Vec::new();
    if !config.private_key.is_empty() {
        tried.push("private_key");
        let key = read_key(config).await?;
        // An RSA key signs with the best hash that the server knows.
        let hash = if key.algorithm().is_rsa() {
            let best = connection.best_supported_rsa_hash().await;
            best.map_err(|error| failed(config, &error))?.unwrap_or(Some(HashAlg::Sha256))
        } else {
            None
        };
        let key = PrivateKeyWithHashAlg::new(Arc::new(key), hash);
        let answer = connection.authenticate_publickey(&config.username, key).await;
        if accepted(config, answer)? {
            return Ok(());
        }
    }
    if !config.password.is_empty() {
        tried.push("password");
        let password = config.password.reveal();
        let answer = connection.authenticate_password(&config.username, password).await;
        if accepted(config, answer)? {
            return Ok(());
        }
    }
    Err(SourceError::Ssh {
        target: label(config),
        what: format!(
            "the SSH server refused user {:?} with its {}",
            config.username,
            tried.join(" and its ")
        ),
        remedy: "check username, private_key and password in ssh_config, and that the server \
                 allows this way to log in"
            .to_owned(),
        transient: false,
        login: true,
    })
}

fn accepted(
    config: &SshTunnel,
    answer: Result<AuthResult, russh::Error>,
) -> Result<bool, SourceError> {
    answer.map(|result| result.success()).map_err(|error| failed(config, &error))
}

/// Decrypting a key takes a while by design, so it leaves the async threads.
async fn read_key(config: &SshTunnel) -> Result<PrivateKey, SourceError> {
    let (pem, passphrase) = (config.private_key.clone(), config.passphrase.clone());
    let locked = !passphrase.is_empty();
    let decoded = tokio::task::spawn_blocking(move || {
        let passphrase = Some(passphrase.reveal()).filter(|text| !text.is_empty());
        russh::keys::decode_secret_key(pem.reveal(), passphrase)
    });
    let failure = match decoded.await {
        Ok(Ok(key)) => return Ok(key),
        Ok(Err(russh::keys::Error::KeyIsEncrypted)) => "is encrypted and there is no passphrase",
        Ok(Err(_)) if locked => "cannot be read, or ssh_config.passphrase does not open it",
        Ok(Err(_)) => "cannot be read",
        Err(_) => {
            return Err(SourceError::Internal("reading the SSH key was cut short".to_owned()));
        }
    };
    Err(SourceError::Config(vec![format!(
        "ssh_config.private_key: {failure}; give an OpenSSH or PEM key, and ssh_config.passphrase \
         if it has one"
    )]))
}

fn label(config: &SshTunnel) -> String {
    format!("{}:{}", config.host, config.port)
}

fn failed(config: &SshTunnel, error: &russh::Error) -> SourceError {
    SourceError::Ssh {
        target: label(config),
        what: crate::error::chain(error),
        remedy: "check host and port in ssh_config, and that an SSH server answers there"
            .to_owned(),
        transient: !matches!(error, russh::Error::NoCommonAlgo { .. } | russh::Error::Version),
        login: false,
    }
}

fn no_channel(config: &SshTunnel, host: &str, port: u16, error: &russh::Error) -> SourceError {
    use russh::ChannelOpenFailure as Failure;
    let (why, transient) = match error {
        russh::Error::ChannelOpenFailure(Failure::AdministrativelyProhibited) => {
            ("the SSH server does not allow forwarding", false)
        }
        russh::Error::ChannelOpenFailure(Failure::ConnectFailed) => {
            ("the SSH server could not connect there", true)
        }
        _ => return failed(config, error),
    };
    SourceError::Ssh {
        target: label(config),
        what: format!("{why} ({host}:{port})"),
        remedy: "check that `host` and `port` are right as seen from the SSH server, and that its \
                 AllowTcpForwarding and PermitOpen permit them"
            .to_owned(),
        transient,
        login: false,
    }
}

/// Why the SSH connection could not be made.
enum TunnelError {
    HostKey(SourceError),
    Ssh(russh::Error),
}

impl std::fmt::Debug for TunnelError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TunnelError::HostKey(error) => error.fmt(f),
            TunnelError::Ssh(error) => error.fmt(f),
        }
    }
}

impl From<russh::Error> for TunnelError {
    fn from(error: russh::Error) -> Self {
        TunnelError::Ssh(error)
    }
}

/// Accepts the server only under a key that known_hosts has for it.
struct HostKeyCheck {
    target: SshTunnel,
    known: KnownHosts,
}

impl client::Handler for HostKeyCheck {
    type Error = TunnelError;

    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> Result<bool, TunnelError> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else {
            // We never ask for one.
            return Ok(false);
        };
        let line = || {
            let base = key.to_openssh().unwrap_or_default();
            let plain = base.split(' ').take(2).collect::<Vec<_>>().join(" ");
            format!("{} {plain}", self.known.name())
        };
        let fingerprint = key.fingerprint(HashAlg::Sha256);
        let (what, remedy) = match self.known.judge(key) {
            Verdict::Known => return Ok(true),
            Verdict::Unknown => (
                format!("known_hosts has no key for it; it showed {fingerprint}"),
                format!(
                    "compare the fingerprint with its administrator's, then add this line to \
                     known_hosts: {}",
                    line()
                ),
            ),
            Verdict::Changed { line: number } => (
                format!(
                    "its key is not the one in line {number} of known_hosts; it showed \
                     {fingerprint}: somebody may be listening in"
                ),
                format!(
                    "only if its administrator confirms the new key, replace line {number} of \
                     known_hosts with: {}",
                    line()
                ),
            ),
            Verdict::Revoked => (
                format!("known_hosts marks its key {fingerprint} as revoked"),
                "ask its administrator for the server's new key".to_owned(),
            ),
        };
        Err(TunnelError::HostKey(SourceError::Ssh {
            target: label(&self.target),
            what,
            remedy,
            transient: false,
            login: true,
        }))
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
