//! DoPut against a served writer on loopback, by an ordinary Flight client.

use std::path::Path;
use std::time::Duration;

use arrow::array::{Int64Array, StringArray};
use arrow::datatypes::{DataType, Field};
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::utils::batches_to_flight_data;
use arrow_flight::{FlightDescriptor, Ticket};
use futures::stream;
use proto::v1::writer_client::WriterClient;
use proto::v1::{
    CommitRequest, Destination, DropRequest, ErrorCode, PrepareRequest, Table, WriterCheckRequest,
};
use proto::{Fault, Tls, Token};
use tokio::net::TcpListener;
use tonic::transport::Channel;

use super::*;
use crate::storage::entries;
use crate::storage::tests::destination;

/// A writer that serves until it is dropped.
struct Served {
    channel: Channel,
    _stop: tokio_util::sync::DropGuard,
}

async fn serve(options: Options, token: Option<Token>) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    tokio::spawn(crate::run(options, listener, token, Tls::default(), shutdown.clone()));
    let channel = Channel::from_shared(address).unwrap().connect().await.unwrap();
    Served { channel, _stop: shutdown.drop_guard() }
}

fn table(partition_regex: &str) -> Table {
    Table {
        database: "d".into(),
        name: "t".into(),
        key_columns: vec!["id".into()],
        normalization: true,
        partition_regex: partition_regex.into(),
        stream: "public.t".into(),
        soft_deletes: false,
    }
}

fn request(root: &Path, partition_regex: &str) -> StageRequest {
    StageRequest {
        destination: Some(destination(root)),
        table: Some(table(partition_regex)),
        load_id: "load".into(),
        chunk_id: 3,
        settings_hash: "hash".into(),
        processed_at: 1_700_000_000_000_000,
        op_type: "r".into(),
        ..Default::default()
    }
}

fn batch(rows: i64) -> RecordBatch {
    let ids: Int64Array = (0..rows).collect();
    let names: StringArray = (0..rows).map(|n| Some(format!("name {}", n % 3))).collect();
    let fields =
        vec![Field::new("id", DataType::Int64, true), Field::new("name", DataType::Utf8, true)];
    let schema = Arc::new(Schema::new(fields));
    RecordBatch::try_new(schema, vec![Arc::new(ids), Arc::new(names)]).unwrap()
}

fn end(rows: u64, batches: u64) -> FlightData {
    let app_metadata = EndOfStream { rows, batches, complete: true }.encode_to_vec().into();
    FlightData { app_metadata, ..Default::default() }
}

/// The schema's message and those of the batches, without an end.
fn messages(request: &StageRequest, batches: &[RecordBatch]) -> Vec<FlightData> {
    let schema = batch(0).schema();
    let mut messages = batches_to_flight_data(&schema, batches.to_vec()).unwrap();
    messages[0].flight_descriptor = Some(FlightDescriptor::new_cmd(request.encode_to_vec()));
    messages
}

async fn put<S>(served: &Served, messages: S) -> Result<StagedChunk, Fault>
where
    S: Stream<Item = FlightData> + Send + 'static,
{
    let mut client = FlightServiceClient::new(served.channel.clone())
        .max_encoding_message_size(usize::MAX)
        .max_decoding_message_size(usize::MAX);
    let mut answers = client.do_put(messages).await?.into_inner();
    let answer = answers.next().await.expect("one PutResult")?;
    assert!(answers.next().await.is_none());
    Ok(StagedChunk::decode(answer.app_metadata).unwrap())
}

fn staged_in(root: &Path) -> Vec<String> {
    entries(&root.join("d/.tidewater/t/load")).unwrap()
}

#[tokio::test]
async fn a_complete_stream_is_staged_and_committed() {
    let root = tempfile::tempdir().unwrap();
    let served = serve(Options::default(), None).await;
    let mut writer = WriterClient::new(served.channel.clone());
    let dest: Option<Destination> = Some(destination(root.path()));
    let table = Some(table("/{name,none,}"));
    writer.check(WriterCheckRequest { destination: dest.clone() }).await.unwrap();
    let prepare = PrepareRequest {
        destination: dest.clone(),
        table: table.clone(),
        columns: vec!["id".into(), "name".into()],
        ..Default::default()
    };
    let prepared = writer.prepare(prepare.clone()).await.unwrap().into_inner();
    assert_eq!(prepared.last_commit, None);

    let mut sent =
        messages(&request(root.path(), "/{name,none,}"), &[batch(1000), batch(0), batch(500)]);
    sent.push(end(1500, 3));
    let staged = put(&served, stream::iter(sent)).await.unwrap();
    assert_eq!((staged.rows, staged.files, staged.chunk_id), (1500, 3, 3));
    assert!(!root.path().join("d/t").exists());

    let commit = CommitRequest {
        destination: dest.clone(),
        table: table.clone(),
        commit_id: "c".into(),
        load_id: "load".into(),
        mode: proto::v1::commit_request::Mode::Replace.into(),
        staged: vec![staged],
        ..Default::default()
    };
    let committed = writer.commit(commit).await.unwrap().into_inner();
    assert_eq!(entries(Path::new(&committed.location)).unwrap().len(), 4);
    let prepared = writer.prepare(prepare).await.unwrap().into_inner();
    assert_eq!(prepared.last_commit, committed.record);
    let drop = DropRequest { destination: dest, table };
    assert!(writer.drop(drop.clone()).await.unwrap().into_inner().existed);
    assert!(!writer.drop(drop).await.unwrap().into_inner().existed);
    assert!(entries(root.path()).unwrap().is_empty());
}

#[tokio::test]
async fn a_stream_that_is_not_complete_is_discarded() {
    let root = tempfile::tempdir().unwrap();
    let served = serve(Options::default(), None).await;
    let request = request(root.path(), "");
    let ends: [&[FlightData]; 6] = [
        &[],
        &[end(9, 1)],
        &[end(10, 2)],
        &[end(10, 1), end(10, 1)],
        &[FlightData::default()],
        &[FlightData { app_metadata: vec![0xff].into(), ..Default::default() }],
    ];
    for last in ends {
        let mut sent = messages(&request, &[batch(10)]);
        sent.extend_from_slice(last);
        let fault = put(&served, stream::iter(sent)).await.unwrap_err();
        assert_eq!(fault.code, ErrorCode::IncompleteStream, "{last:?}: {fault}");
        assert!(fault.message.contains("public.t chunk 3"), "{fault}");
        assert_eq!(staged_in(root.path()), [""; 0], "{last:?}");
    }
}

#[tokio::test]
async fn an_error_is_answered_while_the_client_is_still_sending() {
    let root = tempfile::tempdir().unwrap();
    let served = serve(Options::default(), None).await;
    let endless = |request: StageRequest| {
        stream::iter(messages(&request, &[batch(10)])).chain(stream::pending())
    };
    let bad_partition = request(root.path(), "/{nowhere,none,}");
    let fault = put(&served, endless(bad_partition)).await.unwrap_err();
    assert_eq!(fault.code, ErrorCode::InvalidConfig, "{fault}");

    let mut outside = request(root.path(), "");
    outside.table.as_mut().unwrap().name = "../t".into();
    let fault = put(&served, endless(outside)).await.unwrap_err();
    assert_eq!(fault.code, ErrorCode::InvalidConfig, "{fault}");

    std::fs::write(root.path().join("file"), "x").unwrap();
    let no_directory = request(&root.path().join("file"), "");
    let fault = put(&served, endless(no_directory)).await.unwrap_err();
    assert_eq!(fault.code, ErrorCode::Destination, "{fault}");
}

#[tokio::test]
async fn a_row_beyond_the_limit_says_so() {
    let root = tempfile::tempdir().unwrap();
    let served = serve(Options { max_row_bytes: 1 << 10, ..Options::default() }, None).await;
    let mut sent = messages(&request(root.path(), ""), &[batch(1)]);
    sent[1].data_body = vec![0; 17 << 20].into();
    let fault = put(&served, stream::iter(sent)).await.unwrap_err();
    assert_eq!(fault.code, ErrorCode::RowTooLarge, "{fault}");
    assert_eq!(staged_in(root.path()), [""; 0]);
}

#[tokio::test]
async fn bytes_that_are_no_batch_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let served = serve(Options::default(), None).await;
    let mut sent = messages(&request(root.path(), ""), &[batch(10)]);
    sent[1].data_header = vec![1, 2, 3].into();
    let fault = put(&served, stream::iter(sent)).await.unwrap_err();
    assert_eq!(fault.code, ErrorCode::BadData, "{fault}");
    let mut sent = messages(&request(root.path(), ""), &[batch(10)]);
    sent[1].data_body = sent[1].data_body.slice(..8);
    let fault = put(&served, stream::iter(sent)).await.unwrap_err();
    assert_eq!(fault.code, ErrorCode::BadData, "{fault}");
}

#[tokio::test]
async fn one_stream_more_than_allowed_is_refused_and_may_try_again() {
    let root = tempfile::tempdir().unwrap();
    let served = serve(Options { max_streams: 1, ..Options::default() }, None).await;
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let held = tokio_stream::wrappers::UnboundedReceiverStream::new(receiver);
    let mut sent = messages(&request(root.path(), ""), &[batch(10)]);
    sender.send(sent.remove(0)).unwrap();
    let client = served.channel.clone();
    let first =
        tokio::spawn(async move { FlightServiceClient::new(client).do_put(held).await.map(drop) });
    eventually(|| !staged_in(root.path()).is_empty()).await;

    let mut second = messages(&request(root.path(), ""), &[batch(10)]);
    second.push(end(10, 1));
    let fault = put(&served, stream::iter(second.clone())).await.unwrap_err();
    assert_eq!((fault.code, fault.transient), (ErrorCode::Unavailable, true));
    sender.send(sent.remove(0)).unwrap();
    sender.send(end(10, 1)).unwrap();
    drop(sender);
    first.await.unwrap().unwrap();
    put(&served, stream::iter(second)).await.unwrap();
}

#[tokio::test]
async fn a_dropped_call_discards_its_stage() {
    let root = tempfile::tempdir().unwrap();
    let served = serve(Options::default(), None).await;
    let sent = messages(&request(root.path(), ""), &[batch(10)]);
    let client = served.channel.clone();
    let call = tokio::spawn(async move {
        let endless = stream::iter(sent).chain(stream::pending());
        FlightServiceClient::new(client).do_put(endless).await.map(drop)
    });
    eventually(|| !staged_in(root.path()).is_empty()).await;
    call.abort();
    eventually(|| staged_in(root.path()).is_empty()).await;
}

#[tokio::test]
async fn without_the_token_nothing_is_answered_and_other_flight_calls_say_what_to_use() {
    let root = tempfile::tempdir().unwrap();
    let served = serve(Options::default(), Some(Token::random())).await;
    let sent = messages(&request(root.path(), ""), &[]);
    let fault = put(&served, stream::iter(sent)).await.unwrap_err();
    assert_eq!(fault.code, ErrorCode::Authentication);

    let served = serve(Options::default(), None).await;
    let mut client = FlightServiceClient::new(served.channel.clone());
    let status = client.do_get(Ticket::default()).await.map(drop).unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().contains("DoPut"));
}

/// Waits, for a bounded time, until `condition` holds.
async fn eventually(condition: impl Fn() -> bool) {
    let waited = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waited).await.expect("the condition to hold");
}
