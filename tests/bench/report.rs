//! What was measured, as lines a person reads: one for each run as it ends,
//! the medians last.

use std::time::Duration;

use crate::database::Trips;
use crate::processes::Measured;
use crate::sync::{Format, Output};

/// In the order of the columns.
pub const PROGRAMS: [&str; 3] = ["orchestrator", "source-svc", "writer-svc"];

/// The floor and the sync that took its turn after it.
pub struct Round {
    pub floor: Duration,
    pub sync: Measured,
}

impl Round {
    fn ratio(&self) -> f64 {
        self.sync.wall.as_secs_f64() / self.floor.as_secs_f64()
    }
}

/// The table as it grows.
pub struct Report {
    rows: u64,
    bytes: u64,
    rounds: Vec<Round>,
}

impl Report {
    /// Prints what is measured, and the head of the table.
    pub fn begin(trips: &Trips, bytes: u64, max_threads: u32, format: Format) -> Report {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        println!(
            "full load of {} rows × 20 columns, {} MB of COPY BINARY",
            trips.rows,
            mega(bytes)
        );
        println!(
            "PostgreSQL {} on this machine, {cores} cores for all; max_threads {max_threads}",
            trips.server.build().version
        );
        busy();
        println!("\n(a) floor: two parallel psql COPY … TO STDOUT (FORMAT binary) > /dev/null");
        let table = match format {
            Format::Parquet => "zstd Parquet",
            Format::Iceberg => "an Iceberg table of zstd Parquet",
        };
        println!("(b) sync: the whole command, to {table}, normalized, with metadata columns\n");
        print!(
            "{:>6} {:<9} {:>7} {:>9} {:>6} {:>7}",
            "round", "run", "wall s", "rows/s", "MB/s", "CPU s"
        );
        for program in PROGRAMS {
            print!(" {program:>16}");
        }
        println!(" {:>6}", "b/a");
        println!(
            "{:>49} {:>16} {:>16} {:>16}",
            "", "CPU s  peak MB", "CPU s  peak MB", "CPU s  peak MB"
        );
        Report { rows: trips.rows, bytes, rounds: Vec::new() }
    }

    /// Prints a round.
    pub fn add(&mut self, round: Round) {
        self.rounds.push(round);
        self.lines(&self.rounds.len().to_string(), &self.rounds[self.rounds.len() - 1..]);
    }

    /// Prints the medians, each column for itself, and what was written.
    pub fn end(&self, output: &Output) {
        println!();
        self.lines("median", &self.rounds);
        println!(
            "\n{} MB of COPY BINARY became {} MB in {} Parquet files.",
            mega(self.bytes),
            mega(output.bytes),
            output.files
        );
    }

    /// Two lines with the medians over these rounds.
    fn lines(&self, label: &str, rounds: &[Round]) {
        let floor = median(rounds, |round| round.floor.as_secs_f64());
        println!("{label:>6} (a) floor {}", self.speed(floor));
        let sync = median(rounds, |round| round.sync.wall.as_secs_f64());
        let cpu = median(rounds, |round| round.sync.cpu);
        print!("{:>6} (b) sync  {} {cpu:>7.2}", "", self.speed(sync));
        for program in PROGRAMS {
            let cpu = median(rounds, |round| round.sync.cpu_of(program));
            let peak = median(rounds, |round| round.sync.peak_of(program) / 1e6);
            print!(" {cpu:>7.2} {peak:>8.0}");
        }
        println!(" {:>6.2}", median(rounds, Round::ratio));
    }

    fn speed(&self, wall: f64) -> String {
        let rows = self.rows as f64 / wall;
        let bytes = self.bytes as f64 / 1e6 / wall;
        format!("{wall:>7.2} {rows:>9.0} {bytes:>6.0}")
    }
}

fn mega(bytes: u64) -> u64 {
    (bytes + 500_000) / 1_000_000
}

/// Says so when others may disturb what is measured.
pub fn busy() {
    if let Ok(load) = procfs::Current::current().map(|load: procfs::LoadAverage| load.one)
        && load > 0.5
    {
        println!(
            "careful: the machine was busy in the last minute (load {load:.1}; part may be ours)"
        );
    }
}

/// The middle value; of an even number, the mean of the two in the middle.
pub fn median<T>(rounds: &[T], value: impl Fn(&T) -> f64) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}
