//! What was measured, as lines a person reads.

use std::time::Duration;

use super::backlog::Backlog;
use crate::processes::Measured;
use crate::report::{PROGRAMS, busy, median};

/// `pg_recvlogical` and the sync that took its turn after it.
pub struct Round {
    pub floor: Duration,
    pub sync: Measured,
}

impl Round {
    fn ratio(&self) -> f64 {
        self.floor.as_secs_f64() / self.sync.wall.as_secs_f64()
    }
}

/// The table as it grows.
pub struct Report {
    changes: u64,
    rounds: Vec<Round>,
}

impl Report {
    /// Prints what is measured, and the head of the table.
    pub fn begin(backlog: &Backlog) -> Report {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let changes = backlog.changes;
        println!("a backlog of {changes} changes of two tables, half of them in ten transactions,");
        println!("half in one for each; five of ten are updates, three inserts, two deletes");
        let version = &backlog.server().build().version;
        println!("PostgreSQL {version} on this machine, {cores} cores for all");
        busy();
        println!("\n(a) pg_recvlogical: pgoutput of a copy of the slot to /dev/null");
        println!(
            "(b) sync: the whole command, into Iceberg tables, committed and the slot moved\n"
        );
        print!("{:>6} {:<9} {:>7} {:>9} {:>7}", "round", "run", "wall s", "changes/s", "CPU s");
        for program in PROGRAMS {
            print!(" {program:>16}");
        }
        println!(" {:>6}", "a/b");
        println!(
            "{:>42} {:>16} {:>16} {:>16}",
            "", "CPU s  peak MB", "CPU s  peak MB", "CPU s  peak MB"
        );
        Report { changes, rounds: Vec::new() }
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

    fn lines(&self, label: &str, rounds: &[Round]) {
        let floor = median(rounds, |round| round.floor.as_secs_f64());
        println!("{label:>6} (a)       {}", self.speed(floor));
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
        format!("{wall:>7.2} {:>9.0}", self.changes as f64 / wall)
    }
}
