//! The complete type table.

use anyhow::Result;
use tests::iceberg::pair::{Catalog, Pair};
use tests::postgres::Database;

use super::Lake;
use crate::types::STREAMS;
use crate::{fixture, plain};

pub fn every_type_arrives_as_postgresql_prints_it(pair: Pair) -> Result<()> {
    let database = Database::new("types")?;
    database.psql_file(&fixture("types.sql"))?;
    database.psql("CREATE VIEW types_view AS SELECT * FROM types")?;
    // Of a table with a time Spark tells no list.
    let columns = database.psql(
        "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
         WHERE attrelid = 'types'::regclass AND attnum > 0 AND NOT attisdropped
         AND atttypid NOT IN ('time'::regtype, 'time[]'::regtype)",
    )?;
    database.psql(&format!("CREATE VIEW timeless AS SELECT {columns} FROM types"))?;
    let lake = Lake::on(pair, &database)?;
    if pair.catalog == Catalog::Rest {
        // It takes no namespace that ends with an underscore.
        lake.project.edit("streams.json", |catalog| {
            let streams = catalog["streams"].as_array_mut().into_iter().flatten();
            for stream in streams.filter(|it| it["stream"]["namespace"] != "public") {
                stream["stream"]["destination_database"] = database.name.as_str().into();
            }
        })?;
    }
    let streams: Vec<&str> = STREAMS.into_iter().chain(["public.timeless"]).collect();
    lake.project.select(&streams, plain())?;
    lake.project.sync()?;
    lake.equals_source(&streams)
}
