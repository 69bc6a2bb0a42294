//! stats.json: how a running sync fares, for whoever watches the file.
//!
//! Every two seconds and once at the end, replaced atomically. A write that
//! fails is told once and never fails the sync.

use std::path::PathBuf;
use std::time::Duration;

use procfs::process::Process;
use serde::Serialize;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::progress::{Counters, Progress};
use crate::state::file::write_atomically;

const EVERY: Duration = Duration::from_secs(2);

/// The file's content, under the driver's names.
#[derive(Debug, PartialEq, Serialize)]
struct Stats {
    /// Chunks on their way to a writer.
    #[serde(rename = "Writer Threads")]
    writer_threads: u64,
    #[serde(rename = "Synced Records")]
    synced_records: u64,
    /// Of COPY's binary form.
    #[serde(rename = "Bytes Read")]
    bytes_read: u64,
    /// Rows per second since the start.
    #[serde(rename = "Speed")]
    speed: String,
    #[serde(rename = "Seconds Elapsed")]
    seconds_elapsed: String,
    #[serde(rename = "Estimated Remaining Time")]
    estimated_remaining_time: String,
    /// Resident, this process and the services it started.
    #[serde(rename = "Memory Usage Bytes")]
    memory_usage_bytes: u64,
    /// Of the same since the last time; one core in full is 100 %.
    #[serde(rename = "CPU Utilization")]
    cpu_utilization: String,
    #[serde(flatten)]
    lag: Option<LagStats>,
}

/// Of change capture.
#[derive(Debug, PartialEq, Serialize)]
struct LagStats {
    /// Of the log, not confirmed yet.
    #[serde(rename = "Lag Bytes")]
    bytes: u64,
    /// Since the tables were what the source was; null: not known yet.
    #[serde(rename = "Lag Seconds")]
    seconds: Option<f64>,
    /// WAL that the server holds for the slot.
    #[serde(rename = "Retained WAL Bytes")]
    retained: u64,
    /// How much more it may before the slot is lost; null: no limit.
    #[serde(rename = "Safe WAL Bytes")]
    safe: Option<i64>,
}

/// What our processes use.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    memory_bytes: u64,
    cpu_seconds: f64,
}

/// Writes the file until it is stopped.
pub struct StatsWriter {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl StatsWriter {
    /// Begins to write `path`, counting the processes `pids` beside our own.
    pub fn start(path: PathBuf, progress: Progress, pids: Vec<u32>) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut sampler = Sampler { path, progress, pids, last: None, told: false };
            loop {
                let last = stopped.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none();
                match tokio::task::spawn_blocking(move || sampler.write()).await {
                    Ok(back) if !last => sampler = back,
                    _ => return,
                }
            }
        });
        StatsWriter { stop, task }
    }

    /// Writes the last numbers and ends.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::warn!("writing stats.json: {error}");
        }
    }
}

struct Sampler {
    path: PathBuf,
    progress: Progress,
    pids: Vec<u32>,
    /// Seconds since the start and CPU seconds, the last time.
    last: Option<(f64, f64)>,
    told: bool,
}

impl Sampler {
    fn write(mut self) -> Self {
        let counters = self.progress.counters();
        let usage = measure(&self.pids);
        let (then, spent) = self.last.unwrap_or((0.0, 0.0));
        let wall = counters.seconds - then;
        // A process that ended took its seconds along.
        let cores = if wall > 0.0 { (usage.cpu_seconds - spent).max(0.0) / wall } else { 0.0 };
        self.last = Some((counters.seconds, usage.cpu_seconds));
        let mut text = serde_json::to_string_pretty(&stats(&counters, &usage, cores))
            .expect("numbers and texts always serialise");
        text.push('\n');
        if let Err(error) = write_atomically(&self.path, text.as_bytes())
            && !std::mem::replace(&mut self.told, true)
        {
            tracing::warn!("writing {}: {error}", self.path.display());
        }
        self
    }
}

fn stats(counters: &Counters, usage: &Usage, cores: f64) -> Stats {
    let seconds = counters.seconds;
    let rows_per_second = if seconds > 0.0 { counters.rows as f64 / seconds } else { 0.0 };
    let remaining = if counters.fraction > 0.0 {
        format!("{:.2} s", seconds / counters.fraction * (1.0 - counters.fraction))
    } else {
        "Not Determined".to_owned()
    };
    Stats {
        writer_threads: counters.reading,
        synced_records: counters.rows,
        bytes_read: counters.bytes,
        speed: format!("{rows_per_second:.2} rps"),
        seconds_elapsed: format!("{seconds:.2}"),
        estimated_remaining_time: remaining,
        memory_usage_bytes: usage.memory_bytes,
        cpu_utilization: format!("{:.2}%", cores * 100.0),
        lag: counters.lag.map(|lag| LagStats {
            bytes: lag.bytes,
            seconds: lag.seconds.map(|seconds| (seconds * 100.0).round() / 100.0),
            retained: lag.held.retained_bytes,
            safe: lag.held.safe_bytes,
        }),
    }
}

/// Over this process and `pids`; one that has ended counts nothing. Blocks.
fn measure(pids: &[u32]) -> Usage {
    let page = procfs::page_size();
    let tick = procfs::ticks_per_second() as f64;
    let mut usage = Usage::default();
    for pid in pids.iter().copied().chain([std::process::id()]) {
        let Ok(pid) = i32::try_from(pid) else { continue };
        let Ok(stat) = Process::new(pid).and_then(|process| process.stat()) else { continue };
        usage.memory_bytes += stat.rss * page;
        usage.cpu_seconds += (stat.utime + stat.stime) as f64 / tick;
    }
    usage
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sync::lag::{HeldWal, Measured};

    #[test]
    fn the_file_has_the_drivers_keys() {
        let counters = Counters {
            rows: 1000,
            bytes: 64_000,
            reading: 3,
            seconds: 4.0,
            fraction: 0.25,
            lag: None,
        };
        let usage = Usage { memory_bytes: 1 << 20, cpu_seconds: 1.0 };
        let value = serde_json::to_value(stats(&counters, &usage, 1.5)).unwrap();
        let expected = serde_json::json!({
            "Writer Threads": 3, "Synced Records": 1000, "Bytes Read": 64000,
            "Speed": "250.00 rps", "Seconds Elapsed": "4.00",
            "Estimated Remaining Time": "12.00 s", "Memory Usage Bytes": 1048576,
            "CPU Utilization": "150.00%"
        });
        assert_eq!(value, expected);
        let held = HeldWal { retained_bytes: 9, safe_bytes: None };
        let lag = Some(Measured { bytes: 7, seconds: Some(1.234), held });
        let value =
            serde_json::to_value(stats(&Counters { lag, ..counters }, &usage, 1.5)).unwrap();
        assert_eq!((&value["Lag Bytes"], &value["Lag Seconds"]), (&json!(7), &json!(1.23)));
        assert_eq!(
            (&value["Retained WAL Bytes"], &value["Safe WAL Bytes"]),
            (&json!(9), &json!(null))
        );
        let nothing = stats(&Counters::default(), &usage, 0.0);
        assert_eq!(nothing.estimated_remaining_time, "Not Determined");
        assert_eq!(nothing.speed, "0.00 rps");
    }

    #[test]
    fn our_own_process_uses_memory_and_a_dead_one_none() {
        let ours = measure(&[]);
        assert!(ours.memory_bytes > 0);
        assert!(measure(&[u32::MAX]).memory_bytes > 0);
    }

    #[tokio::test]
    async fn the_last_numbers_are_written_when_it_stops() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stats.json");
        let progress = Progress::new(vec!["public.t".into()], false);
        let writer = StatsWriter::start(path.clone(), progress.clone(), vec![]);
        progress.read(0, 0, 42, 420);
        writer.stop().await;
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains("\"Synced Records\": 42"), "{text}");
    }
}
