//! Tables whose changes cannot be followed any more: they leave the state before
//! anything further is confirmed, and are loaded anew, not too often.

use std::time::Duration;

use proto::Fault;
use proto::v1::{ErrorCode, TableLost};
use tokio::time::Instant;

use super::resume::Action;
use super::trouble::Trouble;
use super::{Stop, Sync, log};
use crate::progress::human;

/// Times that one table is loaded anew in a run.
const RELOADS: u32 = 3;
/// A sync that goes on loads such a table less and less often, from the first
/// pause to the longest, until it can be followed for a while.
const PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
const FORGIVEN: Duration = Duration::from_secs(600);

impl Sync<'_> {
    /// The table is not followed any more; the state knows before the slot is
    /// moved past what it lacks.
    pub(super) fn lose(&mut self, slot: &str, index: usize, lost: TableLost) -> Result<(), Fault> {
        let table = &mut self.tables[index];
        if table.is_log() {
            if lost.recoverable {
                let (what, to_do) = (lost.reason, lost.remedy);
                let trouble = Trouble { stream: table.id.clone(), what, to_do };
                self.set_apart_for_now(index, trouble, slot);
            } else {
                let trouble = Trouble::of(&table.id, log::lost(table, &lost));
                self.set_apart(index, trouble);
            }
            return Ok(());
        }
        let goes_on = self.context.continuous.is_some();
        if goes_on && table.lost_at.is_some_and(|last| last.elapsed() > FORGIVEN) {
            table.times_lost = 0;
        }
        table.times_lost += 1;
        table.lost_at = Some(Instant::now());
        if table.times_lost > RELOADS && goes_on {
            let doubled = 1 << (table.times_lost - RELOADS - 1).min(16);
            let pause = PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE);
            table.reload_at = Some(Instant::now() + pause);
            self.context.progress.note(&format!(
                "warning: {}: its changes cannot be followed, again and again: {}; it stays as it \
                 is and is loaded anew in {}",
                table.id,
                lost.reason,
                human::seconds(pause.as_secs_f64())
            ));
            table.lost = Some(lost.reason);
            self.keeper.change().unfollow(&lost.namespace, &lost.name);
            return Ok(());
        }
        if table.times_lost > RELOADS {
            return Err(Fault::new(
                ErrorCode::Source,
                format!(
                    "{} was loaded anew {RELOADS} times in this sync, and again its changes \
                     cannot be followed: {}",
                    table.id, lost.reason
                ),
            )
            .remedy(
                "sync again when the table is changed less, or set its sync_mode to full_refresh",
            ));
        }
        table.lost = Some(lost.reason);
        self.keeper.change().unfollow(&lost.namespace, &lost.name);
        Ok(())
    }

    /// The tables that were lost are to be read, if they can be; whether there are any.
    pub(super) async fn reload_lost(&mut self) -> Result<bool, Stop> {
        let mut lost = Vec::new();
        for (index, table) in self.tables.iter_mut().enumerate() {
            if table.reload_at.is_some_and(|at| at > Instant::now()) {
                continue;
            }
            let Some(reason) = table.lost.take() else { continue };
            lost.push((index, reason));
            table.reload_at = None;
            table.action = Action::ReadAll;
            table.outcome = None;
            table.position = None;
            self.context.progress.restart(index);
            self.keeper.change().remove(&table.stream.namespace, &table.stream.name);
        }
        if let Some(capture) = &mut self.capture {
            // Once in a sync.
            capture.initial_wait_ms = 0;
        }
        if lost.is_empty() {
            return Ok(false);
        }
        self.look_again().await?;
        lost.retain(|(index, _)| self.tables[*index].trouble.is_none());
        for (index, reason) in &lost {
            let id = &self.tables[*index].id;
            self.context
                .progress
                .note(&format!("{id} is loaded anew: its changes cannot be followed: {reason}"));
        }
        Ok(!lost.is_empty())
    }
}
