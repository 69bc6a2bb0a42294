//! Tables that are logs of changes (`strict_cdc`): nothing is loaded, and every
//! change from where the first sync found the slot on is a row, once, in the order
//! of `_cdc_lsn`.
//!
//! Where a table of `cdc` is loaded anew, because the slot has left it behind or
//! the stream cannot tell a change, a log would have a hole: the stream is in trouble
//! ([`super::trouble`]), and it is said how the log can begin anew. What is no
//! change of a row is no row: a TRUNCATE, and what changes rows without an event
//! (a rewrite, a column's default, a partition attached or detached). The former is
//! said as it comes.

use proto::Fault;
use proto::v1::{ErrorCode, TableLost};

use super::TableRun;
use super::capture::Capture;
use super::follow::{Known, judge};
use super::position::Position;
use super::resume::Action;
use crate::progress::Progress;
use crate::streams::SyncMode;

/// What the shape of a log begins with, in its position. After a colon comes the
/// table's, of which it only matters what reaches the log.
const LOG: &str = "log";

/// Whether a position is of a log.
pub fn is_of_log(position: &Position) -> bool {
    position.shape.split(':').next() == Some(LOG)
}

/// The shape of a log of a table that looks like this.
pub fn shape(table: &str) -> String {
    format!("{LOG}:{table}")
}

/// What the source said of how a log's table looked; may be empty.
pub fn table_shape(position: &Position) -> &str {
    position.shape.split_once(':').map_or("", |(_, table)| table)
}

impl TableRun {
    /// Whether its table is a log of changes.
    pub fn is_log(&self) -> bool {
        self.stream.sync_mode == SyncMode::StrictCdc
    }
}

/// Up to where a log has everything; `None`: it has not begun. `last`: of its last
/// commit.
pub fn known(last: Option<Position>, certified: Option<Position>) -> Option<Position> {
    match (last.filter(is_of_log), certified) {
        (Some(last), Some(known)) if last.origin == known.origin && last.lsn > known.lsn => {
            Some(last)
        }
        (last, certified) => certified.or(last),
    }
}

/// A log goes on from what it has; a new one begins where the slot is.
pub fn begin(
    table: &mut TableRun,
    capture: &Capture,
    certified: Option<Position>,
    reached: Option<&Position>,
) -> Result<(), Fault> {
    let is_log = table.position.as_ref().is_some_and(is_of_log);
    if table.last_commit.is_some() && !is_log {
        let what = format!("{} holds what is no log of changes", table.id);
        return Err(Fault::new(ErrorCode::InvalidConfig, what).remedy(anew("begins")));
    }
    // Of one that nothing has come for yet only the state knows.
    let logged = reached.filter(|reached| is_of_log(reached));
    let known = table.position.clone().or_else(|| certified.clone()).or_else(|| logged.cloned());
    let position = known.unwrap_or_else(|| capture.at(capture.log.confirmed));
    judge(&capture.log, &Known { position: Some(&position), certified, reached }).map_err(
        |doubt| {
            let what = format!("the changes of {} have a hole: {doubt}", table.id);
            Fault::new(ErrorCode::Source, what).remedy(anew("then begins"))
        },
    )?;
    let looked = logged.filter(|logged| logged.lsn >= position.lsn || !is_of_log(&position));
    let shape = looked.unwrap_or(&position).shape.clone();
    let position = position.with_shape(if shape.is_empty() { LOG } else { &shape });
    table.position = Some(position);
    table.action = Action::Follow;
    Ok(())
}

/// Says what its log will lack, or stop at; `toastable`: columns of large values.
pub fn warn(table: &TableRun, toastable: &[String], progress: &Progress) {
    let Some(seen) = &table.seen else { return };
    if seen.identity.is_empty() {
        progress.note_once(&format!(
            "warning: {}: without a primary key or another replica identity, its UPDATEs and \
             DELETEs are not in the log",
            table.id
        ));
    } else if !seen.full && !toastable.is_empty() {
        progress.note_once(&format!(
            "warning: {}: an UPDATE that leaves a large value of {} as it was would stop its log, \
             which cannot tell it: give the table REPLICA IDENTITY FULL",
            table.id,
            toastable.join(", ")
        ));
    }
}

/// A change that the stream does not tell.
pub fn lost(table: &TableRun, lost: &TableLost) -> Fault {
    let what = format!(
        "a change of {} cannot be told: {}; its log has a hole from there on",
        table.id, lost.reason
    );
    let remedy =
        format!("what comes before it is in the table: keep a copy, then {}", anew("begins"));
    Fault::new(ErrorCode::Source, what).remedy(remedy)
}

/// A TRUNCATE that came in an interval.
pub fn note_truncate(table: &TableRun, to: &Position, progress: &Progress) {
    progress.note(&format!(
        "note: {} was truncated before {}: its log has no row for that",
        table.id, to.lsn
    ));
}

fn anew(begins: &str) -> String {
    format!(
        "clear-destination for this stream, then sync: its log {begins} anew where the replication \
         slot is"
    )
}
