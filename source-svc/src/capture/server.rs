//! What the server and the role must be for change capture, and where the
//! server's log is.

use proto::lsn::Lsn;
use tokio_postgres::Row;

use crate::connect::Session;
use crate::error::SourceError;
use crate::sql;

/// A logical slot on a standby: from 16 on.
const STANDBY_SLOTS: u32 = 160_000;

/// The facts that do not change while we look.
pub struct Server {
    pub version: u32,
    pub standby: bool,
    /// pg_control_system()'s.
    pub system_identifier: String,
    /// The timeline that it writes, or replays.
    pub timeline: u32,
}

/// Looks at the server and the role; an error where one of them cannot do.
pub async fn require(session: &Session) -> Result<Server, SourceError> {
    let query = "SELECT pg_is_in_recovery(), current_setting('wal_level'), \
         (SELECT system_identifier::text FROM pg_control_system()), \
         CASE WHEN pg_is_in_recovery() \
           THEN (SELECT timeline_id::int8 FROM pg_control_checkpoint()) \
           ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int8 END, \
         (SELECT r.rolsuper OR r.rolreplication OR EXISTS (SELECT FROM pg_roles a \
             WHERE a.rolname = 'rds_replication' AND pg_has_role(r.oid, a.oid, 'member')) \
           FROM pg_roles r WHERE r.rolname = current_user), current_user::text";
    let doing = "looking at the server's settings for change capture";
    let row = session.query_one(query, &[]).await.map_err(SourceError::postgres(doing))?;
    let (standby, wal_level): (bool, &str) = (row.get(0), row.get(1));
    let version = session.server_version_num();
    if wal_level != "logical" {
        return Err(SourceError::Capture {
            what: format!(
                "the server's wal_level is {wal_level:?}, and change capture needs \"logical\""
            ),
            remedy:
                "ALTER SYSTEM SET wal_level = 'logical', then restart the server (a managed one \
                     has a parameter for it, such as rds.logical_replication)"
                    .to_owned(),
        });
    }
    if standby && version < STANDBY_SLOTS {
        return Err(SourceError::Capture {
            what: format!(
                "the server is a standby, and PostgreSQL {} has no logical decoding there",
                version / 10_000
            ),
            remedy: "give the primary's `host`; standbys can do it from PostgreSQL 16 on"
                .to_owned(),
        });
    }
    if !row.get::<_, Option<bool>>(4).unwrap_or(false) {
        let role = sql::quote_ident(row.get(5));
        return Err(SourceError::Permission {
            what: format!("the role {role} may not read the server's log"),
            remedy: format!(
                "ALTER ROLE {role} REPLICATION (on Amazon RDS: GRANT rds_replication TO {role})"
            ),
        });
    }
    let timeline = u32::try_from(row.get::<_, i64>(3)).unwrap_or_default();
    Ok(Server { version, standby, system_identifier: row.get(2), timeline })
}

/// Where the log ends that can be read now: flushed, or replayed by a standby.
pub async fn end_of_log(session: &Session) -> Result<Lsn, SourceError> {
    let query = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
                 ELSE pg_current_wal_flush_lsn() END::text";
    let doing = "reading the WAL position";
    let row = session.query_one(query, &[]).await.map_err(SourceError::postgres(doing))?;
    lsn(&row, 0)?.ok_or_else(|| SourceError::Internal("the server has no WAL position".to_owned()))
}

/// Writes a message of ours into the log: a transactional one, which is flushed
/// with its commit.
pub async fn heartbeat(session: &Session, slot: &str) -> Result<(), SourceError> {
    let message = "SELECT pg_catalog.pg_logical_emit_message(true, 'tidewater', $1::text)";
    let written = session.execute(message, &[&slot]).await;
    written.map_err(SourceError::postgres("writing a heartbeat into the log"))?;
    Ok(())
}

/// A position that the server has printed.
pub fn lsn(row: &Row, column: usize) -> Result<Option<Lsn>, SourceError> {
    let text: Option<&str> = row.get(column);
    text.map(str::parse).transpose().map_err(|error| SourceError::Internal(format!("{error}")))
}

/// Who has a transaction open that has written, in any database: what the
/// creation of a slot waits for. Best effort: who waits has an error to report
/// already.
pub async fn writers(session: &Session) -> Vec<String> {
    let query = "SELECT format('pid %s (user %s, database %s, application %s, %s): %s', pid, usename, \
           datname, coalesce(nullif(application_name, ''), 'unnamed'), state, left(query, 120)) \
         FROM pg_stat_activity \
         WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() \
         UNION ALL SELECT format('prepared transaction %L (user %s, database %s): COMMIT PREPARED \
           or ROLLBACK PREPARED it', gid, owner, database) FROM pg_prepared_xacts LIMIT 10";
    match session.query(query, &[]).await {
        Ok(rows) => rows.iter().map(|row| row.get(0)).collect(),
        Err(error) => {
            tracing::debug!("looking for who writes: {error}");
            Vec::new()
        }
    }
}
