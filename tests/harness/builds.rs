//! The PostgreSQL builds found on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::parts;

/// The oldest and the newest major that `./build.sh test` installs.
const INSTALLED: [u32; 2] = [14, 18];

/// One installed PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// 14, 15, …
    pub major: u32,
    /// "15.19", as `postgres --version` says.
    pub version: String,
    /// Holds `postgres`, `initdb`, `psql`.
    pub bin: PathBuf,
    /// To be put on `LD_LIBRARY_PATH`; none for a system installation.
    pub lib: Option<PathBuf>,
}

impl Build {
    /// Every build found, one per major, oldest first; an error when none is.
    /// `TIDEWATER_TEST_PG` (a major) narrows the choice to one.
    pub fn all() -> Result<Vec<Build>> {
        let mut found: Vec<Build> = Vec::new();
        for (bin, lib) in candidates() {
            let build = Build::look(bin, lib)?;
            match found.iter_mut().find(|known| known.major == build.major) {
                // The parts' own builds come first in `candidates` and win.
                Some(_) => {}
                None => found.push(build),
            }
        }
        found.sort_by_key(|build| build.major);
        if let Ok(wanted) = std::env::var("TIDEWATER_TEST_PG") {
            found.retain(|build| build.major.to_string() == wanted);
            if found.is_empty() {
                bail!(
                    "TIDEWATER_TEST_PG={wanted}, but no PostgreSQL {wanted} was found; install it with: ./build.sh test"
                );
            }
        }
        if found.is_empty() {
            bail!(
                "no PostgreSQL server was found in {}/postgres nor /usr/lib/postgresql; install one with: ./build.sh test",
                parts::root().display()
            );
        }
        Ok(found)
    }

    /// Every build found, of two majors at least: for what must hold on more
    /// than one. Only `TIDEWATER_TEST_PG` says that one is enough.
    pub fn several() -> Result<Vec<Build>> {
        let found = Build::all()?;
        if std::env::var_os("TIDEWATER_TEST_PG").is_none() {
            enough(&found.iter().map(|build| build.major).collect::<Vec<_>>())?;
        }
        Ok(found)
    }

    /// The newest build: what most tests run on.
    pub fn newest() -> Result<Build> {
        Ok(Build::all()?.pop().expect("all() is never empty"))
    }

    fn look(bin: PathBuf, lib: Option<PathBuf>) -> Result<Build> {
        let mut build = Build { major: 0, version: String::new(), bin, lib };
        let output = build
            .command("postgres")
            .arg("--version")
            .output()
            .with_context(|| format!("running {}/postgres", build.bin.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // "postgres (PostgreSQL) 15.19 (Debian …)"
        let version = text.split_whitespace().nth(2).unwrap_or_default().to_owned();
        build.major = version
            .split(|c: char| !c.is_ascii_digit())
            .next()
            .and_then(|major| major.parse().ok())
            .with_context(|| format!("reading the version of {}: {text:?}", build.bin.display()))?;
        build.version = version;
        Ok(build)
    }

    /// A command that runs one of this build's programs, under our own account.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.program(program));
        if let Some(lib) = &self.lib {
            command.env("LD_LIBRARY_PATH", lib);
        }
        command
    }

    /// Path of one of this build's programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

/// Refuses fewer than two majors: says which is missing and how to get it.
pub fn enough(majors: &[u32]) -> Result<()> {
    if majors.len() >= 2 {
        return Ok(());
    }
    let missing = INSTALLED.iter().filter(|major| !majors.contains(major));
    let missing: Vec<String> = missing.map(|major| format!("PostgreSQL {major}")).collect();
    bail!(
        "this runs on two PostgreSQL majors at least, and found {majors:?}: {} missing; install \
         them with ./build.sh test (the package index must be reachable), or say with \
         TIDEWATER_TEST_PG=<major> that one is enough",
        match missing.as_slice() {
            [one] => format!("{one} is"),
            several => format!("{} are", several.join(" and ")),
        }
    )
}

/// (bin, lib) of everything that looks like a build.
fn candidates() -> Vec<(PathBuf, Option<PathBuf>)> {
    let mut found = Vec::new();
    for dir in children(&parts::root().join("postgres")) {
        found.push((dir.join("bin"), Some(dir.join("lib"))));
    }
    for dir in children(Path::new("/usr/lib/postgresql")) {
        found.push((dir.join("bin"), None));
    }
    found.retain(|(bin, _)| bin.join("postgres").exists() && bin.join("initdb").exists());
    found
}

/// Subdirectories in descending order of their names; none if there is no
/// such directory.
fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut dirs: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    dirs.retain(|path| path.is_dir());
    dirs.sort();
    dirs.reverse();
    dirs
}
