//! throw-away
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket};
use futures::stream::BoxStream;
use prost::Message;
use proto::v1;
use proto::v1::source_client::SourceClient;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Sink { dump: bool, fail_after: Option<u64>, out: Arc<Mutex<Vec<String>>>, rows: Arc<Mutex<HashMap<String, u64>>> }
#[tonic::async_trait]
impl FlightService for Sink {
    type HandshakeStream = BoxStream<'static, Result<HandshakeResponse, Status>>;
    type ListFlightsStream = BoxStream<'static, Result<FlightInfo, Status>>;
    type DoGetStream = BoxStream<'static, Result<FlightData, Status>>;
    type DoPutStream = BoxStream<'static, Result<PutResult, Status>>;
    type DoActionStream = BoxStream<'static, Result<arrow_flight::Result, Status>>;
    type ListActionsStream = BoxStream<'static, Result<ActionType, Status>>;
    type DoExchangeStream = BoxStream<'static, Result<FlightData, Status>>;
    async fn handshake(&self, _: Request<Streaming<HandshakeRequest>>) -> Result<Response<Self::HandshakeStream>, Status> { Err(Status::unimplemented("")) }
    async fn list_flights(&self, _: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> { Err(Status::unimplemented("")) }
    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> { Err(Status::unimplemented("")) }
    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> { Err(Status::unimplemented("")) }
    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> { Err(Status::unimplemented("")) }
    async fn do_get(&self, _: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> { Err(Status::unimplemented("")) }
    async fn do_action(&self, _: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> { Err(Status::unimplemented("")) }
    async fn list_actions(&self, _: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> { Err(Status::unimplemented("")) }
    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoExchangeStream>, Status> { Err(Status::unimplemented("")) }
    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        let mut stream = request.into_inner();
        let first = stream.message().await?.ok_or_else(|| Status::aborted("empty"))?;
        let stage = String::from_utf8_lossy(&first.flight_descriptor.as_ref().unwrap().cmd).into_owned();
        let schema: arrow::datatypes::Schema = (&first).try_into().map_err(|e| Status::internal(format!("{e}")))?;
        let schema = Arc::new(schema);
        let (mut rows, mut batches, mut end) = (0u64, 0u64, None);
        loop {
            let Some(data) = stream.message().await? else { break };
            if data.data_header.is_empty() { end = Some(v1::EndOfStream::decode(data.app_metadata).unwrap()); continue }
            let batch: RecordBatch = arrow_flight::utils::flight_data_to_arrow_batch(&data, schema.clone(), &HashMap::new()).map_err(|e| Status::internal(format!("{e}")))?;
            rows += batch.num_rows() as u64; batches += 1;
            if self.fail_after.is_some_and(|n| rows > n) {
                return Err(proto::Fault::new(v1::ErrorCode::DestinationFull, "disk full").remedy("free space").into());
            }
            if self.dump {
                let options = FormatOptions::default().with_null("\\N");
                let formatters: Vec<_> = batch.columns().iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &options).unwrap()).collect();
                let mut out = self.out.lock().unwrap();
                for r in 0..batch.num_rows() { out.push(formatters.iter().map(|f| f.value(r).to_string()).collect::<Vec<_>>().join("|")); }
            }
        }
        eprintln!("sink: {stage}: rows {rows} batches {batches} end {end:?}");
        if end != Some(v1::EndOfStream { rows, batches, complete: true }) { return Err(proto::Fault::new(v1::ErrorCode::IncompleteStream, "incomplete").into()); }
        *self.rows.lock().unwrap().entry(stage.clone()).or_default() += rows;
        let put = PutResult { app_metadata: format!("staged {stage} {rows}").into_bytes().into() };
        Ok(Response::new(Box::pin(futures::stream::iter([Ok(put)]))))
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    // drive <source address> <port> <threads> <dump 0/1> <fail_after or -> schema.table[:split[:filtercol,op,value]] …
    let source = args[1].clone();
    let port: u32 = args[2].parse()?; let threads: u32 = args[3].parse()?;
    let dump = args[4] == "1"; let fail_after = args[5].parse().ok();
    let out = Arc::new(Mutex::new(Vec::new())); let rows = Arc::new(Mutex::new(HashMap::new()));
    let sink = Sink { dump, fail_after, out: out.clone(), rows: rows.clone() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let writer = format!("http://{}", listener.local_addr()?);
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let server = tokio::spawn(async move { proto::serve::serve("writer-svc", listener, None, stopped, |routes| { routes.add_service(FlightServiceServer::new(sink).max_decoding_message_size(proto::limits::data_message_bytes(proto::limits::MAX_ROW_BYTES))); }).await });
    let config = v1::SourceConfig { host: "127.0.0.1".into(), port, database: std::env::var("DB").unwrap_or("postgres".into()), username: std::env::var("PGUSER").unwrap_or("postgres".into()), max_threads: threads, max_row_bytes: std::env::var("ROWBYTES").ok().and_then(|v| v.parse().ok()).unwrap_or(0), lock_timeout_ms: 2000, ..Default::default() };
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{source}"))?.connect().await?;
    let mut client = SourceClient::new(channel);
    let streams = args[6..].iter().map(|spec| {
        let mut parts = spec.split(':');
        let (ns, name) = parts.next().unwrap().split_once('.').unwrap();
        let split = parts.next().unwrap_or("");
        let filter = parts.next().map(|f| { let mut p = f.splitn(3, ','); v1::Filter { logical_operator: 0, conditions: vec![v1::Condition { column: p.next().unwrap().into(), operator: p.next().unwrap().into(), value: p.next().unwrap_or("").into(), is_null: false }] } });
        v1::LoadStream { namespace: ns.into(), name: name.into(), split_column: split.into(), filter, on_unrepresentable: std::env::var("FAIL").is_ok() as i32, ..Default::default() }
    }).collect::<Vec<_>>();
    let start = Instant::now();
    let request = v1::OpenLoadRequest { config: Some(config.clone()), streams: streams.clone(), resume_load_id: String::new() };
    let opened = match client.open_load(request.clone()).await { Ok(r) => r.into_inner(), Err(status) => { println!("OPEN FAILED: {:?}", proto::Fault::from(status)); stop.cancel(); std::process::exit(1); } };
    eprintln!("opened in {:?}: {} {} {} notices {:?}", start.elapsed(), opened.load_id, opened.snapshot, opened.consistent_point, opened.notices);
    for t in &opened.tables { eprintln!("  {}.{} pk {:?} bytes {} rows {} chunks {}: {:?}", t.namespace, t.name, t.primary_key, t.bytes, t.estimated_rows, t.chunks.len(), t.chunks.iter().take(4).map(|c| (&c.min, &c.max, &c.relation, c.bytes)).collect::<Vec<_>>()); }
    if let Ok(again) = std::env::var("RESUME") { if again == "1" { let mut r = request.clone(); r.resume_load_id = opened.load_id.clone(); let a = client.open_load(r.clone()).await.unwrap().into_inner(); assert_eq!(a, opened); r.streams.pop(); println!("resume other: {:?}", proto::Fault::from(client.open_load(r).await.unwrap_err())); } }
    if let Ok(ms) = std::env::var("WAIT") { tokio::time::sleep(Duration::from_millis(ms.parse()?)).await; }
    let start = Instant::now();
    let (mut total_rows, mut total_bytes) = (0u64, 0u64);
    let jobs: Vec<_> = opened.tables.iter().flat_map(|t| t.chunks.iter().map(move |c| (t.clone(), c.clone()))).collect();
    let results = futures::stream::StreamExt::collect::<Vec<_>>(futures::stream::StreamExt::buffer_unordered(futures::stream::iter(jobs.into_iter().map(|(t, c)| {
        let mut client = client.clone(); let writer = writer.clone(); let id = opened.load_id.clone();
        async move {
            let what = format!("{}.{}#{}", t.namespace, t.name, c.id);
            let r = v1::ReadChunkRequest { load_id: id, namespace: t.namespace.clone(), name: t.name.clone(), chunk_id: c.id, writer_address: writer, writer_token: String::new(), stage: what.clone().into_bytes().into() };
            let mut events = client.read_chunk(r).await.map_err(|s| (what.clone(), proto::Fault::from(s)))?.into_inner();
            let (mut rows, mut bytes, mut staged) = (0, 0, None); let mut un = vec![];
            while let Some(e) = events.message().await.map_err(|s| (what.clone(), proto::Fault::from(s)))? {
                rows += e.rows; bytes += e.bytes; if !e.staged.is_empty() { staged = Some(String::from_utf8_lossy(&e.staged).into_owned()); un = e.unrepresentable; }
            }
            Ok::<_, (String, proto::Fault)>((what, rows, bytes, staged, un))
        }
    })), 8)).await;
    for result in results { match result { Ok((what, rows, bytes, staged, un)) => { total_rows += rows; total_bytes += bytes; if staged.is_none() { println!("{what}: NOT STAGED"); } if !un.is_empty() { println!("{what}: unrepresentable {un:?}"); } } Err((what, fault)) => println!("{what}: FAILED {fault:?}") } }
    println!("total rows {total_rows} bytes {total_bytes} in {:?}; sink rows {}", start.elapsed(), rows.lock().unwrap().values().sum::<u64>());
    for line in out.lock().unwrap().iter() { println!("ROW {line}"); }
    client.close_load(v1::CloseLoadRequest { load_id: opened.load_id.clone() }).await?;
    stop.cancel(); let _ = server.await;
    Ok(())
}
