//! Moves the slot: what it has passed is in the tables, and the state says so.
//!
//! ```text
//! state certifies ─► saved ─► kept beside the tables ─► Confirm: the slot moves, up to what holds it
//! ```
//!
//! A load beside the others holds it, and a log that goes on later: what comes after is
//! read again for them, and skipped by the others.

use proto::Fault;
use proto::lsn::Lsn;
use proto::v1::ConfirmRequest;

use super::beside::Hold;
use super::capture::Capture;
use super::lag::HeldWal;
use super::replicate::end;
use super::{Stop, Sync};

impl Sync<'_> {
    /// Everything up to `to` is committed.
    pub(super) async fn move_slot(&mut self, capture: &Capture, to: Lsn) -> Result<(), Stop> {
        self.keeper.change().certify(&capture.at(to));
        self.keeper.save().await?;
        self.certify(capture).await?;
        let hold = self.held_at().filter(|hold| *hold < to);
        let request = ConfirmRequest {
            config: Some(self.context.source_config.clone()),
            slot: capture.slot().to_owned(),
            lsn: to.to_string(),
            hold: hold.map(|hold| hold.to_string()).unwrap_or_default(),
        };
        let mut source = self.context.source.clone();
        let answer = self.context.cancellable(source.confirm(request)).await?;
        let answer = answer
            .map_err(|status| Fault::from(status).context("moving the replication slot"))?
            .into_inner();
        let held = HeldWal {
            retained_bytes: answer.retained_wal_bytes,
            safe_bytes: answer.safe_wal_bytes,
        };
        let log_end = end(&answer.end)?;
        self.context.progress.confirmed(|lag| lag.hold(log_end, held));
        if let Some(capture) = &mut self.capture {
            capture.log.confirmed = hold.unwrap_or(to);
        }
        Ok(())
    }

    /// Lets the slot go to where everything is certified, when nothing holds it any
    /// more.
    pub(super) async fn release(&mut self) -> Result<(), Stop> {
        let Some(capture) = self.capture.clone() else { return Ok(()) };
        let Some(to) = self.keeper.state().reached_in(&capture.log.origin) else { return Ok(()) };
        match self.held_at().map_or(to, |hold| hold.min(to)) > capture.log.confirmed {
            true => self.move_slot(&capture, to).await,
            false => Ok(()),
        }
    }

    /// Where the slot waits for a load, or for a log in trouble.
    fn held_at(&self) -> Option<Lsn> {
        let logs = self.tables.iter().filter_map(|table| table.holds);
        logs.chain(self.hold.as_ref().map(Hold::at)).min()
    }
}
