//! The permanent slot: found, judged, created, moved.
//!
//! Its position is what PostgreSQL was told to be ours: everything that ends at
//! or before `confirmed_flush_lsn` may be gone from the server.

use std::time::{Duration, Instant};

use proto::lsn::Lsn;
use tokio_postgres::error::SqlState;

use super::server::{self, Server};
use super::standby;
use crate::connect::Session;
use crate::error::SourceError;
use crate::sql;

/// Failover slots, and `invalidation_reason`.
const FAILOVER: u32 = 170_000;
/// How long a slot that is to be moved waits for standbys, and how long between
/// two looks.
const STANDBY_WAIT: Duration = Duration::from_secs(10);
const STANDBY_POLL: Duration = Duration::from_millis(200);
/// NAMEDATALEN − 1.
pub const MAX_NAME: usize = 63;

/// A slot that can be read from.
#[derive(Debug)]
pub struct Slot {
    pub confirmed_flush: Lsn,
    /// WAL that it holds back.
    pub retained_wal_bytes: u64,
    /// How much more it may; `None`: no limit.
    pub safe_wal_bytes: Option<i64>,
}

/// What `pg_replication_slots` says.
#[derive(Clone, Debug, Default)]
struct Found {
    slot_type: String,
    plugin: String,
    database: String,
    here: String,
    temporary: bool,
    two_phase: bool,
    wal_status: String,
    invalidation_reason: String,
    holder: String,
    confirmed_flush: Option<Lsn>,
    retained: i64,
    safe_wal_bytes: Option<i64>,
}

/// Whether PostgreSQL takes it for a slot's name.
pub fn check_name(slot: &str) -> Result<(), SourceError> {
    let allowed = |letter: u8| matches!(letter, b'a'..=b'z' | b'0'..=b'9' | b'_');
    if !slot.is_empty() && slot.len() <= MAX_NAME && slot.bytes().all(allowed) {
        return Ok(());
    }
    Err(SourceError::Config(vec![format!(
        "update_method.replication_slot: {slot:?} is no name of a slot; allowed are 1 to \
         {MAX_NAME} of a-z, 0-9 and _"
    )]))
}

/// The slot, if there is one of that name; an error where it cannot serve.
pub async fn find(session: &Session, slot: &str) -> Result<Option<Slot>, SourceError> {
    // Columns that came with later versions are NULL on earlier ones.
    let query = "SELECT s.slot_type, coalesce(s.plugin::text, ''), coalesce(s.database::text, ''), \
           current_database()::text, s.temporary, s.two_phase, coalesce(s.wal_status, ''), \
           coalesce(to_jsonb(s)->>'invalidation_reason', ''), \
           coalesce((SELECT format('pid %s (user %s, application %s)', a.pid, a.usename, \
               coalesce(nullif(a.application_name, ''), 'unnamed')) \
             FROM pg_stat_activity a WHERE a.pid = s.active_pid), \
             CASE WHEN s.active THEN format('pid %s', s.active_pid) END, ''), \
           s.confirmed_flush_lsn::text, s.safe_wal_size, \
           coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
             ELSE pg_current_wal_lsn() END, s.restart_lsn), 0)::int8 \
         FROM pg_replication_slots s WHERE s.slot_name = $1";
    let doing = format!("looking at the replication slot {slot:?}");
    let row = session.query_opt(query, &[&slot]).await.map_err(SourceError::postgres(doing))?;
    let Some(row) = row else { return Ok(None) };
    let found = Found {
        slot_type: row.get(0),
        plugin: row.get(1),
        database: row.get(2),
        here: row.get(3),
        temporary: row.get(4),
        two_phase: row.get(5),
        wal_status: row.get(6),
        invalidation_reason: row.get(7),
        holder: row.get(8),
        confirmed_flush: server::lsn(&row, 9)?,
        safe_wal_bytes: row.get(10),
        retained: row.get(11),
    };
    judge(slot, found).map(Some)
}

/// Whether a slot can serve, and why not.
fn judge(slot: &str, found: Found) -> Result<Slot, SourceError> {
    let name = sql::quote_literal(slot);
    let drop = format!("SELECT pg_drop_replication_slot({name})");
    let another = "or give another name in update_method.replication_slot";
    let refuse = |what: String, remedy: String| {
        let what = format!("the replication slot {slot:?} {what}");
        Err(SourceError::Capture { what, remedy })
    };
    if found.slot_type != "logical" {
        return refuse("is a physical one".to_owned(), another[3..].to_owned());
    }
    if found.plugin != "pgoutput" {
        let what = format!("has the output plugin {:?}, and not \"pgoutput\"", found.plugin);
        return refuse(what, format!("drop it, if nobody needs it ({drop}), {another}"));
    }
    if found.database != found.here {
        let what = format!("is of the database {:?}, and not of {:?}", found.database, found.here);
        return refuse(what, format!("correct `database`, {another}"));
    }
    if found.temporary {
        let what = "is a temporary one of another session".to_owned();
        return refuse(what, format!("wait until that has ended, {another}"));
    }
    if found.two_phase {
        let what = "is a two_phase one, which may leave out what was prepared before".to_owned();
        return refuse(
            what,
            format!("drop it ({drop}); the next sync creates one as it should be"),
        );
    }
    if found.wal_status == "lost" || !found.invalidation_reason.is_empty() {
        let reason = match found.invalidation_reason.as_str() {
            "" => "the server has removed the WAL that it needs".to_owned(),
            reason => format!("the server says {reason}"),
        };
        return refuse(
            format!("is lost: {reason}"),
            format!(
                "drop it ({drop}); the next sync creates it and loads every table anew. \
                 max_slot_wal_keep_size and idle_replication_slot_timeout decide how long a slot \
                 may lag"
            ),
        );
    }
    if !found.holder.is_empty() {
        return Err(SourceError::Busy {
            what: format!("the replication slot {slot:?} is in use by {}", found.holder),
            remedy: format!("stop it, if it is not to be (pg_terminate_backend), {another}"),
        });
    }
    let Some(confirmed_flush) = found.confirmed_flush else {
        let what = "was never finished: its creation was interrupted".to_owned();
        return refuse(what, format!("drop it ({drop}); the next sync creates it"));
    };
    Ok(Slot {
        confirmed_flush,
        retained_wal_bytes: u64::try_from(found.retained).unwrap_or_default(),
        safe_wal_bytes: found.safe_wal_bytes,
    })
}

/// The statement that creates it.
pub fn create_statement(slot: &str, server: &Server) -> String {
    let name = sql::quote_literal(slot);
    // A standby's own slots cannot follow a failover.
    let failover = if server.version >= FAILOVER && !server.standby { ", true" } else { "" };
    format!(
        "SELECT pg_catalog.pg_create_logical_replication_slot({name}, 'pgoutput', false, false{failover})"
    )
}

/// Creates the slot, which waits for every transaction that has written.
pub async fn create(session: &Session, slot: &str, server: &Server) -> Result<(), SourceError> {
    let Err(error) = session.batch_execute(&create_statement(slot, server)).await else {
        return Ok(());
    };
    let what = format!("the replication slot {slot:?} could not be created");
    Err(explain_creation(session, what, error).await)
}

/// What the server's refusal of a new slot means.
pub async fn explain_creation(
    session: &Session,
    what: String,
    error: tokio_postgres::Error,
) -> SourceError {
    let said = error.as_db_error().map(|said| said.message().to_owned()).unwrap_or_default();
    match error.code() {
        Some(&SqlState::LOCK_NOT_AVAILABLE) => {
            let blockers = match server::writers(session).await.join("; ") {
                none if none.is_empty() => String::new(),
                some => format!(": {some}"),
            };
            SourceError::Busy {
                what: format!("{what}: it waits for transactions that have written{blockers}"),
                remedy: "wait until they have ended, or end them, then try again; \
                         lock_timeout_ms says how long it waits"
                    .to_owned(),
            }
        }
        Some(&SqlState::CONFIGURATION_LIMIT_EXCEEDED) => SourceError::Capture {
            what: format!("{what}: {said}"),
            remedy: "drop slots that nobody needs (pg_drop_replication_slot), or raise \
                     max_replication_slots; a sync needs one, and another while it runs"
                .to_owned(),
        },
        Some(&SqlState::TOO_MANY_CONNECTIONS) => SourceError::Capture {
            what: format!("{what}: {said}"),
            remedy: "raise max_wal_senders: the beginning of a load needs one".to_owned(),
        },
        _ => SourceError::Postgres { doing: what, source: error },
    }
}

/// Moves the slot to `lsn`: what ends at or before it is not needed any more.
/// At it already: nothing to do. Beyond it: somebody else moved it.
pub async fn advance(session: &Session, slot: &str, lsn: Lsn) -> Result<Lsn, SourceError> {
    let found = find(session, slot).await?.ok_or_else(|| gone(slot))?;
    if found.confirmed_flush > lsn {
        return Err(SourceError::Capture {
            what: format!(
                "the replication slot {slot:?} is at {}, beyond {lsn}: something else moves it",
                found.confirmed_flush
            ),
            remedy:
                "give every reader a slot of its own (update_method.replication_slot); the next \
                     sync decides from the tables what is missing"
                    .to_owned(),
        });
    }
    if found.confirmed_flush == lsn {
        return Ok(lsn);
    }
    wait_for_standbys(session, slot, lsn).await?;
    let statement = format!(
        "SELECT end_lsn::text FROM pg_catalog.pg_replication_slot_advance({}, {})",
        sql::quote_literal(slot),
        sql::quote_literal(&lsn.to_string())
    );
    let doing = format!("moving the replication slot {slot:?} to {lsn}");
    match session.query_one(&statement, &[]).await {
        Ok(row) => server::lsn(&row, 0)?.ok_or_else(|| gone(slot)),
        Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) => Err(SourceError::Busy {
            what: format!("{doing}: {error}"),
            remedy: "stop what reads from it, or give it a slot of its own".to_owned(),
        }),
        Err(error) => Err(SourceError::Postgres { doing, source: error }),
    }
}

/// The server itself would wait for ever, and say nothing.
async fn wait_for_standbys(session: &Session, slot: &str, lsn: Lsn) -> Result<(), SourceError> {
    let deadline = Instant::now() + STANDBY_WAIT;
    loop {
        let behind = standby::behind(session, slot, lsn).await?;
        if behind.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(SourceError::Busy {
                what: format!(
                    "the replication slot {slot:?} cannot be moved to {lsn} before the standbys of \
                     synchronized_standby_slots have received the log up to there: {}",
                    behind.join("; ")
                ),
                remedy: "bring the standby up, or take its slot out of synchronized_standby_slots \
                         (ALTER SYSTEM SET synchronized_standby_slots = …; SELECT pg_reload_conf())"
                    .to_owned(),
            });
        }
        tokio::time::sleep(STANDBY_POLL).await;
    }
}

/// The slot does not exist.
pub fn gone(slot: &str) -> SourceError {
    SourceError::NotFound {
        what: format!("the replication slot {slot:?} does not exist"),
        remedy: "sync again: it is created, and every table is loaded anew".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Found {
        Found {
            slot_type: "logical".into(),
            plugin: "pgoutput".into(),
            database: "shop".into(),
            here: "shop".into(),
            wal_status: "reserved".into(),
            confirmed_flush: Some(Lsn(7)),
            ..Found::default()
        }
    }

    #[test]
    fn a_slot_that_cannot_serve_is_refused_with_its_remedy() {
        assert_eq!(judge("1a", good()).unwrap().confirmed_flush, Lsn(7));
        let text = str::to_owned;
        let cases = [
            (Found { slot_type: text("physical"), ..good() }, "physical", "replication_slot"),
            (Found { plugin: text("wal2json"), ..good() }, "wal2json", "pg_drop_replication_slot"),
            (Found { database: text("other"), ..good() }, "other", "`database`"),
            (Found { temporary: true, ..good() }, "temporary", "another name"),
            (Found { two_phase: true, ..good() }, "two_phase", "pg_drop_replication_slot('1a')"),
            (Found { wal_status: text("lost"), ..good() }, "is lost", "loads every table anew"),
            (Found { invalidation_reason: text("idle_timeout"), ..good() }, "idle_timeout", "drop"),
            (Found { holder: text("pid 7"), ..good() }, "in use by pid 7", "stop it"),
            (Found { confirmed_flush: None, ..good() }, "never finished", "drop it"),
        ];
        for (found, what, remedy) in cases {
            let fault = judge("1a", found).unwrap_err().to_fault();
            assert!(fault.message.contains(what), "{fault}");
            assert!(fault.remedy.contains(remedy), "{fault}");
        }
    }

    #[test]
    fn a_slots_name_may_begin_with_a_digit_and_not_be_quoted() {
        assert!(check_name("1_slot").is_ok());
        for bad in ["", "Slot", "a-b", "a b", &"a".repeat(64)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_new_slot_follows_a_failover_where_the_server_has_that() {
        let statement = |version, standby| {
            let system_identifier = String::new();
            create_statement("s", &Server { version, standby, system_identifier, timeline: 1 })
        };
        assert!(statement(180_000, false).ends_with("false, false, true)"));
        assert!(statement(180_000, true).ends_with("false, false)"));
        assert!(statement(140_000, false).ends_with("false, false)"));
    }
}
