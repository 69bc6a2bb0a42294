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
    installed("venv/bin/python", "the reading engines (DuckDB, pyarrow)")
}

/// The Python that has Iceberg's readers (PyIceberg, DuckDB, ClickHouse) and
/// the Glue catalog.
pub fn iceberg_python() -> Result<PathBuf> {
    installed("iceberg/bin/python", "Iceberg's readers (PyIceberg, DuckDB, ClickHouse)")
}

/// The Python that has grpcio, its compiler of protos, and Arrow Flight.
pub fn grpc_python() -> Result<PathBuf> {
    installed("grpc/bin/python", "gRPC for Python (grpcio, pyarrow)")
}

/// SeaweedFS: the S3 store and the REST catalog.
pub fn weed() -> Result<PathBuf> {
    installed("iceberg/bin/weed", "the S3 store (SeaweedFS)")
}

/// What runs on Java, and the jars it runs: `spark`, `python`, `iceberg`, `jdbc`,
/// `hive`.
pub fn jvm() -> Result<PathBuf> {
    let places = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&places).any(|place| place.join("java").exists()) {
        bail!("Java: there is no java in PATH; install it with: ./build.sh test");
    }
    installed("jvm", "Spark and the Hive metastore")
}

fn installed(path: &str, what: &str) -> Result<PathBuf> {
    let path = root().join(path);
    if !path.exists() {
        bail!("{what}: there is no {}; install it with: ./build.sh test", path.display());
    }
    Ok(path)
}

/// This package's directory. cargo says it to a running test, and build.sh to
/// the demo, which counts: a target directory that two checkouts share may hold
/// a program built in the other one.
pub fn package() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}
