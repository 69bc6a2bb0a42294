//! A DoPut of a table's changes that has begun: rows in COPY's binary form → batches →
//! the writer.

use bytes::Bytes;
use proto::Fault;
use tokio_util::task::AbortOnDropHandle;

use crate::batch::{Batch, Batcher};
use crate::error::SourceError;
use crate::send::Outbox;

/// It; dropped before its end, the writer discards what it has got.
pub(super) struct Open {
    pub(super) batcher: Batcher,
    pub(super) outbox: Outbox,
    pub(super) staged: AbortOnDropHandle<Result<Bytes, Fault>>,
}

impl Open {
    /// Decodes rows and sends the batches that are full; the memory is of no
    /// more use.
    pub(super) async fn push(
        &mut self,
        rows: Vec<u8>,
        label: &str,
    ) -> Result<Vec<u8>, SourceError> {
        let decode = |error| SourceError::decode(label, error);
        let memory = self.batcher.push(rows).map_err(decode)?;
        while let Some(batch) = self.batcher.next_batch().map_err(decode)? {
            self.send(batch, label).await?;
        }
        Ok(memory)
    }

    /// Sends a batch.
    pub(super) async fn send(&mut self, batch: Batch, label: &str) -> Result<(), SourceError> {
        let Err(error) = self.outbox.send(&batch.records).await else { return Ok(()) };
        match error.explain(label, batch.key) {
            Some(error) => Err(error),
            None => Err(match (&mut self.staged).await {
                Ok(Err(fault)) => SourceError::Writer(fault),
                Ok(Ok(_)) => SourceError::Internal("the writer answered before the end".to_owned()),
                Err(defect) => SourceError::Internal(format!("an upload ended by {defect}")),
            }),
        }
    }

    /// Everything was sent: what was staged.
    pub(super) async fn end(self) -> Result<Bytes, SourceError> {
        // Whether it went or not, the answer says.
        let _ = self.outbox.end().await;
        match self.staged.await {
            Ok(answer) => answer.map_err(SourceError::Writer),
            Err(defect) => Err(SourceError::Internal(format!("an upload ended by {defect}"))),
        }
    }
}
