//! Standbys that a slot must not overtake: `synchronized_standby_slots`
//! (PostgreSQL 17). A slot that follows a failover is moved only as far as every
//! one of them has received the log; the server waits for that without an end.

use proto::lsn::Lsn;

use crate::connect::Session;
use crate::error::SourceError;

/// `synchronized_standby_slots`.
const SYNCHRONIZED: u32 = 170_000;

/// The members that have not received the log up to `lsn`, in words; none for a
/// slot that does not follow a failover.
pub async fn behind(session: &Session, slot: &str, lsn: Lsn) -> Result<Vec<String>, SourceError> {
    if session.server_version_num() < SYNCHRONIZED {
        return Ok(Vec::new());
    }
    // What the server itself demands of a member: a physical slot, in use, that
    // is valid and holds nothing before the position.
    let query = "SELECT member.name, \
           CASE WHEN s.slot_name IS NULL THEN 'there is no such slot' \
             WHEN s.slot_type <> 'physical' THEN 'it is no physical slot' \
             WHEN s.invalidation_reason IS NOT NULL THEN 'it is invalid: ' || s.invalidation_reason \
             WHEN s.restart_lsn IS NULL THEN 'no standby has used it yet' \
             ELSE format('%s at %s, %s behind', \
               CASE WHEN s.active THEN 'its standby is' ELSE 'no standby is connected; it was' END, \
               s.restart_lsn, pg_size_pretty($2::text::pg_lsn - s.restart_lsn)) END \
         FROM pg_catalog.pg_replication_slots ours, \
           LATERAL (SELECT btrim(name) AS name FROM regexp_split_to_table( \
             current_setting('synchronized_standby_slots', true), ',') name) member \
         LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = member.name \
         WHERE ours.slot_name = $1 AND ours.failover AND member.name <> '' \
           AND NOT pg_catalog.pg_is_in_recovery() \
           AND (s.slot_name IS NULL OR s.slot_type <> 'physical' \
             OR s.invalidation_reason IS NOT NULL OR s.restart_lsn IS NULL \
             OR s.restart_lsn < $2::text::pg_lsn)";
    let doing = "looking at synchronized_standby_slots";
    let rows = session.query(query, &[&slot, &lsn.to_string()]).await;
    let rows = rows.map_err(SourceError::postgres(doing))?;
    let words = |row: &tokio_postgres::Row| {
        format!("{}: {}", row.get::<_, String>(0), row.get::<_, String>(1))
    };
    Ok(rows.iter().map(words).collect())
}
