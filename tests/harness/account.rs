//! The account servers run under: PostgreSQL refuses to run as root.

use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Who servers run as: ourselves, or, when we are root, `postgres`, else
/// `nobody`.
#[derive(Clone, Debug)]
pub struct Account {
    switch_to: Option<(u32, u32)>,
}

impl Account {
    /// Looks the account up in `/etc/passwd`.
    pub fn find() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Account { switch_to: None });
        }
        let passwd = std::fs::read_to_string("/etc/passwd").context("reading /etc/passwd")?;
        for wanted in ["postgres", "nobody"] {
            for line in passwd.lines() {
                let fields: Vec<&str> = line.split(':').collect();
                if let [name, _, uid, gid, ..] = fields[..]
                    && name == wanted
                {
                    return Ok(Account { switch_to: Some((uid.parse()?, gid.parse()?)) });
                }
            }
        }
        bail!("we are root and there is neither an account postgres nor nobody to run PostgreSQL")
    }

    /// Its user and group id.
    pub fn ids(&self) -> (u32, u32) {
        let ourselves =
            || (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        self.switch_to.unwrap_or_else(ourselves)
    }

    /// A command that runs `program` under this account.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        match self.switch_to {
            None => Command::new(program),
            Some((uid, gid)) => {
                let mut command = Command::new("setpriv");
                command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}"));
                command.args(["--clear-groups", "--"]).arg(program);
                command
            }
        }
    }

    /// Gives `path` to the account.
    pub fn own(&self, path: &Path) -> Result<()> {
        if let Some((uid, gid)) = self.switch_to {
            chown(path, Some(uid), Some(gid))
                .with_context(|| format!("giving {} to the server's account", path.display()))?;
        }
        Ok(())
    }
}
