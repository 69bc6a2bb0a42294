//! Which of the tables that are asked for can be followed.

use std::collections::HashMap;

use proto::v1;

use super::table::Followed;
use crate::capture::publication::{self, Names};
use crate::capture::{self, selected};
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
    /// Looks at tables and publications, and makes nothing.
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
        let tables = selected.tables.into_iter().filter_map(|table| {
            let request = wanted.remove(&table.key())?;
            Some(Followed::new(table, request))
        });
        let inserts = publications.exist().1;
        Ok(Selection { tables: tables.collect::<Result<_, _>>()?, apart, inserts })
    }
}
