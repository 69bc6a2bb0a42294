//! What is left to do: decided from the state, the tables' commit records and
//! the load that may still live. Pure; the table decides over the state.
//!
//! | the table holds this run's commit | staged, same settings | its load lives | action |
//! |---|---|---|---|
//! | yes | – | – | [`Action::Done`] |
//! | no | every chunk | – | [`Action::CommitStaged`] |
//! | no | some chunks or none | yes | [`Action::ReadMissing`]: the same point in time |
//! | no | some chunks or none | no | [`Action::ReadAll`]: never chunks across snapshots |
//! | no | with other settings | – | [`Action::ReadAll`] |
//!
//! A table that change capture can go on from is not loaded at all:
//! [`Action::Follow`] (see [`super::follow`]); else the same holds for it, but
//! that what is staged must be what changes can be added to.

use proto::v1::CommitRecord;
use uuid::Uuid;

use super::settings::{Settings, run_of};
use crate::state::{Run, RunStatus, SavedLoad};

/// What a run has to do for one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Add changes to what it holds.
    Follow,
    /// Committed by this run: nothing.
    Done,
    /// Make visible what is staged.
    CommitStaged,
    /// Read the chunks that are not staged, under the same snapshot.
    ReadMissing,
    /// Read everything.
    ReadAll,
}

/// The decision table above. `saved` is what the state has of the table, and
/// `live_load` the load that still lives (or is hoped to).
pub fn decide(
    settings: &Settings,
    last_commit: Option<&CommitRecord>,
    saved: Option<&SavedLoad>,
    live_load: Option<&str>,
) -> Action {
    if last_commit.is_some_and(|commit| commit.commit_id == settings.commit_id) {
        return Action::Done;
    }
    let Some(saved) = saved.filter(|saved| is_of(saved, settings)) else { return Action::ReadAll };
    if saved.is_complete() {
        Action::CommitStaged
    } else if live_load == Some(saved.id.as_str()) {
        Action::ReadMissing
    } else {
        Action::ReadAll
    }
}

/// Whether the chunks were staged by this run under these settings.
pub fn is_of(saved: &SavedLoad, settings: &Settings) -> bool {
    let rest = saved.commit_id.strip_prefix(&settings.commit_id);
    let same = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    same && saved.settings_hash == settings.hash
}

/// Whether the chunks were staged by this run, under whichever settings.
pub fn is_of_run(saved: &SavedLoad, run: &Run) -> bool {
    run_of(&saved.commit_id).is_some_and(|id| id.to_string() == run.id)
}

/// The run to continue, if the last one was interrupted.
pub fn interrupted(last: Option<&Run>) -> Option<Run> {
    last.filter(|run| run.status == RunStatus::Running && Uuid::parse_str(&run.id).is_ok()).cloned()
}

/// Whether a table was committed by a later run than `run`: then the state is
/// an old copy, and continuing it would bring back old content.
pub fn is_outdated(run: &Run, last_commits: &[Option<&CommitRecord>]) -> bool {
    let Ok(run_id) = Uuid::parse_str(&run.id) else { return true };
    let mut runs = last_commits.iter().flatten().filter_map(|commit| run_of(&commit.commit_id));
    runs.any(|committed| committed > run_id)
}

/// Whether continuing the interrupted run saves any work; `tables`: each one's
/// action and how many chunks it has staged. With nothing kept, a new run is as
/// quick and more recent; with nothing left, the interrupted run was complete,
/// and a sync that asks for a refresh gets one.
pub fn is_worth_it(tables: &[(Action, usize)]) -> bool {
    let kept = |(action, staged): &(Action, usize)| match action {
        Action::Done | Action::CommitStaged => true,
        Action::ReadMissing => *staged > 0,
        Action::ReadAll | Action::Follow => false,
    };
    tables.iter().any(kept) && tables.iter().any(|(action, _)| *action != Action::Done)
}

#[cfg(test)]
mod tests {
    use super::super::settings::new_run;
    use super::*;
    use crate::state::SavedChunk;

    fn saved(load: &str, commit: &str, hash: &str, staged: u32, of: u32) -> SavedLoad {
        SavedLoad {
            id: load.into(),
            commit_id: commit.into(),
            settings_hash: hash.into(),
            chunk_count: of,
            staged: (0..staged)
                .map(|chunk_id| SavedChunk { chunk_id, ..Default::default() })
                .collect(),
            ..Default::default()
        }
    }

    /// The whole table: commit record × staged × settings × liveness.
    #[test]
    fn every_case_of_the_decision_table() {
        let settings =
            Settings { hash: "h".into(), with_columns: "h".into(), commit_id: "run.h".into() };
        let record = |id: &str| CommitRecord { commit_id: id.into(), ..Default::default() };
        let commits = [None, Some(record("other")), Some(record("run.h"))];
        let lives = [None, Some("L"), Some("M")];
        for commit in &commits {
            for live in lives {
                for (commit_id, hash) in [("run.h", "h"), ("run.h", "x"), ("old.h", "h")] {
                    for staged in 0..=3 {
                        let state = saved("L", commit_id, hash, staged, 3);
                        let ours = commit_id == "run.h" && hash == "h";
                        let expected = match (commit, ours, staged, live) {
                            (Some(c), ..) if c.commit_id == "run.h" => Action::Done,
                            (_, true, 3, _) => Action::CommitStaged,
                            (_, true, 0..=2, Some("L")) => Action::ReadMissing,
                            _ => Action::ReadAll,
                        };
                        let decided = decide(&settings, commit.as_ref(), Some(&state), live);
                        assert_eq!(decided, expected, "{commit:?} {state:?} {live:?}");
                    }
                }
                let nothing = decide(&settings, commit.as_ref(), None, live);
                let done = commit.as_ref().is_some_and(|c| c.commit_id == "run.h");
                assert_eq!(nothing, if done { Action::Done } else { Action::ReadAll });
            }
        }
    }

    #[test]
    fn only_an_interrupted_run_is_continued() {
        let running = new_run();
        assert_eq!(interrupted(Some(&running)), Some(running.clone()));
        let finished = Run { status: RunStatus::Finished, ..running.clone() };
        assert_eq!(interrupted(Some(&finished)), None);
        assert_eq!(interrupted(Some(&Run { id: "x".into(), ..running })), None);
        assert_eq!(interrupted(None), None);
    }

    #[test]
    fn a_table_committed_by_a_later_run_shows_an_old_state() {
        let (old, run, later) = (new_run(), new_run(), new_run());
        // Ids of one millisecond order at random: what counts is their order.
        let mut runs = [old, run, later];
        runs.sort_by(|a, b| a.id.cmp(&b.id));
        let commit = |run: &Run| CommitRecord {
            commit_id: format!("{}.0123", run.id),
            ..Default::default()
        };
        let [before, same, after] = [commit(&runs[0]), commit(&runs[1]), commit(&runs[2])];
        let foreign = CommitRecord { commit_id: "foreign".into(), ..Default::default() };
        assert!(!is_outdated(&runs[1], &[None, Some(&before), Some(&same), Some(&foreign)]));
        assert!(is_outdated(&runs[1], &[None, Some(&before), Some(&after)]));
    }

    #[test]
    fn a_run_is_continued_when_something_is_kept_and_something_is_left() {
        use Action::*;
        assert!(is_worth_it(&[(Done, 0), (ReadAll, 0)]));
        assert!(is_worth_it(&[(Done, 0), (ReadMissing, 0)]));
        assert!(is_worth_it(&[(CommitStaged, 3)]));
        assert!(is_worth_it(&[(ReadMissing, 1), (ReadAll, 0)]));
        assert!(!is_worth_it(&[(ReadMissing, 0), (ReadMissing, 0)]));
        assert!(!is_worth_it(&[(ReadAll, 2), (ReadAll, 0)]));
        assert!(!is_worth_it(&[(Done, 0), (Done, 0)]));
        assert!(is_worth_it(&[(Done, 0), (Follow, 0)]));
        assert!(!is_worth_it(&[(Follow, 0), (ReadAll, 0)]));
        assert!(!is_worth_it(&[]));
    }
}
