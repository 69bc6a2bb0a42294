//! `check`: tests the source, the destination, or both for real. The verdict
//! goes to stdout as one line; a failed one is also the command's failure.

use proto::Fault;
use proto::v1::{ErrorCode, SourceCheckRequest, WriterCheckRequest};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::cli::Flags;
use crate::config::{destination, source};
use crate::output;
use crate::services::Services;

/// Checks what the flags name and prints the connection status.
pub async fn run(flags: &Flags, shutdown: CancellationToken) -> Result<(), Fault> {
    if flags.config.is_none() && flags.destination.is_none() {
        return Err(Fault::new(ErrorCode::InvalidConfig, "check has nothing to check").remedy(
            "add --config <path of source.json> or --destination <path of destination.json>",
        ));
    }
    let checked = tokio::select! {
        checked = check(flags) => checked,
        () = shutdown.cancelled() => Err(Fault::new(ErrorCode::Cancelled, "the check was stopped")),
    };
    let (status, message) = match &checked {
        Ok(()) => ("SUCCEEDED", String::new()),
        Err(fault) if fault.remedy.is_empty() => ("FAILED", fault.message.clone()),
        Err(fault) => ("FAILED", format!("{}; {}", fault.message, fault.remedy)),
    };
    output::machine(&json!({
        "connectionStatus": {"status": status, "message": message},
        "type": "CONNECTION_STATUS",
    }))?;
    checked
}

async fn check(flags: &Flags) -> Result<(), Fault> {
    // Both files before either service: a typo is found at once.
    let source = match &flags.config {
        Some(path) => Some(source::load(path, flags.key())?),
        None => None,
    };
    let destination = match &flags.destination {
        Some(path) => Some(destination::load(path, flags.key())?),
        None => None,
    };
    let writable = destination.as_ref().map(|file| file.writable().cloned()).transpose()?;
    let services =
        Services::start(source.is_some(), writable.is_some(), flags, destination.as_ref()).await?;
    let checked = async {
        if let Some(file) = source {
            let method = file.update_method;
            let (slot, publication) = method
                .map(|method| (method.replication_slot, method.publication))
                .unwrap_or_default();
            let request = SourceCheckRequest { config: Some(file.config), slot, publication };
            let answer = services.source().check(request).await?.into_inner();
            output::human(format_args!("the source answers: {}", answer.server_version));
            for notice in answer.notices {
                output::human(format_args!("note: {notice}"));
            }
        }
        // Each writer: any of them may be given any table.
        for mut writer in services.writers().all() {
            let request = WriterCheckRequest { destination: writable.clone() };
            writer.client.check(request).await?;
        }
        Ok::<(), tonic::Status>(())
    };
    let checked = match checked.await {
        Ok(()) => Ok(()),
        Err(status) => Err(services.explain(Fault::from(status)).await),
    };
    services.stop().await;
    checked
}
