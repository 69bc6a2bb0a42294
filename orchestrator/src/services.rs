//! source-svc and writer-svc: started here, reachable from this machine only,
//! with a one-run token, or dialled where the user runs them. Every service
//! proves name, version and token before it is sent anything.
//!
//! [`child`] is one process of ours: started, watched, stopped.

use futures::future;
use proto::dial::{self, Connection, dial};
use proto::limits::CONTROL_MESSAGE_BYTES;
use proto::listen;
use proto::v1::ErrorCode;
use proto::v1::source_client::SourceClient;
use proto::v1::writer_client::WriterClient;
use proto::{Fault, Token};

use crate::cli::Flags;
use crate::config::destination::DestinationFile;

mod child;

use child::Child;

const SOURCE: &str = "source-svc";
const WRITER: &str = "writer-svc";
/// Prefix of a writer address that stands for every address behind a name.
const DNS: &str = "dns://";
/// How long a lost connection may precede the news of its process's end.
const DEATH_NEWS: std::time::Duration = std::time::Duration::from_millis(500);

/// The services of one command. Dropping it kills those that were started.
pub struct Services {
    source: Option<SourceClient<Connection>>,
    source_is_ours: bool,
    writers: Vec<Writer>,
    children: Vec<Child>,
}

/// A writer that tables can be given to.
#[derive(Clone)]
pub struct Writer {
    /// "http://host:port" or "unix-abstract:name", as the source must dial it.
    pub address: String,
    /// What the source must present to it.
    pub token: Option<Token>,
    /// For our own calls.
    pub client: WriterClient<Connection>,
}

/// A service that answers: where, with which token, and our process if it is.
struct Reached {
    address: String,
    token: Option<Token>,
    connection: Connection,
    child: Option<Child>,
}

impl Services {
    /// Starts or dials what is wanted. `destination` may name a writer
    /// (`server_host`, `grpc_port`); `--writer` comes before it.
    pub async fn start(
        want_source: bool,
        want_writer: bool,
        flags: &Flags,
        destination: Option<&DestinationFile>,
    ) -> Result<Services, Fault> {
        let token = Token::new(&flags.token)?;
        let source = async {
            match (want_source, &flags.source) {
                (false, _) => Ok(None),
                (true, Some(address)) => reach(SOURCE, address, token.as_ref()).await.map(Some),
                (true, None) => start_one(SOURCE, listen::ANY).await.map(Some),
            }
        };
        let writers = async {
            if !want_writer {
                return Ok(Vec::new());
            }
            if !flags.writer.is_empty() {
                let addresses = expand(&flags.writer).await?;
                let dialled = addresses.iter().map(|at| reach(WRITER, at, token.as_ref()));
                return future::try_join_all(dialled).await;
            }
            let configured = destination.and_then(|file| {
                file.writer_address.as_deref().map(|at| (at, file.writer_is_loopback))
            });
            let writer = match configured {
                Some((at, loopback)) => reach_or_start(at, loopback, token.as_ref()).await?,
                None => start_one(WRITER, listen::ANY).await?,
            };
            Ok(vec![writer])
        };
        let (source, writers) = future::try_join(source, writers).await?;
        Ok(Services::assemble(source, writers))
    }

    fn assemble(source: Option<Reached>, writers: Vec<Reached>) -> Services {
        let mut children = Vec::new();
        let mut source_is_ours = false;
        let source = source.map(|reached| {
            source_is_ours = reached.child.is_some();
            children.extend(reached.child);
            SourceClient::new(reached.connection)
                .max_decoding_message_size(CONTROL_MESSAGE_BYTES)
                .max_encoding_message_size(CONTROL_MESSAGE_BYTES)
        });
        let writers = writers
            .into_iter()
            .map(|reached| {
                children.extend(reached.child);
                Writer {
                    address: reached.address,
                    token: reached.token,
                    client: WriterClient::new(reached.connection)
                        .max_decoding_message_size(CONTROL_MESSAGE_BYTES)
                        .max_encoding_message_size(CONTROL_MESSAGE_BYTES),
                }
            })
            .collect();
        Services { source, source_is_ours, writers, children }
    }

    /// A client of the source, which must have been wanted at the start.
    pub fn source(&self) -> SourceClient<Connection> {
        self.source.clone().expect("the command asked for a source when it started the services")
    }

    /// The writers; none when none was wanted.
    pub fn writers(&self) -> &[Writer] {
        &self.writers
    }

    /// Whether the source lives and dies with us, and its snapshots with it.
    pub fn owns_source(&self) -> bool {
        self.source_is_ours
    }

    /// The processes that were started.
    pub fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::pid).collect()
    }

    /// Pending until a process of ours ends by itself; says which and how.
    pub async fn lost(&self) -> Fault {
        if self.children.is_empty() {
            return future::pending().await;
        }
        let deaths = self.children.iter().map(|child| Box::pin(child.died()));
        future::select_all(deaths).await.0
    }

    /// The fault behind a fault: when a process of ours ended, its lost
    /// connection is only the symptom.
    pub async fn explain(&self, fault: Fault) -> Fault {
        if !matches!(
            fault.code,
            ErrorCode::Unavailable | ErrorCode::Internal | ErrorCode::Cancelled
        ) && fault.code != ErrorCode::IncompleteStream
        {
            return fault;
        }
        match tokio::time::timeout(DEATH_NEWS, self.lost()).await {
            Ok(death) => death,
            Err(_) => fault,
        }
    }

    /// Stops what was started, giving calls in flight time to end.
    pub async fn stop(mut self) {
        future::join_all(self.children.drain(..).map(Child::stop)).await;
    }
}

async fn reach(
    service: &'static str,
    address: &str,
    token: Option<&Token>,
) -> Result<Reached, Fault> {
    let address = dial::absolute(address);
    let connection = dial(&address, service, token).await?;
    Ok(Reached { address, token: token.cloned(), connection, child: None })
}

async fn start_one(service: &'static str, listen: &str) -> Result<Reached, Fault> {
    let token = Token::random();
    let child = Child::start(service, listen, &token).await?;
    match reach(service, child.address(), Some(&token)).await {
        Ok(reached) => Ok(Reached { child: Some(child), ..reached }),
        Err(fault) => match tokio::time::timeout(DEATH_NEWS, child.died()).await {
            Ok(death) => Err(death),
            Err(_) => Err(fault.context(format_args!("connecting to the {service} just started"))),
        },
    }
}

/// The writer of `server_host` and `grpc_port`: used when it runs; started
/// there when nothing does and the host is this machine.
async fn reach_or_start(
    address: &str,
    loopback: bool,
    token: Option<&Token>,
) -> Result<Reached, Fault> {
    match reach(WRITER, address, token).await {
        // Only "nothing answers": another program there is the user's to move.
        Err(fault) if fault.code == ErrorCode::Unavailable && loopback => {
            start_one(WRITER, address).await
        }
        reached => reached.map_err(|fault| {
            fault.context("the writer service of server_host and grpc_port in destination.json")
        }),
    }
}

/// Each address once, names of `dns://` replaced by what is behind them.
async fn expand(given: &[String]) -> Result<Vec<String>, Fault> {
    let mut addresses: Vec<String> = Vec::new();
    for address in given {
        let found = match address.strip_prefix(DNS) {
            None => vec![address.clone()],
            Some(name) => resolve(name.trim_start_matches('/')).await?,
        };
        for address in found {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    Ok(addresses)
}

async fn resolve(name: &str) -> Result<Vec<String>, Fault> {
    let failed = |why: String| {
        let message = format!("--writer {DNS}{name}: {why}");
        Fault::new(ErrorCode::Unreachable, message)
            .remedy("correct the name and port (dns://name:port), or list the writers")
    };
    let found = tokio::time::timeout(proto::limits::CONNECT_TIMEOUT, tokio::net::lookup_host(name))
        .await
        .map_err(|_| failed("the name server does not answer".to_owned()))?
        .map_err(|error| failed(error.to_string()))?;
    let mut addresses: Vec<String> = found.map(|address| address.to_string()).collect();
    addresses.sort();
    if addresses.is_empty() {
        return Err(failed("no address is behind the name".to_owned()));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn writer_addresses_are_expanded_once_each() {
        let given = ["h:1", "dns://localhost:2", "h:1"].map(str::to_owned);
        let found = expand(&given).await.unwrap();
        assert_eq!(found[0], "h:1");
        assert!(found.len() >= 2 && found[1..].iter().all(|at| at.ends_with(":2")), "{found:?}");
        let error = expand(&["dns://no port".to_owned()]).await.unwrap_err().to_string();
        assert!(error.contains("dns://no port"), "{error}");
    }

    #[tokio::test]
    async fn without_children_nothing_is_lost() {
        let services = Services::assemble(None, Vec::new());
        let fault = Fault::new(ErrorCode::InvalidConfig, "x");
        assert_eq!(services.explain(fault.clone()).await, fault);
        assert!(services.pids().is_empty() && !services.owns_source());
        assert!(services.writers().is_empty());
        services.stop().await;
    }
}
