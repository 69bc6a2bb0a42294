//! Connect to a service and make sure it is the right one before a secret
//! goes out: another program may listen on the configured port.

use subtle::ConstantTimeEq;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::VERSION;
use crate::address::Address;
use crate::error::Fault;
use crate::limits;
use crate::secure::Tls;
use crate::token::{AttachToken, Token};
use crate::v1::identity_client::IdentityClient;
use crate::v1::{ErrorCode, IdentifyRequest};

/// A channel that carries the token on each call.
pub type Connection = InterceptedService<Channel, AttachToken>;

/// Connects to `address` (see [`crate::address`]) and demands that it be
/// `service`, of a compatible version, and know `token`.
pub async fn dial(
    address: &str,
    service: &'static str,
    token: Option<&Token>,
    tls: &Tls,
) -> Result<Connection, Fault> {
    let target = Address::parse(address, service, tls)?;
    if target.server_name.is_none() && !target.is_local && !tls.allows_plaintext() {
        let message = format!("{service} at {address} is on another machine and without TLS");
        return Err(Fault::new(ErrorCode::InvalidConfig, message).remedy(
            "give --tls-ca (and --tls-cert, --tls-key), or --plaintext if the network is trusted",
        ));
    }
    let invalid = |e: tonic::transport::Error| {
        let message = format!("{address:?} is no address of a {service} (host:port): {e}");
        Fault::new(ErrorCode::InvalidConfig, message)
    };
    let endpoint = Endpoint::from_shared(target.uri.clone()).map_err(invalid)?;
    let endpoint = match &target.server_name {
        Some(name) => {
            endpoint.tls_config(tls.client(name)?).map_err(|e| untrusted(service, address, &e))?
        }
        None => endpoint,
    };
    let (interval, timeout) = tls.keepalive();
    let endpoint = endpoint
        .connect_timeout(tls.connect_timeout())
        .initial_stream_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .http2_keep_alive_interval(interval)
        .keep_alive_timeout(timeout)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    let secure = target.server_name.is_some();
    let channel = endpoint.connect().await.map_err(|e| match was_reached(&e) {
        true if secure => untrusted(service, address, &e),
        true => stranger(service, address, &causes(&e), &e),
        false => {
            let message = format!("no {service} answers at {address}{}", causes(&e));
            Fault::new(ErrorCode::Unavailable, message)
                .remedy(format!("start {service} there, or correct the address"))
        }
    })?;
    let identified = identify(channel.clone(), address, service, token, secure);
    let identified = tokio::time::timeout(tls.connect_timeout(), identified).await;
    identified.unwrap_or_else(|_| Err(silent(service, address)))?;
    Ok(InterceptedService::new(channel, AttachToken::new(token)))
}

/// What to do about a listener that does not speak as a service does.
const NO_SERVICE: &str = "correct the address or stop the other program; if the service demands \
                          TLS, give --tls-ca";

/// The refusal of a listener that takes connections and says nothing.
fn silent(service: &str, address: &str) -> Fault {
    let message = format!("what listens at {address} does not answer as a {service}");
    Fault::new(ErrorCode::Unreachable, message).remedy(format!(
        "if it is a {service}, it hangs or is overloaded: restart it; else {NO_SERVICE}"
    ))
}

/// The refusal of a listener that speaks something else; `said` begins with a colon.
fn stranger(
    service: &str,
    address: &str,
    said: &str,
    error: &(dyn std::error::Error + 'static),
) -> Fault {
    let message = format!("what listens at {address} is no {service}{said}");
    Fault::new(refusal(error), message).remedy(NO_SERVICE)
}

/// The refusal of a connection whose certificates do not fit.
fn untrusted(service: &str, address: &str, error: &(dyn std::error::Error + 'static)) -> Fault {
    let message = format!("{service} at {address}: TLS failed: {error}{}", causes(error));
    Fault::new(refusal(error), message).remedy(
        "give --tls-ca the authority that signed its certificate, which must be valid and for \
         this name; a service that demands certificates needs --tls-cert and --tls-key, too",
    )
}

/// Whether the call met no service that answers at all.
fn has_no_answer(status: &Status) -> bool {
    matches!(status.code(), Code::Cancelled | Code::Unavailable | Code::Unknown | Code::Internal)
}

/// The words of a refusal may be lost with the connection: where only its end was
/// seen, the service may as well be stopping, and another attempt may succeed.
fn refusal(error: &(dyn std::error::Error + 'static)) -> ErrorCode {
    match !chain(error).any(is_tls) && chain(error).any(is_end) {
        true => ErrorCode::Unreachable,
        false => ErrorCode::Authentication,
    }
}

/// Whether something listened: it said what does not fit, or only ended the connection.
fn was_reached(error: &(dyn std::error::Error + 'static)) -> bool {
    chain(error).any(|error| is_tls(error) || is_end(error))
}

/// Whether it is the end of a connection that had been made.
fn is_end(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind as Kind;
    error.downcast_ref::<std::io::Error>().is_some_and(|error| {
        matches!(
            error.kind(),
            Kind::ConnectionReset
                | Kind::ConnectionAborted
                | Kind::BrokenPipe
                | Kind::UnexpectedEof
        )
    })
}

fn is_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    error.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>())
}

/// Whether a connection was given up because nothing came over it any more.
fn is_silence(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_timeout)
}

/// The error and what lies behind it.
fn chain<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// What lies behind an error, each cause after a colon.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    chain(error).skip(1).map(|cause| format!(": {cause}")).collect()
}

async fn identify(
    channel: Channel,
    address: &str,
    service: &'static str,
    token: Option<&Token>,
    secure: bool,
) -> Result<(), Fault> {
    let refuse = |message: String, remedy: &str| {
        Err(Fault::new(ErrorCode::Authentication, message).remedy(remedy))
    };
    let nonce: [u8; 32] = rand::random();
    let request = IdentifyRequest { nonce: nonce.to_vec() };
    let answer = match IdentityClient::new(channel).identify(request).await {
        Ok(answer) => answer.into_inner(),
        // The connection's own keepalive may be the first to notice.
        Err(status) if chain(&status).any(is_silence) => return Err(silent(service, address)),
        // Since TLS 1.3 a client learns only after its handshake that it should
        // have shown a certificate, or only that the connection has ended.
        Err(status) if secure && has_no_answer(&status) => {
            return Err(untrusted(service, address, &status));
        }
        Err(status) => {
            let said = format!(": {}", status.message());
            return Err(stranger(service, address, &said, &status));
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::listen;
    use crate::secure::TlsArgs;

    #[test]
    fn versions_one_minor_apart_are_compatible() {
        assert!(compatible(VERSION));
        assert!(!compatible("99.0.0"));
        assert!(!compatible(""));
    }

    /// A service on a free loopback port, and what stops it.
    async fn serve_writer(token: Option<Token>) -> (String, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stop = CancellationToken::new();
        tokio::spawn(crate::serve::serve(
            "writer-svc",
            listener,
            token,
            Tls::default(),
            stop.clone(),
            |_| {},
        ));
        (address, stop)
    }

    #[tokio::test]
    async fn a_service_is_accepted_only_with_its_name_and_its_token() {
        let token = Token::random();
        let (address, stop) = serve_writer(Some(token.clone())).await;
        dial(&address, "writer-svc", Some(&token), &Tls::default()).await.unwrap();

        let wrong_name =
            dial(&address, "source-svc", Some(&token), &Tls::default()).await.unwrap_err();
        assert!(wrong_name.message.contains("is a writer-svc"), "{wrong_name}");
        let other = Token::random();
        let wrong_token =
            dial(&address, "writer-svc", Some(&other), &Tls::default()).await.unwrap_err();
        assert!(wrong_token.message.contains("does not know the token"), "{wrong_token}");
        assert!(!wrong_token.transient);
        stop.cancel();
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_local_name_is_reached_like_a_port_and_guarded_like_one() {
        let listener = listen::Listener::bind(listen::LOCAL).await.unwrap();
        let address = listener.address().unwrap();
        let (token, stop) = (Token::random(), CancellationToken::new());
        let serving = crate::serve::serve(
            "writer-svc",
            listener,
            Some(token.clone()),
            Tls::default(),
            stop.clone(),
            |_| {},
        );
        let serving = tokio::spawn(serving);
        dial(&address, "writer-svc", Some(&token), &Tls::default()).await.unwrap();
        let other = dial(&address, "writer-svc", Some(&Token::random()), &Tls::default())
            .await
            .unwrap_err();
        assert!(other.message.contains("does not know the token"), "{other}");
        stop.cancel();
        serving.await.unwrap().unwrap();
        // Nothing is left of it, and its name is free again.
        let gone = dial(&address, "writer-svc", Some(&token), &Tls::default()).await.unwrap_err();
        assert_eq!(gone.code, ErrorCode::Unavailable);
        assert!(gone.message.contains(&address), "{gone}");
        listen::Listener::bind(&address).await.unwrap();
    }

    #[tokio::test]
    async fn nothing_goes_in_the_clear_to_another_machine() {
        let fault = dial("192.0.2.1:1", "writer-svc", None, &Tls::default()).await.unwrap_err();
        assert!(fault.message.contains("without TLS"), "{fault}");
        assert!(fault.remedy.contains("--plaintext"), "{fault}");
    }

    #[tokio::test]
    async fn another_program_on_the_port_is_named_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let _ = socket.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await;
            }
        });
        let fault = dial(&address, "writer-svc", None, &Tls::default()).await.unwrap_err();
        assert!(fault.message.contains(&address), "{fault}");
        assert!(!fault.remedy.is_empty());
    }

    #[tokio::test]
    async fn a_connection_that_only_ends_tells_what_to_do_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let authority = directory.path().join("ca.crt");
        std::fs::write(&authority, "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
            .unwrap();
        let args = TlsArgs { tls_ca: Some(authority), ..Default::default() };
        let tls = args.read().unwrap();
        // What is not read when the connection is let go of resets it.
        for bytes_read in [0, 1, 1 << 16] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let ending = tokio::spawn(async move {
                while let Ok((mut socket, _)) = listener.accept().await {
                    let mut seen = vec![0; bytes_read];
                    if bytes_read > 0 {
                        let _ = socket.read(&mut seen).await;
                    }
                }
            });
            for (scheme, what) in [("https", "TLS failed"), ("http", "is no writer-svc")] {
                let at = format!("{scheme}://{address}");
                let fault = dial(&at, "writer-svc", None, &tls).await.unwrap_err();
                assert!(fault.message.contains(what), "{bytes_read}: {fault}");
                assert!(fault.remedy.contains("--tls-ca"), "{bytes_read}: {fault}");
                assert_ne!(fault.code, ErrorCode::Unavailable, "{bytes_read}: {fault}");
            }
            ending.abort();
        }
    }

    #[tokio::test]
    async fn a_service_off_loopback_needs_a_token_and_tls() {
        for (token, missing) in [(None, "without a token"), (Some(Token::random()), "without TLS")]
        {
            let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
            let (tls, stop) = (Tls::default(), CancellationToken::new());
            let outcome = crate::serve::serve("writer-svc", listener, token, tls, stop, |_| {});
            assert!(outcome.await.unwrap_err().to_string().contains(missing));
        }
    }
}
