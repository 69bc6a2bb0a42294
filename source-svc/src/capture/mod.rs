//! Change capture opened: server, tables, publications and slot, each looked
//! at before anything is made, and then made in the one order that loses
//! nothing.
//!
//! ```text
//! server ► tables ► slot, if there is one ► publications ► slot, if there was none ► end of the log
//! ```
//!
//! A publication is older than the slot: PostgreSQL before 18 fails every read
//! of log that is older than a publication it is asked for. One that is made
//! beside a slot that is there moves that slot past itself, and says so. A slot
//! that was made is [settled](settle) before anything is read from it.
//!
//! A table in trouble is an error, or [set apart](selected) from the others.

pub mod columns;
pub mod labels;
pub mod parts;
pub mod publication;
pub mod selected;
pub mod server;
mod settle;
pub mod shape;
pub mod slot;
pub mod standby;
pub mod table;

use std::collections::HashMap;

use proto::v1;

use crate::check;
use crate::config::Config;
use crate::connect::Session;
use crate::error::SourceError;
use crate::relation::RelationInfo;
use publication::Names;
use selected::Selected;
use table::Table;

/// Validates, and creates what is missing if asked to.
pub async fn open(
    config: &Config,
    request: &v1::OpenCaptureRequest,
) -> Result<v1::OpenCaptureResponse, SourceError> {
    slot::check_name(&request.slot)?;
    let names = Names::new(&request.publication, &request.slot)?;
    if request.streams.is_empty() {
        return Err(SourceError::Config(vec!["streams: none to capture".to_owned()]));
    }
    let session = Session::open(config, "tidewater capture").await?;
    check::require_version(&session)?;
    // The end of the log that is flushed lies behind what is made here, whatever
    // the server's default: a slot moved there can read a new publication.
    let flushes = session.batch_execute("SET synchronous_commit = local").await;
    flushes.map_err(SourceError::postgres("setting synchronous_commit"))?;
    let server = server::require(&session).await?;
    let mut selected =
        selected::look(&session, &request.streams, &config.username, request.spare_others).await?;
    let before = slot::find(&session, &request.slot).await?;
    if before.is_none() && !request.create {
        return Err(SourceError::Capture {
            what: format!("the replication slot {:?} does not exist", request.slot),
            remedy: format!("run: {}", slot::create_statement(&request.slot, &server)),
        });
    }
    let (publications, mut notices, made) =
        publication::ensure(&session, &names, &mut selected, request.create).await?;
    publishes(&mut selected, &publications)?;
    let (slot_created, slot_moved) = match &before {
        None => {
            slot::create(&session, &request.slot, &server).await?;
            // A standby would wait until its primary tells what runs there.
            if !server.standby {
                settle::settle(&session, &request.slot).await?;
            }
            notices.push(format!("the replication slot {:?} was created", request.slot));
            (true, false)
        }
        Some(_) if made => {
            let end = server::end_of_log(&session).await?;
            slot::advance(&session, &request.slot, end).await?;
            notices.push(format!(
                "the replication slot {:?} was moved to {end}: the server cannot read what is older \
                 than the new publication",
                request.slot
            ));
            (false, true)
        }
        Some(_) => (false, false),
    };
    let slot = slot::find(&session, &request.slot).await?;
    let slot = slot.ok_or_else(|| slot::gone(&request.slot))?;
    notices.extend(of_tables(&selected.tables));
    notices.extend(uncounted(&session, &selected.tables).await?);
    let shapes = shapes(&session, &names, selected.tables.iter()).await?;
    let with_shape = |(table, shape): (&Table, String)| {
        (table.key(), v1::CaptureTable { shape, ..table.to_proto() })
    };
    let mut tables: HashMap<_, _> = selected.tables.iter().zip(shapes).map(with_shape).collect();
    let tables = request.streams.iter().map(|stream| {
        let key = (stream.namespace.clone(), stream.name.clone());
        let trouble = selected.trouble(&key, &publications);
        let (namespace, name) = key.clone();
        let apart = v1::CaptureTable { namespace, name, trouble, ..Default::default() };
        tables.remove(&key).unwrap_or(apart)
    });
    let tables = tables.collect();
    if request.heartbeat && !server.standby {
        server::heartbeat(&session, &request.slot).await?;
    }
    let end = server::end_of_log(&session).await?;
    let standbys_behind = standby::behind(&session, &request.slot, slot.confirmed_flush).await?;
    session.close().await;
    Ok(v1::OpenCaptureResponse {
        system_identifier: server.system_identifier,
        timeline: server.timeline,
        confirmed_flush: slot.confirmed_flush.to_string(),
        end: end.to_string(),
        tables,
        notices,
        slot_created,
        retained_wal_bytes: slot.retained_wal_bytes,
        safe_wal_bytes: slot.safe_wal_bytes,
        publication: names.all,
        slot_moved,
        standbys_behind,
    })
}

/// The shapes of these tables, in their order; empty of one that is gone.
async fn shapes(
    session: &Session,
    names: &Names,
    tables: impl Iterator<Item = &Table>,
) -> Result<Vec<String>, SourceError> {
    let relations: Vec<_> = tables.map(|table| &table.stream.relation).collect();
    let namespaces: Vec<&str> = relations.iter().map(|of| of.namespace.as_str()).collect();
    let relation_names: Vec<&str> = relations.iter().map(|of| of.name.as_str()).collect();
    let found = shape::of(session, &namespaces, &relation_names, &names.both()).await?;
    let text = |relation: &&RelationInfo| {
        let shape = found.get(&(relation.namespace.clone(), relation.name.clone()));
        shape.map(|shape| shape.text(false)).unwrap_or_default()
    };
    Ok(relations.iter().map(text).collect())
}

/// Takes out the columns that no publication sends; a key among them is none.
pub fn publishes(
    selected: &mut Selected,
    publications: &publication::Publications,
) -> Result<(), SourceError> {
    for table in &mut selected.tables {
        table.without_generated(publications.sends_stored(&table.key()));
    }
    let keys: Vec<_> = selected
        .tables
        .iter()
        .filter_map(|table| {
            let label = table.stream.relation.label();
            table.key_not_sent().map(|key| (table.key(), format!("{label}.{key}")))
        })
        .collect();
    if keys.is_empty() {
        return Ok(());
    }
    let refused = |keys: &str| SourceError::Capture {
        what: format!("key columns are generated, which the log leaves out: {keys}"),
        remedy: "use sync_mode full_refresh for these tables (PostgreSQL 18 can send stored ones: \
                 ALTER PUBLICATION … SET (publish_generated_columns = stored))"
            .to_owned(),
    };
    if selected.spares_others() {
        return selected.set_apart(keys.into_iter().map(|(table, key)| (table, refused(&key))));
    }
    let keys: Vec<String> = keys.into_iter().map(|(_, key)| key).collect();
    Err(refused(&keys.join(", ")))
}

/// That UPDATEs and DELETEs that are not published are not even counted.
async fn uncounted(session: &Session, tables: &[Table]) -> Result<Option<String>, SourceError> {
    if tables.iter().all(|table| table.publishable) {
        return Ok(None);
    }
    let setting = session.query_one("SHOW track_counts", &[]).await;
    let setting = setting.map_err(SourceError::postgres("reading track_counts"))?;
    Ok((setting.get::<_, &str>(0) == "off").then(|| {
        "track_counts is off: UPDATEs and DELETEs of tables without a replica identity are not \
         noticed; ALTER DATABASE … SET track_counts = on"
            .to_owned()
    }))
}

/// What a user should know of these tables.
fn of_tables(tables: &[Table]) -> Vec<String> {
    let mut notices = Vec::new();
    let changed: Vec<_> = tables.iter().flat_map(|table| table.stream.changed.clone()).collect();
    if !changed.is_empty() {
        notices.push(format!(
            "tables have changed since discover, and are followed as they are now; run discover \
             to bring streams.json up to date: {}",
            changed.join("; ")
        ));
    }
    let without: Vec<_> = tables.iter().filter(|table| !table.publishable).collect();
    if !without.is_empty() {
        notices.push(format!(
            "without a primary key or another replica identity that can be published: {}; their \
             INSERTs and TRUNCATEs are followed, an UPDATE or DELETE loads the table anew",
            check::names(without.iter().map(|table| table.stream.relation.label()))
        ));
    }
    let left_out: Vec<String> = tables
        .iter()
        .flat_map(|table| {
            let label = table.stream.relation.label();
            table.left_out.iter().map(move |column| format!("{label}.{column}"))
        })
        .collect();
    if !left_out.is_empty() {
        notices.push(format!(
            "generated columns that the log does not carry are left out: {}",
            check::names(left_out.into_iter())
        ));
    }
    notices
}

/// Looks at what change capture needs, and creates nothing. What the first
/// sync will create is no fault.
pub async fn check(
    session: &Session,
    slot: &str,
    publication: &str,
) -> Result<Vec<String>, SourceError> {
    slot::check_name(slot)?;
    let names = Names::new(publication, slot)?;
    server::require(session).await?;
    let mut notices = Vec::new();
    if slot::find(session, slot).await?.is_none() {
        notices
            .push(format!("the replication slot {slot:?} does not exist yet: a sync creates it"));
    }
    let found = publication::find(session, &names).await?;
    if let Some(fault) = publication::faults_of_any(&found, &names) {
        return Err(fault);
    }
    if !found.exist().0 {
        notices.push(format!(
            "the publication {:?} does not exist yet: a sync creates it, if the role owns the \
             tables and may CREATE in the database; else it says what to run",
            names.all
        ));
    }
    Ok(notices)
}
