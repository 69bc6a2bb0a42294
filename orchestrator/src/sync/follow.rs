//! Whether change capture can go on from what a table holds. Pure; the answer
//! to doubt is a reason to load the table anew.
//!
//! The log is read from where the slot is (`confirmed`). A table that is
//! further skips what it has. One that is behind has missed what lies between,
//! unless the state certifies that there was nothing for it:
//!
//! ```text
//!   table's position ──────► confirmed ─────► end of the run
//!         │   anything here?     │
//!         └── certified by the state up to here or further: no
//! ```
//!
//! The state certifies a stream only while it is followed, so a stream that was
//! left out for some runs, a slot that others have moved or made anew, and a
//! state that was lost or is an old copy all come to the same: a load.

use std::fmt;

use proto::lsn::Lsn;

use super::position::{Origin, Position};

/// What the source says of slot and server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub origin: Origin,
    /// Where reading begins.
    pub confirmed: Lsn,
    /// Where the log ended when the run began.
    pub end: Lsn,
}

/// What is known of one table.
#[derive(Clone, Debug, Default)]
pub struct Known<'a> {
    /// Of its last commit.
    pub position: Option<&'a Position>,
    /// Where the state says that it is certain to be at least.
    pub certified: Option<Position>,
    /// Where the state says that its last commit has brought it.
    pub reached: Option<&'a Position>,
}

/// Why a table cannot be followed from what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It holds nothing that change capture could go on from.
    New,
    OtherSystem,
    OtherSlot,
    /// Behind a point that another timeline may have left the log at.
    OtherTimeline,
    /// The log ends before the table's position.
    BeyondEnd,
    /// The slot is ahead of what the table is known to have.
    SlotAhead,
    /// The table is behind what it has been committed to.
    SetBack,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Doubt::New => "it holds nothing yet that changes can be added to",
            Doubt::OtherSystem => "its content is of another PostgreSQL server",
            Doubt::OtherSlot => "its content was followed through another replication slot",
            Doubt::OtherTimeline => {
                "the server is on another timeline, which may have forked before the table's \
                 position"
            }
            Doubt::BeyondEnd => "the server's log ends before the table's position",
            Doubt::SlotAhead => {
                "the replication slot is ahead of what the table is known to have: it was not \
                 followed for a while, the slot was moved or made anew, or the state file is lost \
                 or old"
            }
            Doubt::SetBack => "the table is older than its last commit",
        })
    }
}

/// Demands that following the table from its position misses nothing.
pub fn judge(log: &Log, known: &Known<'_>) -> Result<(), Doubt> {
    let Some(position) = known.position else { return Err(Doubt::New) };
    let (ours, its) = (&log.origin, &position.origin);
    if its.system_identifier != ours.system_identifier {
        return Err(Doubt::OtherSystem);
    }
    if its.slot != ours.slot {
        return Err(Doubt::OtherSlot);
    }
    if position.lsn > log.end {
        return Err(Doubt::BeyondEnd);
    }
    if let Some(reached) = known.reached
        && reached.origin == *its
        && position.lsn < reached.lsn
    {
        return Err(Doubt::SetBack);
    }
    if position.lsn >= log.confirmed {
        // What both timelines share ends at or after the slot's position only.
        let same = its.timeline == ours.timeline || position.lsn == log.confirmed;
        return if same { Ok(()) } else { Err(Doubt::OtherTimeline) };
    }
    let certified = known.certified.as_ref().is_some_and(|certified| {
        certified.origin.system_identifier == ours.system_identifier
            && certified.origin.slot == ours.slot
            && certified.lsn >= log.confirmed
    });
    if certified { Ok(()) } else { Err(Doubt::SlotAhead) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lsn: u64) -> Position {
        let (slot, system_identifier) = ("s".to_owned(), "7".to_owned());
        let origin = Origin { slot, system_identifier, timeline: 2 };
        Position { lsn: Lsn(lsn), origin, shape: String::new() }
    }

    fn log() -> Log {
        Log { origin: at(0).origin, confirmed: Lsn(100), end: Lsn(200) }
    }

    fn judged(position: &Position, certified: Option<Position>) -> Result<(), Doubt> {
        judge(&log(), &Known { position: Some(position), certified, reached: None })
    }

    #[test]
    fn a_table_at_or_ahead_of_the_slot_is_followed() {
        for lsn in [100, 150, 200] {
            assert_eq!(judged(&at(lsn), None), Ok(()), "{lsn}");
        }
        assert_eq!(judged(&at(201), None), Err(Doubt::BeyondEnd));
        assert_eq!(judge(&log(), &Known::default()), Err(Doubt::New));
    }

    #[test]
    fn a_table_behind_the_slot_is_followed_only_if_the_state_certifies_it() {
        for (certified, expected) in [
            (Some(at(100)), Ok(())),
            (Some(at(120)), Ok(())),
            (Some(at(99)), Err(Doubt::SlotAhead)),
            (None, Err(Doubt::SlotAhead)),
        ] {
            assert_eq!(judged(&at(40), certified.clone()), expected, "{certified:?}");
        }
        for other in ["slot", "system_identifier"] {
            let mut certified = at(150);
            match other {
                "slot" => certified.origin.slot = "other".into(),
                _ => certified.origin.system_identifier = "8".into(),
            }
            assert_eq!(judged(&at(40), Some(certified)), Err(Doubt::SlotAhead), "{other}");
        }
    }

    #[test]
    fn a_position_of_another_log_says_nothing() {
        let mut other = at(150);
        other.origin.system_identifier = "8".into();
        assert_eq!(judged(&other, Some(at(150))), Err(Doubt::OtherSystem));
        let mut other = at(150);
        other.origin.slot = "other".into();
        assert_eq!(judged(&other, Some(at(150))), Err(Doubt::OtherSlot));
    }

    #[test]
    fn on_another_timeline_only_what_the_slot_has_reached_is_certain() {
        let old = |lsn| {
            let mut position = at(lsn);
            position.origin.timeline = 1;
            position
        };
        assert_eq!(judged(&old(101), None), Err(Doubt::OtherTimeline));
        assert_eq!(judged(&old(100), None), Ok(()));
        assert_eq!(judged(&old(40), Some(old(130))), Ok(()));
    }

    #[test]
    fn a_table_that_was_set_back_is_loaded_anew() {
        let (position, reached) = (at(110), at(120));
        let known = Known { position: Some(&position), certified: None, reached: Some(&reached) };
        assert_eq!(judge(&log(), &known), Err(Doubt::SetBack));
        let known = Known { position: Some(&reached), certified: None, reached: Some(&position) };
        assert_eq!(judge(&log(), &known), Ok(()));
    }
}
