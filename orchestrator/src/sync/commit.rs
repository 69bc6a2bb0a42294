//! Makes a table's staged chunks its content, in one atomic step.

use proto::Fault;
use proto::metrics;
use proto::v1::stage_request::Kind;
use proto::v1::{CommitRequest, CommitResponse, ErrorCode};

use tracing::Instrument;

use super::retry::Retry;
use super::{Context, TableRun, incremental};
use crate::state::SavedLoad;

/// A commit's end; `Err` names the table.
pub struct Committed {
    /// Index in the run.
    pub table: usize,
    pub result: Result<CommitResponse, Fault>,
}

/// The commit of everything that `load` has staged for the table.
pub fn request(context: &Context<'_>, table: &TableRun, load: &SavedLoad) -> CommitRequest {
    CommitRequest {
        destination: Some(context.destination.clone()),
        table: Some(table.stream.table.clone()),
        commit_id: load.commit_id.clone(),
        load_id: load.id.clone(),
        mode: incremental::mode(context, table, load).into(),
        staged: load.descriptors(),
        position: match &load.increment {
            Some(increment) => increment.position.text(),
            None => load.position.as_ref().map(ToString::to_string).unwrap_or_default(),
        },
        expected_commit_id: load.increment.as_ref().and_then(|increment| increment.base.clone()),
    }
}

/// Commits, trying again after transient failures: a commit that had been made
/// is found by its id and not made twice.
pub async fn commit(context: &Context<'_>, table: usize, request: CommitRequest) -> Committed {
    let stream = request.table.as_ref().map_or("", |table| table.stream.as_str());
    let span = tracing::info_span!("commit", stream, position = request.position);
    Committed { table, result: attempts(context, request).instrument(span).await }
}

async fn attempts(context: &Context<'_>, request: CommitRequest) -> Result<CommitResponse, Fault> {
    let stream = request.table.as_ref().map(|table| table.stream.clone()).unwrap_or_default();
    let what = format!("committing {stream}");
    let added = request.staged.iter().filter(|chunk| chunk.kind() == Kind::Data);
    let staged_rows: u64 = added.map(|chunk| chunk.rows).sum();
    let mut retry = Retry::new(context.source_config.retry_count);
    let commit = metrics::synced().begin(&stream);
    let answer = loop {
        let assigned = context.writers.take();
        let mut client = assigned.writer().client.clone();
        match client.commit(request.clone()).await {
            Ok(answer) => break answer.into_inner(),
            Err(status) => {
                assigned.failed();
                let say = |line: &str| context.progress.note(line);
                let tried = retry.again(&what, Fault::from(status), say).await;
                tried.map_err(|fault| about(fault, &stream))?;
            }
        }
    };
    let committed = answer.record.as_ref().map(|record| record.rows);
    if committed != Some(staged_rows) {
        return Err(Fault::new(
            ErrorCode::Internal,
            format!("{what}: {staged_rows} rows were staged but {committed:?} committed"),
        ));
    }
    if let Some(record) = &answer.record {
        commit.made(record, answer.already_committed);
    }
    Ok(answer)
}

fn about(fault: Fault, stream: &str) -> Fault {
    match fault.message.contains(stream) {
        true => fault,
        false => fault.context(format_args!("committing {stream}")),
    }
}

/// Whether the writer says that what was staged is not there any more.
pub fn lost_its_stage(fault: &Fault) -> bool {
    fault.code == ErrorCode::LoadGone
}
