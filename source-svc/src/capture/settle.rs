//! A slot that was just made, moved to where the server decodes it truly.
//!
//! ```text
//! slot made:   the running end ─► full snapshot ─► those running there end ─► consistent
//! T (TRUNCATE)      ├──────────────────── commits ┤
//! U (INSERT)                                        ├────────────────────────────── commits ┤
//! settled:                                                          another slot is consistent ┴► the slot is moved here
//! ```
//!
//! PostgreSQL (14 to 18.6) keeps no record of what a transaction does to the
//! catalogs while it waits for its full snapshot (`xact_decode` and
//! `heap2_decode` return early), and takes one that commits between there and
//! the consistent point for one that has changed no table
//! (`SnapBuildCommitTxn`). A transaction that begins in between and commits
//! behind the consistent point is decoded by tables as they were before: by
//! columns that are gone, or, for a table whose file is new, not at all ("could
//! not map filenumber … to relation OID"), at every read of that slot and of its
//! copies. Every such transaction runs when the slot becomes consistent, so that
//! all of them have ended where another slot, made afterwards, does.
//!
//! Moving the slot decodes no row, and nobody needs what is skipped: no table
//! is loaded before the slot is there.

use proto::lsn::Lsn;

use super::{server, slot};
use crate::connect::Session;
use crate::error::SourceError;
use crate::sql;

/// Moves a slot that was made by this session; drops it if that fails.
pub async fn settle(session: &Session, slot: &str) -> Result<(), SourceError> {
    let settled = match consistent_point(session, slot).await {
        Ok(point) => slot::advance(session, slot, point).await.map(drop),
        Err(error) => Err(error),
    };
    if settled.is_err() {
        let drop =
            format!("SELECT pg_catalog.pg_drop_replication_slot({})", sql::quote_literal(slot));
        if let Err(error) = session.batch_execute(&drop).await {
            tracing::warn!(slot, %error, "a slot that is of no use could not be dropped");
        }
    }
    settled
}

/// Of a temporary slot, which is gone again.
async fn consistent_point(session: &Session, slot: &str) -> Result<Lsn, SourceError> {
    let name = format!("tidewater_{}", uuid::Uuid::new_v4().simple());
    let name = sql::quote_literal(&name);
    let create = format!(
        "SELECT lsn::text FROM pg_catalog.pg_create_logical_replication_slot({name}, 'pgoutput', true)"
    );
    let row = match session.query_one(&create, &[]).await {
        Ok(row) => row,
        Err(error) => {
            let what = format!("the replication slot {slot:?} could not be created");
            return Err(slot::explain_creation(session, what, error).await);
        }
    };
    let point = server::lsn(&row, 0)?;
    let drop = format!("SELECT pg_catalog.pg_drop_replication_slot({name})");
    let dropped = session.batch_execute(&drop).await;
    dropped.map_err(SourceError::postgres("dropping a temporary replication slot"))?;
    point.ok_or_else(|| SourceError::Internal("a temporary slot without a position".to_owned()))
}
