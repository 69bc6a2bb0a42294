//! `clear-destination` removes tables with their files.

use std::path::PathBuf;

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

    lake.project.select(&["public.orders"], plain())?;
    let mut arguments = Project::SYNC;
    arguments[0] = "clear-destination";
    lake.project.run(&arguments)?.succeeded()?;
    assert_eq!(tables()?.unwrap_or_default(), ["customers"]);
    let of_orders = |file: &PathBuf| file.components().any(|part| part.as_os_str() == "orders");
    let left: Vec<_> = lake.warehouse.files()?.into_iter().filter(of_orders).collect();
    assert!(left.is_empty(), "{left:?}");
    lake.equals_source(&["public.customers"])?;
    // And the table can be made again.
    lake.project.sync()?;
    lake.equals_source(&["public.orders"])
}
