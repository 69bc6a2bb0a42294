//! The order that an incremental load follows, as SQL.
//!
//! With `cursor_field` "a" or "a:b", every row is in one of these classes:
//!
//! ```text
//! a is there            ordered by a
//! a is NULL, b is there ordered by b
//! neither               apart: no place in the order
//! ```
//!
//! Each column has a largest value of its own, so the two need not be of one
//! type. An infinite value (or a numeric's NaN) is no place in the order, either:
//! nothing would ever come after it.

use proto::v1;

use super::split;
use super::stream::Stream;
use crate::connect::Session;
use crate::error::SourceError;
use crate::sql;

/// Types whose values have one order, the same in every session, and whose text
/// reads back as the same value.
const TYPES: [&str; 12] = [
    "int2",
    "int4",
    "int8",
    "oid",
    "numeric",
    "date",
    "time",
    "timestamp",
    "timestamptz",
    "uuid",
    "text",
    "varchar",
];
/// Of these, the ones with infinite values.
const WITH_INFINITY: [&str; 4] = ["numeric", "date", "timestamp", "timestamptz"];
/// Of these, the ones whose values stay the same when one becomes another.
const NUMBERS: [&str; 5] = ["int2", "int4", "int8", "oid", "numeric"];
const TEXTS: [&str; 2] = ["text", "varchar"];

/// A column that is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CursorColumn {
    pub name: String,
    pub attnum: i16,
    /// Under its domains.
    pub base_type: String,
}

/// One column, or one and its fallback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub Vec<CursorColumn>);

impl Cursor {
    /// Looks the columns' types up.
    pub async fn of(keeper: &Session, stream: &Stream) -> Result<Cursor, SourceError> {
        let incremental = stream.incremental.as_ref();
        let fields = incremental.map(|wanted| wanted.cursor_fields.as_slice()).unwrap_or_default();
        let label = stream.relation.label();
        let mut columns = Vec::with_capacity(fields.len());
        for name in fields {
            let base_type = split::base_type(keeper, stream, name, "cursor_field").await?;
            if !TYPES.contains(&base_type.as_str()) {
                return Err(SourceError::Invalid {
                    what: format!(
                        "{label} cannot be followed by {name}, which is of type {base_type}"
                    ),
                    remedy: format!(
                        "choose a cursor_field of one of the types {}, or another sync_mode",
                        TYPES.join(", ")
                    ),
                });
            }
            let attnum = stream.relation.column(name).map_or(0, |column| column.attnum);
            columns.push(CursorColumn { name: name.clone(), attnum, base_type });
        }
        Ok(Cursor(columns))
    }

    /// Rows whose place in the order is that of the column `at`.
    pub fn ordered(&self, at: usize) -> String {
        let before = self.0[..at].iter().map(|column| format!("{} IS NULL AND ", column.quoted()));
        format!("{}{}", before.collect::<String>(), self.0[at].in_order())
    }

    /// Rows without a place in the order.
    pub fn apart(&self) -> String {
        let mut rest = String::new();
        for column in self.0.iter().rev() {
            let null = format!("{} IS NULL", column.quoted());
            let null = if rest.is_empty() { null } else { format!("{null} AND ({rest})") };
            rest = match column.infinity() {
                Some(infinity) => format!("{} >= {infinity} OR {null}", column.quoted()),
                None => null,
            };
        }
        rest
    }

    /// The largest values as they travel.
    pub fn values(&self, largest: &[Option<String>]) -> Vec<v1::CursorValue> {
        let pairs = self.0.iter().zip(largest);
        pairs
            .map(|(column, value)| v1::CursorValue {
                column: column.name.clone(),
                value: value.clone(),
            })
            .collect()
    }
}

impl CursorColumn {
    pub fn quoted(&self) -> String {
        sql::quote_ident(&self.name)
    }

    /// `text` as a value of its type.
    pub fn literal(&self, text: &str) -> String {
        format!("{}::pg_catalog.{}", sql::quote_literal(text).trim_start(), self.base_type)
    }

    /// Whether values of the type `before` mean the same in this column.
    pub fn agrees_with(&self, before: &str) -> bool {
        let both = |types: &[&str]| types.contains(&before) && types.contains(&&*self.base_type);
        before == self.base_type || both(&NUMBERS) || both(&TEXTS)
    }

    fn infinity(&self) -> Option<String> {
        let infinite = WITH_INFINITY.contains(&self.base_type.as_str());
        infinite.then(|| self.literal("infinity"))
    }

    fn in_order(&self) -> String {
        match self.infinity() {
            Some(infinity) => format!("{} < {infinity}", self.quoted()),
            None => format!("{} IS NOT NULL", self.quoted()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, base_type: &str) -> CursorColumn {
        CursorColumn { name: name.to_owned(), attnum: 1, base_type: base_type.to_owned() }
    }

    #[test]
    fn every_row_is_in_one_class() {
        let one = Cursor(vec![column("a", "int8")]);
        assert_eq!(one.ordered(0), r#""a" IS NOT NULL"#);
        assert_eq!(one.apart(), r#""a" IS NULL"#);
        let two = Cursor(vec![column("a", "date"), column("b", "uuid")]);
        assert_eq!(two.ordered(0), r#""a" < 'infinity'::pg_catalog.date"#);
        assert_eq!(two.ordered(1), r#""a" IS NULL AND "b" IS NOT NULL"#);
        assert_eq!(
            two.apart(),
            r#""a" >= 'infinity'::pg_catalog.date OR "a" IS NULL AND ("b" IS NULL)"#
        );
    }

    #[test]
    fn a_type_that_keeps_its_values_is_the_same_cursor() {
        assert!(column("a", "int8").agrees_with("int4"));
        assert!(column("a", "text").agrees_with("varchar"));
        assert!(!column("a", "timestamptz").agrees_with("timestamp"));
        assert!(!column("a", "text").agrees_with("int4"));
    }
}
