//! What a sync has done, for its user (stderr) and for programs (one line of
//! JSON on stdout).

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, Table};
use proto::Fault;
use proto::v1::destination::Kind;
use proto::v1::{CommitRecord, CommitResponse, Destination};
use serde::Serialize;
use serde_json::json;

use crate::output;
use crate::progress::human;
use crate::sync::lag::{HeldWal, Measured};
use crate::sync::resume::Action;
use crate::sync::trouble::Trouble;
use crate::sync::{TableRun, Unrepresentable};

/// How a table came to its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// All of it was read in this sync.
    Loaded,
    /// It is of an interrupted sync's snapshot, which had staged all of it,
    /// some, or nothing yet.
    Resumed,
    /// An interrupted sync of this run had committed it.
    CommittedBefore,
    /// Only changes were added to what it held.
    Followed,
    /// What has come above its cursor was added to what it held.
    Added,
}

/// What a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// A directory of Parquet files.
    Parquet,
    /// An Iceberg table.
    Iceberg,
}

impl Format {
    /// Of the tables of a destination.
    pub fn of(destination: &Destination) -> Self {
        match destination.kind {
            Some(Kind::Iceberg(_)) => Format::Iceberg,
            Some(Kind::Parquet(_)) | None => Format::Parquet,
        }
    }
}

/// A table that is committed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// "schema.table".
    pub stream: String,
    pub how: How,
    pub rows: u64,
    pub files: u64,
    /// On disk.
    pub bytes: u64,
    /// From its first chunk to its commit.
    pub seconds: f64,
    pub format: Format,
    /// Where it lies.
    pub location: String,
    /// Whether its files lie in directories below that.
    pub partitioned: bool,
    /// Values stored as null because the destination's type cannot hold them,
    /// by column.
    pub unrepresentable: Unrepresentable,
    /// Changes that were committed, as rows and as keys to delete; none: it is
    /// not followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<u64>,
    /// Where in the log its content is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lsn: Option<String>,
}

impl Outcome {
    /// Of a commit that this sync has made.
    pub fn committed(
        table: &TableRun,
        answer: &CommitResponse,
        unrepresentable: Unrepresentable,
        seconds: f64,
    ) -> Self {
        let how = match table.action {
            _ if table.reached.is_some() => How::Added,
            Action::ReadAll => How::Loaded,
            Action::ReadMissing | Action::CommitStaged => How::Resumed,
            Action::Done => How::CommittedBefore,
            Action::Follow => How::Followed,
        };
        let record = answer.record.clone().unwrap_or_default();
        Outcome {
            unrepresentable,
            seconds,
            location: answer.location.clone(),
            ..Self::of(table, &record, how)
        }
    }

    /// Of a table that was committed before this sync began.
    pub fn before(table: &TableRun, record: &CommitRecord) -> Self {
        Self::of(table, record, How::CommittedBefore)
    }

    /// Of an incremental table that nothing new has come for.
    pub fn unchanged(table: &TableRun) -> Self {
        Self::of(table, &CommitRecord::default(), How::Added)
    }

    /// Of a table to which changes were added, if there were any.
    pub fn followed(table: &TableRun) -> Self {
        let nothing = CommitRecord::default();
        Self::of(table, &nothing, How::Followed).with_changes(table)
    }

    /// The same with what change capture has added since.
    pub fn with_changes(mut self, table: &TableRun) -> Self {
        self.changes = Some(table.changes);
        self.lsn = table.position.as_ref().map(|position| position.lsn.to_string());
        for (column, values) in &table.unrepresentable {
            *self.unrepresentable.entry(column.clone()).or_default() += values;
        }
        self
    }

    /// The line about its changes, if it is followed.
    pub fn changes_line(&self) -> Option<String> {
        let changes = self.changes.filter(|changes| *changes > 0 || self.how == How::Followed)?;
        let plural = if changes == 1 { "" } else { "s" };
        Some(format!("{}: {} change{plural}", self.stream, human::count(changes)))
    }

    fn of(table: &TableRun, record: &CommitRecord, how: How) -> Self {
        Outcome {
            stream: table.id.clone(),
            how,
            rows: record.rows,
            files: record.files,
            bytes: record.bytes,
            seconds: 0.0,
            format: table.format,
            location: table.location.clone(),
            partitioned: !table.stream.table.partition_regex.is_empty(),
            unrepresentable: Unrepresentable::new(),
            changes: None,
            lsn: None,
        }
    }

    /// The table's line in the progress.
    pub fn line(&self) -> String {
        let plural = if self.files == 1 { "" } else { "s" };
        let what = format!(
            "{} rows, {} in {} file{plural}",
            human::count(self.rows),
            human::bytes(self.bytes),
            human::count(self.files)
        );
        match self.how {
            How::CommittedBefore => format!("{}: was committed before ({what})", self.stream),
            How::Followed => self.changes_line().unwrap_or_default(),
            How::Added if self.rows == 0 => format!("{}: nothing new", self.stream),
            How::Added => {
                format!("{}: added {what} ({})", self.stream, human::seconds(self.seconds))
            }
            How::Resumed | How::Loaded => {
                format!("{}: committed {what} ({})", self.stream, human::seconds(self.seconds))
            }
        }
    }

    /// One for each column that lost values.
    pub fn warnings(&self) -> Vec<String> {
        let warning = |(column, values): (&String, &u64)| {
            format!(
                "warning: {}.{column}: {} value{} cannot be represented at the destination and \
                 {} null",
                self.stream,
                human::count(*values),
                if *values == 1 { "" } else { "s" },
                if *values == 1 { "is" } else { "are" },
            )
        };
        self.unrepresentable.iter().map(warning).collect()
    }

    /// What a reader opens: every file of the table.
    fn glob(&self) -> String {
        let depth = if self.partitioned { "**/*.parquet" } else { "*.parquet" };
        format!("{}/{depth}", self.location.trim_end_matches('/'))
    }
}

/// A whole sync.
#[derive(Default)]
pub struct Summary {
    pub run_id: String,
    /// The tables that are committed.
    pub outcomes: Vec<Outcome>,
    /// The streams that stay as they were, and why.
    pub troubles: Vec<Trouble>,
    /// The streams whose loads were given up, since the sync was to end.
    pub given_up: Vec<String>,
    /// From start to end.
    pub seconds: f64,
    /// WAL that was held back for change capture when the sync began.
    pub held: Option<HeldWal>,
    /// How far the tables are behind at its end.
    pub lag: Option<Measured>,
}

impl Summary {
    /// How many tables are committed.
    pub fn committed(&self) -> usize {
        self.outcomes.len()
    }

    /// Prints both forms.
    pub fn print(&self) -> Result<(), Fault> {
        let below = self.below();
        output::human(self.table(below));
        if !below.is_empty() {
            output::human(format_args!("Where: below {below}"));
        }
        for warning in self.outcomes.iter().flat_map(Outcome::warnings) {
            output::human(warning);
        }
        output::human(format_args!("\n{}", self.total()));
        let any = |outcome: &&Outcome| {
            outcome.rows > 0 || matches!(outcome.how, How::Followed | How::Added)
        };
        if let Some(first) = self.outcomes.iter().find(any) {
            output::human(format_args!("\nQuery {}:\n{}", first.stream, queries(first)));
        }
        output::machine(&self.json())
    }

    /// The directory that all tables lie below, with its slash; may be empty.
    /// Said once, it leaves the table narrow enough for a terminal.
    fn below(&self) -> &str {
        let mut locations = self.outcomes.iter().map(|outcome| outcome.location.as_str());
        let Some(first) = locations.next() else { return "" };
        let directory = |text: &str| text.rfind('/').map_or(0, |slash| slash + 1);
        let shared = locations.fold(directory(first), |shared, other| {
            let pairs = first[..shared].char_indices().zip(other.chars());
            let same = pairs.take_while(|((_, ours), theirs)| ours == theirs);
            // The slash itself counts only where both have it.
            same.filter(|((_, ours), _)| *ours == '/').last().map_or(0, |((at, _), _)| at + 1)
        });
        &first[..shared]
    }

    fn table(&self, below: &str) -> Table {
        let mut table = Table::new();
        table
            .load_style(UTF8_FULL_CONDENSED.with_rounded_corners())
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(
                ["Stream", "Rows", "Size", "Rows/s", "Files", "Where"]
                    .into_iter()
                    .chain(self.held.map(|_| "Changes"))
                    .map(|title| Cell::new(title).add_attribute(Attribute::Bold)),
            );
        for outcome in &self.outcomes {
            let speed = match outcome.how {
                How::CommittedBefore => "before".to_owned(),
                How::Followed => String::new(),
                How::Resumed => "resumed".to_owned(),
                How::Loaded | How::Added => {
                    human::count(human::per_second(outcome.rows, outcome.seconds) as u64)
                }
            };
            let number = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
            // Of a table that is only followed, nothing was loaded.
            let loaded = |text: String| match outcome.how {
                How::Followed => number(String::new()),
                _ => number(text),
            };
            let mut row = vec![
                Cell::new(&outcome.stream),
                loaded(human::count(outcome.rows)),
                loaded(human::bytes(outcome.bytes)),
                number(speed),
                loaded(human::count(outcome.files)),
                Cell::new(outcome.location.strip_prefix(below).unwrap_or(&outcome.location)),
            ];
            if self.held.is_some() {
                let changes = outcome.changes.map(human::count).unwrap_or_default();
                row.push(number(changes));
            }
            table.add_row(row);
        }
        for trouble in &self.troubles {
            table.add_row([&trouble.stream, "", "", "not synced"]);
        }
        for stream in &self.given_up {
            table.add_row([stream, "", "", "given up"]);
        }
        table
    }

    fn total(&self) -> String {
        let rows = self.rows();
        format!(
            "{} stream{}, {} rows, {} in {}: {} rows/s",
            self.outcomes.len(),
            if self.outcomes.len() == 1 { "" } else { "s" },
            human::count(rows),
            human::bytes(self.outcomes.iter().map(|outcome| outcome.bytes).sum()),
            human::seconds(self.seconds),
            human::count(human::per_second(rows, self.seconds) as u64),
        )
    }

    /// Rows loaded and changes.
    fn rows(&self) -> u64 {
        self.outcomes.iter().map(|outcome| outcome.rows + outcome.changes.unwrap_or(0)).sum()
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "type": "SYNC_SUMMARY",
            "status": match self.troubles.is_empty() && self.given_up.is_empty() {
                true => "SUCCEEDED",
                false => "INCOMPLETE",
            },
            "run_id": self.run_id,
            "seconds": self.seconds,
            "rows": self.rows(),
            "bytes": self.outcomes.iter().map(|outcome| outcome.bytes).sum::<u64>(),
            "files": self.outcomes.iter().map(|outcome| outcome.files).sum::<u64>(),
            "streams": self.outcomes,
            "problems": self.troubles,
            "given_up": self.given_up,
            "held_wal": self.held,
            "lag": self.lag,
        })
    }
}

/// Lines for a shell that show the table's first rows.
fn queries(outcome: &Outcome) -> String {
    if outcome.format == Format::Iceberg {
        // Without its catalog: DuckDB takes the newest metadata file.
        let sql = format!(
            "INSTALL iceberg; LOAD iceberg; SET unsafe_enable_version_guessing = true; \
             SELECT * FROM iceberg_scan('{}') LIMIT 10",
            outcome.location.replace('\'', "''")
        );
        return format!("  duckdb -c {}", shell(&sql));
    }
    let sql = format!("SELECT * FROM '{}' LIMIT 10", outcome.glob().replace('\'', "''"));
    let path = serde_json::Value::from(outcome.location.as_str());
    let python = format!("import pandas; print(pandas.read_parquet({path}).head(10))");
    format!("  duckdb -c {}\n  python3 -c {}", shell(&sql), shell(&python))
}

/// One word of a shell, in double quotes where that is easier to read.
fn shell(text: &str) -> String {
    if text.contains(['"', '$', '`', '\\', '!']) {
        format!("'{}'", text.replace('\'', r"'\''"))
    } else {
        format!("\"{text}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(stream: &str, rows: u64) -> Outcome {
        Outcome {
            stream: stream.into(),
            how: How::Loaded,
            rows,
            files: 3,
            bytes: 45_100_000,
            seconds: 2.0,
            format: Format::Parquet,
            location: "/data/postgres_shop_public/trips".into(),
            partitioned: false,
            unrepresentable: Unrepresentable::new(),
            changes: None,
            lsn: None,
        }
    }

    #[test]
    fn the_table_has_a_line_per_stream_and_the_total_adds_them_up() {
        let mut partly = outcome("public.orders", 10);
        partly.how = How::CommittedBefore;
        let summary = Summary {
            run_id: "r".into(),
            outcomes: vec![outcome("public.trips", 1_000_000), partly],
            troubles: vec![Trouble {
                stream: "public.gone".into(),
                what: "it is gone".into(),
                to_do: "run discover".into(),
            }],
            given_up: vec!["public.late".into()],
            seconds: 4.0,
            held: None,
            lag: None,
        };
        assert_eq!(summary.below(), "/data/postgres_shop_public/");
        let table = summary.table(summary.below()).to_string();
        assert!(table.contains("┆ trips ") && !table.contains("/data"), "{table}");
        assert!(table.contains("public.trips") && table.contains("1,000,000"), "{table}");
        assert!(table.contains("500,000") && table.contains("before"), "{table}");
        assert_eq!(summary.total(), "2 streams, 1,000,010 rows, 90.20 MB in 4.0 s: 250,002 rows/s");
        let json = summary.json();
        assert!(table.contains("public.gone") && table.contains("not synced"), "{table}");
        assert_eq!(
            (&json["type"], &json["status"]),
            (&"SYNC_SUMMARY".into(), &"INCOMPLETE".into())
        );
        assert_eq!(json["problems"][0]["to_do"], "run discover");
        assert!(table.contains("public.late") && table.contains("given up"), "{table}");
        assert_eq!(json["given_up"][0], "public.late");
        assert_eq!(json["streams"][1]["how"], "committed_before");
        assert_eq!(json["files"], 6);
    }

    #[test]
    fn tables_lie_below_the_deepest_directory_that_they_share() {
        let below = |locations: &[&str]| {
            let outcomes = locations
                .iter()
                .map(|location| Outcome { location: (*location).into(), ..outcome("public.t", 1) });
            let summary = Summary {
                run_id: "r".into(),
                outcomes: outcomes.collect(),
                troubles: Vec::new(),
                given_up: Vec::new(),
                seconds: 1.0,
                held: None,
                lag: None,
            };
            summary.below().to_owned()
        };
        assert_eq!(below(&["/lake/a/orders", "/lake/a/order_items"]), "/lake/a/");
        assert_eq!(below(&["/lake/a/t", "/lake/ab/t"]), "/lake/");
        assert_eq!(below(&["/läke/ä", "/läke/ö", "/lä"]), "/");
        assert_eq!(below(&["a.t", "b.t"]), "");
        assert_eq!(below(&[]), "");
    }

    #[test]
    fn the_queries_survive_a_shell() {
        let plain = queries(&outcome("public.trips", 1));
        let expected = "  duckdb -c \"SELECT * FROM '/data/postgres_shop_public/trips/*.parquet' LIMIT 10\"\n  \
             python3 -c 'import pandas; print(pandas.read_parquet(\"/data/postgres_shop_public/trips\").head(10))'";
        assert_eq!(plain, expected);
        let mut odd = outcome("public.trips", 1);
        odd.location = "/it's $HOME".into();
        odd.partitioned = true;
        let lake = Outcome {
            format: Format::Iceberg,
            location: "file:///lake/db/trips".into(),
            ..outcome("public.trips", 1)
        };
        assert!(queries(&lake).ends_with("iceberg_scan('file:///lake/db/trips') LIMIT 10\""));
        assert!(queries(&odd).starts_with(
            "  duckdb -c 'SELECT * FROM '\\''/it'\\'''\\''s $HOME/**/*.parquet'\\'' LIMIT 10'"
        ));
    }

    #[test]
    fn lost_values_are_told_by_column() {
        let mut lossy = outcome("public.t", 5);
        lossy.unrepresentable = [("at".to_owned(), 1), ("n".to_owned(), 2000)].into();
        let warnings = lossy.warnings();
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].starts_with("warning: public.t.at: 1 value cannot"), "{warnings:?}");
        assert!(warnings[1].contains("2,000 values") && warnings[1].ends_with("are null"));
    }
}
