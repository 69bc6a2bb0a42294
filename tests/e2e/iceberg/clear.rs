//! `clear-destination` removes tables with their files.

use anyhow::Result;
use tests::iceberg::pair::Pair;
use tests::iceberg::warehouse::namespace_of;
use tests::run::Project;

use super::shop::shop;
use crate::plain;

pub fn clear_destination_removes_the_selected_tables_with_their_files(pair: Pair) -> Result<()> {
    let lake = shop(pair)?;
    lake.project.select(&["public.customers", "public.orders"], plain())?;
    lake.project.sync()?;
    // Files of an earlier snapshot go, too.
    lake.project.sync()?;
    let namespace = namespace_of(&lake.project, "public");
    let tables = || lake.warehouse.tables(&namespace);
    assert_eq!(tables()?.unwrap_or_default(), ["customers", "orders"]);

    let location = lake.table("orders").describe()?.location;
    assert!(!lake.warehouse.files(&location)?.is_empty());
    lake.project.select(&["public.orders"], plain())?;
    lake.project.run(&Project::CLEAR)?.succeeded()?;
    assert_eq!(tables()?.unwrap_or_default(), ["customers"]);
    assert_eq!(lake.warehouse.files(&location)?, [""; 0], "nothing of it is left");
    lake.equals_source(&["public.customers"])?;
    // And the table can be made again.
    lake.project.sync()?;
    lake.equals_source(&["public.orders"])
}
