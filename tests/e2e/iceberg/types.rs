//! The complete type table.

use anyhow::Result;
use tests::iceberg::pair::Pair;
use tests::postgres::Database;

use super::Lake;
use crate::types::STREAMS;
use crate::{fixture, plain};

pub fn every_type_arrives_as_postgresql_prints_it(pair: Pair) -> Result<()> {
    let database = Database::new("types")?;
    database.psql_file(&fixture("types.sql"))?;
    database.psql("CREATE VIEW types_view AS SELECT * FROM types")?;
    let lake = Lake::on(pair, &database)?;
    lake.project.select(&STREAMS, plain())?;
    lake.project.sync()?;
    lake.equals_source(&STREAMS)
}
