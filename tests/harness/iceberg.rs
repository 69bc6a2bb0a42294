//! Iceberg tables, as catalogs, object stores and engines that are not ours
//! know them.
//!
//! ```text
//! let warehouse = Warehouse::start(pair)?;          // a catalog and a store
//! project.write("destination.json", &warehouse.destination())?;
//! project.sync()?;
//! verify::equals_source(&warehouse, &project, &["public.t"])?;
//! let table = warehouse.table_of(&project, "public", "t");
//! table.append(&rows)?;                             // as a foreign writer
//! ```
//!
//! - [`pair`]: which catalogs and stores there are, and which go together
//! - [`seaweed`], [`glue`], [`hive`], [`java_rest`]: the servers behind them; [`front`]:
//!   what SeaweedFS's REST catalog does not do itself
//! - [`warehouse`]: one catalog with one store, for our programs and for theirs
//! - [`client`]: PyIceberg with that catalog
//! - [`engine`]: who reads, and what each cannot tell; [`spark`]: one that takes
//!   long to start
//! - [`table`]: a table's metadata, and a foreign writer of it
//! - [`verify`]: all of that as one call, "the table equals the source"

pub mod client;
pub mod engine;
pub mod front;
pub mod glue;
pub mod hive;
pub mod java_rest;
pub mod pair;
pub mod seaweed;
pub mod spark;
pub mod table;
pub mod verify;
pub mod warehouse;
