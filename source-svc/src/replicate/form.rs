//! Which values of a row, in the form that a Relation message says, are those of the
//! columns that a table has now.
//!
//! ```text
//! then:     1 id    2 a    3 b                as the table's shape was told
//! message:  id      a      b      c           some time in between
//! now:      1 id           3 x    4 c         what everything is decoded into
//! ```
//!
//! A message has names and types, no numbers. Its columns are in the order of these,
//! and of those that may be in it
//!
//! - what was there then and is there now, is in it;
//! - what was there then and is gone, may be;
//! - of what was added since, the first ones may be.
//!
//! A column that nothing was done to has the name that it has; any other may have had
//! any in between, and is known by where it stands and by its type. Only where one
//! reading is left is it taken: the names `b, c` may be those of `a, b` while they
//! were swapped.

use std::sync::Arc;

use super::pgoutput::{Column, Datum, Relation, Tuple};
use crate::capture::columns::{Fate, Since};
use crate::capture::table::Published;

/// `numeric` and its array, whose modifiers say what their values are.
const DECIMALS: [u32; 2] = [1700, 1231];
/// Names of a message that are said.
const NAMED: usize = 12;

/// What rows of a message are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// Columns in a row.
    columns: usize,
    /// Of each of the table's, the place in a row; none: the row is older than it.
    /// `None`: they are the same.
    places: Option<Arc<[Option<usize>]>>,
}

/// A column that a message may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    /// The published one in this place; `named`: its name was the same all the while.
    Kept { at: usize, named: bool },
    /// So many that are gone.
    Gone(usize),
    /// The published one in this place, which may be there yet.
    New(usize),
}

/// The forms that messages of a table can have.
#[derive(Clone, Debug)]
pub struct Forms {
    /// None: as it is now, and no other.
    slots: Option<Vec<Slot>>,
    /// Modifiers that do not matter may be others.
    lenient: bool,
}

impl Form {
    /// The values of the table's columns; `None`: as many columns as it says it has
    /// not.
    pub fn values<'a>(&self, tuple: Tuple<'a>) -> Option<Vec<Datum<'a>>> {
        if tuple.len() != self.columns {
            return None;
        }
        let values: Vec<Datum<'a>> = tuple.iter().collect();
        let Some(places) = &self.places else { return Some(values) };
        let value = |place: &Option<usize>| match place {
            Some(place) => values.get(*place).copied(),
            None => Some(Datum::Null),
        };
        places.iter().map(value).collect()
    }

    /// Columns in a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Where in a row the table's column in this place is.
    pub fn place(&self, at: usize) -> Option<usize> {
        match &self.places {
            Some(places) => places.get(at).copied().flatten(),
            None => Some(at),
        }
    }
}

impl Forms {
    /// Of a table with these columns. `since`: what became of them since its position.
    pub fn new(published: &[Published], since: &Since) -> Forms {
        let Since::Fates(fates) = since else {
            return Forms { slots: None, lenient: *since == Since::Same };
        };
        let mut slots = Vec::new();
        for (attnum, fate) in (1..).zip(fates) {
            let at = published.iter().position(|column| column.attnum == attnum);
            match (fate, at, slots.last_mut()) {
                (Fate::Same, Some(at), _) => slots.push(Slot::Kept { at, named: true }),
                (Fate::Touched { .. }, Some(at), _) => slots.push(Slot::Kept { at, named: false }),
                (Fate::New, Some(at), _) => slots.push(Slot::New(at)),
                (Fate::Gone, _, Some(Slot::Gone(many))) => *many += 1,
                (Fate::Gone, ..) => slots.push(Slot::Gone(1)),
                // What is not published is in no message.
                _ => {}
            }
        }
        Forms { slots: Some(slots), lenient: true }
    }

    /// The form that a message tells, or why that is not certain.
    pub fn read(&self, published: &[Published], message: &Relation<'_>) -> Result<Form, String> {
        let columns = message.columns.len();
        let Some(slots) = &self.slots else {
            return match difference(published, message, self.lenient) {
                None => Ok(Form { columns, places: None }),
                Some(what) => Err(what),
            };
        };
        let Some(places) = reading(slots, published, &message.columns) else {
            let names = message.columns.iter().take(NAMED).map(|column| column.name);
            let names: Vec<_> = names.collect();
            let more = if columns > NAMED { ", …" } else { "" };
            return Err(format!(
                "its columns were {}{more}, and it is not certain which of those it has now they \
                 are",
                names.join(", ")
            ));
        };
        let same =
            places.len() == columns && places.iter().enumerate().all(|(at, p)| *p == Some(at));
        Ok(Form { columns, places: (!same).then(|| places.into()) })
    }
}

/// Whether a column of a message can be one of the table's. A value of a decimal that
/// is narrower now would not fit.
fn fits(then: &Column<'_>, now: &Published) -> bool {
    let modifier = |modifier: i32| ((modifier - 4) >> 16, (modifier - 4) & 0xffff);
    then.type_oid == now.type_oid
        && (!DECIMALS.contains(&then.type_oid)
            || then.type_modifier == now.type_modifier
            || then.type_modifier >= 4 && now.type_modifier >= 4 && {
                let (then, now) = (modifier(then.type_modifier), modifier(now.type_modifier));
                then.1 == now.1 && then.0 <= now.0
            })
}

/// The places in a message of the table's columns, if there is one way to read it.
fn reading(
    slots: &[Slot],
    published: &[Published],
    message: &[Column<'_>],
) -> Option<Vec<Option<usize>>> {
    let is = |at: usize, place: usize, named: bool| {
        let (then, now) = (&message[place], &published[at]);
        fits(then, now) && (!named || then.name == now.name)
    };
    // Of the first slots, in how many ways (two are many) they can be the first columns.
    let old = slots.iter().position(|slot| matches!(slot, Slot::New(_))).unwrap_or(slots.len());
    let (old, new) = slots.split_at(old);
    let mut ways = vec![vec![0_u8; message.len() + 1]];
    ways[0][0] = 1;
    for (number, slot) in old.iter().enumerate() {
        let before = &ways[number];
        let count = |place: usize| match *slot {
            Slot::Kept { at, named } if place > 0 && is(at, place - 1, named) => before[place - 1],
            Slot::Gone(many) => {
                let from = &before[place.saturating_sub(many)..=place];
                from.iter().fold(0_u8, |sum, ways| sum.saturating_add(*ways).min(2))
            }
            _ => 0,
        };
        let after = (0..=message.len()).map(count).collect();
        ways.push(after);
    }
    let ends = ways.last()?;
    let mut found = None;
    for added in 0..=new.len().min(message.len()) {
        let end = message.len() - added;
        let are = |(place, slot): (usize, &Slot)| match slot {
            Slot::New(at) => is(*at, place, false),
            _ => false,
        };
        if ends[end] == 0 || !(end..).zip(&new[..added]).all(are) {
            continue;
        }
        if ends[end] > 1 || found.is_some() {
            return None;
        }
        found = Some(end);
    }
    let mut end = found?;
    let mut places = vec![None; published.len()];
    for (place, slot) in (end..message.len()).zip(new) {
        if let Slot::New(at) = slot {
            places[*at] = Some(place);
        }
    }
    for (number, slot) in old.iter().enumerate().rev() {
        match *slot {
            Slot::Kept { at, .. } => {
                end -= 1;
                places[at] = Some(end);
            }
            Slot::Gone(many) => {
                let least = end.saturating_sub(many);
                end = (least..=end).find(|end| ways[number][*end] > 0)?;
            }
            Slot::New(_) => {}
        }
    }
    Some(places)
}

/// The first difference between the columns that are known and a message's.
fn difference(published: &[Published], message: &Relation<'_>, lenient: bool) -> Option<String> {
    let mut columns = message.columns.iter();
    for now in published {
        let Some(then) = columns.next() else {
            return Some(format!("column {} was added, dropped or renamed", now.name));
        };
        if then.name != now.name {
            return Some(format!("columns {} and {} are not the same", then.name, now.name));
        }
        let same = then.type_oid == now.type_oid && then.type_modifier == now.type_modifier;
        if !(same || lenient && fits(then, now)) {
            return Some(format!("the type of column {} was changed", now.name));
        }
    }
    columns.next().map(|then| format!("column {} was added, dropped or renamed", then.name))
}

#[cfg(test)]
#[path = "form_tests.rs"]
mod tests;
