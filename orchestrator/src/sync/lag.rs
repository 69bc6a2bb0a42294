//! How far the tables are behind the source, and what that costs the server:
//! WAL that it keeps for the slot. In the progress lines, in stats.json, in the
//! summary; and as a warning where it is more than a user wants.

use std::time::{Duration, Instant, SystemTime};

use proto::lsn::Lsn;
use serde::Serialize;

use crate::config::source::UpdateMethod;
use crate::progress::human;

/// Between two warnings of the same kind.
pub const WARN_AGAIN: Duration = Duration::from_secs(300);

/// WAL that the server keeps for the slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct HeldWal {
    pub retained_bytes: u64,
    /// How much more it may be before the slot is lost; none: no limit.
    pub safe_bytes: Option<i64>,
}

impl HeldWal {
    /// What the user should know of it. `logs`: in trouble, which the slot is held for.
    pub fn line(&self, slot: &str, much: u64, logs: &[String]) -> String {
        let held = human::bytes(self.retained_bytes);
        let left = self.safe_bytes.map(|bytes| human::bytes(bytes.max(0).unsigned_abs()));
        let much = self.is_much(much);
        let left = left.map(|left| format!(", and may hold {left} more before it is lost"));
        let held_for = match logs {
            [] => String::new(),
            [log] => format!(", which is held for the log of {log}"),
            [log, others @ ..] => {
                format!(", which is held for the logs of {log} and {} more", others.len())
            }
        };
        format!(
            "{}: the server holds {held} of WAL for the replication slot {slot}{held_for}{}{}",
            if much { "warning" } else { "note" },
            left.unwrap_or_default(),
            match (much, logs) {
                (false, _) => "",
                (true, []) => "; sync more often, and look for transactions that are open for long",
                (true, _) => "; put right what is said of that, or give the log up",
            },
        )
    }

    /// Whether it is `much` bytes, or more than there is left.
    fn is_much(&self, much: u64) -> bool {
        let scarce = |left: i64| left < 0 || left.unsigned_abs() < self.retained_bytes;
        self.retained_bytes >= much || self.safe_bytes.is_some_and(scarce)
    }
}

/// Where the tables are, as of the last look.
#[derive(Clone, Copy, Debug)]
pub struct Lag {
    end: Lsn,
    confirmed: Lsn,
    held: HeldWal,
    /// When the log was asked where it ends.
    looked: Instant,
    /// The tables are what the source was then; none: not known yet.
    as_of: Option<Instant>,
}

/// The same in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Of the log, of whichever databases and tables.
    pub bytes: u64,
    /// Since the tables were what the source was.
    pub seconds: Option<f64>,
    #[serde(flatten)]
    pub held: HeldWal,
}

impl Lag {
    /// The log ends at `end` now, and is confirmed up to `confirmed`.
    pub fn look(before: Option<&Lag>, confirmed: Lsn, end: Lsn, held: HeldWal) -> Self {
        let looked = Instant::now();
        let as_of = before.and_then(|lag| lag.as_of);
        let mut lag = Lag { end, confirmed, held, looked, as_of };
        lag.reach(confirmed, 0);
        lag
    }

    /// Everything up to `to` is confirmed, the last of which was committed at
    /// `committed_at` (microseconds since 1970; 0: nothing was).
    pub fn reach(&mut self, to: Lsn, committed_at: i64) {
        self.confirmed = self.confirmed.max(to);
        if self.confirmed >= self.end {
            self.as_of = Some(self.looked);
        } else if let Some(age) = age(committed_at) {
            // A clock that is ahead of the server's tells nothing new.
            let then = Instant::now().checked_sub(age).map(|then| then.min(self.looked));
            self.as_of = self.as_of.max(then);
        }
    }

    /// What the server says after a confirmation.
    pub fn hold(&mut self, end: Lsn, held: HeldWal) {
        // When the log ended there is not known; where it did is.
        self.end = self.end.max(end);
        self.held = held;
    }

    /// As of now.
    pub fn measure(&self) -> Measured {
        Measured {
            bytes: self.end.0.saturating_sub(self.confirmed.0),
            seconds: self.as_of.map(|then| then.elapsed().as_secs_f64()),
            held: self.held,
        }
    }
}

impl Measured {
    /// As a part of a progress line.
    pub fn line(&self) -> String {
        let seconds = self.seconds.map(|seconds| format!(" and {}", human::seconds(seconds)));
        format!(
            "{}{} behind, {} of WAL held",
            human::bytes(self.bytes),
            seconds.unwrap_or_default(),
            human::bytes(self.held.retained_bytes)
        )
    }

    /// What is more than the user wants, each with the setting that says so.
    /// `logs`: as for [`HeldWal::line`].
    pub fn warnings(&self, method: &UpdateMethod, logs: &[String]) -> Vec<(&'static str, String)> {
        let mut warnings = Vec::new();
        if self.held.is_much(method.retained_wal_warning) {
            let line = self.held.line(&method.replication_slot, method.retained_wal_warning, logs);
            warnings.push(("retained_wal_warning_mb", line));
        }
        let late = self
            .seconds
            .zip(method.lag_warning)
            .filter(|(behind, limit)| *behind >= limit.as_secs_f64());
        if let Some((behind, limit)) = late {
            let line = format!(
                "warning: the tables are {} behind the source, more than the {} of lag_warning",
                human::seconds(behind),
                human::seconds(limit.as_secs_f64())
            );
            warnings.push(("lag_warning", line));
        }
        warnings
    }
}

/// How long ago the server committed something, by our clock.
fn age(committed_at: i64) -> Option<Duration> {
    let micros = u64::try_from(committed_at).ok().filter(|micros| *micros > 0)?;
    let then = SystemTime::UNIX_EPOCH + Duration::from_micros(micros);
    Some(SystemTime::now().duration_since(then).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MUCH: u64 = 10 << 30;

    #[test]
    fn much_wal_is_a_warning() {
        let line = |retained_bytes, safe_bytes| {
            HeldWal { retained_bytes, safe_bytes }.line("s", MUCH, &[])
        };
        assert!(line(1 << 20, None).starts_with("note: the server holds 1.05 MB of WAL"));
        assert!(line(MUCH, None).starts_with("warning: "));
        assert!(line(10, Some(9)).starts_with("warning: "));
        assert!(line(10, Some(-1)).contains("may hold 0 B more"));
        assert!(line(10, Some(100)).starts_with("note: "));
        let held = HeldWal { retained_bytes: MUCH, safe_bytes: None };
        let line = |logs: &[&str]| {
            let logs: Vec<_> = logs.iter().map(|log| (*log).to_owned()).collect();
            held.line("s", MUCH, &logs)
        };
        assert!(line(&["a.b"]).contains("slot s, which is held for the log of a.b; put right"));
        assert!(line(&["a.b", "c", "d"]).contains("for the logs of a.b and 2 more"));
    }

    #[test]
    fn the_lag_ends_where_the_log_ended_at_the_last_look() {
        let mut lag = Lag::look(None, Lsn(100), Lsn(300), HeldWal::default());
        assert_eq!((lag.measure().bytes, lag.measure().seconds), (200, None));
        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        let micros = hour_ago.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros();
        lag.reach(Lsn(200), micros as i64);
        let measured = lag.measure();
        // A machine that has just started has no hour to look back.
        let known = measured.seconds.is_none_or(|seconds| (3599.0..3700.0).contains(&seconds));
        assert!(measured.bytes == 100 && known, "{measured:?}");
        lag.reach(Lsn(300), 0);
        assert_eq!(lag.measure().bytes, 0);
        assert!(lag.measure().seconds.is_some_and(|seconds| seconds < 60.0));
        // Nothing is taken back by the next look.
        let later = Lag::look(Some(&lag), Lsn(300), Lsn(400), HeldWal::default());
        assert_eq!(later.measure().bytes, 100);
        assert!(later.measure().seconds.is_some());
    }

    #[test]
    fn a_lag_beyond_the_users_limit_is_a_warning() {
        let method = UpdateMethod {
            retained_wal_warning: 1000,
            lag_warning: Some(Duration::from_secs(60)),
            ..Default::default()
        };
        let measured = |seconds, retained_bytes| Measured {
            bytes: 5,
            seconds: Some(seconds),
            held: HeldWal { retained_bytes, safe_bytes: None },
        };
        assert!(measured(59.0, 999).warnings(&method, &[]).is_empty());
        assert_eq!(measured(60.0, 1000).warnings(&method, &[]).len(), 2);
        let none = UpdateMethod { lag_warning: None, ..method };
        assert!(measured(1e9, 0).warnings(&none, &[]).is_empty());
    }
}
