//! The snapshot of a temporary slot: the one point in time at which a load ends
//! and the log begins.
//!
//! ```text
//! walsender: CREATE_REPLICATION_SLOT … TEMPORARY … EXPORT_SNAPSHOT
//!   → keeper: SET TRANSACTION SNAPSHOT → walsender closed, its slot gone
//! ```
//!
//! The slot says of its snapshot exactly which transactions are in it: those
//! that end at or before its consistent point. No other snapshot can. It is
//! needed for that alone, and the permanent slot, which is older, has kept the
//! log since.

use proto::lsn::Lsn;
use tokio_postgres::SimpleQueryMessage;

use super::snapshot::BEGIN;
use crate::capture::slot;
use crate::config::Config;
use crate::connect::Session;
use crate::error::SourceError;
use crate::sql;

/// Begins the keeper's transaction with a temporary slot's snapshot; its
/// consistent point.
pub async fn begin(keeper: &Session, config: &Config, permanent: &str) -> Result<Lsn, SourceError> {
    // Else the log would not be kept from here on.
    if slot::find(keeper, permanent).await?.is_none() {
        return Err(slot::gone(permanent));
    }
    let walsender = Session::open_walsender(config, "tidewater hand-off").await?;
    let name = format!("tidewater_{}", uuid::Uuid::new_v4().simple());
    let create = format!(
        "CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT",
        sql::quote_ident(&name)
    );
    let answer = match walsender.simple_query(&create).await {
        Ok(answer) => answer,
        Err(error) => {
            let what = "the snapshot of a temporary replication slot could not be taken";
            return Err(slot::explain_creation(keeper, what.to_owned(), error).await);
        }
    };
    let column = |name: &str| {
        answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(name),
            _ => None,
        })
    };
    let unclear = || SourceError::Internal("a temporary slot without a snapshot".to_owned());
    let snapshot = column("snapshot_name").ok_or_else(unclear)?;
    let point =
        column("consistent_point").and_then(|text| text.parse().ok()).ok_or_else(unclear)?;
    let import = format!("{BEGIN}; SET TRANSACTION SNAPSHOT {}", sql::quote_literal(snapshot));
    let imported = keeper.batch_execute(&import).await;
    imported.map_err(SourceError::postgres("importing a temporary slot's snapshot"))?;
    walsender.close().await;
    Ok(point)
}
