//! A certificate authority made for one server, by the `openssl` program.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// PEM files of one authority and what it signed.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The authority's certificate: what a client trusts.
    pub authority: PathBuf,
    /// The server's certificate for `localhost` and 127.0.0.1.
    pub server: PathBuf,
    /// Its key.
    pub server_key: PathBuf,
    /// A client's certificate with the common name given to [`Certificates::make`].
    pub client: PathBuf,
    /// Its key.
    pub client_key: PathBuf,
}

impl Certificates {
    /// Makes an authority, a server certificate valid for `server_names`
    /// ("DNS:localhost", "IP:127.0.0.1") and a client certificate for
    /// `client`, all in `dir`.
    pub fn make(dir: &Path, server_names: &[&str], client: &str) -> Result<Self> {
        let path = |name: &str| dir.join(name);
        authority(&path("ca.crt"), &path("ca.key"))?;
        let names = format!("subjectAltName={}", server_names.join(","));
        signed(dir, "server", "server", &names)?;
        signed(dir, "client", client, "extendedKeyUsage=clientAuth")?;
        Ok(Certificates {
            authority: path("ca.crt"),
            server: path("server.crt"),
            server_key: path("server.key"),
            client: path("client.crt"),
            client_key: path("client.key"),
        })
    }
}

const NEW_KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

fn authority(certificate: &Path, key: &Path) -> Result<()> {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-days", "30", "-subj", "/CN=Tidewater test authority"]);
    command.args(["-addext", "keyUsage=critical,keyCertSign,cRLSign"]);
    command.args(NEW_KEY).arg("-keyout").arg(key).arg("-out").arg(certificate);
    run(command)
}

fn signed(dir: &Path, name: &str, common_name: &str, extension: &str) -> Result<()> {
    let path = |suffix: &str| dir.join(format!("{name}.{suffix}"));
    let mut request = Command::new("openssl");
    request.args(["req", "-subj", &format!("/CN={common_name}")]).args(NEW_KEY);
    request.arg("-keyout").arg(path("key")).arg("-out").arg(path("csr"));
    run(request)?;
    std::fs::write(path("ext"), format!("basicConstraints=CA:FALSE\n{extension}\n"))?;
    let mut sign = Command::new("openssl");
    sign.args(["x509", "-req", "-days", "30", "-CAcreateserial"]);
    sign.arg("-CA").arg(dir.join("ca.crt")).arg("-CAkey").arg(dir.join("ca.key"));
    sign.arg("-in").arg(path("csr")).arg("-out").arg(path("crt")).arg("-extfile").arg(path("ext"));
    run(sign)
}

fn run(mut command: Command) -> Result<()> {
    let output = command.output().context("running openssl (is it installed?)")?;
    if !output.status.success() {
        bail!("openssl failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
