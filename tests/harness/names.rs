//! Host names of a test's own, for the programs that it starts.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::parts;

/// Names and what they stand for now (libnss_wrapper).
#[derive(Debug)]
pub struct Names {
    hosts: PathBuf,
    library: PathBuf,
}

impl Names {
    /// Keeps them in a file of `directory`; each a name and an address.
    pub fn new(directory: &Path, names: &[(&str, &str)]) -> Result<Names> {
        let own = Names { hosts: directory.join("hosts"), library: library()? };
        own.write(names)?;
        Ok(own)
    }

    /// From now on they stand for these.
    pub fn write(&self, names: &[(&str, &str)]) -> Result<()> {
        let lines: String =
            names.iter().map(|(name, address)| format!("{address} {name}\n")).collect();
        let next = self.hosts.with_extension("next");
        std::fs::write(&next, lines)?;
        Ok(std::fs::rename(next, &self.hosts)?)
    }

    /// The command will look names up here.
    pub fn apply(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).env("NSS_WRAPPER_HOSTS", &self.hosts);
    }
}

fn library() -> Result<PathBuf> {
    let libraries = parts::root().join("openssh/usr/lib");
    let mut places = std::fs::read_dir(&libraries).into_iter().flatten().flatten();
    places
        .find_map(|place| {
            let library = place.path().join("libnss_wrapper.so");
            library.exists().then_some(library)
        })
        .with_context(|| {
            format!("no libnss_wrapper in {}; unpack it with: ./build.sh test", libraries.display())
        })
}
