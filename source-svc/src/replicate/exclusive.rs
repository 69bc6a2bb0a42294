//! One reader of a slot at a time.

use tokio_postgres::error::SqlState;

use crate::config::Config;
use crate::connect::Session;
use crate::error::SourceError;

/// Of the advisory lock that one reader of a slot holds.
const LOCK_CLASS: i32 = 0x7469_6465;

/// Waits until the slot has no other reader: two would stage the same changes.
pub async fn exclude_others(
    session: &Session,
    slot: &str,
    config: &Config,
) -> Result<(), SourceError> {
    // A reader whose client is gone should not hold it for longer than needed;
    // a server that cannot look for that refuses the setting.
    let _ = session.batch_execute("SET client_connection_check_interval = '5s'").await;
    let lock = "SELECT pg_catalog.pg_advisory_lock($1, pg_catalog.hashtext($2))";
    let Err(error) = session.execute(lock, &[&LOCK_CLASS, &slot]).await else { return Ok(()) };
    if error.code() != Some(&SqlState::LOCK_NOT_AVAILABLE) {
        let doing = format!("locking the replication slot {slot:?} against another sync");
        return Err(SourceError::Postgres { doing, source: error });
    }
    let holder = "SELECT format('pid %s (user %s, application %s)', a.pid, a.usename, \
           a.application_name) \
         FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
         WHERE l.locktype = 'advisory' AND l.granted AND l.classid = $1::int4::oid \
           AND l.objid = pg_catalog.hashtext($2)::oid AND l.objsubid = 2";
    let blockers = session.query(holder, &[&LOCK_CLASS, &slot]).await;
    Err(SourceError::LockTimeout {
        what: format!("the replication slot {slot:?}, which another sync reads,"),
        waited: config.lock_timeout,
        blockers: blockers.unwrap_or_default().iter().map(|row| row.get(0)).collect(),
    })
}
