//! What streams.json is made from: every relation that the role can read.

use std::collections::BTreeMap;

use proto::v1::DiscoverResponse;

use crate::check;
use crate::config::Config;
use crate::connect::Session;
use crate::error::SourceError;
use crate::relation::RelationInfo;

/// Lists the readable relations. The catalog is read in a few queries for the
/// whole database, so one connection is enough whatever `_max_threads` allows.
pub async fn discover(config: &Config, _max_threads: u32) -> Result<DiscoverResponse, SourceError> {
    let session = Session::open(config, "tidewater discover").await?;
    check::require_version(&session)?;
    let relations = check::visible_relations(&session, config).await?;
    session.close().await;
    let notices = check::notices(config, &relations);
    let readable: Vec<RelationInfo> =
        relations.into_iter().filter(|relation| relation.readable).collect();
    refuse_collisions(&readable)?;
    Ok(DiscoverResponse {
        relations: readable.iter().map(RelationInfo::to_proto).collect(),
        notices,
    })
}

/// A column's name at the destination: lower case, and `_` for anything
/// outside `[a-z0-9_]`.
pub fn destination_name(source: &str) -> String {
    source
        .chars()
        .map(|letter| match letter.to_ascii_lowercase() {
            kept @ ('a'..='z' | '0'..='9' | '_') => kept,
            _ => '_',
        })
        .collect()
}

/// Two columns of one table that would be one at the destination are an error:
/// all of them at once.
fn refuse_collisions(relations: &[RelationInfo]) -> Result<(), SourceError> {
    let mut faults = Vec::new();
    for relation in relations {
        let mut sources: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for column in &relation.columns {
            sources.entry(destination_name(&column.name)).or_default().push(&column.name);
        }
        for (name, columns) in sources.iter().filter(|(_, columns)| columns.len() > 1) {
            faults.push(format!(
                "{}: columns {} would all be {name:?} at the destination",
                relation.label(),
                columns.iter().map(|column| format!("{column:?}")).collect::<Vec<_>>().join(", ")
            ));
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(SourceError::Invalid {
        what: format!("column names collide:\n  - {}", faults.join("\n  - ")),
        remedy: "rename all but one of the columns at the source, or limit discover by `schemas`"
            .to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::relation;
    use crate::relation::ColumnInfo;
    use crate::types::TypeCatalog;

    fn column(name: &str) -> ColumnInfo {
        ColumnInfo {
            name: name.into(),
            attnum: 1,
            not_null: false,
            postgres_type: "text".into(),
            column_type: TypeCatalog::default().column_type(25, -1, 0),
        }
    }

    #[test]
    fn destination_names_are_lower_case_ascii() {
        assert_eq!(destination_name("Order ID"), "order_id");
        assert_eq!(destination_name("größe-2"), "gr__e_2");
    }

    #[test]
    fn columns_that_would_be_one_at_the_destination_are_named() {
        let mut good = relation("good");
        good.columns = vec![column("a"), column("b")];
        assert!(refuse_collisions(&[good.clone()]).is_ok());
        let mut bad = relation("bad");
        bad.columns = vec![column("Id"), column("a b"), column("id"), column("a_b")];
        let fault = refuse_collisions(&[good, bad]).unwrap_err().to_fault();
        for words in ["public.bad", "\"Id\"", "\"id\"", "\"a b\"", "\"a_b\""] {
            assert!(fault.message.contains(words), "{words}: {fault}");
        }
    }
}
