//! source-svc and writer-svc: started here, reachable from this machine only,
//! with a one-run token, or dialled where the user runs them. Every service
//! proves name, version and token before it is sent anything.
//!
//! [`child`] is one process of ours: started, watched, stopped.

use futures::future;
use proto::address::absolute;
use proto::dial::{Connection, dial};
use proto::limits::CONTROL_MESSAGE_BYTES;
use proto::listen;
use proto::secure::TlsArgs;
use proto::v1::ErrorCode;
use proto::v1::source_client::SourceClient;
use proto::v1::writer_client::WriterClient;
use proto::{Fault, Tls, Token};
use tokio_util::task::AbortOnDropHandle;

use crate::cli::Flags;
use crate::config::destination::DestinationFile;
use crate::discovery::{self, Names};
use crate::writers::{Writer, Writers};

mod child;

use child::Child;

const SOURCE: &str = "source-svc";
const WRITER: &str = "writer-svc";
/// How long a lost connection may precede the news of its process's end.
const DEATH_NEWS: std::time::Duration = std::time::Duration::from_millis(500);

/// The services of one command. Dropping it kills those that were started.
pub struct Services {
    source: Option<SourceClient<Connection>>,
    source_is_ours: bool,
    writers: Writers,
    /// Looks for further ones as long as this lives.
    _search: Option<AbortOnDropHandle<()>>,
    children: Vec<Child>,
}

/// What services must know and prove, and what we show them.
#[derive(Clone)]
pub struct Trust {
    token: Option<Token>,
    pub(crate) tls: Tls,
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
        let trust = Trust::of(flags)?;
        let source = async {
            match (want_source, &flags.source) {
                (false, _) => Ok(None),
                (true, Some(address)) => reach(SOURCE, address, &trust).await.map(Some),
                (true, None) => start_one(SOURCE, listen::ANY, &flags.tls).await.map(Some),
            }
        };
        let names = Names::of(&flags.writer);
        let writers = async {
            if !want_writer {
                return Ok((Vec::new(), None));
            }
            if !flags.writer.is_empty() {
                let given = flags.writer.iter().filter(|at| !discovery::is_name(at));
                let given = future::try_join_all(given.map(|at| reach(WRITER, at, &trust)));
                let (given, found) = future::try_join(given, names.first(&trust)).await?;
                let given = given.into_iter().map(|reached| reached.into_writer(false));
                return Ok((given.chain(found).collect(), None));
            }
            let configured = destination.and_then(|file| {
                file.writer_address.as_deref().map(|at| (at, file.writer_is_loopback))
            });
            let mut writer = match configured {
                Some((at, loopback)) => reach_or_start(at, loopback, &trust).await?,
                None => start_one(WRITER, listen::ANY, &TlsArgs::default()).await?,
            };
            let Reached { child, .. } = &mut writer;
            let child = child.take();
            Ok((vec![writer.into_writer(false)], child))
        };
        let (source, (writers, child)) = future::try_join(source, writers).await?;
        let mut services = Services::assemble(source, writers, child);
        if want_writer && !names.is_empty() {
            let search = names.follow(trust.clone(), services.writers.clone());
            services._search = Some(AbortOnDropHandle::new(tokio::spawn(search)));
        }
        Ok(services)
    }

    fn assemble(source: Option<Reached>, writers: Vec<Writer>, writer: Option<Child>) -> Services {
        let mut children = Vec::from_iter(writer);
        let mut source_is_ours = false;
        let source = source.map(|reached| {
            source_is_ours = reached.child.is_some();
            children.extend(reached.child);
            SourceClient::new(reached.connection)
                .max_decoding_message_size(CONTROL_MESSAGE_BYTES)
                .max_encoding_message_size(CONTROL_MESSAGE_BYTES)
        });
        let writers = Writers::new(writers);
        Services { source, source_is_ours, writers, _search: None, children }
    }

    /// A client of the source, which must have been wanted at the start.
    pub fn source(&self) -> SourceClient<Connection> {
        self.source.clone().expect("the command asked for a source when it started the services")
    }

    /// The writers; none when none was wanted.
    pub fn writers(&self) -> &Writers {
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

impl Trust {
    fn of(flags: &Flags) -> Result<Self, Fault> {
        Ok(Trust { token: flags.token()?, tls: flags.tls.read()? })
    }
}

impl Reached {
    fn into_writer(self, is_behind_name: bool) -> Writer {
        Writer {
            address: self.address,
            token: self.token,
            is_behind_name,
            client: WriterClient::new(self.connection)
                .max_decoding_message_size(CONTROL_MESSAGE_BYTES)
                .max_encoding_message_size(CONTROL_MESSAGE_BYTES),
        }
    }
}

/// A writer that runs at `address`, which was found behind a name.
pub(crate) async fn writer(address: &str, trust: &Trust) -> Result<Writer, Fault> {
    reach(WRITER, address, trust).await.map(|reached| reached.into_writer(true))
}

async fn reach(service: &'static str, address: &str, trust: &Trust) -> Result<Reached, Fault> {
    let address = absolute(address, &trust.tls);
    let connection = dial(&address, service, trust.token.as_ref(), &trust.tls).await?;
    Ok(Reached { address, token: trust.token.clone(), connection, child: None })
}

/// `tls` is what it shows and trusts when it dials others: we reach it on this
/// machine.
async fn start_one(service: &'static str, listen: &str, tls: &TlsArgs) -> Result<Reached, Fault> {
    let token = Token::random();
    let child = Child::start(service, listen, &token, tls).await?;
    let trust = Trust { token: Some(token), tls: Tls::default() };
    match reach(service, child.address(), &trust).await {
        Ok(reached) => Ok(Reached { child: Some(child), ..reached }),
        Err(fault) => match tokio::time::timeout(DEATH_NEWS, child.died()).await {
            Ok(death) => Err(death),
            Err(_) => Err(fault.context(format_args!("connecting to the {service} just started"))),
        },
    }
}

/// The writer of `server_host` and `grpc_port`: used when it runs; started
/// there when nothing does and the host is this machine.
async fn reach_or_start(address: &str, loopback: bool, trust: &Trust) -> Result<Reached, Fault> {
    match reach(WRITER, address, trust).await {
        // Only "nothing answers": another program there is the user's to move.
        Err(fault) if fault.code == ErrorCode::Unavailable && loopback => {
            start_one(WRITER, address, &TlsArgs::default()).await
        }
        reached => reached.map_err(|fault| {
            fault.context("the writer service of server_host and grpc_port in destination.json")
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_children_nothing_is_lost() {
        let services = Services::assemble(None, Vec::new(), None);
        let fault = Fault::new(ErrorCode::InvalidConfig, "x");
        assert_eq!(services.explain(fault.clone()).await, fault);
        assert!(services.pids().is_empty() && !services.owns_source());
        assert!(services.writers().all().is_empty());
        services.stop().await;
    }
}
