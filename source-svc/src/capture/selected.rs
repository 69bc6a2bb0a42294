//! The tables of a call, and those among them that are in trouble: dropped, not to
//! be read, not published. Where the caller wants it so they are set apart, each
//! with what is wrong with it, and the others go on. A call of which no table is
//! left fails as if nobody had been spared.
//!
//! Where a table stays published, its log goes on while nobody may read it: that
//! trouble is recoverable.

use std::collections::HashMap;

use proto::v1;
use tokio_postgres::Client;

use super::publication::Publications;
use super::table::{self, Table};
use crate::error::SourceError;
use crate::load::stream::Faults;

/// A table's namespace and name.
pub type Key = (String, String);

/// The tables that can be followed, and the others.
pub struct Selected {
    /// In the order of the request.
    pub tables: Vec<Table>,
    troubles: HashMap<Key, SourceError>,
    spare_others: bool,
}

/// Looks at every stream's table, as [`table::look`]; without `spare_others` all
/// faults of all of them are one error. `role`: whom to grant what is missing.
pub async fn look(
    client: &Client,
    requests: &[v1::LoadStream],
    role: &str,
    spare_others: bool,
) -> Result<Selected, SourceError> {
    let looked = table::look(client, requests).await?;
    let mut selected = Selected { tables: Vec::new(), troubles: HashMap::new(), spare_others };
    let mut all = Faults::default();
    for (request, looked) in requests.iter().zip(looked) {
        match looked {
            Ok(table) => selected.tables.push(table),
            Err(faults) => {
                all.extend(faults.clone());
                let key = (request.namespace.clone(), request.name.clone());
                selected.troubles.extend(faults.into_result(role).err().map(|why| (key, why)));
            }
        }
    }
    if !spare_others || selected.tables.is_empty() {
        all.into_result(role)?;
    }
    Ok(selected)
}

impl Selected {
    /// Whether one table's trouble is not the others'.
    pub fn spares_others(&self) -> bool {
        self.spare_others
    }

    /// Sets tables apart; an error where none is left.
    pub fn set_apart(
        &mut self,
        troubles: impl IntoIterator<Item = (Key, SourceError)>,
    ) -> Result<(), SourceError> {
        self.troubles.extend(troubles);
        self.tables.retain(|table| !self.troubles.contains_key(&table.key()));
        if !self.tables.is_empty() {
            return Ok(());
        }
        let faults: Vec<_> = self.troubles.drain().map(|(_, why)| why.to_fault()).collect();
        let mut remedies: Vec<&str> = faults.iter().map(|fault| fault.remedy.as_str()).collect();
        remedies.sort_unstable();
        remedies.dedup();
        let what: Vec<&str> = faults.iter().map(|fault| fault.message.as_str()).collect();
        Err(SourceError::Capture { what: what.join("; "), remedy: remedies.join("\n  → ") })
    }

    /// What is wrong with a table, as it travels. `publications`: as they are.
    pub fn trouble(&self, key: &Key, publications: &Publications) -> Option<v1::TableTrouble> {
        let error = self.troubles.get(key)?;
        let passes = matches!(error, SourceError::Permission { .. });
        Some(v1::TableTrouble { recoverable: passes && publications.cover(key), ..told(error) })
    }
}

/// What is wrong with one table, as it travels.
pub fn told(error: &SourceError) -> v1::TableTrouble {
    let (what, remedy) = match error {
        SourceError::SchemaChanged(changes) => (
            changes.join("; "),
            "take it out of selected_streams, or run discover with --streams to bring \
             streams.json up to date, then sync"
                .to_owned(),
        ),
        error => {
            let fault = error.to_fault();
            (fault.message, fault.remedy)
        }
    };
    v1::TableTrouble { what, remedy, recoverable: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(names: &[&str]) -> Selected {
        let tables = names.iter().map(|name| table::tests::table(name)).collect();
        Selected { tables, troubles: HashMap::new(), spare_others: true }
    }

    fn gone(name: &str) -> (Key, SourceError) {
        let key = ("public".to_owned(), name.to_owned());
        (key, SourceError::SchemaChanged(vec![format!("public.{name} no longer exists")]))
    }

    #[test]
    fn the_others_are_left_until_there_are_none() {
        let mut selected = selected(&["a", "b"]);
        selected.set_apart([gone("a")]).unwrap();
        assert_eq!(selected.tables.len(), 1);
        let publications = Publications::default();
        let trouble = selected.trouble(&gone("a").0, &publications).unwrap();
        assert_eq!(trouble.what, "public.a no longer exists");
        assert!(trouble.remedy.contains("selected_streams"), "{}", trouble.remedy);
        assert_eq!(selected.trouble(&gone("b").0, &publications), None);
        let error = selected.set_apart([gone("b")]).unwrap_err().to_string();
        assert!(error.contains("public.a") && error.contains("public.b"), "{error}");
    }
}
