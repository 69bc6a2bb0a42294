//! How far it is, for people: what was sent since it was said last.

use std::time::{Duration, Instant};

use proto::lsn::Lsn;
use proto::v1::replicate_response::Event;
use proto::v1::{self, ReplicateResponse};

use super::Reader;
use crate::error::SourceError;

/// Between two progress messages.
const EVERY: Duration = Duration::from_millis(200);

/// What was sent since the last progress message.
pub(super) struct Report {
    pub(super) rows: u64,
    pub(super) bytes: u64,
    last: Instant,
}

impl Reader<'_> {
    pub(super) fn progress(&mut self, lsn: Lsn) {
        if self.report.last.elapsed() < EVERY {
            return;
        }
        self.report.last = Instant::now();
        // A caller that reads slowly gets fewer, larger messages.
        let event = Some(Event::Progress(self.report.message(lsn)));
        if self.events.try_send(Ok(ReplicateResponse { event })).is_ok() {
            (self.report.rows, self.report.bytes) = (0, 0);
        }
    }

    pub(super) async fn report_now(&mut self, lsn: Lsn) -> Result<(), SourceError> {
        if self.report.rows == 0 && self.report.bytes == 0 {
            return Ok(());
        }
        let message = self.report.message(lsn);
        (self.report.rows, self.report.bytes) = (0, 0);
        self.emit(Event::Progress(message)).await
    }
}

impl Report {
    pub(super) fn new() -> Self {
        Report { rows: 0, bytes: 0, last: Instant::now() }
    }

    fn message(&self, lsn: Lsn) -> v1::ReplicateProgress {
        v1::ReplicateProgress { rows: self.rows, bytes: self.bytes, lsn: lsn.to_string() }
    }
}
