//! Makes a table's staged chunks its content, in one atomic step; those of several
//! tables together, where their catalog can.

use futures::{StreamExt, stream};
use prost::Message;
use proto::Fault;
use proto::metrics;
use proto::v1::destination::Kind as Destination;
use proto::v1::iceberg::Catalog;
use proto::v1::stage_request::Kind;
use proto::v1::{CommitRequest, CommitResponse, CommitTogetherRequest, ErrorCode};
use tonic::Code;
use tracing::Instrument;

use super::retry::Retry;
use super::{Context, TableRun, incremental};
use crate::state::SavedLoad;

/// Tables that are committed at once, each by itself.
const AT_ONCE: usize = 8;
/// Tables of one commit, which a catalog has to take in one request …
const TOGETHER: usize = 500;
/// … and bytes of what the writer is asked for it: more are several commits.
const TOGETHER_BYTES: usize = 16 << 20;

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

/// Commits of several tables, by their indices in the run: all in one step where the
/// catalog can (very many: in a few), else each by itself, with its own end.
pub async fn commits(
    context: &Context<'_>,
    requests: Vec<(usize, CommitRequest)>,
) -> Result<Vec<Committed>, Fault> {
    let (mut made, mut alone) = (Vec::with_capacity(requests.len()), Vec::new());
    match may_commit_together(context) {
        false => alone = requests,
        true => {
            for group in groups(requests) {
                match together(context, &group).await? {
                    Some(committed) => made.extend(committed),
                    None => alone.extend(group),
                }
            }
        }
    }
    let one_by_one = alone.into_iter().map(|(table, request)| commit(context, table, request));
    made.extend(stream::iter(one_by_one).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await);
    Ok(made)
}

/// As many as one request may have, in their order.
fn groups(requests: Vec<(usize, CommitRequest)>) -> Vec<Vec<(usize, CommitRequest)>> {
    let mut groups: Vec<Vec<_>> = Vec::new();
    let mut bytes = 0;
    for (table, request) in requests {
        let more = request.encoded_len();
        match groups.last_mut() {
            Some(group) if group.len() < TOGETHER && bytes + more <= TOGETHER_BYTES => {
                group.push((table, request));
                bytes += more;
            }
            _ => {
                groups.push(vec![(table, request)]);
                bytes = more;
            }
        }
    }
    groups
}

/// Whether the writer is worth asking.
fn may_commit_together(context: &Context<'_>) -> bool {
    match &context.destination.kind {
        Some(Destination::Iceberg(iceberg)) => matches!(iceberg.catalog, Some(Catalog::Rest(_))),
        _ => false,
    }
}

/// `None`: each has to be committed by itself.
async fn together(
    context: &Context<'_>,
    requests: &[(usize, CommitRequest)],
) -> Result<Option<Vec<Committed>>, Fault> {
    let [(_, first), _, ..] = requests else { return Ok(None) };
    let position = first.position.as_str();
    let span = tracing::info_span!("commit together", tables = requests.len(), position);
    all_or_none(context, requests).instrument(span).await
}

async fn all_or_none(
    context: &Context<'_>,
    requests: &[(usize, CommitRequest)],
) -> Result<Option<Vec<Committed>>, Fault> {
    let what = format!("committing {} tables", requests.len());
    let asked = requests.iter().map(|(_, request)| request.clone()).collect();
    let asked = CommitTogetherRequest { commits: asked };
    let streams = requests.iter().map(|(_, request)| stream_of(request));
    let timed: Vec<_> = streams.map(|stream| metrics::synced().begin(stream)).collect();
    let mut retry = Retry::new(context.source_config.retry_count);
    let answers = loop {
        let assigned = context.writers.take();
        let mut client = assigned.writer().client.clone();
        match client.commit_together(asked.clone()).await {
            Ok(answer) => break answer.into_inner().commits,
            // One of an earlier version.
            Err(status) if status.code() == Code::Unimplemented => break Vec::new(),
            Err(status) => {
                assigned.failed();
                let say = |line: &str| context.progress.note(line);
                let tried = retry.again(&what, Fault::from(status), say).await;
                tried.map_err(|fault| fault.context(&what))?;
            }
        }
    };
    if answers.is_empty() {
        timed.into_iter().for_each(metrics::Commit::left);
        return Ok(None);
    }
    if answers.len() != requests.len() {
        let told = format!("{what}: writer-svc tells of {}", answers.len());
        return Err(Fault::new(ErrorCode::Internal, told));
    }
    let made = requests.iter().zip(answers).zip(timed);
    let made = made.map(|(((table, request), answer), timed)| {
        let result = checked(request, answer, timed);
        Committed { table: *table, result }
    });
    Ok(Some(made.collect()))
}

fn stream_of(request: &CommitRequest) -> &str {
    request.table.as_ref().map_or("", |table| table.stream.as_str())
}

async fn attempts(context: &Context<'_>, request: CommitRequest) -> Result<CommitResponse, Fault> {
    let stream = stream_of(&request).to_owned();
    let what = format!("committing {stream}");
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
    checked(&request, answer, commit)
}

/// The answer, if what was staged is what is committed.
fn checked(
    request: &CommitRequest,
    answer: CommitResponse,
    commit: metrics::Commit,
) -> Result<CommitResponse, Fault> {
    let added = request.staged.iter().filter(|chunk| chunk.kind() == Kind::Data);
    let staged_rows: u64 = added.map(|chunk| chunk.rows).sum();
    let committed = answer.record.as_ref().map(|record| record.rows);
    if committed != Some(staged_rows) {
        let what = format!(
            "committing {}: {staged_rows} rows were staged but {committed:?} committed",
            stream_of(request)
        );
        return Err(Fault::new(ErrorCode::Internal, what));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(requests: impl Iterator<Item = CommitRequest>) -> Vec<usize> {
        let groups = groups((0..).zip(requests).collect());
        let order: Vec<usize> = groups.iter().flatten().map(|(table, _)| *table).collect();
        assert!(order.iter().copied().eq(0..order.len()), "each once, in order: {order:?}");
        groups.iter().map(Vec::len).collect()
    }

    #[test]
    fn no_request_has_more_tables_or_bytes_than_one_may_have() {
        let few = |count| std::iter::repeat_n(CommitRequest::default(), count);
        assert_eq!(sizes(few(2)), [2]);
        assert_eq!(sizes(few(2 * TOGETHER + 1)), [TOGETHER, TOGETHER, 1]);
        let large =
            CommitRequest { position: "x".repeat(TOGETHER_BYTES / 3), ..Default::default() };
        assert_eq!(sizes(std::iter::repeat_n(large, 5)), [2, 2, 1]);
        let too_large =
            CommitRequest { position: "x".repeat(TOGETHER_BYTES), ..Default::default() };
        assert_eq!(sizes(std::iter::repeat_n(too_large, 2)), [1, 1]);
        assert!(sizes(few(0)).is_empty());
    }
}
