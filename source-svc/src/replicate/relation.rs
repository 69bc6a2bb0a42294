//! Relation messages, held against the tables that are followed.
//!
//! A message says how rows looked when they were written; a table is followed
//! as it looks now. Names alone do not say whether a column is the same (a
//! rename, or a drop and an add, look alike), so anything that differs means
//! that the log cannot be read with what is known: the table is lost.

use std::collections::HashMap;

use super::pgoutput::Relation;
use crate::capture::table::{Published, Table};

/// What the changes of a relation are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Of no table here.
    Ignored,
    /// Of the table in this place.
    Table(usize),
    /// Of the table in this place, in a form that it no longer has.
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
        table: impl Fn(usize) -> &'a Table,
    ) {
        let name = (message.namespace.to_owned(), message.name.to_owned());
        let known = match (self.oids.get(&message.oid), self.names.get(&name)) {
            (None, None) => {
                self.first.entry(message.oid).or_insert(xid);
                Known::Ignored
            }
            (Some(&place), Some(named)) if place == *named => {
                match difference(&table(place).published, message) {
                    None => Known::Table(place),
                    Some(what) => Known::Changed(place, what),
                }
            }
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

/// The first difference between the columns that are known and a message's.
fn difference(published: &[Published], message: &Relation<'_>) -> Option<String> {
    let mut columns = message.columns.iter();
    for now in published {
        let Some(then) = columns.next() else {
            return Some(format!("column {} was added, dropped or renamed", now.name));
        };
        if then.name != now.name {
            return Some(format!("columns {} and {} are not the same", then.name, now.name));
        }
        if (then.type_oid, then.type_modifier) != (now.type_oid, now.type_modifier) {
            return Some(format!("the type of column {} was changed", now.name));
        }
    }
    columns.next().map(|then| format!("column {} was added, dropped or renamed", then.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replicate::pgoutput::Column;

    fn published(names: &[&str]) -> Vec<Published> {
        let column = |name: &&str| Published {
            name: (*name).to_owned(),
            type_oid: 23,
            type_modifier: -1,
            delimiter: b',',
            generated: String::new(),
            toastable: false,
        };
        names.iter().map(column).collect()
    }

    fn message<'a>(names: &[&'a str], type_oid: u32) -> Relation<'a> {
        let column = |name: &&'a str| Column { name, type_oid, type_modifier: -1 };
        let columns = names.iter().map(column).collect();
        Relation { oid: 1, namespace: "public", name: "t", columns }
    }

    #[test]
    fn any_difference_of_the_columns_is_one() {
        let known = published(&["a", "b"]);
        assert_eq!(difference(&known, &message(&["a", "b"], 23)), None);
        for (names, type_oid) in
            [(&["a"][..], 23), (&["a", "b", "c"], 23), (&["a", "d"], 23), (&["a", "b"], 20)]
        {
            assert!(difference(&known, &message(names, type_oid)).is_some(), "{names:?}");
        }
    }
}
