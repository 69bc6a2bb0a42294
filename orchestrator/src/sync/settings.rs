//! What makes a staged chunk or a commit the same as another one.

use chrono::{DateTime, SubsecRound, Utc};
use prost::Message;
use proto::v1::{CaptureTable, Destination, LoadStream, Table};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::TableRun;
use crate::state::{Run, RunStatus};

/// Changes whenever the writer lays files out in another way.
const LAYOUT_VERSION: u32 = 1;

/// The identity of one table in one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// SHA-256, in hex, over everything that decides how the files look, but for the
    /// columns of a table that is followed: those the source compares.
    pub hash: String,
    /// The same over the columns, too, by their names: earlier versions had no other.
    pub with_columns: String,
    /// `<run id>.<part of the hash over table and settings>`: the same however
    /// often the run is interrupted, another once the settings have changed.
    /// Commits of change capture, of which a run makes several, add to it.
    pub commit_id: String,
}

impl Settings {
    /// Of `table` as `run` fills it; `seen`: what change capture says of it.
    pub fn of(
        run: &Run,
        destination: &Destination,
        table: &Table,
        stream: &LoadStream,
        seen: Option<&CaptureTable>,
    ) -> Self {
        let with_columns = hex(&hash(destination, table, stream, seen));
        // Without a list all columns are read; else, which, only the columns say.
        let hash = match seen.filter(|_| stream.selected.is_empty()) {
            Some(seen) => {
                let (table, seen) = by_number(table, seen);
                hex(&hash(destination, &table, stream, Some(&seen)))
            }
            None => with_columns.clone(),
        };
        Settings { commit_id: format!("{}.{}", run.id, part(&hash)), hash, with_columns }
    }

    /// Of a table of the run.
    pub fn of_table(run: &Run, destination: &Destination, table: &TableRun) -> Self {
        Settings::of(run, destination, &table.stream.table, &table.stream.load, table.seen.as_ref())
    }
}

/// What a commit id has of the hash.
fn part(hash: &str) -> &str {
    &hash[..16]
}

/// Whether a commit of ours, of whichever run, was made under these settings.
/// `compared`: the source knows the columns that the table had then.
pub fn is_under(commit_id: &str, settings: &Settings, compared: bool) -> bool {
    let Settings { hash, with_columns, .. } = settings;
    let its = commit_id.split('.').nth(1);
    its == Some(part(with_columns)) || compared && its == Some(part(hash))
}

/// A followed table whatever its columns are: its identity's by their numbers.
fn by_number(table: &Table, seen: &CaptureTable) -> (Table, CaptureTable) {
    let number = |name: &String| {
        let column = seen.columns.iter().find(|column| column.name == *name);
        column.map_or_else(|| name.clone(), |column| column.attnum.to_string())
    };
    let identity: Vec<String> = seen.identity.iter().map(number).collect();
    let key_columns = match table.key_columns == seen.identity {
        true => identity.clone(),
        false => table.key_columns.clone(),
    };
    let seen = CaptureTable { columns: Vec::new(), identity, ..seen.clone() };
    (Table { key_columns, ..table.clone() }, seen)
}

/// Length before content: no two different settings run together.
fn hash(
    destination: &Destination,
    table: &Table,
    stream: &LoadStream,
    seen: Option<&CaptureTable>,
) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(LAYOUT_VERSION.to_le_bytes());
    let destination = destination.without_credentials();
    // What is read is said by `seen`, whatever it was when discover ran.
    let expected = if seen.is_some() { Vec::new() } else { stream.expected.clone() };
    let stream = LoadStream { expected, ..stream.clone() };
    let parts = [destination.encode_to_vec(), table.encode_to_vec(), stream.encode_to_vec()];
    for part in parts.into_iter().chain(seen.map(CaptureTable::encode_to_vec)) {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A run that begins now.
pub fn new_run() -> Run {
    Run {
        id: Uuid::now_v7().to_string(),
        status: RunStatus::Running,
        started_at: now(),
        load: None,
    }
}

/// What `_olake_timestamp` can hold of it, so that a resumed run repeats it.
pub fn now() -> DateTime<Utc> {
    DateTime::trunc_subsecs(Utc::now(), 6)
}

/// The run that a commit id of ours names.
pub fn run_of(commit_id: &str) -> Option<Uuid> {
    Uuid::parse_str(commit_id.split_once('.')?.0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_id_is_stable_within_a_run_and_follows_the_settings() {
        let run = new_run();
        let (destination, stream) = (Destination::default(), LoadStream::default());
        let table = Table { name: "t".into(), ..Default::default() };
        let first = Settings::of(&run, &destination, &table, &stream, None);
        assert_eq!(first, Settings::of(&run, &destination, &table, &stream, None));
        assert_eq!(run_of(&first.commit_id).unwrap().to_string(), run.id);
        let seen = CaptureTable { identity: vec!["id".into()], ..Default::default() };
        let followed = Settings::of(&run, &destination, &table, &stream, Some(&seen));
        assert_ne!(first, followed);
        let under = |id: &str, settings| is_under(id, settings, true);
        assert!(under(&first.commit_id, &first) && !under(&first.commit_id, &followed));
        assert!(under(&format!("{}.0000A", followed.commit_id), &followed));

        let expected = vec![proto::v1::Column::default()];
        let discovered = LoadStream { expected, ..stream.clone() };
        assert_eq!(
            followed,
            Settings::of(&run, &destination, &table, &discovered, Some(&seen)),
            "discover was run again"
        );

        let changed = Table { normalization: true, ..table.clone() };
        assert_ne!(first, Settings::of(&run, &destination, &changed, &stream, None));
        let selected = LoadStream { selected: vec!["a".into()], ..Default::default() };
        assert_ne!(first, Settings::of(&run, &destination, &table, &selected, None));
        let later = new_run();
        let other = Settings::of(&later, &destination, &table, &stream, None);
        assert_eq!(first.hash, other.hash);
        assert_ne!(first.commit_id, other.commit_id);
    }

    #[test]
    fn columns_of_a_followed_table_are_no_setting_where_the_source_compares_them() {
        let run = new_run();
        let column = |name: &str, attnum| {
            let name = name.to_owned();
            proto::v1::Column { name, attnum, ..Default::default() }
        };
        let stream = |selected: &[&str]| LoadStream {
            selected: selected.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        let settings = |columns: &[(&str, i32)], identity: &str, stream: &LoadStream| {
            let seen = CaptureTable {
                columns: columns.iter().map(|(name, attnum)| column(name, *attnum)).collect(),
                identity: vec![identity.to_owned()],
                ..Default::default()
            };
            let table = Table { key_columns: seen.identity.clone(), ..Default::default() };
            Settings::of(&run, &Destination::default(), &table, stream, Some(&seen))
        };
        let all = stream(&[]);
        let first = settings(&[("id", 1), ("a", 2)], "id", &all);
        let later = settings(&[("key", 1), ("b", 3)], "key", &all);
        assert!(is_under(&first.commit_id, &later, true));
        assert!(!is_under(&first.commit_id, &later, false));
        // As earlier versions named it.
        let before = format!("{}.{}", run.id, part(&first.with_columns));
        assert!(is_under(&before, &first, true) && is_under(&before, &first, false));
        assert!(!is_under(&before, &later, true));
        let other = settings(&[("id", 1), ("a", 2)], "a", &all);
        assert!(!is_under(&first.commit_id, &other, true));
        let some = stream(&["a"]);
        let first = settings(&[("id", 1), ("a", 2)], "id", &some);
        let later = settings(&[("id", 1), ("b", 2)], "id", &some);
        assert!(!is_under(&first.commit_id, &later, true));
    }

    #[test]
    fn foreign_commit_ids_name_no_run() {
        assert_eq!(run_of(""), None);
        assert_eq!(run_of("0/198C935"), None);
        assert_eq!(run_of("abc.def"), None);
    }
}
