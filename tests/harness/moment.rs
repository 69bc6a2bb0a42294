//! Moments of a sync, observed from outside: what state.json says, what is
//! staged, which processes and sessions live.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde_json::Value;

use crate::postgres::Database;
use crate::run::{Project, Running, children, poll};
use crate::watch;

/// state.json as it is now; null while there is none.
pub fn state(project: &Project) -> Result<Value> {
    match project.path().join("state.json").exists() {
        true => project.read("state.json"),
        false => Ok(Value::Null),
    }
}

/// What a state has of the stream `public.<name>`; null: nothing.
pub fn stream<'a>(state: &'a Value, name: &str) -> &'a Value {
    let streams = state["streams"].as_array().map(Vec::as_slice).unwrap_or_default();
    streams
        .iter()
        .find(|entry| entry["stream"] == name)
        .map_or(&Value::Null, |entry| &entry["state"])
}

/// The manifests of the chunks of `public.<name>` that a state knows as staged.
pub fn staged(state: &Value, name: &str) -> Vec<PathBuf> {
    let staged = stream(state, name)["load"]["staged"].as_array();
    let manifest = |chunk: &Value| chunk["manifest"].as_str().map(PathBuf::from);
    staged.into_iter().flatten().filter_map(manifest).collect()
}

/// Whether a state says that `public.<name>` is staged but for its last chunk.
pub fn all_but_one(state: &Value, name: &str) -> bool {
    let left = stream(state, name)["chunks"].as_array().map_or(0, Vec::len);
    left == 1 && !staged(state, name).is_empty()
}

/// Whether a state says that `public.<name>` is committed.
pub fn committed(state: &Value, name: &str) -> bool {
    let stream = stream(state, name);
    stream["chunks"].as_array().is_some_and(Vec::is_empty) && stream["load"].is_null()
}

/// Waits until state.json is as wanted; fails when the sync ends before.
pub fn reached(
    project: &Project,
    sync: &mut Running,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let mut seen = Value::Null;
    poll(what, || {
        let ended = sync.ended()?;
        seen = state(project)?;
        if ended && !wanted(&seen) {
            bail!("the sync ended before: {}", sync.stop()?);
        }
        Ok(wanted(&seen))
    })?;
    Ok(seen)
}

/// The services that a local sync has started: (source-svc, writer-svc).
pub fn services(sync: &Running) -> Result<(u32, u32)> {
    let children = children(sync.pid())?;
    let of = |name: &str| children.iter().find(|(_, known)| known == name).map(|(pid, _)| *pid);
    match (of("source-svc"), of("writer-svc")) {
        (Some(source), Some(writer)) => Ok((source, writer)),
        _ => bail!("the sync has other children: {children:?}"),
    }
}

/// Waits until none of these processes lives.
pub fn gone(pids: &[u32]) -> Result<()> {
    let lives = |pid: &u32| {
        // "1234 (name) S …": a zombie is only waiting to be noticed.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| !stat[stat.rfind(')').unwrap_or(0)..].starts_with(") Z"))
    };
    poll("no process is left over", || Ok(!pids.iter().any(lives)))
}

/// Waits until no session of ours is left in the database.
pub fn no_sessions(database: &Database) -> Result<()> {
    poll("no session is left over", || {
        let count = database.psql(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
             AND application_name LIKE 'tidewater%'",
        )?;
        Ok(count == "0")
    })
}

/// What lies below the output beyond what readers see, locks left aside.
pub fn leftovers(project: &Project) -> Vec<PathBuf> {
    let mut found = watch::files(&project.output());
    found.retain(|path| {
        let hidden = path.components().any(|part| part.as_os_str() == ".tidewater");
        let lock =
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".lock-"));
        hidden && !lock
    });
    found
}

/// Waits until so many files are new; false: the sync ended before.
pub fn new_files(
    root: &Path,
    before: &BTreeSet<PathBuf>,
    sync: &mut Running,
    aim: usize,
) -> Result<bool> {
    let mut seen = BTreeSet::new();
    let mut ended = false;
    poll("files are new", || {
        ended = sync.ended()?;
        seen.extend(watch::files(root).into_iter().filter(|file| !before.contains(file)));
        Ok(ended || (seen.len() >= aim && services(sync).is_ok()))
    })?;
    Ok(!ended)
}
