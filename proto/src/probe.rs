//! Asks a service for its health, as what supervises it does: an image needs no
//! further program for that.

use tokio::time::timeout;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::address::Address;
use crate::error::Fault;
use crate::limits;
use crate::secure::Tls;
use crate::v1::ErrorCode;

/// Demands that `service` serve at `address`, where it listens: of an address
/// that stands for all of a machine's, this machine's is asked.
pub async fn probe(service: &str, address: &str, tls: &Tls) -> Result<(), Fault> {
    let unhealthy =
        |why: String| Fault::new(ErrorCode::Unavailable, format!("{service} at {address}: {why}"));
    let mut at = address.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:");
    if tls.server().is_some() && !at.contains("://") {
        // The name that every process's certificate has besides its own.
        at = format!("https://localhost@{at}");
    }
    let target = Address::parse(&at, service, tls)?;
    let mut endpoint = Endpoint::from_shared(target.uri)
        .map_err(|error| unhealthy(error.to_string()))?
        .connect_timeout(limits::CONNECT_TIMEOUT);
    if let Some(name) = &target.server_name {
        endpoint =
            endpoint.tls_config(tls.client(name)?).map_err(|error| unhealthy(error.to_string()))?;
    }
    let asked = async {
        let channel = endpoint.connect().await.map_err(|error| unhealthy(error.to_string()))?;
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = HealthClient::new(channel).check(request).await;
        match answer.map(|answer| answer.into_inner().status()) {
            Ok(ServingStatus::Serving) => Ok(()),
            Ok(other) => Err(unhealthy(other.as_str_name().to_owned())),
            Err(status) => Err(unhealthy(status.message().to_owned())),
        }
    };
    timeout(limits::CONNECT_TIMEOUT, asked)
        .await
        .map_err(|_| unhealthy("it does not answer".to_owned()))?
}
