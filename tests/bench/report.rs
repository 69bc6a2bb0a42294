//! What was measured, as lines a person reads: one for each run as it ends,
//! the medians last.

use std::time::Duration;

use crate::processes::Measured;

/// In the order of the columns.
const PROGRAMS: [&str; 3] = ["orchestrator", "source-svc", "writer-svc"];

/// The floor and the sync that took its turn after it.
pub struct Round {
    pub floor: Duration,
    pub sync: Measured,
}

/// What every run moves.
pub struct Work {
    /// What is counted: "rows", "changes".
    pub of: &'static str,
    pub count: u64,
    /// Where it is known, in bytes.
    pub bytes: Option<u64>,
}

/// How many times a round's number says.
#[derive(Clone, Copy)]
pub enum Ratio {
    /// The sync takes as long as the floor: less is better.
    Slower,
    /// The sync is as fast as the floor: more is better.
    Faster,
}

/// The table as it grows.
pub struct Report {
    work: Work,
    /// What the floor is called in its lines.
    floor: &'static str,
    ratio: Ratio,
    rounds: Vec<Round>,
}

impl Report {
    /// Prints the head of the table.
    pub fn begin(work: Work, floor: &'static str, ratio: Ratio) -> Report {
        let report = Report { work, floor, ratio, rounds: Vec::new() };
        let mut head = format!("{:>6} {:<9} {:>7}", "round", "run", "wall s");
        head += &format!(" {:>9}", format!("{}/s", report.work.of));
        if report.work.bytes.is_some() {
            head += &format!(" {:>6}", "MB/s");
        }
        head += &format!(" {:>7}", "CPU s");
        print!("{head}");
        for program in PROGRAMS {
            print!(" {program:>16}");
        }
        let ratio = match ratio {
            Ratio::Slower => "b/a",
            Ratio::Faster => "a/b",
        };
        println!(" {ratio:>6}");
        println!("{:width$} {1:>16} {1:>16} {1:>16}", "", "CPU s  peak MB", width = head.len());
        report
    }

    /// Prints a round.
    pub fn add(&mut self, round: Round) {
        self.rounds.push(round);
        self.lines(&self.rounds.len().to_string(), &self.rounds[self.rounds.len() - 1..]);
    }

    /// Prints the medians, each column for itself.
    pub fn end(&self) {
        println!();
        self.lines("median", &self.rounds);
        println!();
    }

    /// Two lines with the medians over these rounds.
    fn lines(&self, label: &str, rounds: &[Round]) {
        let floor = median(rounds, |round| round.floor.as_secs_f64());
        println!("{label:>6} (a) {:<5} {}", self.floor, self.speed(floor));
        let sync = median(rounds, |round| round.sync.wall.as_secs_f64());
        let cpu = median(rounds, |round| round.sync.cpu);
        print!("{:>6} (b) {:<5} {} {cpu:>7.2}", "", "sync", self.speed(sync));
        for program in PROGRAMS {
            let cpu = median(rounds, |round| round.sync.cpu_of(program));
            let peak = median(rounds, |round| round.sync.peak_of(program) / 1e6);
            print!(" {cpu:>7.2} {peak:>8.0}");
        }
        println!(" {:>6.2}", median(rounds, |round| self.ratio(round)));
    }

    fn ratio(&self, round: &Round) -> f64 {
        let (floor, sync) = (round.floor.as_secs_f64(), round.sync.wall.as_secs_f64());
        match self.ratio {
            Ratio::Slower => sync / floor,
            Ratio::Faster => floor / sync,
        }
    }

    fn speed(&self, wall: f64) -> String {
        let speed = format!("{wall:>7.2} {:>9.0}", self.work.count as f64 / wall);
        match self.work.bytes {
            Some(bytes) => format!("{speed} {:>6.0}", bytes as f64 / 1e6 / wall),
            None => speed,
        }
    }
}

/// Bytes as megabytes.
pub fn mega(bytes: u64) -> u64 {
    (bytes + 500_000) / 1_000_000
}

/// How many cores the machine has for all that runs.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
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
fn median<T>(rounds: &[T], value: impl Fn(&T) -> f64) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}
