//! What discover saw of a relation's columns, held against what they are now.

use proto::v1;

use super::stream::Faults;
use crate::relation::{ColumnInfo, RelationInfo};

/// Every expected column that is to be read must still be there with its type,
/// unless the stream follows its columns: the answer says what has changed then.
pub fn compare(
    request: &v1::LoadStream,
    relation: &RelationInfo,
    columns: &[ColumnInfo],
    label: &str,
    faults: &mut Faults,
) -> Vec<String> {
    let mut followed = Vec::new();
    for expected in &request.expected {
        let name = &expected.name;
        let changed = match request.follows_columns && !names(request, name) {
            true => &mut followed,
            false => &mut faults.changed,
        };
        match relation.column(name) {
            None if request.selected.is_empty() || names(request, name) => {
                let hint = renamed(request, relation, expected);
                changed.push(format!("{label}: column {name} no longer exists{hint}"));
            }
            Some(now)
                if now.column_type.word != expected.r#type
                    && columns.iter().any(|column| column.name == *name) =>
            {
                let was = described(&expected.r#type, &expected.postgres_type);
                let is = described(&now.column_type.word, &now.postgres_type);
                changed.push(format!("{label}: column {name} was {was}, now is {is}"));
            }
            _ => {}
        }
    }
    followed
}

/// Whether a setting of the stream names this column.
fn names(request: &v1::LoadStream, column: &str) -> bool {
    let filter = request.filter.as_ref().map(|filter| filter.conditions.as_slice());
    request.selected.iter().any(|name| name == column)
        || request.split_column == column
        || request.incremental.iter().any(|it| it.cursor_fields.iter().any(|name| name == column))
        || filter.unwrap_or_default().iter().any(|condition| condition.column == column)
}

/// Whether discover saw a column that is not there any more, which
/// [`compare`] then says.
pub fn is_gone(request: &v1::LoadStream, relation: &RelationInfo, column: &str) -> bool {
    let seen = request.expected.iter().any(|expected| expected.name == column);
    seen && relation.column(column).is_none()
}

/// What may have become of a column that is gone: discover has not seen these,
/// and they are of its type.
fn renamed(request: &v1::LoadStream, relation: &RelationInfo, gone: &v1::Column) -> String {
    let unseen = |now: &&ColumnInfo| {
        now.column_type.word == gone.r#type
            && !request.expected.iter().any(|expected| expected.name == now.name)
    };
    let now: Vec<&str> =
        relation.columns.iter().filter(unseen).map(|column| column.name.as_str()).collect();
    if now.is_empty() { String::new() } else { format!(" (renamed to {}?)", now.join(" or ")) }
}

fn described(word: &str, postgres_type: &str) -> String {
    if postgres_type.is_empty() { word.to_owned() } else { format!("{word} ({postgres_type})") }
}
