//! `check` of a destination.

use anyhow::Result;
use tests::iceberg::pair::Pair;
use tests::iceberg::warehouse::namespace_of;

use super::Lake;

pub fn check_tries_catalog_and_warehouse_and_leaves_nothing(pair: Pair) -> Result<()> {
    let lake = Lake::new(pair, "checked", "CREATE TABLE t (id int)")?;
    let before = lake.warehouse.files()?;
    lake.project.run(&["check", "--destination", "destination.json"])?.succeeded()?;
    assert_eq!(lake.warehouse.files()?, before);
    let tables = lake.warehouse.tables(&namespace_of(&lake.project, "public"))?;
    assert_eq!(tables.unwrap_or_default(), [""; 0]);
    Ok(())
}
