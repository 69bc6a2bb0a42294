//! What `status` says: a table for people on stderr, one line of JSON on stdout.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, Table};
use proto::Fault;
use proto::v1::{CommitRecord, ErrorCode};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::config::source::UpdateMethod;
use crate::output;
use crate::progress::human;
use crate::streams::SelectedStream;
use crate::sync::capture::Capture;

/// Something that a person should do something about.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Problem {
    pub(super) what: String,
    /// May be empty.
    pub(super) to_do: String,
}

impl Problem {
    pub(super) fn new(what: impl Into<String>, to_do: impl Into<String>) -> Self {
        Problem { what: what.into(), to_do: to_do.into() }
    }

    pub(super) fn of(fault: Fault) -> Self {
        Problem { what: fault.message, to_do: fault.remedy }
    }
}

/// One stream.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct StreamStatus {
    /// "schema.table".
    pub(super) stream: String,
    pub(super) sync_mode: &'static str,
    pub(super) location: Option<String>,
    /// Of its last commit.
    pub(super) rows: Option<u64>,
    pub(super) committed_at: Option<String>,
    /// Where in the log its content is.
    pub(super) lsn: Option<String>,
    /// Of the log, of whichever tables.
    pub(super) behind_bytes: Option<u64>,
    /// What an incremental sync has reached, by column.
    pub(super) cursor: Option<Map<String, Value>>,
    pub(super) notes: Vec<String>,
    pub(super) problems: Vec<Problem>,
}

impl StreamStatus {
    pub(super) fn new(stream: &SelectedStream) -> Self {
        StreamStatus {
            stream: stream.id(),
            sync_mode: stream.sync_mode.as_str(),
            location: None,
            rows: None,
            committed_at: None,
            lsn: None,
            behind_bytes: None,
            cursor: None,
            notes: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// What its last commit was.
    pub(super) fn holds(&mut self, commit: &CommitRecord) {
        self.rows = Some(commit.rows);
        self.committed_at = Some(commit.committed_at.clone()).filter(|time| !time.is_empty());
    }

    /// Where it is, in a word.
    fn reached(&self) -> String {
        let cursor = |(column, value): (&String, &Value)| match value {
            Value::String(text) => format!("{column} {text}"),
            other => format!("{column} {other}"),
        };
        match (&self.lsn, &self.cursor) {
            (Some(lsn), _) => lsn.clone(),
            (None, Some(reached)) => reached.iter().map(cursor).collect::<Vec<_>>().join(", "),
            (None, None) => String::new(),
        }
    }
}

/// Where change capture is.
#[derive(Clone, Debug, Serialize)]
struct CaptureStatus {
    slot: String,
    publication: String,
    confirmed: String,
    end: String,
    behind_bytes: u64,
    retained_wal_bytes: u64,
    safe_wal_bytes: Option<i64>,
}

/// All of it.
#[derive(Default)]
pub(super) struct Report {
    capture: Option<CaptureStatus>,
    pub(super) streams: Vec<StreamStatus>,
    /// Of no single stream.
    pub(super) notes: Vec<String>,
    /// The same.
    pub(super) problems: Vec<Problem>,
}

impl Report {
    /// Change capture is there; `logs`: in trouble, which the slot is held for.
    pub(super) fn capture(&mut self, capture: &Capture, method: &UpdateMethod, logs: &[String]) {
        let (slot, log, held) = (capture.slot().to_owned(), &capture.log, capture.held);
        let line = held.line(&slot, method.retained_wal_warning, logs);
        match line.strip_prefix("warning: ") {
            Some(much) => {
                let (what, to_do) = much.split_once("; ").unwrap_or((much, ""));
                self.problems.push(Problem::new(what, to_do));
            }
            None => self.notes.push(line.trim_start_matches("note: ").to_owned()),
        }
        self.capture = Some(CaptureStatus {
            slot,
            publication: capture.publication.clone(),
            confirmed: log.confirmed.to_string(),
            end: log.end.to_string(),
            behind_bytes: log.end.0.saturating_sub(log.confirmed.0),
            retained_wal_bytes: held.retained_bytes,
            safe_wal_bytes: held.safe_bytes,
        });
    }

    /// Prints both forms.
    pub(super) fn print(&self) -> Result<(), Fault> {
        output::human(self.table());
        for note in &self.notes {
            output::human(format_args!("note: {note}"));
        }
        for stream in &self.streams {
            for note in &stream.notes {
                output::human(format_args!("note: {}: {note}", stream.stream));
            }
        }
        for (of, problem) in self.all() {
            output::human(format_args!("problem: {of}{}", problem.what));
            if !problem.to_do.is_empty() {
                output::human(format_args!("  → {}", problem.to_do));
            }
        }
        let ok = self.all().next().is_none();
        output::machine(&json!({
            "type": "STATUS",
            "status": if ok { "OK" } else { "ATTENTION" },
            "capture": self.capture,
            "streams": self.streams,
            "notes": self.notes,
            "problems": self.problems,
        }))
    }

    /// A failure if something must be done.
    pub(super) fn verdict(&self) -> Result<(), Fault> {
        match self.all().count() {
            0 => Ok(()),
            1 => Err(Fault::new(ErrorCode::Source, "there is a problem")),
            several => Err(Fault::new(ErrorCode::Source, format!("there are {several} problems"))),
        }
    }

    /// Every problem, and before it whose it is.
    fn all(&self) -> impl Iterator<Item = (String, &Problem)> {
        let of_stream = |stream: &'_ StreamStatus| format!("{}: ", stream.stream);
        let general = self.problems.iter().map(|problem| (String::new(), problem));
        general.chain(self.streams.iter().flat_map(move |stream| {
            stream.problems.iter().map(move |problem| (of_stream(stream), problem))
        }))
    }

    fn table(&self) -> Table {
        let titles = ["Stream", "Mode", "Last commit", "Rows of it", "Reached", "Behind", ""];
        let mut table = Table::new();
        table
            .load_style(UTF8_FULL_CONDENSED.with_rounded_corners())
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(titles.map(|title| Cell::new(title).add_attribute(Attribute::Bold)));
        for stream in &self.streams {
            let number = |text: Option<String>| {
                Cell::new(text.unwrap_or_default()).set_alignment(CellAlignment::Right)
            };
            let word = match (stream.problems.len(), &stream.committed_at) {
                (0, None) => "",
                (0, Some(_)) => "ok",
                _ => "problem",
            };
            let committed = stream.committed_at.as_deref().unwrap_or_default();
            table.add_row(vec![
                Cell::new(&stream.stream),
                Cell::new(stream.sync_mode),
                Cell::new(committed.get(..19).unwrap_or(committed).replace('T', " ")),
                number(stream.rows.map(human::count)),
                Cell::new(stream.reached()),
                number(stream.behind_bytes.map(human::bytes)),
                Cell::new(word),
            ]);
        }
        table
    }
}
