//! The relations that store a table's rows: which of them are new since a shape
//! was told, and which are gone.
//!
//! ```text
//! told:  a b c        the newest links are those of the new ones, if none is gone;
//! now:   a b c d e    a list of what was there tells also which are gone:
//! now:   a   c d      (kept where partitions that go may leave their rows)
//! ```
//!
//! A partition that is new changes nothing if all of its rows come through the
//! log ([`doubtful`]).

use std::collections::HashMap;
use std::fmt::Write;

use sha2::{Digest, Sha256};
use tokio_postgres::Client;

use crate::error::SourceError;

/// Parts that are listed at most: a list goes into every commit.
const MOST_LISTED: usize = 1000;

/// A table or partitioned table, or a partition at any level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    pub oid: u32,
    /// The transactions that have linked it, and what it is a part of, to the
    /// root, from there on: others after a DETACH and an ATTACH.
    pub links: Vec<u32>,
    /// The file that it is in; none: it stores nothing.
    pub file: Option<u32>,
    /// The transaction that has said last where that is.
    pub filed_by: u32,
    /// UPDATEs and DELETEs so far.
    pub count: i64,
}

/// A part that is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newcomer {
    pub oid: u32,
    /// The last of the transactions that have linked it to the root.
    pub linked_by: u32,
}

impl Part {
    fn linked_by(&self) -> u32 {
        last(self.links.iter().copied())
    }

    fn link(&self) -> String {
        self.links.iter().fold(self.oid.to_string(), |text, link| format!("{text} {link}"))
    }

    fn filed(&self) -> String {
        format!("{} {}", self.oid, self.file.map_or(String::new(), |file| file.to_string()))
    }
}

/// Whether a transaction has begun to write after another.
pub fn follows(transaction: u32, other: u32) -> bool {
    (transaction.wrapping_sub(other) as i32) > 0
}

fn last(transactions: impl Iterator<Item = u32>) -> u32 {
    let later = |a: u32, b: u32| if follows(b, a) { b } else { a };
    transactions.reduce(later).unwrap_or_default()
}

/// What was told of the parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    many: usize,
    links: String,
    files: String,
    /// By their links: their files and counts; none: not listed.
    list: Option<HashMap<String, (String, String)>>,
}

/// The parts now, beside what was told.
#[derive(Debug)]
pub struct Beside<'a> {
    pub known: Vec<&'a Part>,
    pub new: Vec<&'a Part>,
    /// Some are gone.
    pub gone: bool,
    /// Every known one is in the file that it was in.
    pub same_files: bool,
    /// The known ones have the counts that they had; none: not told.
    pub same_counts: Option<bool>,
}

/// As it is told: `<many>.<links>[.<list>]` and `<files>`.
pub fn text(parts: &[Part], listed: bool) -> (String, String) {
    let all: Vec<&Part> = parts.iter().collect();
    let mut links = format!("{}.{}", parts.len(), links(&all));
    if listed && parts.len() <= MOST_LISTED {
        links.push('.');
        for part in parts {
            let _ = write!(links, "{}{}", short(&part.link()), short(&part.filed()));
            if part.count != 0 {
                let _ = write!(links, "+{}", part.count);
            }
            links.push(',');
        }
    }
    (links, files(&all))
}

impl Told {
    /// Of what [`text`] has said; `None`: it has said something else.
    pub fn of(links: &str, files: &str) -> Option<Told> {
        let mut pieces = links.split('.');
        let many = pieces.next()?.parse().ok()?;
        let links = pieces.next()?.to_owned();
        let list = match pieces.next() {
            None => None,
            Some(list) => Some(list.split_terminator(',').map(entry).collect::<Option<_>>()?),
        };
        Some(Told { many, links, files: files.to_owned(), list })
    }

    /// `None`: what is new and what is gone cannot be told.
    pub fn beside<'a>(&self, parts: &'a [Part]) -> Option<Beside<'a>> {
        match &self.list {
            Some(list) => Some(self.by_list(list, parts)),
            None => self.by_age(parts),
        }
    }

    /// If none is gone, those that were linked last are new.
    fn by_age<'a>(&self, parts: &'a [Part]) -> Option<Beside<'a>> {
        let more = parts.len().checked_sub(self.many)?;
        let mut young: Vec<&Part> = parts.iter().filter(|part| !part.links.is_empty()).collect();
        let youngest = last(young.iter().map(|part| part.linked_by()));
        young.sort_by_key(|part| youngest.wrapping_sub(part.linked_by()));
        young.truncate(more);
        let is_new = |part: &Part| young.iter().any(|new| new.oid == part.oid);
        let (new, known): (Vec<_>, Vec<_>) = parts.iter().partition(|part| is_new(part));
        let same_files = files(&known) == self.files;
        let same = links(&known) == self.links;
        same.then_some(Beside { known, new, gone: false, same_files, same_counts: None })
    }

    fn by_list<'a>(
        &self,
        list: &HashMap<String, (String, String)>,
        parts: &'a [Part],
    ) -> Beside<'a> {
        let told = |part: &Part| list.get(&short(&part.link()));
        let (known, new): (Vec<_>, Vec<_>) = parts.iter().partition(|part| told(part).is_some());
        let same = |holds: &dyn Fn(&Part, &(String, String)) -> bool| {
            known.iter().all(|part| told(part).is_some_and(|told| holds(part, told)))
        };
        let same_files = same(&|part, told| told.0 == short(&part.filed()));
        let same_counts = same(&|part, told| told.1 == part.count.to_string());
        let gone = known.len() < self.many;
        Beside { known, new, gone, same_files, same_counts: Some(same_counts) }
    }
}

/// One of a list.
fn entry(text: &str) -> Option<(String, (String, String))> {
    let (digests, count) = text.split_once('+').unwrap_or((text, "0"));
    let (link, file) = digests.split_at_checked(SHORT)?;
    Some((link.to_owned(), (file.to_owned(), count.to_owned())))
}

fn links(parts: &[&Part]) -> String {
    digest(parts.iter().map(|part| part.link()))
}

fn files(parts: &[&Part]) -> String {
    digest(parts.iter().map(|part| part.filed()))
}

fn digest(texts: impl Iterator<Item = String>) -> String {
    let mut hasher = Sha256::new();
    for text in texts {
        hasher.update(text.as_bytes());
        hasher.update(b";");
    }
    hasher.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Letters of a digest in a list.
const SHORT: usize = 8;

fn short(text: &str) -> String {
    digest(std::iter::once(text.to_owned()))[..SHORT].to_owned()
}

/// Those of a table's newcomers of which rows may not have come through the log.
///
/// All of them have where it was made as a partition: a column that it inherits is
/// of the version that was made with it (every DETACH and ATTACH makes another).
/// One that was attached is as good while it is empty and always was: its file is
/// still the first. The log tells of all by the root's identity.
pub async fn doubtful(
    client: &Client,
    root: u32,
    newcomers: &[Newcomer],
) -> Result<Vec<Newcomer>, SourceError> {
    let query = "WITH RECURSIVE up AS ( \
           SELECT n.oid AS part, n.oid AS at FROM unnest($1::oid[]) AS n(oid) \
           UNION ALL SELECT up.part, i.inhparent FROM up JOIN pg_inherits i ON i.inhrelid = up.at \
             WHERE up.at <> $2) \
         SELECT c.oid FROM pg_class c, pg_class r WHERE c.oid = ANY ($1) AND r.oid = $2 \
         AND (c.relkind = 'p' OR c.relkind = 'r' AND c.relpersistence = 'p' \
           AND c.relreplident = r.relreplident AND c.relreplident IN ('d', 'f') \
           AND pg_relation_filenode(c.oid) = c.oid \
           AND (pg_relation_size(c.oid) = 0 OR NOT EXISTS ( \
             SELECT FROM up WHERE up.part = c.oid AND up.at <> $2 AND NOT EXISTS ( \
               SELECT FROM pg_attribute a JOIN pg_attribute made \
                 ON made.attrelid = a.attrelid AND made.attnum = -6 \
               WHERE a.attrelid = up.at AND a.attnum > 0 AND a.attinhcount > 0 \
               AND a.xmax = '0'::xid AND a.xmin = made.xmin AND a.cmin = made.cmin))))";
    let oids: Vec<u32> = newcomers.iter().map(|new| new.oid).collect();
    let rows = client.query(query, &[&oids, &root]).await;
    let rows = rows.map_err(SourceError::postgres("looking at partitions that are new"))?;
    let sound: Vec<u32> = rows.iter().map(|row| row.get(0)).collect();
    Ok(newcomers.iter().filter(|new| !sound.contains(&new.oid)).copied().collect())
}

impl From<&Part> for Newcomer {
    fn from(part: &Part) -> Self {
        Newcomer { oid: part.oid, linked_by: part.linked_by() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(oid: u32, link: u32, file: u32) -> Part {
        let links = if link == 0 { Vec::new() } else { vec![link] };
        Part { oid, links, file: Some(file), ..Part::default() }
    }

    fn told(parts: &[Part], listed: bool) -> Told {
        let (links, files) = text(parts, listed);
        Told::of(&links, &files).unwrap()
    }

    fn new(beside: &Beside<'_>) -> Vec<u32> {
        beside.new.iter().map(|part| part.oid).collect()
    }

    #[test]
    fn parts_that_are_new_are_told_from_those_that_were_there() {
        let root = part(10, 0, 10);
        let before = [root.clone(), part(11, u32::MAX, 11), part(13, 5, 13)];
        // Numbers of transactions come again.
        let now = [root, part(9, 8, 9), part(11, u32::MAX, 11), part(12, 7, 12), part(13, 5, 13)];
        for listed in [false, true] {
            let told = told(&before, listed);
            let beside = told.beside(&now).unwrap();
            assert_eq!(new(&beside), [9, 12]);
            assert!(beside.same_files && !beside.gone, "{listed}");
            let same = told.beside(&before).unwrap();
            assert!(same.new.is_empty() && same.same_files && !same.gone);
            let mut filed = before.clone();
            filed[1].file = Some(99);
            assert!(!told.beside(&filed).unwrap().same_files);
        }
    }

    #[test]
    fn parts_that_are_gone_are_known_by_a_list_alone() {
        let mut before = [part(10, 0, 10), part(11, 4, 11), part(13, 5, 13)];
        before[2].count = 7;
        let now = [before[0].clone(), part(12, 6, 12), before[2].clone()];
        assert!(told(&before, false).beside(&now).is_none());
        assert!(told(&before, false).beside(&now[..2]).is_none());
        let told = told(&before, true);
        let beside = told.beside(&now).unwrap();
        assert_eq!((new(&beside), beside.gone, beside.same_counts), (vec![12], true, Some(true)));
        assert!(beside.same_files);
        // Detached and attached again, it is another one.
        let back = [before[0].clone(), part(11, 8, 11), before[2].clone()];
        let beside = told.beside(&back).unwrap();
        assert_eq!((new(&beside), beside.gone), (vec![11], true));
    }

    #[test]
    fn a_list_is_bounded() {
        let many: Vec<Part> = (0..=MOST_LISTED as u32).map(|oid| part(oid, oid, oid)).collect();
        assert!(text(&many, true).0.len() < 100);
        assert!(Told::of("nonsense", "").is_none() && Told::of("1.x.y,", "").is_none());
    }
}
