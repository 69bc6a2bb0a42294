//! `check` of a destination.

use anyhow::Result;
use tests::iceberg::pair::{Catalog, Pair};
use tests::iceberg::warehouse::namespace_of;
use tests::watch;

use super::Lake;

pub fn check_tries_catalog_and_warehouse_and_leaves_nothing(pair: Pair) -> Result<()> {
    let lake = Lake::new(pair, "checked", "CREATE TABLE t (id int)")?;
    let before = watch::files(lake.warehouse.directory());
    lake.project.run(&["check", "--destination", "destination.json"])?.succeeded()?;
    assert_eq!(watch::files(lake.warehouse.directory()), before);
    // The REST catalog's bucket has tables of other tests in it.
    if pair.catalog != Catalog::Rest {
        assert_eq!(lake.warehouse.files(&lake.warehouse.location())?, [""; 0]);
    }
    let tables = lake.warehouse.tables(&namespace_of(&lake.project, "public"))?;
    assert_eq!(tables.unwrap_or_default(), [""; 0]);
    Ok(())
}
