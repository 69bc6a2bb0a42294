//! Where installed parts lie, and what to say when one is missing.
//!
//! `./build.sh test` installs them; a test never installs anything and never
//! passes silently without what it needs.

use std::path::PathBuf;

use anyhow::{Result, bail};

/// `$TIDEWATER_PARTS`, else `/var/cache/tidewater` for root and
/// `~/.cache/tidewater` for others.
pub fn root() -> PathBuf {
    if let Some(path) = std::env::var_os("TIDEWATER_PARTS") {
        return PathBuf::from(path);
    }
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/cache/tidewater");
    }
    let home = std::env::var_os("HOME").unwrap_or_else(|| "/".into());
    PathBuf::from(home).join(".cache/tidewater")
}

/// The Python that has DuckDB and pyarrow.
pub fn python() -> Result<PathBuf> {
    let python = root().join("venv/bin/python");
    if !python.exists() {
        bail!(
            "the reading engines (DuckDB, pyarrow) are missing: no {}; install them with: ./build.sh test",
            python.display()
        );
    }
    Ok(python)
}

/// This package's directory. cargo says it to a running test, and build.sh to
/// the demo, which counts: a target directory that two checkouts share may hold
/// a program built in the other one.
pub fn package() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}
