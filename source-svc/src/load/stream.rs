//! What one stream asks for, held against what the relation is now: which
//! columns to read, under which condition, and every way in which the table is
//! no longer what discover saw.

use arrow::datatypes::{Schema, SchemaRef};
use proto::v1;
use proto::v1::filter::LogicalOperator;
use proto::v1::load_stream::OnUnrepresentable as Policy;

use super::compare::{compare, is_gone};
use super::mark::Mark;
use crate::decode::{self, OnUnrepresentable};
use crate::error::SourceError;
use crate::relation::{ColumnInfo, RelationInfo};
use crate::{identity, sql};

/// A stream whose relation was found, and found as expected.
#[derive(Clone, Debug)]
pub struct Stream {
    /// The relation as the load's snapshot has it.
    pub relation: RelationInfo,
    /// The columns to read, in attnum order.
    pub columns: Vec<ColumnInfo>,
    /// An SQL condition; `None`: every row.
    pub filter: Option<String>,
    /// The column that chunks are ranges of; `None`: pages.
    pub split_column: Option<String>,
    /// What becomes of a value that its destination type cannot hold.
    pub policy: OnUnrepresentable,
    /// Plan no more chunks than readers.
    pub few_chunks: bool,
    /// Only what is new is read.
    pub incremental: Option<Incremental>,
    /// What discover saw and is not so any more, where that is no fault.
    pub changed: Vec<String>,
}

/// How a stream is read incrementally.
#[derive(Clone, Debug)]
pub struct Incremental {
    /// One column, or one and its fallback.
    pub cursor_fields: Vec<String>,
    /// What was read before; absent: nothing.
    pub mark: Option<Mark>,
    /// A row that is read again takes its own place.
    pub replaces: bool,
}

/// What is wrong with a stream, each line naming its table.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The table is not what discover saw.
    pub changed: Vec<String>,
    /// The request itself is wrong.
    pub config: Vec<String>,
    /// What the role may not read: quoted tables, some with a list of columns.
    pub unreadable: Vec<String>,
    /// Tables of which row-level security would hide rows.
    pub row_security: Vec<String>,
}

impl Stream {
    /// `None`: faults were added.
    pub fn new(
        request: &v1::LoadStream,
        relation: Option<RelationInfo>,
        faults: &mut Faults,
    ) -> Option<Stream> {
        let label = format!("{}.{}", request.namespace, request.name);
        let Some(relation) = relation else {
            faults.changed.push(format!("{label} no longer exists"));
            return None;
        };
        let before = faults.count();
        let columns = choose_columns(request, &relation, &label, faults);
        let changed = compare(request, &relation, &columns, &label, faults);
        let filter = filter(request, &relation, &label, faults);
        if relation.row_security {
            faults.row_security.push(label.clone());
        }
        if !relation.populated {
            faults.config.push(format!("{label} was never filled: REFRESH MATERIALIZED VIEW it"));
        }
        faults.unreadable.extend(unreadable(&relation, &columns));
        let split_column = (!request.split_column.is_empty()).then(|| request.split_column.clone());
        if let Some(split) = &split_column
            && relation.column(split).is_none()
            && !is_gone(request, &relation, split)
        {
            faults.config.push(format!("{label} has no column {split} to split by"));
        }
        let incremental = incremental(request, &relation, &label, faults);
        let policy = match request.on_unrepresentable() {
            Policy::Null => OnUnrepresentable::Null,
            Policy::Fail => OnUnrepresentable::Fail,
        };
        (faults.count() == before).then_some(Stream {
            relation,
            columns,
            filter,
            split_column,
            policy,
            few_chunks: request.few_chunks,
            incremental,
            changed,
        })
    }

    /// The SELECT list, in the order of [`Self::decoder_columns`]; may be
    /// empty.
    pub fn select_list(&self) -> String {
        let expressions: Vec<String> = self
            .columns
            .iter()
            .map(|column| column.column_type.select_expression(&sql::quote_ident(&column.name)))
            .collect();
        expressions.join(", ")
    }

    /// The decoder's schema, as a writer is told it: with which column of which
    /// relation each field is. `database`: as [`identity::database`] has it.
    pub fn told(&self, schema: &Schema, database: &str) -> SchemaRef {
        let attnums = self.columns.iter().map(|column| column.attnum);
        identity::told(schema, database, self.relation.oid, attnums)
    }

    /// What the decoder needs to know of each column.
    pub fn decoder_columns(&self) -> Vec<decode::Column> {
        self.columns
            .iter()
            .map(|column| decode::Column {
                // Nullable whatever the source says: a value that cannot be
                // represented may become null.
                field: column.column_type.field(&column.name, true),
                wire: column.column_type.wire.clone(),
                key: self.relation.primary_key.contains(&column.name),
            })
            .collect()
    }
}

impl Faults {
    fn count(&self) -> usize {
        self.changed.len() + self.config.len() + self.unreadable.len() + self.row_security.len()
    }

    /// Takes in those of another stream.
    pub fn extend(&mut self, other: Faults) {
        self.changed.extend(other.changed);
        self.config.extend(other.config);
        self.unreadable.extend(other.unreadable);
        self.row_security.extend(other.row_security);
    }

    /// The worst kind of fault, with all faults of that kind. `role`: whom to
    /// grant what is missing.
    pub fn into_result(self, role: &str) -> Result<(), SourceError> {
        if !self.changed.is_empty() {
            return Err(SourceError::SchemaChanged(self.changed));
        }
        if !self.unreadable.is_empty() {
            let tables = self.unreadable.join(", ");
            let role = sql::quote_ident(role);
            return Err(SourceError::Permission {
                what: format!("the role {role} may not read {tables}"),
                remedy: format!(
                    "GRANT SELECT ON these tables (and USAGE ON their schemas) TO {role}, \
                     or remove them from selected_streams"
                ),
            });
        }
        if !self.row_security.is_empty() {
            let (tables, role) = (self.row_security.join(", "), sql::quote_ident(role));
            return Err(SourceError::Permission {
                what: format!("row-level security hides rows of {tables} from the role {role}"),
                remedy: format!(
                    "ALTER ROLE {role} BYPASSRLS, or read as the tables' owner, \
                     or remove them from selected_streams"
                ),
            });
        }
        if !self.config.is_empty() {
            return Err(SourceError::Invalid {
                what: self.config.join("; "),
                remedy: "correct the stream in streams.json".to_owned(),
            });
        }
        Ok(())
    }
}

/// The relation, with the columns that the role may not read unless it is all
/// of them.
fn unreadable(relation: &RelationInfo, columns: &[ColumnInfo]) -> Option<String> {
    let (label, forbidden) = (relation.label(), &relation.unreadable_columns);
    if !relation.schema_usable {
        return Some(format!("{label} (its schema)"));
    }
    let some: Vec<&str> = columns
        .iter()
        .map(|c| c.name.as_str())
        .filter(|c| forbidden.iter().any(|f| f == c))
        .collect();
    match some.len() {
        // No column to hold a privilege: the table's own counts.
        0 if columns.is_empty() && !relation.readable => Some(label),
        0 => None,
        count if count == columns.len() => Some(label),
        _ => Some(format!("{label} ({})", some.join(", "))),
    }
}

/// All columns when none is selected; else the selected ones, the primary key,
/// and the ones that discover had not seen if the user wants those.
fn choose_columns(
    request: &v1::LoadStream,
    relation: &RelationInfo,
    label: &str,
    faults: &mut Faults,
) -> Vec<ColumnInfo> {
    let expected = |name: &str| request.expected.iter().any(|column| column.name == name);
    for name in &request.selected {
        // One that discover saw is reported as gone by `compare`.
        if relation.column(name).is_none() && !expected(name) {
            faults.config.push(format!("{label} has no column {name} to select"));
        }
    }
    let chosen = |column: &&ColumnInfo| {
        request.selected.is_empty()
            || request.selected.contains(&column.name)
            || relation.primary_key.contains(&column.name)
            || (request.sync_new_columns && !expected(&column.name))
    };
    relation.columns.iter().filter(chosen).cloned().collect()
}

/// How the stream is read incrementally, if it is.
fn incremental(
    request: &v1::LoadStream,
    relation: &RelationInfo,
    label: &str,
    faults: &mut Faults,
) -> Option<Incremental> {
    let wanted = request.incremental.as_ref()?;
    if wanted.cursor_fields.is_empty() || wanted.cursor_fields.len() > 2 {
        faults.config.push(format!("{label} needs one cursor_field, or two with a colon between"));
    }
    for name in &wanted.cursor_fields {
        if relation.column(name).is_none() && !is_gone(request, relation, name) {
            faults.config.push(format!("{label} has no column {name} to follow (cursor_field)"));
        }
    }
    let mark = Some(wanted.mark.as_str()).filter(|mark| !mark.is_empty());
    let mark = mark.map(serde_json::from_str).transpose().unwrap_or_else(|error| {
        faults.config.push(format!("what was read of {label} before cannot be told: {error}"));
        None
    });
    Some(Incremental {
        cursor_fields: wanted.cursor_fields.clone(),
        mark,
        replaces: wanted.replaces,
    })
}

/// The filter as SQL. Names and values are quoted; operators are from a list.
fn filter(
    request: &v1::LoadStream,
    relation: &RelationInfo,
    label: &str,
    faults: &mut Faults,
) -> Option<String> {
    let filter = request.filter.as_ref()?;
    let mut parts = Vec::with_capacity(filter.conditions.len());
    for condition in &filter.conditions {
        if relation.column(&condition.column).is_none() {
            let column = &condition.column;
            if !is_gone(request, relation, column) {
                let fault = format!("the filter of {label} names column {column}, not there");
                faults.config.push(fault);
            }
            continue;
        }
        let column = sql::quote_ident(&condition.column);
        let value = sql::quote_literal(&condition.value);
        parts.push(match (condition.operator.as_str(), condition.is_null) {
            ("=", true) => format!("{column} IS NULL"),
            ("!=" | "<>", true) => format!("{column} IS NOT NULL"),
            ("!=", false) => format!("{column} <> {value}"),
            (operator @ ("=" | "<>" | "<" | "<=" | ">" | ">="), false) => {
                format!("{column} {operator} {value}")
            }
            (operator, is_null) => {
                let with = if is_null { " with null" } else { "" };
                faults.config.push(format!(
                    "the filter of {label} has operator {operator:?}{with} on {}; \
                     allowed: = != < <= > >=, and with null: = !=",
                    condition.column
                ));
                continue;
            }
        });
    }
    let joint = match filter.logical_operator() {
        LogicalOperator::And => " AND ",
        LogicalOperator::Or => " OR ",
    };
    (!parts.is_empty()).then(|| parts.join(joint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ColumnType, Wire};

    fn relation() -> RelationInfo {
        let column = |name: &str, attnum, word: &str, wire| ColumnInfo {
            name: name.to_owned(),
            attnum,
            not_null: false,
            postgres_type: String::new(),
            column_type: ColumnType { word: word.to_owned(), wire, as_text: false },
        };
        RelationInfo {
            oid: 1,
            namespace: "public".to_owned(),
            name: "t".to_owned(),
            kind: v1::relation::Kind::Table,
            columns: vec![
                column("id", 1, "integer", Wire::Int8),
                column("a", 2, "string", Wire::Text),
                column("new", 4, "date", Wire::Date),
            ],
            primary_key: vec!["id".to_owned()],
            cursor_fields: Vec::new(),
            estimated_rows: -1,
            readable: true,
            unreadable_columns: Vec::new(),
            row_security: false,
            schema_usable: true,
            populated: true,
        }
    }

    fn request() -> v1::LoadStream {
        let expected = |name: &str, word: &str| v1::Column {
            name: name.to_owned(),
            r#type: word.to_owned(),
            ..Default::default()
        };
        v1::LoadStream {
            namespace: "public".to_owned(),
            name: "t".to_owned(),
            expected: vec![expected("id", "integer"), expected("a", "string")],
            ..Default::default()
        }
    }

    fn names(stream: &Stream) -> Vec<&str> {
        stream.columns.iter().map(|column| column.name.as_str()).collect()
    }

    #[test]
    fn the_primary_key_is_read_whatever_is_selected() {
        let mut faults = Faults::default();
        let mut wanted = request();
        wanted.selected = vec!["a".to_owned()];
        let stream = Stream::new(&wanted, Some(relation()), &mut faults).unwrap();
        assert_eq!(names(&stream), ["id", "a"]);
        wanted.sync_new_columns = true;
        let stream = Stream::new(&wanted, Some(relation()), &mut faults).unwrap();
        assert_eq!(names(&stream), ["id", "a", "new"]);
        let stream = Stream::new(&request(), Some(relation()), &mut faults).unwrap();
        assert_eq!(names(&stream), ["id", "a", "new"]);
    }

    #[test]
    fn every_change_since_discover_is_reported() {
        let mut faults = Faults::default();
        let mut wanted = request();
        wanted.expected[0].r#type = "integer_small".to_owned();
        let gone = |name: &str, word: &str| v1::Column {
            name: name.to_owned(),
            r#type: word.to_owned(),
            ..Default::default()
        };
        wanted.expected.extend([gone("gone", "string"), gone("old", "date")]);
        assert!(Stream::new(&wanted, Some(relation()), &mut faults).is_none());
        assert!(Stream::new(&request(), None, &mut faults).is_none());
        assert_eq!(
            faults.changed,
            [
                "public.t: column id was integer_small, now is integer",
                "public.t: column gone no longer exists",
                "public.t: column old no longer exists (renamed to new?)",
                "public.t no longer exists",
            ]
        );
    }

    #[test]
    fn a_column_that_is_gone_is_said_once_whatever_names_it() {
        let mut wanted = request();
        wanted.expected.push(v1::Column { name: "old".to_owned(), ..Default::default() });
        wanted.selected = vec!["a".to_owned()];
        // Nothing asks for it.
        let mut faults = Faults::default();
        assert!(Stream::new(&wanted, Some(relation()), &mut faults).is_some());
        wanted.split_column = "old".to_owned();
        let condition = v1::Condition {
            column: "old".to_owned(),
            operator: "=".to_owned(),
            value: "1".to_owned(),
            is_null: false,
        };
        wanted.filter = Some(v1::Filter { conditions: vec![condition], ..Default::default() });
        assert!(Stream::new(&wanted, Some(relation()), &mut faults).is_none());
        assert_eq!(faults.changed, ["public.t: column old no longer exists"]);
        assert!(faults.config.is_empty(), "{:?}", faults.config);
    }

    #[test]
    fn a_stream_that_follows_its_columns_demands_only_those_that_the_user_names() {
        let mut wanted = request();
        wanted.follows_columns = true;
        wanted.expected[0].r#type = "integer_small".to_owned();
        wanted.expected.push(v1::Column { name: "gone".to_owned(), ..Default::default() });
        let mut faults = Faults::default();
        let stream = Stream::new(&wanted, Some(relation()), &mut faults).unwrap();
        assert_eq!(names(&stream), ["id", "a", "new"]);
        assert_eq!(
            stream.changed,
            [
                "public.t: column id was integer_small, now is integer",
                "public.t: column gone no longer exists"
            ]
        );
        wanted.selected = vec!["a".to_owned(), "gone".to_owned()];
        assert!(Stream::new(&wanted, Some(relation()), &mut faults).is_none());
        assert_eq!(faults.changed, ["public.t: column gone no longer exists"]);
    }

    #[test]
    fn a_filter_cannot_carry_sql() {
        let mut faults = Faults::default();
        let mut wanted = request();
        let condition = |column: &str, operator: &str, value: &str, is_null| v1::Condition {
            column: column.to_owned(),
            operator: operator.to_owned(),
            value: value.to_owned(),
            is_null,
        };
        wanted.filter = Some(v1::Filter {
            logical_operator: LogicalOperator::Or.into(),
            conditions: vec![
                condition("a", "!=", "x' OR '1'='1", false),
                condition("id", "=", "", true),
            ],
        });
        let stream = Stream::new(&wanted, Some(relation()), &mut faults).unwrap();
        assert_eq!(stream.filter.unwrap(), r#""a" <> 'x'' OR ''1''=''1' OR "id" IS NULL"#);
        wanted.filter.as_mut().unwrap().conditions =
            vec![condition("a", "~", "x", false), condition("b", "=", "x", false)];
        assert!(Stream::new(&wanted, Some(relation()), &mut faults).is_none());
        assert_eq!(faults.config.len(), 2);
    }
}
