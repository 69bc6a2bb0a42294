//! Which of the tables that are asked for can be followed.

use std::collections::HashMap;

use proto::v1;

use super::table::Followed;
use crate::capture::columns::{self, Columns, Since};
use crate::capture::publication::{self, Names};
use crate::capture::table::Table;
use crate::capture::{self, selected, shape};
use crate::config::Config;
use crate::connect::Session;
use crate::error::SourceError;

/// The tables of a Replicate.
pub(super) struct Selection {
    /// Those that can be followed.
    pub(super) tables: Vec<Followed>,
    /// The others, each with what is wrong with it.
    pub(super) apart: Vec<v1::TableLost>,
    /// There is a publication of tables without identity.
    pub(super) inserts: bool,
}

impl Selection {
    /// Looks at tables and publications, and makes nothing. Columns come first: while
    /// they are the same, the tables are what was seen of them after that.
    pub(super) async fn find(
        session: &Session,
        names: &Names,
        config: &Config,
        requests: Vec<v1::ReplicateTable>,
    ) -> Result<Self, SourceError> {
        let streams: Option<Vec<_>> = requests.iter().map(|table| table.stream.clone()).collect();
        let streams = streams.filter(|streams| !streams.is_empty()).ok_or_else(|| {
            SourceError::Config(vec!["tables: none, or one without stream".to_owned()])
        })?;
        let mut columns = columns_of(session, &streams).await?;
        let mut selected = selected::look(session, &streams, &config.username, true).await?;
        let (publications, ..) = publication::ensure(session, names, &mut selected, false).await?;
        capture::publishes(&mut selected, &publications)?;
        let (mut wanted, mut apart) = (HashMap::new(), Vec::new());
        for (v1::LoadStream { namespace, name, .. }, request) in streams.into_iter().zip(requests) {
            let key = (namespace, name);
            match selected.trouble(&key, &publications) {
                Some(trouble) => {
                    let (namespace, name) = key;
                    let v1::TableTrouble { what: reason, remedy, recoverable } = trouble;
                    apart.push(v1::TableLost { namespace, name, reason, remedy, recoverable });
                }
                None => {
                    wanted.insert(key, request);
                }
            }
        }
        let mut tables = Vec::new();
        for table in selected.tables {
            let key = table.key();
            let Some(request) = wanted.remove(&key) else { continue };
            let looked = columns.remove(&key).unwrap_or_default();
            match since(session, &table, &looked, &request).await? {
                Ok(since) => tables.push(Followed::new(table, request, looked, since)?),
                Err(reason) => {
                    let (namespace, name) = key;
                    let lost = v1::TableLost { namespace, name, reason, ..Default::default() };
                    apart.push(lost);
                }
            }
        }
        Ok(Selection { tables, apart, inserts: publications.exist().1 })
    }
}

async fn columns_of(
    session: &Session,
    streams: &[v1::LoadStream],
) -> Result<HashMap<(String, String), Columns>, SourceError> {
    let namespaces: Vec<&str> = streams.iter().map(|stream| stream.namespace.as_str()).collect();
    let names: Vec<&str> = streams.iter().map(|stream| stream.name.as_str()).collect();
    columns::of(session, &namespaces, &names).await
}

/// What became of a table's columns since its position, if rows that are older say
/// nothing else by it; else why not.
async fn since(
    session: &Session,
    table: &Table,
    now: &Columns,
    request: &v1::ReplicateTable,
) -> Result<Result<Since, String>, SourceError> {
    let since = match now.since(shape::told_columns(&request.shape)) {
        Ok(since) => since,
        Err(uncertain) => return Ok(Err(uncertain.told(table))),
    };
    if request.log {
        return Ok(Ok(since));
    }
    if let Some(why) = since.other_names(table).filter(|_| !request.numbered) {
        return Ok(Err(why));
    }
    let read = |attnum: &i16| table.stream.columns.iter().any(|column| column.attnum == *attnum);
    let new: Vec<i16> = since.new_ones().into_iter().filter(read).collect();
    if !new.is_empty() {
        let filled = columns::filled(session, table.stream.relation.oid, &new).await?;
        if let Some(first) = filled.first() {
            return Ok(Err(format!(
                "column {} was added with a default, which rows have that are older",
                columns::name(table, *first)
            )));
        }
    }
    Ok(Ok(since))
}
