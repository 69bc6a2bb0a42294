//! `partition_regex` as text → components with their columns.

use arrow::datatypes::{DataType, Schema, TimeUnit};

use super::directories::write_part;
use super::path;
use super::syntax::{self, Token, find_column, tokens};
use crate::error::WriterError;
use crate::render::datetime::{DAY, Style, write_timestamp};

/// What is left of a date or timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// HH: 00 to 23; of a date 00.
    Hour,
    /// DD: 01 to 31.
    Day,
    /// WW: ISO week, 01 to 53.
    Week,
    /// MM: 01 to 12.
    Month,
    /// YYYY: at least four digits.
    Year,
}

impl Granularity {
    fn parse(text: &str) -> Result<Option<Self>, String> {
        Ok(Some(match text {
            "" => return Ok(None),
            "HH" => Granularity::Hour,
            "DD" => Granularity::Day,
            "WW" => Granularity::Week,
            "MM" => Granularity::Month,
            "YYYY" => Granularity::Year,
            _ => {
                return Err(format!(
                    "the granularity {text:?} is none of HH, DD, WW, MM, YYYY or nothing"
                ));
            }
        }))
    }
}

/// A part of a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// As it stands in the path.
    Literal(String),
    /// The value of a source column.
    Column {
        /// Its place in the source schema.
        index: usize,
        /// Never empty.
        default: String,
        /// Only for dates and timestamps.
        granularity: Option<Granularity>,
    },
}

/// The components of a path; no component is without pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// In the path's order.
    pub components: Vec<Vec<Piece>>,
}

impl Template {
    /// `None` if there is nothing but blanks and slashes.
    pub fn parse(
        regex: &str,
        source: &Schema,
        processed_at: i64,
    ) -> Result<Option<Self>, WriterError> {
        let columns: Vec<_> = source.fields().iter().map(|field| field.name().as_str()).collect();
        resolve(regex, &columns, processed_at, |index, granularity| {
            let field = source.field(index);
            match (granularity, field.data_type()) {
                (None, _)
                | (Some(_), DataType::Date32 | DataType::Timestamp(TimeUnit::Microsecond, _)) => {
                    Ok(())
                }
                (Some(_), other) => Err(format!(
                    "column {:?} is no date or timestamp (its Arrow type is {other}), so its \
                     granularity must be empty",
                    field.name()
                )),
            }
        })
        .map_err(|problem| invalid(regex, problem))
    }

    /// All pieces, in the path's order.
    pub fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.components.iter().flatten()
    }
}

/// The same checks without the columns' types.
pub fn check(regex: &str, columns: &[&str]) -> Result<(), WriterError> {
    resolve(regex, columns, 0, |_, _| Ok(())).map(|_| ()).map_err(|problem| invalid(regex, problem))
}

fn invalid(regex: &str, problem: String) -> WriterError {
    let example = "/year={created_at,none,YYYY}/country={country,none,}";
    WriterError::InvalidPartition { regex: regex.to_owned(), problem, example }
}

fn resolve(
    regex: &str,
    columns: &[&str],
    processed_at: i64,
    check_type: impl Fn(usize, Option<Granularity>) -> Result<(), String>,
) -> Result<Option<Template>, String> {
    let mut components: Vec<Vec<Piece>> = vec![vec![]];
    for (position, token) in tokens(regex.trim())? {
        let at = |problem: String| format!("at character {position}: {problem}");
        match token {
            Token::Text(text) => push_text(&text, &mut components).map_err(at)?,
            Token::Braces(inside) => {
                let parts = Parts::parse(&inside).map_err(at)?;
                let piece = if syntax::is_now(&parts.column) {
                    let begins = components.last().is_none_or(Vec::is_empty);
                    Piece::Literal(now(processed_at, parts.granularity, begins))
                } else {
                    let index = find_column(&parts.column, columns).map_err(at)?;
                    check_type(index, parts.granularity).map_err(at)?;
                    Piece::Column {
                        index,
                        default: parts.default_or_name(),
                        granularity: parts.granularity,
                    }
                };
                components.last_mut().into_iter().for_each(|last| last.push(piece.clone()));
            }
        }
    }
    components.retain(|component| !component.is_empty());
    components.iter().try_for_each(|component| check_visible(component))?;
    Ok((!components.is_empty()).then_some(Template { components }))
}

/// What stands between braces.
struct Parts {
    column: String,
    default: String,
    granularity: Option<Granularity>,
}

impl Parts {
    fn parse(inside: &str) -> Result<Self, String> {
        let parts = syntax::parts(inside);
        let [column, default, granularity] = parts.as_slice() else {
            return Err(format!(
                "{{{inside}}} has {} parts; write {{column, default, granularity}}, where \
                 default and granularity may be empty: {{country,,}}",
                parts.len()
            ));
        };
        if column.is_empty() {
            return Err(format!("{{{inside}}} names no column"));
        }
        let granularity = Granularity::parse(granularity)?;
        Ok(Parts { column: column.clone(), default: default.clone(), granularity })
    }

    fn default_or_name(&self) -> String {
        match self.default.as_str() {
            "" => format!("default_{}", self.column),
            default => default.to_owned(),
        }
    }
}

/// `now()` is the same for all rows: literal text already.
fn now(processed_at: i64, granularity: Option<Granularity>, begins: bool) -> String {
    let mut text = Vec::new();
    match granularity {
        Some(granularity) => {
            let (days, microseconds) = (processed_at.div_euclid(DAY), processed_at.rem_euclid(DAY));
            write_part(granularity, days, microseconds, &mut text);
        }
        None => write_timestamp(processed_at, true, Style::Iso, &mut text),
    }
    let mut piece = if begins { String::new() } else { "-".to_owned() };
    path::push_value(&String::from_utf8_lossy(&text), &mut piece);
    piece.split_off(usize::from(!begins))
}

/// Literal text; each `/` begins a component.
fn push_text(text: &str, components: &mut Vec<Vec<Piece>>) -> Result<(), String> {
    if let Some(c) = text.chars().find(|c| c.is_control() || *c == '\\') {
        return Err(format!("{c:?} cannot be part of a path"));
    }
    for (index, part) in text.split('/').enumerate() {
        if index > 0 {
            components.push(vec![]);
        }
        if let Some(last) = components.last_mut()
            && !part.is_empty()
        {
            last.push(Piece::Literal(part.to_owned()));
        }
    }
    Ok(())
}

/// Readers pass over directories whose names begin so.
fn check_visible(component: &[Piece]) -> Result<(), String> {
    let Some(Piece::Literal(first)) = component.first() else { return Ok(()) };
    let assigns = component
        .iter()
        .any(|piece| matches!(piece, Piece::Literal(literal) if literal.contains('=')));
    if first.starts_with('.') || (first.starts_with('_') && !assigns) {
        return Err(format!("a directory whose name begins with {first:?} is hidden from readers"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;

    use super::*;

    fn source() -> Schema {
        Schema::new(vec![
            Field::new("country", DataType::Utf8, true),
            Field::new("created_at", DataType::Timestamp(TimeUnit::Microsecond, None), true),
            Field::new("A b", DataType::Int32, true),
            Field::new("X!", DataType::Int32, true),
            Field::new("x?", DataType::Int32, true),
        ])
    }

    fn parse(regex: &str) -> Result<Option<Template>, String> {
        Template::parse(regex, &source(), 0).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_no_partitioning() {
        for regex in ["", "  ", "/", "//"] {
            assert_eq!(parse(regex).unwrap(), None, "{regex:?}");
        }
    }

    #[test]
    fn components_columns_and_quotes_are_understood() {
        let template = parse("/y={ created_at , '1970', \"YYYY\" }//{a_b,,}/").unwrap().unwrap();
        let year = Piece::Column {
            index: 1,
            default: "1970".to_owned(),
            granularity: Some(Granularity::Year),
        };
        let number =
            Piece::Column { index: 2, default: "default_a_b".to_owned(), granularity: None };
        assert_eq!(
            template.components,
            [vec![Piece::Literal("y=".to_owned()), year], vec![number]]
        );
    }

    #[test]
    fn faults_say_where_they_are_and_what_is_allowed() {
        for (regex, words) in [
            ("/a={nope,,}", vec!["character 4", "\"nope\"", "\"country\""]),
            ("/{country,x", vec!["character 2", "without a '}'"]),
            ("/{country,{x},}", vec!["character 11", "character 2"]),
            ("/a}/b", vec!["character 3"]),
            ("{country, day}", vec!["character 1", "{column, default, granularity}"]),
            ("{,x,}", vec!["names no column"]),
            ("{created_at,,yyyy}", vec!["\"yyyy\"", "HH, DD, WW, MM, YYYY"]),
            ("{country,,DD}", vec!["\"country\"", "no date or timestamp"]),
            ("{x_,,}", vec!["\"X!\"", "\"x?\""]),
            ("/../{country,,}", vec!["hidden"]),
            ("/_x/{country,,}", vec!["hidden"]),
            ("a\\b{country,,}", vec!["'\\\\'"]),
        ] {
            let error = parse(regex).expect_err(regex);
            for word in words {
                assert!(error.contains(word), "{regex}: {error}");
            }
        }
    }

    #[test]
    fn names_can_be_checked_before_types_are_known() {
        assert!(check("{a,,DD}", &["a"]).is_ok());
        assert!(check("{b,,DD}", &["a"]).is_err());
    }
}
