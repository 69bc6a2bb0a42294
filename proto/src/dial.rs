//! Connect to a service and make sure it is the right one before a secret
//! goes out: another program may listen on the configured port.

use subtle::ConstantTimeEq;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use crate::VERSION;
use crate::error::Fault;
use crate::limits;
use crate::token::{AttachToken, Token};
use crate::v1::identity_client::IdentityClient;
use crate::v1::{ErrorCode, IdentifyRequest};

/// A channel that carries the token on each call.
pub type Connection = InterceptedService<Channel, AttachToken>;

/// Connects to `address` ("http://host:port" or "host:port") and demands that
/// it be `service`, of a compatible version, and know `token`.
pub async fn dial(
    address: &str,
    service: &'static str,
    token: Option<&Token>,
) -> Result<Connection, Fault> {
    let uri =
        if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let endpoint = Endpoint::from_shared(uri)
        .map_err(|e| {
            Fault::new(
                ErrorCode::InvalidConfig,
                format!("{address:?} is no address of a {service} (host:port): {e}"),
            )
        })?
        .connect_timeout(limits::CONNECT_TIMEOUT)
        .initial_stream_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .http2_keep_alive_interval(limits::KEEPALIVE_INTERVAL)
        .keep_alive_timeout(limits::KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    let channel = endpoint.connect().await.map_err(|e| {
        let cause = std::error::Error::source(&e).map(|s| format!(": {s}")).unwrap_or_default();
        Fault::new(ErrorCode::Unavailable, format!("no {service} answers at {address}{cause}"))
            .remedy(format!("start {service} there, or correct the address"))
    })?;
    identify(channel.clone(), address, service, token).await?;
    Ok(InterceptedService::new(channel, AttachToken::new(token)))
}

async fn identify(
    channel: Channel,
    address: &str,
    service: &'static str,
    token: Option<&Token>,
) -> Result<(), Fault> {
    let refuse = |message: String, remedy: &str| {
        Err(Fault::new(ErrorCode::Authentication, message).remedy(remedy))
    };
    let nonce: [u8; 32] = rand::random();
    let request = IdentifyRequest { nonce: nonce.to_vec() };
    let answer = tokio::time::timeout(
        limits::CONNECT_TIMEOUT,
        IdentityClient::new(channel).identify(request),
    )
    .await;
    let answer = match answer {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) => {
            return refuse(
                format!("what listens at {address} is no {service} ({})", status.message()),
                "correct the address or stop the other program",
            );
        }
        Err(_) => {
            return refuse(
                format!("what listens at {address} does not answer as a {service}"),
                "correct the address or stop the other program",
            );
        }
    };
    if answer.service != service {
        return refuse(
            format!("{address} is a {}, not a {service}", answer.service),
            "correct the address",
        );
    }
    if !compatible(&answer.version) {
        return refuse(
            format!("{service} at {address} is version {}, this is {VERSION}", answer.version),
            "run versions that differ by one minor version at most",
        );
    }
    if let Some(token) = token {
        let expected = token.prove(&nonce, service, &answer.version);
        if !bool::from(expected.ct_eq(&answer.proof)) {
            return refuse(
                format!("{service} at {address} does not know the token"),
                "give both sides the same --token",
            );
        }
    }
    Ok(())
}

/// Same major version, minor versions at most one apart.
fn compatible(theirs: &str) -> bool {
    let parse = |version: &str| -> Option<(u64, u64)> {
        let mut parts = version.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    match (parse(theirs), parse(VERSION)) {
        (Some((major, minor)), Some((our_major, our_minor))) => {
            major == our_major && minor.abs_diff(our_minor) <= 1
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_one_minor_apart_are_compatible() {
        assert!(compatible(VERSION));
        assert!(!compatible("99.0.0"));
        assert!(!compatible(""));
    }
}
