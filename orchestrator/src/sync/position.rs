//! How far change capture has brought a table, and by what.
//!
//! A position is kept with the data, in words of ours that the writer does not
//! read: `0/198C935@slot@7212345678901234567@1@shape`. An LSN alone says little:
//! it means nothing on another server, through another slot, or past the point
//! where a timeline forked; and the source's word on how the table looked then
//! tells whether rows have changed since without an event.

use std::fmt;
use std::str::FromStr;

use proto::lsn::Lsn;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The log that positions are of, and what it is read through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The slot's name.
    pub slot: String,
    /// Of the server's cluster (`pg_control_system()`).
    pub system_identifier: String,
    /// The timeline it was on.
    pub timeline: u32,
}

/// Everything that lies at or before `lsn` is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The end of a record.
    pub lsn: Lsn,
    pub origin: Origin,
    /// The table's, as the source says; may be empty.
    pub shape: String,
}

impl Position {
    /// The same of a table that looks like this.
    pub fn with_shape(self, shape: &str) -> Self {
        Position { shape: shape.to_owned(), ..self }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Origin { slot, system_identifier, timeline } = &self.origin;
        write!(f, "{}@{slot}@{system_identifier}@{timeline}", self.lsn)?;
        if self.shape.is_empty() { Ok(()) } else { write!(f, "@{}", self.shape) }
    }
}

/// The text is no position of ours.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no position of change capture")]
pub struct ParsePositionError(String);

impl FromStr for Position {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, ParsePositionError> {
        let bad = || ParsePositionError(text.to_owned());
        let mut parts: Vec<&str> = text.split('@').collect();
        if parts.len() == 4 {
            parts.push("");
        }
        let [lsn, slot, system_identifier, timeline, shape] = parts[..] else {
            return Err(bad());
        };
        Ok(Position {
            lsn: lsn.parse().map_err(|_| bad())?,
            origin: Origin {
                slot: slot.to_owned(),
                system_identifier: system_identifier.to_owned(),
                timeline: timeline.parse().map_err(|_| bad())?,
            },
            shape: shape.to_owned(),
        })
    }
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_back_as_it_is_written() {
        let text = "5F4/A400B6D7@tidewater_1@7212345678901234567@3";
        let position: Position = text.parse().unwrap();
        assert_eq!(position.lsn, Lsn(0x5F4_A400_B6D7));
        assert_eq!((position.origin.timeline, &*position.origin.slot), (3, "tidewater_1"));
        assert_eq!(position.to_string(), text);
        let shaped = position.with_shape("ab-cd-1");
        assert_eq!(shaped.to_string(), format!("{text}@ab-cd-1"));
        assert_eq!(shaped.to_string().parse::<Position>().unwrap(), shaped);
        for bad in ["", "0/1", "0/1@s@7", "0/1@s@7@x", "x@s@7@1", "0/1@s@7@1@2@3"] {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
    }
}
