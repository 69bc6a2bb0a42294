//! Progress as lines, for a log file.

use std::time::{Duration, Instant};

use crate::output;

/// Time between two lines over everything.
const EVERY: Duration = Duration::from_secs(10);

pub(super) struct Plain {
    last_total: Instant,
}

impl Plain {
    pub(super) fn new() -> Self {
        Plain { last_total: Instant::now() }
    }

    pub(super) fn line(&self, line: &str) {
        output::human(line);
    }

    pub(super) fn total(&mut self, line: &str) {
        if self.last_total.elapsed() >= EVERY {
            self.last_total = Instant::now();
            output::human(format_args!("progress: {line}"));
        }
    }
}
