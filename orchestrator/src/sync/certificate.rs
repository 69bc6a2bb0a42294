//! What the state certifies of the tables that follow a log, kept beside them
//! as well: before the slot is moved, so that a state.json that is lost costs no
//! load.
//!
//! ```text
//! commits ─► state.json ─► certificate beside the tables ─► the slot moves
//! ```
//!
//! Nothing waits for it in vain: without it a later run is only less certain.

use proto::Fault;
use proto::v1::{CertifyRequest, CertifyResponse};
use tonic::Code;

use super::capture::Capture;
use super::position::Origin;
use super::retry::Retry;
use super::{Stop, Sync};
use crate::state::State;
use crate::writers::Writer;

/// What a log's certificate is kept as: one plain name.
pub fn name(log: &Origin) -> String {
    format!("{}-{}", log.slot, log.system_identifier)
}

/// Has a writer keep a certificate; `None`: says what is kept.
pub async fn ask(
    writer: &Writer,
    destination: &proto::v1::Destination,
    log: &Origin,
    certificate: Option<String>,
) -> Result<CertifyResponse, Fault> {
    let request = CertifyRequest {
        destination: Some(destination.clone()),
        log: name(log),
        certificate: certificate.map(String::into_bytes),
    };
    match writer.client.clone().certify(request).await {
        Ok(answer) => Ok(answer.into_inner()),
        // One of an earlier version keeps none.
        Err(status) if status.code() == Code::Unimplemented => Ok(CertifyResponse::default()),
        Err(status) => Err(Fault::from(status)),
    }
}

impl Sync<'_> {
    /// Brings a state that is behind the slot up to what is kept beside the
    /// tables.
    pub(super) async fn recover(&mut self, capture: &Capture) -> Result<(), Stop> {
        let log = &capture.log;
        let known = self.keeper.state().reached_in(&log.origin);
        if known.is_some_and(|known| known >= log.confirmed) {
            return Ok(());
        }
        let context = &self.context;
        let mut retry = Retry::new(context.source_config.retry_count);
        let kept = loop {
            let assigned = context.writers.take();
            let answer = ask(assigned.writer(), context.destination, &log.origin, None);
            match context.cancellable(answer).await? {
                Ok(kept) => break kept,
                Err(fault) => {
                    assigned.failed();
                    let say = |line: &str| context.progress.note(line);
                    let again = retry.again("asking what the tables are known to have", fault, say);
                    if let Err(fault) = context.cancellable(again).await? {
                        context.progress.note(&format!(
                            "warning: what is kept beside the tables cannot be read: {}",
                            fault.message
                        ));
                        break CertifyResponse::default();
                    }
                }
            }
        };
        let Some(kept) = kept.certificate else { return Ok(()) };
        let parsed = std::str::from_utf8(&kept).ok().and_then(|text| State::parse(text).ok());
        let Some(parsed) = parsed else {
            context.progress.note("warning: what is kept beside the tables cannot be understood");
            return Ok(());
        };
        if self.keeper.change().adopt(parsed, &log.origin) {
            let file = self.keeper.path().display();
            self.context.progress.note(&format!(
                "{file} is lost or old: what is kept beside the tables takes its place"
            ));
        }
        Ok(())
    }

    /// Keeps what the state certifies beside the tables.
    pub(super) async fn certify(&self, capture: &Capture) -> Result<(), Stop> {
        let context = &self.context;
        let Some(certificate) = self.keeper.state().certificate() else { return Ok(()) };
        let assigned = context.writers.take();
        let log = &capture.log.origin;
        let kept = ask(assigned.writer(), context.destination, log, Some(certificate));
        if let Err(fault) = context.cancellable(kept).await? {
            assigned.failed();
            context.progress.note_once(&format!(
                "warning: what the tables are known to have cannot be kept beside them, and \
                 state.json alone says it: {}",
                fault.message
            ));
        }
        Ok(())
    }
}
