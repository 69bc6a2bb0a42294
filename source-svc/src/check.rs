//! Whether the source can be read: connection, version, and what the role may
//! see. A role that can read nothing is an error, not an empty database.

use proto::v1::relation::Kind;
use proto::v1::{SourceCheckRequest, SourceCheckResponse};

use crate::capture;
use crate::config::Config;
use crate::connect::Session;
use crate::error::SourceError;
use crate::relation::{self, RelationInfo};

/// The oldest server that we know the behaviour of.
const OLDEST_SERVER: u32 = 140_000;
/// Names in one notice; a message is to be read.
const NAMES_SHOWN: usize = 20;

/// Connects, looks, and changes nothing. `request`: whether change capture is
/// configured.
pub async fn check(
    config: &Config,
    request: &SourceCheckRequest,
) -> Result<SourceCheckResponse, SourceError> {
    let session = Session::open(config, "tidewater check").await?;
    require_version(&session)?;
    let row = session.query_one("SELECT pg_catalog.version()", &[]).await;
    let row = row.map_err(SourceError::postgres("asking the server for its version"))?;
    let relations = visible_relations(&session, config).await?;
    let mut notices = notices(config, &relations);
    if !request.slot.is_empty() {
        notices.extend(capture::check(&session, &request.slot, &request.publication).await?);
    }
    session.close().await;
    Ok(SourceCheckResponse { server_version: row.get(0), notices })
}

/// The server is one that we know.
pub fn require_version(session: &Session) -> Result<(), SourceError> {
    let version = session.server_version_num();
    if version >= OLDEST_SERVER {
        return Ok(());
    }
    Err(SourceError::Invalid {
        what: format!(
            "the server is PostgreSQL {}.{}, older than the oldest supported, {}",
            version / 10_000,
            version % 10_000,
            OLDEST_SERVER / 10_000
        ),
        remedy: "upgrade the server".to_owned(),
    })
}

/// Every relation of the configured schemas; an error where a schema does not
/// exist, or the role can read none of them.
pub async fn visible_relations(
    session: &Session,
    config: &Config,
) -> Result<Vec<RelationInfo>, SourceError> {
    let missing = relation::missing_schemas(session, &config.schemas).await?;
    if !missing.is_empty() {
        return Err(SourceError::NotFound {
            what: format!(
                "database {:?} has no schema {}",
                config.database,
                names(missing.iter().map(|name| format!("{name:?}")))
            ),
            remedy: "correct `schemas` in the source configuration; names are case-sensitive"
                .to_owned(),
        });
    }
    let relations = relation::list(session, &config.schemas).await?;
    if relations.iter().any(|relation| relation.readable && !relation.row_security) {
        return Ok(relations);
    }
    Err(nothing_to_read(config, &relations))
}

fn nothing_to_read(config: &Config, relations: &[RelationInfo]) -> SourceError {
    let place = match config.schemas.as_slice() {
        [] => format!("database {:?}", config.database),
        schemas => format!(
            "database {:?}, schemas {}",
            config.database,
            names(schemas.iter().map(|name| format!("{name:?}")))
        ),
    };
    if relations.is_empty() {
        return SourceError::NotFound {
            what: format!("{place} has no tables or views"),
            remedy: "check `database` and `schemas` in the source configuration".to_owned(),
        };
    }
    let remedy = relations
        .iter()
        .find_map(|relation| relation.missing_privilege(&config.username))
        .unwrap_or_else(|| row_security_remedy(&config.username));
    SourceError::Permission {
        what: format!(
            "role {:?} can read none of the tables and views ({}) of {place}",
            config.username,
            relations.len()
        ),
        remedy,
    }
}

fn row_security_remedy(role: &str) -> String {
    format!("ALTER ROLE {} BYPASSRLS, or read as the tables' owner", crate::sql::quote_ident(role))
}

/// What a user should know of these relations that is no error.
pub fn notices(config: &Config, relations: &[RelationInfo]) -> Vec<String> {
    let mut notices = Vec::new();
    let mut note = |which: Vec<&RelationInfo>, words: &dyn Fn(String) -> String| {
        if !which.is_empty() {
            notices.push(words(names(which.iter().map(|relation| relation.label()))));
        }
    };
    let unreadable: Vec<_> = relations.iter().filter(|relation| !relation.readable).collect();
    let grant = unreadable.first().and_then(|first| first.missing_privilege(&config.username));
    note(unreadable, &|names| {
        format!(
            "left out, as role {:?} may not read all of their columns: {names} (for the first: {})",
            config.username,
            grant.as_deref().unwrap_or_default()
        )
    });
    let readable = || relations.iter().filter(|relation| relation.readable);
    note(readable().filter(|relation| relation.row_security).collect(), &|names| {
        format!(
            "row-level security would hide rows from this role, so reading these tables is an \
             error: {names} ({})",
            row_security_remedy(&config.username)
        )
    });
    note(readable().filter(|relation| relation.kind == Kind::ForeignTable).collect(), &|names| {
        format!("foreign tables are read outside the snapshot of a load: {names}")
    });
    note(readable().filter(|relation| !relation.populated).collect(), &|names| {
        format!(
            "materialized views without data, reading them is an error until they are refreshed: {names}"
        )
    });
    notices
}

/// A list for people, cut where it gets too long to read.
pub(crate) fn names(all: impl ExactSizeIterator<Item = String>) -> String {
    let more = all.len().saturating_sub(NAMES_SHOWN);
    let mut text = all.take(NAMES_SHOWN).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn relation(name: &str) -> RelationInfo {
        RelationInfo {
            oid: 1,
            namespace: "public".into(),
            name: name.into(),
            kind: Kind::Table,
            columns: Vec::new(),
            primary_key: Vec::new(),
            cursor_fields: Vec::new(),
            estimated_rows: -1,
            readable: true,
            schema_usable: true,
            unreadable_columns: Vec::new(),
            row_security: false,
            populated: true,
        }
    }

    fn config() -> Config {
        Config::try_from(crate::config::tests::wire()).unwrap()
    }

    #[test]
    fn a_long_list_is_cut() {
        let all: Vec<String> = (0..25).map(|n| n.to_string()).collect();
        assert!(names(all.into_iter()).ends_with("19 and 5 more"));
    }

    #[test]
    fn notices_name_the_tables_and_the_remedy() {
        let hidden = RelationInfo { row_security: true, ..relation("orders") };
        let closed = RelationInfo { readable: false, ..relation("wages") };
        let all = notices(&config(), &[relation("open"), hidden, closed]);
        assert_eq!(all.len(), 2);
        assert!(all[0].contains("public.wages") && all[0].contains("GRANT SELECT ON"), "{all:?}");
        assert!(all[1].contains("public.orders") && all[1].contains("BYPASSRLS"), "{all:?}");
    }

    #[test]
    fn a_role_that_reads_nothing_is_told_what_it_lacks() {
        let closed = RelationInfo { readable: false, schema_usable: false, ..relation("wages") };
        let fault = nothing_to_read(&config(), &[closed]).to_fault();
        assert_eq!(fault.code, proto::v1::ErrorCode::Permission);
        assert!(fault.remedy.contains("GRANT USAGE ON SCHEMA \"public\" TO \"reader\""), "{fault}");
        let fault = nothing_to_read(&config(), &[]).to_fault();
        assert_eq!(fault.code, proto::v1::ErrorCode::NotFound);
    }
}
