//! What a command and the services it starts cost: wall, CPU, peak memory.
//!
//! A thread looks at the command's process and its children in /proc while
//! they run. The kernel keeps each one's CPU time and highest resident set
//! (`VmHWM`), so looking seldom loses only what happens after the last look;
//! the total of CPU time comes from the kernel's own account of ended children.

use std::collections::BTreeMap;
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use procfs::process::{Process, all_processes};

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(20);
/// Looks between two searches for new children.
const SEARCH_EVERY: u32 = 5;

/// One process at its end.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// User and system time, in seconds.
    pub cpu: f64,
    /// Highest resident set, in bytes.
    pub peak: u64,
}

/// A command with its children.
#[derive(Clone, Debug)]
pub struct Measured {
    /// From start to exit.
    pub wall: Duration,
    /// User and system time of all processes, in seconds.
    pub cpu: f64,
    /// By the program's name.
    pub processes: BTreeMap<String, Usage>,
}

impl Measured {
    /// Seconds of CPU of a program.
    pub fn cpu_of(&self, program: &str) -> f64 {
        self.processes.get(program).map_or(0.0, |usage| usage.cpu)
    }

    /// Its highest resident set, in bytes.
    pub fn peak_of(&self, program: &str) -> f64 {
        self.processes.get(program).map_or(0.0, |usage| usage.peak as f64)
    }
}

/// Runs the command to its end.
pub fn measure(command: &mut Command) -> Result<(ExitStatus, Measured)> {
    let before = ended_children()?;
    let started = Instant::now();
    let mut child = command.spawn().with_context(|| format!("starting {command:?}"))?;
    let pid = i32::try_from(child.id())?;
    let (stop, stopped) = mpsc::channel::<()>();
    let watcher = std::thread::spawn(move || watch(pid, &stopped));
    let status = child.wait()?;
    let wall = started.elapsed();
    drop(stop);
    let processes = watcher.join().expect("the watcher does not panic");
    let seen: f64 = processes.values().map(|usage| usage.cpu).sum();
    // A child that the command did not wait for is missing from the account.
    let cpu = (ended_children()? - before).max(seen);
    Ok((status, Measured { wall, cpu, processes }))
}

/// Seconds of CPU of all children that ended, and theirs.
fn ended_children() -> Result<f64> {
    let stat = Process::myself()?.stat()?;
    Ok((stat.cutime + stat.cstime) as f64 / procfs::ticks_per_second() as f64)
}

fn watch(pid: i32, stopped: &mpsc::Receiver<()>) -> BTreeMap<String, Usage> {
    let mut watched: BTreeMap<i32, (String, Usage)> = BTreeMap::new();
    let mut looks = 0;
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(INTERVAL) {
        if looks % SEARCH_EVERY == 0 {
            search(pid, &mut watched);
        }
        looks += 1;
        for (pid, (_, usage)) in &mut watched {
            // It may have ended; then what was seen last stands.
            if let Some(now) = look(*pid) {
                *usage = now;
            }
        }
    }
    let mut by_name: BTreeMap<String, Usage> = BTreeMap::new();
    for (name, usage) in watched.into_values() {
        let sum = by_name.entry(name).or_default();
        sum.cpu += usage.cpu;
        sum.peak = sum.peak.max(usage.peak);
    }
    by_name
}

/// Adds the process and its children that are not watched yet.
fn search(root: i32, watched: &mut BTreeMap<i32, (String, Usage)>) {
    let Ok(processes) = all_processes() else { return };
    for process in processes.flatten() {
        if let Ok(stat) = process.stat()
            && (stat.pid == root || stat.ppid == root)
        {
            watched.entry(stat.pid).or_insert_with(|| (stat.comm, Usage::default()));
        }
    }
}

/// `None` when it is gone, or has ended and only waits to be waited for: then
/// its memory is already accounted as nothing.
fn look(pid: i32) -> Option<Usage> {
    let process = Process::new(pid).ok()?;
    let stat = process.stat().ok()?;
    let peak = process.status().ok()?.vmhwm? * 1024;
    let ticks = (stat.utime + stat.stime) as f64;
    Some(Usage { cpu: ticks / procfs::ticks_per_second() as f64, peak })
}
