//! `clear-destination`: removes the selected streams' tables and what the
//! state knows of them.

use proto::Fault;
use proto::v1::destination::Kind;
use proto::v1::{Destination, DropRequest, ErrorCode, Table};
use tokio_util::sync::CancellationToken;

use crate::cli::Flags;
use crate::config::{destination, source};
use crate::output;
use crate::services::Services;
use crate::state::file::StateFile;
use crate::state::keeper::StateKeeper;
use crate::streams::{Catalog, SelectedStream};
use crate::sync::certificate;
use crate::sync::retry::Retry;
use crate::writers::Writer;

/// Further attempts at dropping a table.
const RETRIES: u32 = 3;

/// Runs the command.
pub async fn run(flags: &Flags, shutdown: CancellationToken) -> Result<(), Fault> {
    let source = source::load(flags.require_config()?, flags.key())?;
    let destination = destination::load(flags.require_destination()?, flags.key())?;
    let catalog = Catalog::load(flags.require_catalog()?, flags.key())?;
    let streams = catalog.selected(&source, &destination, flags)?;
    if streams.is_empty() {
        return Err(Fault::new(
            ErrorCode::InvalidConfig,
            "no stream is selected: nothing to clear",
        )
        .remedy("name the tables under selected_streams in streams.json"));
    }
    let (file, state) = StateFile::open(&flags.state_path()?, !flags.no_save)?;
    let mut keeper = StateKeeper::new(file, state);
    let work = async {
        let services = Services::start(false, true, flags, Some(&destination)).await?;
        let cleared = clear(&services, &destination.destination, &streams, &mut keeper).await;
        let cleared = match cleared {
            Err(fault) => Err(services.explain(fault).await),
            done => done,
        };
        services.stop().await;
        cleared
    };
    let cleared = shutdown.run_until_cancelled(work).await;
    // What was removed is forgotten, however the rest went.
    let saved = keeper.save().await;
    cleared.unwrap_or_else(|| {
        Err(Fault::new(ErrorCode::Cancelled, "clearing was stopped before it was complete")
            .remedy("run the same command again"))
    })?;
    saved
}

async fn clear(
    services: &Services,
    destination: &Destination,
    streams: &[SelectedStream],
    keeper: &mut StateKeeper,
) -> Result<(), Fault> {
    let certified = keeper.state().certificate();
    for stream in streams {
        let assigned = services.writers().take();
        let existed = drop_table(assigned.writer(), destination, &stream.table).await?;
        keeper.change().remove(&stream.namespace, &stream.name);
        let place = place(destination, &stream.table);
        output::human(match existed {
            true => format!("{}: removed {place}", stream.id()),
            false => format!("{}: there was nothing at {place}", stream.id()),
        });
    }
    let state = keeper.state();
    let log = state.global.as_ref().and_then(|global| global.state.origin.as_ref());
    if let (Some(log), true) = (log, certified != state.certificate()) {
        let certificate = state.certificate().unwrap_or_default();
        let assigned = services.writers().take();
        certificate::ask(assigned.writer(), destination, log, Some(certificate)).await?;
    }
    Ok(())
}

async fn drop_table(
    writer: &Writer,
    destination: &Destination,
    table: &Table,
) -> Result<bool, Fault> {
    let request =
        DropRequest { destination: Some(destination.clone()), table: Some(table.clone()) };
    let what = format!("removing {}", table.stream);
    let mut retry = Retry::new(RETRIES);
    loop {
        match writer.client.clone().drop(request.clone()).await {
            Ok(answer) => return Ok(answer.into_inner().existed),
            Err(status) => {
                let fault = Fault::from(status).context(&what);
                retry.again(&what, fault, |line| output::human(line)).await?;
            }
        }
    }
}

/// The table's place, for people.
fn place(destination: &Destination, table: &Table) -> String {
    match &destination.kind {
        Some(Kind::Parquet(parquet)) => {
            let root = parquet.local_path.trim_end_matches('/');
            format!("{root}/{}/{}", table.database, table.name)
        }
        Some(Kind::Iceberg(_)) | None => format!("{}.{}", table.database, table.name),
    }
}

#[cfg(test)]
mod tests {
    use proto::v1::Parquet;

    use super::*;

    #[test]
    fn the_place_of_a_table_is_its_directory() {
        let parquet = Parquet { local_path: "/data/".into(), ..Default::default() };
        let destination = Destination { kind: Some(Kind::Parquet(parquet)) };
        let table = Table { database: "d".into(), name: "t".into(), ..Default::default() };
        assert_eq!(place(&destination, &table), "/data/d/t");
    }
}
