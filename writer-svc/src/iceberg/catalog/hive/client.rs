//! Calls of a metastore: one at a time, each over the connection it is made on.

use std::fmt;
use std::io::{self, BufReader, BufWriter};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use thrift::protocol::{
    TBinaryInputProtocol, TBinaryOutputProtocol, TInputProtocol, TMessageIdentifier, TMessageType,
    TOutputProtocol,
};

use super::thrift::{Fields, Value, read_fields, write_fields};
use crate::error::WriterError;
use crate::iceberg::catalog::Failure;

/// Time for a connection, for each address of the host.
const CONNECT: Duration = Duration::from_secs(4);
/// Time for the answer to a greeting, which takes a metastore nothing: what is
/// configured wrong is said soon, after a few attempts.
const GREETING: Duration = Duration::from_secs(5);
/// Time for an answer.
const ANSWER: Duration = Duration::from_secs(60);
/// The port of a URI without one.
const PORT: u16 = 9083;

/// How it is, which it knows without a look anywhere.
const GREET: Function = Function("getStatus", &[]);

/// What a metastore may answer instead of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exception {
    /// There is such a thing.
    Exists,
    /// There is no such thing.
    NoSuchObject,
    /// A lock that is not there, or no longer.
    NoSuchLock,
    /// It makes no sense.
    Invalid,
    /// Something went wrong within.
    Meta,
}

/// A function of the metastore and its exceptions, in the order of their ids.
#[derive(Clone, Copy, Debug)]
pub struct Function(pub &'static str, pub &'static [Exception]);

/// A call without a result.
#[derive(Debug)]
pub enum Refused {
    /// There is no connection.
    Connect(io::Error),
    /// What there is one to has not answered as a metastore does.
    Foreign(thrift::Error),
    /// The call did not leave this machine whole.
    Unsent(thrift::Error),
    /// It did, and there is no answer.
    Lost(thrift::Error),
    /// An exception of the function's own.
    Thrown(Exception, String),
}

impl Refused {
    /// The exception, if that is what it is.
    pub fn exception(&self) -> Option<Exception> {
        match self {
            Refused::Thrown(exception, _) => Some(*exception),
            _ => None,
        }
    }

    /// Whether it is certain that nothing was changed.
    pub fn undone(&self) -> bool {
        match self {
            Refused::Connect(_) | Refused::Foreign(_) | Refused::Unsent(_) => true,
            Refused::Lost(_) => false,
            // Also said when the answer of its own database was lost.
            Refused::Thrown(exception, _) => *exception != Exception::Meta,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Connect(error) => write!(f, "no connection: {error}"),
            Refused::Foreign(thrift::Error::Transport(error)) => {
                write!(f, "no answer to a greeting: {error}")
            }
            Refused::Foreign(error) => write!(f, "what answers there is no metastore: {error}"),
            Refused::Unsent(error) => write!(f, "the connection broke: {error}"),
            Refused::Lost(error) => write!(f, "no answer: {error}"),
            Refused::Thrown(_, message) => write!(f, "the metastore says: {message}"),
        }
    }
}

impl std::error::Error for Refused {}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        let remedy = match &refused {
            Refused::Connect(_) => {
                "check hive_uri in destination.json, and that the metastore runs and lets this \
                 machine connect"
            }
            Refused::Foreign(_) | Refused::Unsent(_) | Refused::Lost(_) => {
                "check that hive_uri names a metastore's Thrift port without TLS and Kerberos, \
                 and look into its log"
            }
            Refused::Thrown(..) => "look into the metastore's log",
        };
        let transient = match &refused {
            // One that is silent may be a metastore that is busy.
            Refused::Foreign(error) => matches!(error, thrift::Error::Transport(_)),
            Refused::Thrown(exception, _) => {
                !matches!(exception, Exception::Invalid | Exception::NoSuchObject)
            }
            Refused::Connect(_) | Refused::Unsent(_) | Refused::Lost(_) => true,
        };
        Failure { undone: refused.undone(), transient, remedy, source: Box::new(refused) }
    }
}

/// Where a metastore is, or several that serve the same.
#[derive(Clone, Debug)]
pub struct Address {
    hosts: Vec<(String, u16)>,
}

impl Address {
    /// `thrift://host:port`, or several with commas between.
    pub fn parse(uri: &str) -> Result<Self, WriterError> {
        let invalid = || {
            WriterError::invalid_table(
                format!("hive_uri is {uri:?}, which names no metastore"),
                "set hive_uri in destination.json to thrift://host:port",
            )
        };
        let host = |part: &str| {
            let rest = part.trim().strip_prefix("thrift://")?.trim_end_matches('/');
            let (host, port) = match rest.rsplit_once(':') {
                Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
                _ => (rest, PORT),
            };
            let host = host.trim_matches(['[', ']']);
            let plain = !host.is_empty() && !host.contains(['/', '@', '?', '#', ' ']);
            plain.then(|| (host.to_owned(), port))
        };
        let hosts: Option<Vec<_>> = uri.split(',').map(host).collect();
        Ok(Address { hosts: hosts.ok_or_else(invalid)? })
    }

    /// Connects to the first that lets us and is a metastore.
    pub fn connect(&self) -> Result<Connection, Refused> {
        let mut last = Refused::Connect(io::Error::other("no address"));
        for (host, port) in &self.hosts {
            let named = |error: io::Error| io::Error::new(error.kind(), format!("{host}: {error}"));
            let addresses = match (host.as_str(), *port).to_socket_addrs() {
                Ok(addresses) => addresses,
                Err(error) => {
                    last = Refused::Connect(named(error));
                    continue;
                }
            };
            for address in addresses {
                let connected = TcpStream::connect_timeout(&address, CONNECT);
                let connection = connected.and_then(Connection::on).map_err(Refused::Connect);
                match connection.and_then(Connection::greeted) {
                    Ok(connection) => return Ok(connection),
                    Err(refused) => last = refused,
                }
            }
        }
        Err(last)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<_> =
            self.hosts.iter().map(|(host, port)| format!("thrift://{host}:{port}")).collect();
        f.write_str(&hosts.join(","))
    }
}

/// A connection to a metastore. After a call that was lost it answers no more.
pub struct Connection {
    input: TBinaryInputProtocol<BufReader<TcpStream>>,
    output: TBinaryOutputProtocol<BufWriter<TcpStream>>,
    /// The same, to say how long it waits.
    stream: TcpStream,
    sequence: i32,
}

impl Connection {
    fn on(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(GREETING))?;
        stream.set_write_timeout(Some(ANSWER))?;
        let (reading, writing) = (stream.try_clone()?, stream.try_clone()?);
        Ok(Connection {
            input: TBinaryInputProtocol::new(BufReader::new(reading), true),
            output: TBinaryOutputProtocol::new(BufWriter::new(writing), true),
            stream,
            sequence: 0,
        })
    }

    /// It, once it has answered the first call.
    fn greeted(mut self) -> Result<Self, Refused> {
        match self.call(GREET, []) {
            // That it knows no such function, it says as a metastore does.
            Ok(_) | Err(Refused::Thrown(..) | Refused::Lost(thrift::Error::Application(_))) => {}
            Err(Refused::Lost(error) | Refused::Unsent(error)) => {
                return Err(Refused::Foreign(error));
            }
            Err(refused) => return Err(refused),
        }
        self.stream.set_read_timeout(Some(ANSWER)).map_err(Refused::Connect)?;
        Ok(self)
    }

    /// The function's result; none of a `void` one.
    pub fn call<const N: usize>(
        &mut self,
        function: Function,
        arguments: [(i16, Value); N],
    ) -> Result<Option<Value>, Refused> {
        let Function(name, exceptions) = function;
        self.sequence += 1;
        self.send(name, &Fields::from(arguments)).map_err(Refused::Unsent)?;
        let mut answer = self.receive().map_err(Refused::Lost)?;
        if let Some(result) = answer.remove(&0) {
            return Ok(Some(result));
        }
        let Some((id, thrown)) = answer.pop_first() else { return Ok(None) };
        let place = usize::try_from(id - 1).unwrap_or(usize::MAX);
        let message = match thrown {
            Value::Struct(fields) => fields.get(&1).and_then(Value::as_text),
            _ => None,
        };
        let exception = exceptions.get(place).copied().unwrap_or(Exception::Meta);
        Err(Refused::Thrown(exception, message.unwrap_or_else(|| format!("{exception:?}"))))
    }

    fn send(&mut self, name: &str, arguments: &Fields) -> thrift::Result<()> {
        let message = TMessageIdentifier::new(name, TMessageType::Call, self.sequence);
        self.output.write_message_begin(&message)?;
        write_fields(&mut self.output, arguments)?;
        self.output.write_message_end()?;
        self.output.flush()
    }

    fn receive(&mut self) -> thrift::Result<Fields> {
        let message = self.input.read_message_begin()?;
        if message.message_type == TMessageType::Exception {
            let error = thrift::Error::read_application_error_from_in_protocol(&mut self.input)?;
            return Err(thrift::Error::Application(error));
        }
        let answer = read_fields(&mut self.input)?;
        self.input.read_message_end()?;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_uri_names_one_metastore_or_several() {
        for (uri, hosts) in [
            ("thrift://hms:9083", "thrift://hms:9083"),
            ("thrift://hms", "thrift://hms:9083"),
            ("thrift://a:1/, thrift://b:2", "thrift://a:1,thrift://b:2"),
            ("thrift://[::1]:7", "thrift://::1:7"),
        ] {
            assert_eq!(Address::parse(uri).unwrap().to_string(), hosts);
        }
        for uri in ["", "hms:9083", "http://hms:9083", "thrift://", "thrift://hms:port"] {
            let error = Address::parse(uri).unwrap_err().to_string();
            assert!(error.contains("names no metastore"), "{error}");
        }
    }

    /// What comes of a connection to a server that sends this, and goes.
    fn greeting(answer: &[u8]) -> Failure {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("thrift://{}", listener.local_addr().unwrap());
        let refused = std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = [0; 32];
                let length = stream.read(&mut asked).unwrap();
                assert!(length > 0);
                stream.write_all(answer).unwrap();
            });
            Address::parse(&uri).unwrap().connect().map(drop).unwrap_err()
        });
        Failure::from(refused)
    }

    #[test]
    fn what_is_no_metastore_is_told_at_once() {
        let http = greeting(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        assert!(http.source.to_string().contains("no metastore"), "{}", http.source);
        assert!(http.undone && !http.transient && http.remedy.contains("hive_uri"));
        let gone = greeting(b"");
        assert!(gone.source.to_string().contains("no answer"), "{}", gone.source);
        assert!(gone.undone && gone.transient && gone.remedy.contains("hive_uri"));
    }
}
