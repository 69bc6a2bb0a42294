//! What the state certifies of change capture, as a document of its own that is
//! kept beside the tables: a state.json that is lost or old is brought up to it.

use std::collections::HashSet;

use proto::lsn::Lsn;

use super::{Global, GlobalState, State, StreamEntry, StreamState};
use crate::sync::position::Origin;

impl State {
    /// The streams that are followed, and how far each is, beside the logs that are
    /// not for the moment; a `state.json`. `None`: none is followed.
    pub fn certificate(&self) -> Option<String> {
        let global = self.global.as_ref().filter(|global| !global.streams.is_empty())?;
        let state = GlobalState {
            lsn: Some(global.state.lsn.clone()?),
            origin: Some(global.state.origin.clone()?),
            ..Default::default()
        };
        let followed: HashSet<_> = global.streams.iter().map(String::as_str).collect();
        let known = |entry: &&StreamEntry| {
            entry.state.certified.is_some() || followed.contains(entry.id().as_str())
        };
        let streams = self.streams.iter().filter(known);
        let streams = streams.map(|entry| StreamEntry {
            state: StreamState {
                position: entry.state.position.clone(),
                certified: entry.state.certified.clone(),
                ..Default::default()
            },
            stream: entry.stream.clone(),
            namespace: entry.namespace.clone(),
            sync_mode: entry.sync_mode.clone(),
            ..Default::default()
        });
        let streams: Vec<_> = streams.collect();
        let followed = global.streams.clone();
        let global = Some(Global { state, streams: followed, ..Default::default() });
        Some(State { global, streams, ..Default::default() }.to_text())
    }

    /// Takes over what a certificate of this log says, if it is later than what
    /// this state says of it; whether it is.
    pub fn adopt(&mut self, certificate: State, log: &Origin) -> bool {
        let Some(reached) = certificate.reached_in(log) else { return false };
        if self.reached_in(log).is_some_and(|known| known >= reached) {
            return false;
        }
        let Some(theirs) = certificate.global else { return false };
        let global = self.global.get_or_insert_default();
        (global.state.lsn, global.state.origin) = (theirs.state.lsn, theirs.state.origin);
        global.streams = theirs.streams;
        for entry in certificate.streams {
            let known = self.stream_mut(&entry.namespace, &entry.stream);
            known.sync_mode = entry.sync_mode;
            let StreamState { position, certified, .. } = entry.state;
            let chunks = Some(Vec::new());
            known.state = StreamState { chunks, position, certified, ..Default::default() };
        }
        true
    }

    /// Up to where every stream that follows this log has everything.
    pub fn reached_in(&self, log: &Origin) -> Option<Lsn> {
        let state = &self.global.as_ref()?.state;
        let origin = state.origin.as_ref()?;
        let same = origin.slot == log.slot && origin.system_identifier == log.system_identifier;
        state.lsn.as_ref().filter(|_| same)?.parse().ok()
    }
}

impl StreamEntry {
    /// "schema.table".
    pub(super) fn id(&self) -> String {
        format!("{}.{}", self.namespace, self.stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::position::Position;

    fn position(lsn: u64) -> Position {
        let (slot, system_identifier) = ("s".to_owned(), "7".to_owned());
        let origin = Origin { slot, system_identifier, timeline: 2 };
        Position { lsn: Lsn(lsn), origin, shape: "shape".into() }
    }

    fn log() -> Origin {
        position(0).origin
    }

    /// One that follows two streams and has another.
    fn followed(lsn: u64) -> State {
        let mut state = State::default();
        state.finish_load("public", "other");
        state.reach("public", "a", &position(lsn));
        state.reach("public", "b", &position(40));
        state.certify(&position(lsn));
        state
    }

    #[test]
    fn a_lost_state_is_restored_for_what_is_followed() {
        let state = followed(100);
        let certificate = State::parse(&state.certificate().unwrap()).unwrap();
        let mut lost = State::default();
        assert!(lost.adopt(certificate, &log()));
        for name in ["a", "b"] {
            let found = lost.stream("public", name).unwrap();
            assert_eq!(found, state.stream("public", name).unwrap());
            assert_eq!(lost.certified("public", name).unwrap().lsn, Lsn(100));
        }
        assert!(lost.stream("public", "other").is_none());
    }

    #[test]
    fn an_old_state_forgets_what_has_been_given_up_since() {
        let mut old = followed(50);
        let mut newer = followed(100);
        newer.unfollow("public", "b");
        let certificate = State::parse(&newer.certificate().unwrap()).unwrap();
        assert!(old.adopt(certificate, &log()));
        assert_eq!(old.certified("public", "b"), None);
        assert_eq!(old.certified("public", "a").unwrap().lsn, Lsn(100));
        assert!(old.stream("public", "other").is_some());
    }

    #[test]
    fn a_log_that_is_set_aside_is_known_up_to_where_it_was() {
        let mut state = followed(100);
        state.set_aside("public", "b", position(90));
        state.certify(&position(120));
        let certificate = State::parse(&state.certificate().unwrap()).unwrap();
        let mut lost = State::default();
        assert!(lost.adopt(certificate, &log()));
        assert_eq!(lost.certified("public", "b"), Some(position(90)));
        assert_eq!(lost.certified("public", "a").unwrap().lsn, Lsn(120));
        assert_eq!(lost.stream("public", "b"), state.stream("public", "b"));
        lost.follow(&position(90), vec!["public.a".into(), "public.b".into()]);
        assert_eq!(lost.stream("public", "b").unwrap().state.certified, None);
        assert_eq!(lost.certified("public", "b").unwrap().lsn, Lsn(90));
    }

    #[test]
    fn what_is_not_later_or_of_another_log_is_left() {
        let certificate = State::parse(&followed(100).certificate().unwrap()).unwrap();
        let mut state = followed(100);
        assert!(!state.adopt(certificate.clone(), &log()));
        assert_eq!(state, followed(100));
        for other in [
            Origin { slot: "t".into(), ..log() },
            Origin { system_identifier: "8".into(), ..log() },
        ] {
            assert!(!State::default().adopt(certificate.clone(), &other));
        }
        assert!(!State::default().adopt(State::default(), &log()));
    }

    #[test]
    fn who_follows_nothing_certifies_nothing() {
        let mut state = followed(100);
        state.unfollow("public", "a");
        assert!(state.certificate().is_some());
        state.unfollow("public", "b");
        assert_eq!(state.certificate(), None);
        assert_eq!(State::default().certificate(), None);
    }
}
