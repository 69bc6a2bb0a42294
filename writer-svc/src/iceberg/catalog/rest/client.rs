//! Requests to a REST catalog, and what is certain of them.
//!
//! ```text
//! read:  ┌─► token or signature ─► request ─► answer
//!        └── (fails for the moment: for some seconds) ◄┘
//! write: token or signature ─► request ─► answer        once; 401: once more with a new token
//! ```
//!
//! Nothing below repeats a request that may have been done: no redirects, no
//! retries of the HTTP client. A client is shared by all calls of this process
//! to one catalog with one login, so that a token serves them all.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use proto::v1::{RestCatalog, RestSigning, S3};
use reqwest::{Method, Url};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use super::failure::{Failure, Login, Refusal};
use super::oauth::OAuth;
use crate::aws::Signer;
use crate::error::WriterError;

/// For a connection, with TLS.
const CONNECT: Duration = Duration::from_secs(4);
/// For an answer, until the catalog has given one: what is configured wrong is
/// said soon, after a few attempts.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// For an answer after that; a commit may take the catalog longer.
const ANSWER: Duration = Duration::from_secs(30);
const COMMIT: Duration = Duration::from_secs(60);
/// A read that fails for the moment is repeated for so long.
const READ_AGAIN: Duration = Duration::from_secs(3);
/// Pause before the first repetition; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The catalog's configuration is asked for again after this.
const ROUTES: Duration = Duration::from_secs(300);
/// Catalogs that are remembered.
const CLIENTS: usize = 16;

/// A catalog, and what is needed to reach it.
pub struct Client {
    http: reqwest::Client,
    /// Up to and without "/v1".
    base: String,
    /// The same for messages.
    name: String,
    warehouse: String,
    oauth: OAuth,
    /// Takes the place of a token.
    signer: Option<Signer>,
    routes: tokio::sync::Mutex<Option<(Instant, Arc<Routes>)>>,
    answered: AtomicBool,
    handle: Handle,
}

/// What the catalog says of itself.
#[derive(Debug)]
pub struct Routes {
    /// Before "/namespaces".
    base: String,
    /// What it can do; `None`: it does not say.
    endpoints: Option<HashSet<String>>,
    /// What it does not do, as was found out.
    refused: Mutex<HashSet<&'static str>>,
}

/// The answer to `GET /v1/config`.
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    defaults: Properties,
    #[serde(default)]
    overrides: Properties,
    endpoints: Option<HashSet<String>>,
}

#[derive(Debug, Default, Deserialize)]
struct Properties {
    prefix: Option<String>,
    uri: Option<String>,
}

impl Client {
    /// The client of this catalog and login. Must be called within a runtime;
    /// connects to nothing yet.
    pub fn shared(rest: &RestCatalog, s3: &S3) -> Result<Arc<Self>, WriterError> {
        static CLIENTS_OF: Mutex<Vec<([u8; 32], Arc<Client>)>> = Mutex::new(Vec::new());
        let handle = Handle::try_current()
            .map_err(|e| WriterError::Internal(format!("a REST catalog needs a runtime: {e}")))?;
        let mut hasher = Sha256::new();
        hasher.update(handle.id().to_string());
        for part in [rest.encode_to_vec(), s3.encode_to_vec()] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let key: [u8; 32] = hasher.finalize().into();
        let mut clients = CLIENTS_OF.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = clients.iter().position(|(known, _)| *known == key) {
            let found = clients.remove(at);
            clients.push(found.clone());
            return Ok(found.1);
        }
        let client = Arc::new(Client::new(rest, s3, handle)?);
        if clients.len() == CLIENTS {
            clients.remove(0);
        }
        clients.push((key, Arc::clone(&client)));
        Ok(client)
    }

    fn new(rest: &RestCatalog, s3: &S3, handle: Handle) -> Result<Self, WriterError> {
        let base = rest.url.trim_end_matches('/');
        let base = base.strip_suffix("/v1").unwrap_or(base).to_owned();
        let invalid = |problem: String| {
            WriterError::invalid_table(problem, "correct rest_catalog_url in destination.json")
        };
        let mut shown = Url::parse(&base)
            .ok()
            .filter(|url| ["http", "https"].contains(&url.scheme()) && url.has_host())
            // Not shown: it may hold a password.
            .ok_or_else(|| invalid("rest_catalog_url is not http://… or https://…".into()))?;
        if !shown.username().is_empty() || shown.password().is_some() {
            return Err(WriterError::invalid_table(
                "rest_catalog_url holds a user's name or password",
                "set token or credential in destination.json instead",
            ));
        }
        shown.set_query(None);
        shown.set_fragment(None);
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .user_agent(concat!("tidewater/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| WriterError::Internal(format!("an HTTP client: {e}")))?;
        let oauth = OAuth::new(rest, &base)
            .map_err(|problem| WriterError::invalid_table(problem, "correct it"))?;
        let sign = |with: &RestSigning| Signer::new(&with.service, Some(&with.region), s3);
        Ok(Client {
            signer: rest.signing.as_ref().map(sign).transpose()?,
            http,
            name: shown.as_str().trim_end_matches('/').to_owned(),
            base,
            warehouse: rest.warehouse.clone(),
            oauth,
            routes: tokio::sync::Mutex::default(),
            answered: AtomicBool::new(false),
            handle,
        })
    }

    /// What and where it is, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The answer to a question; it may be asked several times.
    pub fn read(&self, ask: &Ask) -> Result<Bytes, Failure> {
        self.handle.block_on(self.ask(ask))
    }

    /// As [`Client::read`].
    pub async fn ask(&self, ask: &Ask) -> Result<Bytes, Failure> {
        let mut pause = Pause::new();
        loop {
            match self.ask_once(ask).await {
                Err(failure) => pause.after(failure).await?,
                answer => return answer,
            }
        }
    }

    /// The answer to a request that changes something; sent once.
    pub fn write(&self, method: Method, ask: &Ask) -> Result<Bytes, Failure> {
        self.handle.block_on(async {
            let url = self.settled().await?.url(ask)?;
            self.once(&method, &url, ask, COMMIT).await
        })
    }

    /// Whether the catalog says that it can do this: "POST
    /// /v1/{prefix}/namespaces". One that says nothing is believed to.
    pub fn can(&self, endpoint: &str) -> Result<bool, Failure> {
        let routes = self.handle.block_on(self.settled())?;
        let listed = routes.endpoints.as_ref().filter(|listed| !listed.is_empty());
        Ok(listed.is_none_or(|listed| listed.contains(endpoint)))
    }

    /// As [`Client::can`], and it has not been seen to refuse it since it was last
    /// asked for its configuration.
    pub fn offers(&self, endpoint: &'static str) -> Result<bool, Failure> {
        let routes = self.handle.block_on(self.settled())?;
        Ok(!routes.refused().contains(endpoint) && self.can(endpoint)?)
    }

    /// It has refused this.
    pub fn remember_refusal(&self, endpoint: &'static str) {
        if let Some((_, routes)) = self.handle.block_on(self.routes.lock()).as_ref() {
            routes.refused().insert(endpoint);
        }
    }

    async fn ask_once(&self, ask: &Ask) -> Result<Bytes, Failure> {
        let url = self.routes().await?.url(ask)?;
        self.once(&Method::GET, &url, ask, ANSWER).await
    }

    /// What the catalog says of itself, asked for several times if need be.
    async fn settled(&self) -> Result<Arc<Routes>, Failure> {
        let mut pause = Pause::new();
        loop {
            match self.routes().await {
                Err(failure) => pause.after(failure).await?,
                routes => return routes,
            }
        }
    }

    /// What the catalog says of itself, asked for now and then.
    async fn routes(&self) -> Result<Arc<Routes>, Failure> {
        let mut known = self.routes.lock().await;
        if let Some((since, routes)) = known.as_ref()
            && since.elapsed() < ROUTES
        {
            return Ok(Arc::clone(routes));
        }
        let mut url = parse(&format!("{}/v1/config", self.base))?;
        if !self.warehouse.is_empty() {
            url.query_pairs_mut().append_pair("warehouse", &self.warehouse);
        }
        let answer = self.once(&Method::GET, &url, &Ask::default(), ANSWER).await?;
        let config: Config = json(&answer)?;
        let prefix = config.overrides.prefix.or(config.defaults.prefix).unwrap_or_default();
        let base = config.overrides.uri.unwrap_or_else(|| self.base.clone());
        let base = format!("{}/v1/{prefix}", base.trim_end_matches('/'));
        let base = base.trim_end_matches('/').to_owned();
        let routes =
            Arc::new(Routes { base, endpoints: config.endpoints, refused: Mutex::default() });
        *known = Some((Instant::now(), Arc::clone(&routes)));
        Ok(routes)
    }

    /// One request; a token that is refused is exchanged once. (Then nothing
    /// was done.)
    async fn once(
        &self,
        method: &Method,
        url: &Url,
        ask: &Ask,
        patience: Duration,
    ) -> Result<Bytes, Failure> {
        let patience = match self.answered.load(Ordering::Relaxed) {
            true => patience,
            false => FIRST_ANSWER,
        };
        let mut refused: Option<String> = None;
        loop {
            let token = match self.signer {
                Some(_) => None,
                None => self.oauth.token(&self.http, patience, refused.as_deref()).await?,
            };
            let mut request = self
                .http
                .request(method.clone(), url.clone())
                .header("accept", "application/json")
                .timeout(patience);
            if ask.delegated {
                request = request.header("x-iceberg-access-delegation", "vended-credentials");
            }
            if let Some(body) = &ask.body {
                request = request.header("content-type", "application/json").body(body.clone());
            }
            if let Some(token) = &token {
                request = request.bearer_auth(token);
            }
            let mut request = request.build()?;
            if let Some(signer) = &self.signer {
                let signed = signer.sign(&mut request).await;
                signed.map_err(|error| Failure::Unsigned(error.into()))?;
            }
            let answer = self.http.execute(request).await?;
            self.answered.store(true, Ordering::Relaxed);
            let status = answer.status().as_u16();
            let body = answer.bytes().await?;
            let login = match (&self.signer, &token) {
                (Some(_), _) => Login::Keys,
                (None, Some(_)) => Login::Token,
                (None, None) => Login::None,
            };
            let said = || Refusal::new(status, &body, login);
            match status {
                200..=299 => return Ok(body),
                401 | 419 if refused.is_none() && token.is_some() && self.oauth.can_renew() => {
                    refused = token;
                }
                408 | 500 | 502..=599 => {
                    return Err(Failure::Failed(said()));
                }
                _ => return Err(Failure::Refused(said())),
            }
        }
    }
}

/// The pauses between the repetitions of a question.
struct Pause {
    until: Instant,
    next: Duration,
}

impl Pause {
    fn new() -> Self {
        Pause { until: Instant::now() + READ_AGAIN, next: FIRST_PAUSE }
    }

    /// Waits, if the failure may pass and there is time; else hands it back.
    async fn after(&mut self, failure: Failure) -> Result<(), Failure> {
        if !failure.is_transient() || Instant::now() + self.next >= self.until {
            return Err(failure);
        }
        tracing::debug!("{failure}; again in {:?}", self.next);
        tokio::time::sleep(self.next).await;
        self.next *= 2;
        Ok(())
    }
}

/// What is asked, without its verb.
#[derive(Debug, Default)]
pub struct Ask {
    /// After the catalog's prefix: "namespaces/a/tables".
    path: String,
    query: Vec<(&'static str, String)>,
    body: Option<Bytes>,
    /// The table's storage is to be lent to us.
    delegated: bool,
}

impl Ask {
    /// Of a path, by its plain parts.
    pub fn of(parts: &[&str]) -> Self {
        let parts: Vec<_> = parts.iter().map(|part| encoded(part)).collect();
        Ask { path: parts.join("/"), ..Default::default() }
    }

    /// With a parameter of the query.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// With JSON.
    pub fn body(mut self, body: &impl serde::Serialize) -> Result<Self, WriterError> {
        let json = serde_json::to_vec(body)
            .map_err(|e| WriterError::Internal(format!("writing a request: {e}")))?;
        self.body = Some(json.into());
        Ok(self)
    }

    /// With the wish for credentials.
    pub fn delegated(mut self, delegated: bool) -> Self {
        self.delegated = delegated;
        self
    }
}

impl Routes {
    fn refused(&self) -> MutexGuard<'_, HashSet<&'static str>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn url(&self, ask: &Ask) -> Result<Url, Failure> {
        let mut url = parse(&format!("{}/{}", self.base, ask.path))?;
        if !ask.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&ask.query);
        }
        Ok(url)
    }
}

/// A part of a path, with everything escaped that means something in one.
fn encoded(part: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    utf8_percent_encode(part, PART).to_string()
}

fn parse(url: &str) -> Result<Url, Failure> {
    Url::parse(url).map_err(|error| {
        Failure::Refused(Refusal {
            status: 404,
            kind: String::new(),
            message: format!("the catalog's configuration leads to no URL: {error}"),
            login: Login::Token,
        })
    })
}

/// An answer in the form that the protocol says.
pub fn json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        Failure::Refused(Refusal {
            // What is there speaks HTTP and is no catalog.
            status: 404,
            kind: String::new(),
            message: format!("what it sent is not of the Iceberg REST protocol: {error}"),
            login: Login::Token,
        })
    })
}

// The login stays inside.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("name", &self.name).finish_non_exhaustive()
    }
}
