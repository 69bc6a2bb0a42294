//! What has been confirmed of a slot: Confirm tells, Replicate waits.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use proto::lsn::Lsn;
use proto::v1;
use tokio::sync::watch;

use crate::capture::{server, slot};
use crate::config::Config;
use crate::connect::Session;
use crate::error::SourceError;

/// The slots whose log is being read.
#[derive(Default)]
pub struct Confirmations(Mutex<HashMap<Place, Weak<watch::Sender<Lsn>>>>);

/// A slot, as far as it can be told from another.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Place {
    host: String,
    port: u16,
    database: String,
    slot: String,
}

impl Place {
    fn of(config: &Config, slot: &str) -> Self {
        Place {
            host: config.host.clone(),
            port: config.port,
            database: config.database.clone(),
            slot: slot.to_owned(),
        }
    }
}

/// Intervals that are staged and not confirmed.
pub struct InFlight {
    confirmed: watch::Receiver<Lsn>,
    /// Keeps the slot among those that are being read.
    _sender: Arc<watch::Sender<Lsn>>,
    /// Where each ends.
    ends: VecDeque<Lsn>,
    limit: usize,
}

impl Confirmations {
    /// A Replicate of this slot begins.
    pub fn follow(&self, config: &Config, slot: &str, limit: usize) -> InFlight {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|_, sender| sender.strong_count() > 0);
        let place = Place::of(config, slot);
        let sender = slots.get(&place).and_then(Weak::upgrade).unwrap_or_else(|| {
            let sender = Arc::new(watch::Sender::new(Lsn(0)));
            slots.insert(place, Arc::downgrade(&sender));
            sender
        });
        InFlight { confirmed: sender.subscribe(), _sender: sender, ends: VecDeque::new(), limit }
    }

    /// Moves the slot, then lets its reader go on.
    pub async fn confirm(
        &self,
        config: &Config,
        request: &v1::ConfirmRequest,
    ) -> Result<v1::ConfirmResponse, SourceError> {
        let parsed = |key: &str, text: &str| {
            text.parse::<Lsn>()
                .map_err(|error| SourceError::Config(vec![format!("{key}: {error}")]))
        };
        let lsn = parsed("lsn", &request.lsn)?;
        let to = match request.hold.as_str() {
            "" => lsn,
            hold => parsed("hold", hold)?.min(lsn),
        };
        slot::check_name(&request.slot)?;
        let session = Session::open(config, "tidewater confirm").await?;
        let reached = slot::advance(&session, &request.slot, to).await?;
        let held = slot::find(&session, &request.slot).await?;
        let held = held.ok_or_else(|| slot::gone(&request.slot))?;
        let end = server::end_of_log(&session).await?;
        session.close().await;
        let slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = slots.get(&Place::of(config, &request.slot)).and_then(Weak::upgrade);
        if let Some(sender) = sender {
            sender.send_if_modified(|confirmed| {
                let done = if to < lsn { lsn } else { reached };
                let more = done > *confirmed;
                *confirmed = (*confirmed).max(done);
                more
            });
        }
        Ok(v1::ConfirmResponse {
            confirmed_flush: reached.to_string(),
            end: end.to_string(),
            retained_wal_bytes: held.retained_wal_bytes,
            safe_wal_bytes: held.safe_wal_bytes,
        })
    }
}

impl InFlight {
    /// An interval that ends here was staged.
    pub fn add(&mut self, end: Lsn) {
        self.ends.push_back(end);
    }

    /// Waits until another interval may be read.
    pub async fn room(&mut self) -> Result<(), SourceError> {
        self.fewer_than(self.limit).await
    }

    /// Waits until all of them are confirmed.
    pub async fn none(&mut self) -> Result<(), SourceError> {
        self.fewer_than(1).await
    }

    async fn fewer_than(&mut self, limit: usize) -> Result<(), SourceError> {
        while self.ends.len() >= limit
            && let Some(oldest) = self.ends.front().copied()
        {
            let confirmed = self.confirmed.wait_for(|confirmed| *confirmed >= oldest).await;
            confirmed.map_err(|_| SourceError::Cancelled)?;
            self.ends.pop_front();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn no_more_than_so_many_intervals_wait_for_their_confirmation() {
        let confirmations = Confirmations::default();
        let config = Config::try_from(crate::config::tests::wire()).unwrap();
        let mut reader = confirmations.follow(&config, "s", 2);
        for end in [10, 20] {
            assert!(reader.room().now_or_never().is_some());
            reader.add(Lsn(end));
        }
        assert!(reader.room().now_or_never().is_none());
        assert!(reader.none().now_or_never().is_none());
    }
}
