//! state.json and stats.json: what is documented, and whole at every moment.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use tests::gate::{self, CHUNK, Gate, STREAMS};
use tests::run::{Project, poll};
use tests::{moment, verify};

/// "0/198C935".
fn is_lsn(value: &Value) -> bool {
    let hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    let text = value.as_str().unwrap_or_default();
    text.split_once('/').is_some_and(|(high, low)| hex(high) && hex(low))
}

#[test]
fn the_state_is_as_documented_while_loading_and_after() -> Result<()> {
    let project = gate::project("state_shape")?;
    let gate = Gate::shut(project.database(), "second")?;
    let mut sync = project.start(&Project::SYNC)?;
    let state = moment::reached(&project, &mut sync, "all but one chunk is staged", |state| {
        moment::staged(state, "a").len() == 4 && moment::committed(state, "b")
    })?;
    assert_eq!(state["type"], "GLOBAL");
    assert!(is_lsn(&state["global"]["state"]["lsn"]), "{state:#}");
    assert_eq!(state["global"]["streams"], json!([]));
    let streams = state["streams"].as_array().context("streams")?;
    let a = streams.iter().find(|entry| entry["stream"] == "a").context("a")?;
    assert_eq!((&a["namespace"], &a["sync_mode"]), (&json!("public"), &json!("full_refresh")));
    // What is still to load: the last chunk, open above.
    let min = format!("'({},0)'", 4 * CHUNK);
    assert_eq!(a["state"]["chunks"], json!([{"min": min, "max": null}]), "{state:#}");
    let password = tests::postgres::PASSWORD;
    ensure!(!state.to_string().contains(&password[..5]), "the state holds a secret");
    drop(gate);
    sync.wait()?.succeeded()?;
    let state = moment::state(&project)?;
    assert_eq!(state["type"], "GLOBAL");
    for name in ["a", "b"] {
        assert_eq!(moment::stream(&state, name), &json!({"chunks": []}), "{state:#}");
    }
    Ok(())
}

#[test]
fn chunks_of_another_program_without_a_snapshot_are_dropped() -> Result<()> {
    let project = gate::project("foreign_state")?;
    for kind in ["GLOBAL", "STREAM"] {
        let chunks = json!([{"min": "'(0,0)'", "max": "'(2,0)'"}]);
        project.write(
            "state.json",
            &json!({"type": kind, "global": {"state": {"lsn": "0/198C935"}, "streams": ["public.b"]},
                    "streams": [{"stream": "a", "namespace": "public", "sync_mode": "cdc",
                                 "state": {"chunks": chunks}}]}),
        )?;
        project.sync()?;
        verify::same_as_source(&project, &STREAMS)?;
        assert_eq!(moment::state(&project)?["type"], "GLOBAL");
    }
    Ok(())
}

/// Parses a file again and again; it may be absent only in the beginning.
struct Watched {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
}

impl Watched {
    fn start(path: &Path) -> Watched {
        let (path, stop) = (path.to_owned(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut read = 0;
            while !stopped.load(Ordering::Relaxed) {
                match std::fs::read_to_string(&path) {
                    Ok(text) => {
                        let parsed = serde_json::from_str::<Value>(&text);
                        parsed.with_context(|| format!("{}: {text:?}", path.display()))?;
                        read += 1;
                    }
                    Err(_) if read == 0 => {}
                    Err(error) => return Err(anyhow!("{}: {error}", path.display())),
                }
                std::thread::yield_now();
            }
            Ok(read)
        });
        Watched { stop, thread }
    }

    fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the watching thread panicked"))?
    }
}

#[test]
fn both_files_are_whole_at_every_moment() -> Result<()> {
    let project = gate::project("whole_files")?;
    let watched =
        ["state.json", "stats.json"].map(|file| (file, Watched::start(&project.path().join(file))));
    let gate = Gate::shut(project.database(), "second")?;
    let mut sync = project.start(&Project::SYNC)?;
    // Written every two seconds, so also in the middle.
    poll("stats are written", || {
        ensure!(!sync.ended()?, "the sync ended: {}", sync.stop()?);
        Ok(project.path().join("stats.json").exists())
    })?;
    let during = project.read("stats.json")?;
    drop(gate);
    sync.wait()?.succeeded()?;
    for (file, watched) in watched {
        ensure!(watched.stop()? > 0, "{file} was never read");
    }
    let after = project.read("stats.json")?;
    for stats in [&during, &after] {
        let keys: Vec<&str> =
            stats.as_object().context("an object")?.keys().map(String::as_str).collect();
        let mut documented = [
            "Writer Threads",
            "Synced Records",
            "Bytes Read",
            "Speed",
            "Seconds Elapsed",
            "Estimated Remaining Time",
            "Memory Usage Bytes",
            "CPU Utilization",
        ];
        documented.sort_unstable();
        let mut keys = keys;
        keys.sort_unstable();
        assert_eq!(keys, documented);
    }
    assert_eq!(during["Writer Threads"], 1);
    assert_eq!(after["Synced Records"], 4 * CHUNK + 100 + 50);
    assert_eq!(after["Writer Threads"], 0);
    let mut names: Vec<String> = std::fs::read_dir(project.path())?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    names.retain(|name| name.contains("tmp"));
    assert_eq!(names, Vec::<String>::new());
    Ok(())
}

#[test]
fn two_runs_do_not_share_a_state() -> Result<()> {
    let project = gate::project("second_run")?;
    let gate = Gate::shut(project.database(), "second")?;
    let mut sync = project.start(&Project::SYNC)?;
    moment::reached(&project, &mut sync, "the sync is at work", |state| state["run"].is_object())?;
    let said = project.run(&Project::SYNC)?.failed()?;
    ensure!(said.contains("another run") && said.contains(&sync.pid().to_string()), "{said}");
    drop(gate);
    sync.wait()?.succeeded()?;
    verify::same_as_source(&project, &STREAMS)
}
