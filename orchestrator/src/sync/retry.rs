//! Attempts after a transient failure: how many, and how far apart.

use std::time::Duration;

use proto::{Fault, metrics};

/// Wait before the first further attempt; it doubles from there …
const FIRST: Duration = Duration::from_millis(500);
/// … up to this.
const LONGEST: Duration = Duration::from_secs(10);

/// Counts the attempts at one thing.
#[derive(Clone, Debug)]
pub struct Retry {
    made: u32,
    limit: u32,
}

impl Retry {
    /// Allows `limit` further attempts (`retry_count`).
    pub fn new(limit: u32) -> Self {
        Retry { made: 0, limit }
    }

    /// Waits and returns, if the fault may pass and attempts are left; else
    /// hands the fault back. `what` names the thing; `say` tells the user.
    pub async fn again(
        &mut self,
        what: &str,
        fault: Fault,
        say: impl FnOnce(&str),
    ) -> Result<(), Fault> {
        metrics::failed(fault.code);
        let Some(wait) = self.next(&fault) else { return Err(fault) };
        say(&format!(
            "warning: {what}: {}; trying again in {:.1} s ({} of {})",
            fault.message,
            wait.as_secs_f64(),
            self.made,
            self.limit
        ));
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Exponential, between half and all of the step: retries of many chunks
    /// do not come in step.
    fn next(&mut self, fault: &Fault) -> Option<Duration> {
        if !fault.transient || self.made >= self.limit {
            return None;
        }
        let step = FIRST.saturating_mul(1 << self.made.min(16)).min(LONGEST);
        self.made += 1;
        Some(step.mul_f64(rand::random_range(0.5..=1.0)))
    }
}

#[cfg(test)]
mod tests {
    use proto::v1::ErrorCode;

    use super::*;

    #[test]
    fn only_a_transient_fault_is_tried_again_and_only_so_often() {
        let mut retry = Retry::new(40);
        assert_eq!(retry.next(&Fault::new(ErrorCode::Permission, "no")), None);
        let passing = Fault::new(ErrorCode::Unavailable, "gone");
        let waits: Vec<_> = std::iter::from_fn(|| retry.next(&passing)).collect();
        assert_eq!(waits.len(), 40);
        assert!(waits[0] >= FIRST / 2 && waits[0] <= FIRST);
        assert!(waits.iter().all(|wait| *wait <= LONGEST));
        assert!(waits[39] >= LONGEST / 2);
        assert_eq!(Retry::new(0).next(&passing), None);
    }
}
