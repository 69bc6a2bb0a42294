//! What is right and wrong with one stream.

use proto::lsn::Lsn;
use proto::v1::{CaptureTable, CommitRecord, Relation};

use super::Found;
use super::report::{Problem, StreamStatus};
use crate::state::State;
use crate::streams::{SelectedStream, SyncMode};
use crate::sync::capture::Capture;
use crate::sync::follow::{self, Known};
use crate::sync::incremental::Reached;
use crate::sync::position::Position;
use crate::sync::trouble::Trouble;

const SYNC: &str = "run sync: it loads the table anew";

/// All that there is to say of it. `capture`: as it was opened.
pub(super) fn judge(found: Found<'_>, state: &State, capture: Option<&Capture>) -> StreamStatus {
    let stream = found.stream;
    let slot = capture.map_or("", Capture::slot);
    let mut status = StreamStatus::new(stream);
    let told = found.captured.and_then(|captured| captured.trouble.as_ref());
    // Where it may only not be read, change capture knows better.
    let gone = found.relation == Some(None) && !told.is_some_and(|told| told.recoverable);
    let trouble = told.filter(|_| !gone);
    if let Some(relation) = found.relation.filter(|relation| gone || relation.is_some()) {
        at_source(stream, relation, &mut status);
    }
    // What it has missed meanwhile is loaded when that is put right.
    let capture = capture.filter(|_| trouble.is_none() && found.relation != Some(None));
    if let Some(told) = trouble {
        let told = Trouble::told(&status.stream, told);
        let told = if found.holds { told.holding(slot) } else { told };
        status.problems.push(Problem::new(told.what, told.to_do));
    }
    let table = match found.table {
        Ok(table) => table,
        Err(fault) => {
            status.problems.push(Problem::of(fault));
            return status;
        }
    };
    status.location = Some(table.location).filter(|location| !location.is_empty());
    let commit = table.last_commit;
    if let Some(commit) = &commit {
        status.holds(commit);
    }
    let keyless = |captured: &CaptureTable| {
        captured.identity.is_empty() && captured.trouble.is_none() && !stream.append_mode
    };
    if found.captured.is_some_and(keyless) {
        status.notes.push(
            "without a primary key or another replica identity an UPDATE or DELETE cannot be \
             followed: ALTER TABLE … ADD PRIMARY KEY, or REPLICA IDENTITY FULL"
                .to_owned(),
        );
    }
    match stream.sync_mode {
        SyncMode::Cdc | SyncMode::StrictCdc => {
            followed(stream, commit.as_ref(), state, capture, &mut status);
        }
        SyncMode::Incremental => {
            let reached = commit.as_ref().and_then(Reached::of);
            match (&reached, &commit) {
                (Some(reached), _) => status.cursor = Some(reached.cursor.clone()),
                (None, Some(_)) => status
                    .problems
                    .push(Problem::new("its content is not of an incremental sync", SYNC)),
                (None, None) => absent(stream, state, &mut status),
            }
        }
        SyncMode::FullRefresh if commit.is_none() => absent(stream, state, &mut status),
        SyncMode::FullRefresh => {}
    }
    status
}

/// Whether the source still has what discover saw.
fn at_source(stream: &SelectedStream, relation: Option<&Relation>, status: &mut StreamStatus) {
    let Some(relation) = relation else {
        status.problems.push(Problem::new(
            "the source has no such table: it was dropped or renamed, or the role may not read it",
            "run discover, and take it out of selected_streams if it is gone",
        ));
        return;
    };
    let load = &stream.load;
    let wanted = |name: &String| load.selected.is_empty() || load.selected.contains(name);
    let changed: Vec<&str> = load
        .expected
        .iter()
        .filter(|column| wanted(&column.name))
        .filter(|column| {
            let same =
                |now: &&proto::v1::Column| now.name == column.name && now.r#type == column.r#type;
            !relation.columns.iter().any(|now| same(&now))
        })
        .map(|column| column.name.as_str())
        .collect();
    // What streams.json does not name itself follows the table.
    let (followed, named): (Vec<&str>, Vec<&str>) = changed.into_iter().partition(|name| {
        load.follows_columns && load.selected.is_empty() && load.split_column != *name
    });
    if !named.is_empty() {
        status.problems.push(Problem::new(
            format!("columns are gone or of another type since discover: {}", named.join(", ")),
            "run discover, then sync",
        ));
    }
    if !followed.is_empty() {
        status.notes.push(format!(
            "columns are gone or of another type since discover: {}; the next sync follows that, or \
             loads the table anew",
            followed.join(", ")
        ));
    }
}

/// Nothing of ours is at the destination.
fn absent(stream: &SelectedStream, state: &State, status: &mut StreamStatus) {
    let entry = state.stream(&stream.namespace, &stream.name);
    let had = entry.is_some_and(|entry| {
        entry.state.load.is_none()
            && (entry.state.position.is_some()
                || entry.state.chunks.as_ref().is_some_and(Vec::is_empty))
    });
    match had {
        true => status.problems.push(Problem::new(
            "the table was synced and is not at the destination any more",
            SYNC,
        )),
        false => status.notes.push("it was not synced yet".to_owned()),
    }
}

/// Whether it can be followed from what it holds, and how far it is.
fn followed(
    stream: &SelectedStream,
    commit: Option<&CommitRecord>,
    state: &State,
    capture: Option<&Capture>,
    status: &mut StreamStatus,
) {
    let is_log = stream.sync_mode == SyncMode::StrictCdc;
    let entry = state.stream(&stream.namespace, &stream.name);
    let reached = entry.and_then(|entry| entry.state.position.as_ref());
    let certified = state.certified(&stream.namespace, &stream.name);
    let position: Option<Position> = commit.and_then(|commit| commit.position.parse().ok());
    status.lsn = position.as_ref().map(|position| position.lsn.to_string());
    if commit.is_none() && !(is_log && certified.is_some()) {
        return absent(stream, state, status);
    }
    let Some(capture) = capture else { return };
    // Of a log that nothing has come for yet only the state knows.
    let position = position.or_else(|| certified.clone().filter(|_| is_log));
    let known = Known { position: position.as_ref(), certified: certified.clone(), reached };
    if let Err(doubt) = follow::judge(&capture.log, &known) {
        status.problems.push(match is_log {
            true => Problem::new(
                format!("its changes have a hole: {doubt}"),
                "clear-destination for this stream, then sync: its log then begins anew",
            ),
            false => Problem::new(format!("it cannot be followed: {doubt}"), SYNC),
        });
        return;
    }
    let lsn = |position: &Position| position.lsn;
    let reached = position.as_ref().map(lsn).max(certified.as_ref().map(lsn)).unwrap_or(Lsn(0));
    status.behind_bytes = Some(capture.log.end.0.saturating_sub(reached.0));
}

#[cfg(test)]
mod tests {
    use proto::v1::{Column, PrepareResponse, TableTrouble};

    use super::*;
    use crate::sync::follow::Log;
    use crate::sync::lag::HeldWal;
    use crate::sync::position::Origin;

    fn stream(sync_mode: SyncMode) -> SelectedStream {
        let column = |name: &str| Column {
            name: name.into(),
            r#type: "integer".into(),
            ..Default::default()
        };
        SelectedStream {
            namespace: "public".into(),
            name: "t".into(),
            sync_mode,
            cursor_field: String::new(),
            normalization: true,
            append_mode: false,
            load: proto::v1::LoadStream {
                expected: vec![column("id"), column("v")],
                ..Default::default()
            },
            table: Default::default(),
            columns: Vec::new(),
        }
    }

    fn capture() -> Capture {
        let origin = Origin { slot: "s".into(), system_identifier: "7".into(), timeline: 1 };
        Capture {
            publication: "p".into(),
            log: Log { origin, confirmed: Lsn(100), end: Lsn(200) },
            initial_wait_ms: 0,
            held: HeldWal::default(),
        }
    }

    fn at(lsn: u64) -> String {
        capture().at(Lsn(lsn)).to_string()
    }

    fn judged(stream: &SelectedStream, position: Option<String>, state: &State) -> StreamStatus {
        let commit = |position| CommitRecord { position, rows: 3, ..Default::default() };
        let found = Found {
            stream,
            relation: None,
            captured: None,
            holds: false,
            table: Ok(PrepareResponse { last_commit: position.map(commit), location: "l".into() }),
        };
        judge(found, state, Some(&capture()))
    }

    fn only(status: &StreamStatus) -> &str {
        assert_eq!(status.problems.len(), 1, "{status:?}");
        &status.problems[0].what
    }

    #[test]
    fn a_followed_table_is_as_far_behind_as_the_log_goes_on_from_it() {
        let stream = stream(SyncMode::Cdc);
        let status = judged(&stream, Some(at(150)), &State::default());
        assert!(status.problems.is_empty(), "{status:?}");
        assert_eq!((status.behind_bytes, status.rows), (Some(50), Some(3)));
        // Behind the slot, and nothing says that there was nothing for it.
        let status = judged(&stream, Some(at(40)), &State::default());
        assert!(only(&status).contains("ahead of what the table is known to have"));
        let mut state = State::default();
        state.follow(&capture().at(Lsn(120)), vec!["public.t".into()]);
        let status = judged(&stream, Some(at(40)), &state);
        assert_eq!((status.problems.len(), status.behind_bytes), (0, Some(80)));
    }

    #[test]
    fn a_table_that_is_gone_is_told_from_one_that_was_never_there() {
        for mode in [SyncMode::FullRefresh, SyncMode::Incremental, SyncMode::Cdc] {
            let stream = stream(mode);
            let mut state = State::default();
            let status = judged(&stream, None, &state);
            assert!(status.problems.is_empty() && status.notes.len() == 1, "{status:?}");
            state.finish_load("public", "t");
            let status = judged(&stream, None, &state);
            assert!(only(&status).contains("not at the destination any more"));
        }
    }

    #[test]
    fn what_has_changed_at_the_source_is_named() {
        let stream = stream(SyncMode::FullRefresh);
        let look = |relation: Option<&Relation>| {
            let mut status = StreamStatus::new(&stream);
            at_source(&stream, relation, &mut status);
            status
        };
        assert!(only(&look(None)).contains("no such table"));
        let mut relation = Relation { columns: stream.load.expected.clone(), ..Default::default() };
        assert!(look(Some(&relation)).problems.is_empty());
        relation.columns[1].r#type = "string".into();
        assert!(only(&look(Some(&relation))).ends_with(": v"));
        let mut stream = stream.clone();
        stream.load.follows_columns = true;
        let mut status = StreamStatus::new(&stream);
        at_source(&stream, Some(&relation), &mut status);
        assert!(status.problems.is_empty() && status.notes[0].contains(": v;"), "{status:?}");
    }

    #[test]
    fn a_table_in_trouble_has_that_problem_and_no_other() {
        let stream = stream(SyncMode::Cdc);
        let told = TableTrouble {
            what: "the publication lacks it".into(),
            remedy: "add".into(),
            ..Default::default()
        };
        let found = Found {
            stream: &stream,
            relation: None,
            captured: Some(&CaptureTable { trouble: Some(told), ..Default::default() }),
            holds: false,
            table: Ok(PrepareResponse {
                last_commit: Some(CommitRecord { position: at(40), ..Default::default() }),
                location: "l".into(),
            }),
        };
        let status = judge(found, &State::default(), Some(&capture()));
        assert_eq!(only(&status), "the publication lacks it");
        assert!(status.notes.is_empty(), "{status:?}");
    }

    #[test]
    fn a_table_without_identity_is_noted() {
        let stream = stream(SyncMode::Cdc);
        let found = Found {
            stream: &stream,
            relation: None,
            captured: Some(&CaptureTable::default()),
            holds: false,
            table: Ok(PrepareResponse::default()),
        };
        let status = judge(found, &State::default(), Some(&capture()));
        assert!(status.notes.iter().any(|note| note.contains("REPLICA IDENTITY")), "{status:?}");
    }
}
