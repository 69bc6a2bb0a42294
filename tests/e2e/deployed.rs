//! Services that run on their own: several writers, health, reflection, tokens.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use proto::v1::source_client::SourceClient;
use proto::v1::writer_client::WriterClient;
use proto::v1::{SourceCheckRequest, WriterCheckRequest};
use serde_json::json;
use tests::gate::{self, STREAMS};
use tests::run::{Project, poll};
use tests::services::{Service, TOKEN, sync_through};
use tests::{moment, verify};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

/// Chunks that a writer has staged.
fn staged(writer: &Service) -> usize {
    writer.log().lines().filter(|line| line.contains(r#""message":"staged""#)).count()
}

#[test]
fn two_writers_share_the_work_of_one_sync() -> Result<()> {
    let project = gate::project("two_writers")?;
    let source = Service::source(&[])?;
    let writers = [Service::writer(&[])?, Service::writer(&[])?];
    let arguments = sync_through(Some(&source), &[&writers[0], &writers[1]]);
    for _ in 0..2 {
        project.run(&arguments)?.succeeded()?;
        verify::same_as_source(&project, &STREAMS)?;
    }
    let shares = [staged(&writers[0]), staged(&writers[1])];
    ensure!(shares[0] + shares[1] == 12 && shares.iter().all(|share| *share >= 2), "{shares:?}");
    assert_eq!(moment::leftovers(&project), Vec::<PathBuf>::new());
    Ok(())
}

#[test]
fn one_of_two_writers_is_enough() -> Result<()> {
    let project = gate::project("one_writer_dies")?;
    let source = Service::source(&[])?;
    let mut writers = [Service::writer(&[])?, Service::writer(&[])?];
    let arguments = sync_through(Some(&source), &[&writers[0], &writers[1]]);
    let gate = gate::Gate::shut(project.database(), "second")?;
    let mut sync = project.start(&arguments)?;
    moment::reached(&project, &mut sync, "all but one chunk is staged", |state| {
        moment::all_but_one(state, "a")
    })?;
    // Whichever has the last chunk: a retry goes to the other.
    writers[0].kill()?;
    drop(gate);
    sync.wait()?.succeeded()?;
    verify::same_as_source(&project, &STREAMS)
}

#[test]
fn the_writer_of_destination_json_is_used_when_it_runs_and_started_when_not() -> Result<()> {
    let project = gate::project("grpc_port")?;
    let mut writer = Service::writer(&[])?;
    let (host, port) = writer.address().split_once(':').context("host:port")?;
    let port: u16 = port.parse()?;
    project.edit("destination.json", |file| {
        file["writer"]["server_host"] = json!(host);
        file["writer"]["grpc_port"] = json!(port);
    })?;
    let mut arguments = Project::SYNC.to_vec();
    arguments.extend(["--token", TOKEN]);
    project.run(&arguments)?.succeeded()?;
    ensure!(staged(&writer) == 6, "the writer that runs was not used");
    verify::same_as_source(&project, &STREAMS)?;

    // A service that cannot prove the token gets nothing.
    let said = project.run(&Project::SYNC)?.failed()?;
    ensure!(said.contains("token"), "{said}");

    writer.terminate()?;
    project.run(&arguments)?.succeeded()?;
    verify::same_as_source(&project, &STREAMS)
}

fn connect(service: &Service) -> Result<Endpoint> {
    Ok(Endpoint::from_shared(format!("http://{}", service.address()))?)
}

async fn serving(channel: Channel, name: &str) -> Result<()> {
    for service in ["", name] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = HealthClient::new(channel.clone()).check(request).await?.into_inner();
        ensure!(answer.status() == ServingStatus::Serving, "{service:?}: {answer:?}");
    }
    Ok(())
}

async fn listed(channel: Channel) -> Result<Vec<String>> {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel);
    let requests = tokio_stream::once(request);
    let mut answers = client.server_reflection_info(requests).await?.into_inner();
    let answer = answers.message().await?.context("an answer")?;
    match answer.message_response {
        Some(MessageResponse::ListServicesResponse(list)) => {
            Ok(list.service.into_iter().map(|service| service.name).collect())
        }
        other => anyhow::bail!("reflection answered {other:?}"),
    }
}

#[test]
fn services_tell_health_and_protos_and_refuse_calls_without_a_token() -> Result<()> {
    let (source, mut writer) = (Service::source(&[])?, Service::writer(&[])?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let to_source = connect(&source)?.connect().await?;
        let to_writer = connect(&writer)?.connect().await?;
        serving(to_source.clone(), "source-svc").await?;
        serving(to_writer.clone(), "writer-svc").await?;
        let services = listed(to_source.clone()).await?;
        ensure!(services.iter().any(|name| name == "tidewater.v1.Source"), "{services:?}");
        let services = listed(to_writer.clone()).await?;
        ensure!(services.iter().any(|name| name == "tidewater.v1.Writer"), "{services:?}");

        let refused = SourceClient::new(to_source).check(SourceCheckRequest::default()).await;
        let status = refused.err().context("a call without token was answered")?;
        ensure!(status.code() == Code::Unauthenticated, "{status:?}");
        let refused =
            WriterClient::new(to_writer.clone()).check(WriterCheckRequest::default()).await;
        let status = refused.err().context("a call without token was answered")?;
        ensure!(status.code() == Code::Unauthenticated, "{status:?}");
        let mut wrong = tonic::Request::new(WriterCheckRequest::default());
        wrong.metadata_mut().insert("authorization", "Bearer wrong".parse()?);
        let refused = WriterClient::new(to_writer).check(wrong).await;
        let status = refused.err().context("a call with a wrong token was answered")?;
        ensure!(status.code() == Code::Unauthenticated, "{status:?}");
        anyhow::Ok(())
    })?;
    let told = |service: &Service| {
        service.log().lines().filter(|line| line.contains("a call was refused")).count()
    };
    poll("each refusal is in the log, once", || Ok((told(&source), told(&writer)) == (1, 2)))?;
    for service in [&source, &writer] {
        ensure!(!service.log().contains(TOKEN), "a service logged its token");
    }
    // Its connections go with it: a drain need not wait for them.
    drop(runtime);
    ensure!(writer.terminate()?.success(), "SIGTERM is a clean end");
    Ok(())
}
