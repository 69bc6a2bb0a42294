//! Numbers as people read them.

use indicatif::{DecimalBytes, HumanCount};

/// "1,234,567"
pub fn count(count: u64) -> String {
    HumanCount(count).to_string()
}

/// "1.23 MB", powers of 1000.
pub fn bytes(bytes: u64) -> String {
    DecimalBytes(bytes).to_string()
}

/// "45.1 MB/s"
pub fn rate(bytes: u64, seconds: f64) -> String {
    format!("{:.1} MB/s", per_second(bytes, seconds) / 1e6)
}

/// "8.2 s", "2 m 05 s", "1 h 02 m"
pub fn seconds(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..=59 if seconds < 9.95 => format!("{:.1} s", seconds.max(0.0)),
        0..=59 => format!("{whole} s"),
        60..=3599 => format!("{} m {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} m", whole / 3600, whole % 3600 / 60),
    }
}

/// Amount per second; 0 when no time has passed.
pub fn per_second(amount: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { amount as f64 / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(bytes(45_100_000), "45.10 MB");
        assert_eq!(rate(90_000_000, 2.0), "45.0 MB/s");
        assert_eq!(rate(1, 0.0), "0.0 MB/s");
        let times = [0.04, 9.94, 9.96, 59.4, 59.6, 125.0, 3720.0].map(seconds);
        assert_eq!(times, ["0.0 s", "9.9 s", "10 s", "59 s", "1 m 00 s", "2 m 05 s", "1 h 02 m"]);
    }
}
