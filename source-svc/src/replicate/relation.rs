//! Relation messages, held against the tables that are followed.
//!
//! A message says how rows looked when they were written; a table is followed
//! as it looks now. Which of its columns those of the message are ([`super::form`])
//! must be certain, and that they say which rows are meant; else the log cannot be
//! read with what is known: the table is lost.

use std::collections::HashMap;

use super::form::Form;
use super::pgoutput::Relation;
use super::table::Followed;
use crate::capture::table::Table;

/// What the changes of a relation are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Of no table here.
    Ignored,
    /// Of the table in this place, their rows in this form.
    Table(usize, Form),
    /// Of the table in this place, in a form that is not understood.
    Changed(usize, String),
}

/// The relations of a window, by their oid.
pub struct Relations {
    oids: HashMap<u32, usize>,
    names: HashMap<(String, String), usize>,
    known: HashMap<u32, Known>,
    /// Of relations that are none of the tables (partitions are named beside their
    /// roots), the first transaction that has changed them.
    first: HashMap<u32, u32>,
}

impl Relations {
    /// For these tables, by their places.
    pub fn new<'a>(tables: impl Iterator<Item = &'a Table>) -> Self {
        let (mut oids, mut names) = (HashMap::new(), HashMap::new());
        for (place, table) in tables.enumerate() {
            let relation = &table.stream.relation;
            oids.insert(relation.oid, place);
            names.insert((relation.namespace.clone(), relation.name.clone()), place);
        }
        Relations { oids, names, known: HashMap::new(), first: HashMap::new() }
    }

    /// A window begins: the server says everything anew.
    pub fn forget(&mut self) {
        self.known.clear();
    }

    /// Takes a message in a transaction; `table` knows a place's table.
    pub fn learn<'a>(
        &mut self,
        message: &Relation<'_>,
        xid: u32,
        table: impl Fn(usize) -> &'a Followed,
    ) {
        let name = (message.namespace.to_owned(), message.name.to_owned());
        let known = match (self.oids.get(&message.oid), self.names.get(&name)) {
            (None, None) => {
                self.first.entry(message.oid).or_insert(xid);
                Known::Ignored
            }
            (Some(&place), Some(named)) if place == *named => match read(table(place), message) {
                Ok(form) => Known::Table(place, form),
                Err(what) => Known::Changed(place, what),
            },
            (Some(&place), _) => {
                let was = format!("{}.{}", message.namespace, message.name);
                Known::Changed(place, format!("it was renamed: changes of {was} are its own"))
            }
            (None, Some(&place)) => {
                let what = "it was dropped and created again, or another took its name";
                Known::Changed(place, what.to_owned())
            }
        };
        self.known.insert(message.oid, known);
    }

    /// The first transaction that has changed a relation that is none of the tables.
    pub fn first_change(&self, oid: u32) -> Option<u32> {
        self.first.get(&oid).copied()
    }

    /// What a change's relation is; `None`: the log has not said.
    pub fn of(&self, oid: u32) -> Option<&Known> {
        self.known.get(&oid)
    }
}

/// The form of a message's rows, which must say what the table's identity needs.
fn read(followed: &Followed, message: &Relation<'_>) -> Result<Form, String> {
    let Table { published, identity, full, .. } = &followed.table;
    let form = followed.forms.read(published, message)?;
    let is_key = |name: &String| {
        let at = published.iter().position(|column| column.name == *name);
        let place = at.and_then(|at| form.place(at));
        place.is_some_and(|place| message.columns[place].key)
    };
    if message.full || !full && identity.iter().all(is_key) {
        return Ok(form);
    }
    Err("its replica identity was another one".to_owned())
}
