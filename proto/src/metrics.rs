//! The figures that a process can be watched by, all in one place. Names are
//! OpenTelemetry's: Prometheus has `_` for each dot, then the unit, then, of
//! counters, `_total` (`tidewater.sent.rows` is `tidewater_sent_rows_total`).
//!
//! Labels are bounded: `stream` by the selected streams, the others by lists in
//! the code. Without an exporter nothing is counted.

use std::sync::LazyLock;
use std::time::Instant;

pub use opentelemetry::KeyValue;
use opentelemetry::global;
use opentelemetry::metrics::{Counter, Histogram, Meter, UpDownCounter};

use crate::v1::{CommitRecord, ErrorCode};

/// Bounds of the buckets of what is timed, in seconds.
const SECONDS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// What is counted at several places.
struct Shared {
    errors: Counter<u64>,
    queue: UpDownCounter<i64>,
    streams: UpDownCounter<i64>,
    chunks: UpDownCounter<i64>,
}

// Made at first use, which is after the exporters are.
static SHARED: LazyLock<Shared> = LazyLock::new(|| {
    let meter = meter();
    Shared {
        errors: meter
            .u64_counter("tidewater.errors")
            .with_description("Calls (of the orchestrator: attempts) that failed, by kind of error")
            .build(),
        queue: meter
            .i64_up_down_counter("tidewater.queue.batches")
            .with_description("Record batches that wait between two stages of this service")
            .build(),
        streams: meter
            .i64_up_down_counter("tidewater.staging.streams")
            .with_description("Streams of record batches that are being staged")
            .build(),
        chunks: meter
            .i64_up_down_counter("tidewater.sync.waiting.chunks")
            .with_description("Chunks of a load that wait for a reader")
            .build(),
    }
});

/// What instruments are made with.
pub fn meter() -> Meter {
    global::meter("tidewater")
}

/// Counts a fault of the given kind.
pub fn failed(code: ErrorCode) {
    let name = code.as_str_name().trim_start_matches("ERROR_CODE_").to_ascii_lowercase();
    SHARED.errors.add(1, &[KeyValue::new("kind", name)]);
}

/// Batches of one stream that go past.
pub struct Flow {
    rows: Counter<u64>,
    bytes: Counter<u64>,
    batches: Counter<u64>,
    labels: [KeyValue; 2],
}

/// What source-svc sends to writers. `kind`: "load" or "changes".
pub fn sent(stream: &str, kind: &'static str) -> Flow {
    static SENT: LazyLock<Flow> = LazyLock::new(|| Flow::new("tidewater.sent", "sent to writers"));
    SENT.of(stream, kind)
}

/// What writer-svc receives. `kind`: of [`crate::v1::stage_request::Kind`].
pub fn received(stream: &str, kind: &'static str) -> Flow {
    static RECEIVED: LazyLock<Flow> =
        LazyLock::new(|| Flow::new("tidewater.received", "received to be staged"));
    RECEIVED.of(stream, kind)
}

impl Flow {
    fn new(name: &'static str, what: &str) -> Self {
        let meter = meter();
        let none = || KeyValue::new("", "");
        Flow {
            rows: meter
                .u64_counter(format!("{name}.rows"))
                .with_description(format!("Rows {what}, by stream"))
                .build(),
            bytes: meter
                .u64_counter(name)
                .with_unit("By")
                .with_description(format!("Bytes of record batches {what}, by stream"))
                .build(),
            batches: meter
                .u64_counter(format!("{name}.batches"))
                .with_description(format!("Record batches {what}, by stream"))
                .build(),
            labels: [none(), none()],
        }
    }

    fn of(&self, stream: &str, kind: &'static str) -> Self {
        let (rows, bytes, batches) = (self.rows.clone(), self.bytes.clone(), self.batches.clone());
        let labels = [KeyValue::new("stream", stream.to_owned()), KeyValue::new("kind", kind)];
        Flow { rows, bytes, batches, labels }
    }

    /// One batch.
    pub fn add(&self, rows: u64, bytes: u64) {
        self.rows.add(rows, &self.labels);
        self.bytes.add(bytes, &self.labels);
        self.batches.add(1, &self.labels);
    }
}

/// Something that is there as long as this is.
pub struct Held(&'static UpDownCounter<i64>);

impl Held {
    fn of(counter: &'static UpDownCounter<i64>) -> Self {
        counter.add(1, &[]);
        Held(counter)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.add(-1, &[]);
    }
}

/// A batch that waits for the next stage.
pub fn queued() -> Held {
    Held::of(&SHARED.queue)
}

/// A stream that is being staged.
pub fn staging() -> Held {
    Held::of(&SHARED.streams)
}

/// A chunk that waits for a reader.
pub fn waiting() -> Held {
    Held::of(&SHARED.chunks)
}

/// Commits, as they are made or as they are asked for.
pub struct Commits {
    duration: Histogram<f64>,
    rows: Counter<u64>,
    bytes: Counter<u64>,
    files: Counter<u64>,
}

/// Commits that writer-svc makes.
pub fn made() -> &'static Commits {
    static MADE: LazyLock<Commits> = LazyLock::new(|| Commits::new("tidewater.commit"));
    &MADE
}

/// Commits that a sync asks for, each with all of its attempts.
pub fn synced() -> &'static Commits {
    static SYNCED: LazyLock<Commits> = LazyLock::new(|| Commits::new("tidewater.sync.commit"));
    &SYNCED
}

impl Commits {
    fn new(name: &'static str) -> Self {
        let meter = meter();
        Commits {
            duration: meter
                .f64_histogram(format!("{name}.duration"))
                .with_unit("s")
                .with_boundaries(SECONDS.to_vec())
                .with_description("How long commits took, by their outcome")
                .build(),
            rows: meter
                .u64_counter(format!("{name}.rows"))
                .with_description("Rows that were committed, by stream")
                .build(),
            bytes: meter
                .u64_counter(name)
                .with_unit("By")
                .with_description("Bytes of the files that were committed, by stream")
                .build(),
            files: meter
                .u64_counter(format!("{name}.files"))
                .with_description("Files that were committed, by stream")
                .build(),
        }
    }

    /// One begins.
    pub fn begin(&'static self, stream: &str) -> Commit {
        let outcome = "failed";
        Commit { commits: self, stream: stream.to_owned(), began: Instant::now(), outcome }
    }
}

/// A commit that is under way; unless it says that it was made, it has failed.
pub struct Commit {
    commits: &'static Commits,
    stream: String,
    began: Instant,
    outcome: &'static str,
}

impl Commit {
    /// It is left to another call.
    pub fn left(mut self) {
        self.outcome = "left";
    }

    /// It is made; `already`: by an earlier attempt, of which this one has learnt.
    pub fn made(mut self, record: &CommitRecord, already: bool) {
        if already {
            self.outcome = "already_made";
            return;
        }
        self.outcome = "made";
        let stream = [KeyValue::new("stream", self.stream.clone())];
        self.commits.rows.add(record.rows, &stream);
        self.commits.bytes.add(record.bytes, &stream);
        self.commits.files.add(record.files, &stream);
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        let outcome = [KeyValue::new("outcome", self.outcome)];
        self.commits.duration.record(self.began.elapsed().as_secs_f64(), &outcome);
    }
}

/// Memory and CPU time of this process.
pub(crate) fn observe_process() {
    let stat = || procfs::process::Process::myself().and_then(|process| process.stat()).ok();
    meter()
        .u64_observable_gauge("process.memory.usage")
        .with_unit("By")
        .with_description("Memory that is resident")
        .with_callback(move |memory| {
            if let Some(stat) = stat() {
                memory.observe(stat.rss * procfs::page_size(), &[]);
            }
        })
        .build();
    meter()
        .f64_observable_counter("process.cpu.time")
        .with_unit("s")
        .with_description("CPU time, of the system's calls as well")
        .with_callback(move |seconds| {
            if let Some(stat) = stat() {
                let ticks = (stat.utime + stat.stime) as f64;
                seconds.observe(ticks / procfs::ticks_per_second() as f64, &[]);
            }
        })
        .build();
}
