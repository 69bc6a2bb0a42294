//! A call of Glue: one signed POST of JSON.
//!
//! ```text
//! {"DatabaseName": …} ─► X-Amz-Target: AWSGlue.GetTable, signed ─► 200 {"Table": …}
//!                                                               ├► 400 {"__type": …Exception}
//!                                                               └► 5xx, nothing: may be done
//! ```
//!
//! Whether a call took effect is certain when Glue refuses it; not when Glue
//! fails inside, or the connection ends before an answer. What is certain to have
//! changed nothing is repeated for a while if it may pass, and so is what may be
//! repeated safely.

use std::time::{Duration, Instant};

use proto::v1::{GlueCatalog, S3};
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::redirect::Policy;
use serde_json::Value;
use tokio::runtime::Handle;

use super::super::Failure;
use crate::aws::{self, Signer};
use crate::error::WriterError;

/// Until a connection is made, TLS and all.
const CONNECT: Duration = Duration::from_secs(3);
/// For a call, and for one that may be repeated: what is configured wrong is said
/// soon, after a few attempts.
const CALL: Duration = Duration::from_secs(15);
const QUESTION: Duration = Duration::from_secs(5);
/// How long a call is repeated where nothing answers or it fails, and where Glue
/// only asks for time.
const AWAY: Duration = Duration::from_secs(3);
const BUSY: Duration = Duration::from_secs(15);
/// Pauses in between.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// Bytes of an answer: a page of descriptions with thousands of columns.
const ANSWER: usize = 64 << 20;
/// Characters of foreign words that are kept.
const WORDS: usize = 300;

/// The way to a Glue. Every call blocks.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    signer: Signer,
    url: String,
    catalog_id: String,
    handle: Handle,
}

/// Whether a call that may have been done may be done again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// It comes to the same.
    Safe,
    /// It would find its own effect.
    Never,
}

/// What kind of refusal it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is no such table or database.
    NotFound,
    /// There is one already.
    Exists,
    /// The table has another version by now.
    Changed,
    /// Too many calls at the moment.
    Throttled,
    /// Anything else.
    Other,
}

/// A call that was not done, or is not known to be.
#[derive(Debug)]
pub enum Refused {
    /// Glue said so, or the way there failed.
    Call(Reason, Failure),
    /// There was nothing to sign it with.
    Unsigned(WriterError),
}

impl Refused {
    /// What kind it is.
    pub fn reason(&self) -> Reason {
        match self {
            Refused::Call(reason, _) => *reason,
            Refused::Unsigned(_) => Reason::Other,
        }
    }

    /// Whether it is certain to have changed nothing.
    pub fn undone(&self) -> bool {
        match self {
            Refused::Call(_, failure) => failure.undone,
            Refused::Unsigned(_) => true,
        }
    }

    /// As an error, with what was being done.
    pub fn into_error(self, doing: String) -> WriterError {
        match self {
            Refused::Call(_, failure) => failure.into_error(doing),
            Refused::Unsigned(error) => error,
        }
    }

    /// For how long to try it again.
    fn patience(&self, repeat: Repeat) -> Duration {
        match self {
            Refused::Call(Reason::Throttled, _) => BUSY,
            Refused::Call(_, failure)
                if failure.transient && (failure.undone || repeat == Repeat::Safe) =>
            {
                AWAY
            }
            _ => Duration::ZERO,
        }
    }
}

impl Client {
    /// Connects to nothing yet. Must be called within a runtime.
    pub fn new(glue: &GlueCatalog, settings: &S3) -> Result<Self, WriterError> {
        let signer = Signer::new("glue", None, settings)?;
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            // A signature holds for one place.
            .redirect(Policy::none())
            .build()
            .map_err(|e| WriterError::Internal(format!("setting up a client of Glue: {e}")))?;
        let handle = Handle::try_current()
            .map_err(|e| WriterError::Internal(format!("Glue needs a runtime: {e}")))?;
        let url = url(&glue.endpoint, signer.region())?;
        Ok(Client { http, signer, url, catalog_id: glue.catalog_id.clone(), handle })
    }

    /// Where it is, for messages: no secrets.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Makes a call; what it answers.
    pub fn call(&self, action: &str, mut request: Value, repeat: Repeat) -> Result<Value, Refused> {
        if !self.catalog_id.is_empty() {
            request["CatalogId"] = self.catalog_id.as_str().into();
        }
        let body = request.to_string();
        let (started, mut pause) = (Instant::now(), FIRST_PAUSE);
        loop {
            let outcome = self.handle.block_on(self.once(action, &body, repeat));
            let Err(refused) = outcome else { return outcome };
            if started.elapsed() + pause > refused.patience(repeat) {
                return Err(refused);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn once(&self, action: &str, body: &str, repeat: Repeat) -> Result<Value, Refused> {
        let request = self
            .http
            .post(&self.url)
            .timeout(if repeat == Repeat::Safe { QUESTION } else { CALL })
            .header(CONTENT_TYPE, "application/x-amz-json-1.1")
            .header("x-amz-target", format!("AWSGlue.{action}"))
            .body(body.to_owned());
        let mut request = request.build().map_err(unsent)?;
        self.signer.sign(&mut request).await.map_err(Refused::Unsigned)?;
        let mut answer = self.http.execute(request).await.map_err(broken)?;
        let mut content = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(broken)? {
            content.extend_from_slice(&chunk);
            if content.len() > ANSWER {
                return Err(unclear("its answer is too long".into()));
            }
        }
        if !answer.status().is_success() {
            return Err(refused(answer.status().as_u16(), answer.headers(), &content));
        }
        match content.as_slice() {
            [] => Ok(Value::Null),
            // A stranger answered; perhaps it passed the call on.
            json => {
                serde_json::from_slice(json).map_err(|_| unclear("its answer is no JSON".into()))
            }
        }
    }
}

/// The service's address.
fn url(endpoint: &str, region: &str) -> Result<String, WriterError> {
    let endpoint = endpoint.trim_end_matches('/');
    if endpoint.is_empty() {
        let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        return Ok(format!("https://glue.{region}.{domain}/"));
    }
    let (scheme, host) = endpoint.split_once("://").unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    if !["http", "https"].contains(&scheme) || host.is_empty() || !host.chars().all(plain) {
        // Not shown: it may hold a key.
        return Err(WriterError::invalid_table(
            "glue_endpoint is not http://host:port or https://host:port",
            "correct glue_endpoint in destination.json",
        ));
    }
    Ok(format!("{endpoint}/"))
}

const UNREACHABLE: &str = "make sure that writer-svc can reach Glue, or correct aws_region (of \
    another service, glue_endpoint) in destination.json";
const TLS: &str = "make the machine of writer-svc trust Glue's certificate, or correct \
    glue_endpoint in destination.json";
const KEYS: &str = "correct aws_access_key and aws_secret_key (of temporary ones, also \
    aws_session_token) in destination.json; empty ones are the default credential chain of \
    writer-svc";
const REGION: &str = "correct aws_region in destination.json: the region of the Glue catalog";
const PERMISSION: &str = "let the owner of aws_access_key do glue:GetTable, glue:CreateTable, \
    glue:UpdateTable and glue:DeleteTable on the catalog, the database and its tables (and, for a \
    new database and for check, glue:CreateDatabase and glue:DeleteDatabase)";
const NO_GLUE: &str = "make sure that glue_endpoint of destination.json is a Glue (empty: AWS)";
const FULL: &str = "delete tables or their old versions, or raise the quota of AWS";

/// A request that could not even be made.
fn unsent(error: reqwest::Error) -> Refused {
    let source = error.without_url().into();
    Refused::Call(Reason::Other, Failure { source, undone: true, transient: false, remedy: "" })
}

/// A call whose answer does not say what became of it.
fn unclear(said: String) -> Refused {
    let source = said.into();
    Refused::Call(Reason::Other, Failure { source, undone: false, transient: true, remedy: "" })
}

/// A connection that was not made, or ended before an answer.
fn broken(error: reqwest::Error) -> Refused {
    let undone = error.is_connect();
    let source: Box<dyn std::error::Error + Send + Sync> = match error.is_timeout() && !undone {
        true => "no answer in time".into(),
        false => error.without_url().into(),
    };
    let mut certificate = false;
    let mut cause = source.source();
    while let Some(inner) = cause {
        certificate |= inner.to_string().to_ascii_lowercase().contains("certificate");
        cause = inner.source();
    }
    let (transient, remedy) = match undone && certificate {
        true => (false, TLS),
        false => (true, UNREACHABLE),
    };
    Refused::Call(Reason::Other, Failure { source, undone, transient, remedy })
}

/// What an answer other than success means.
fn refused(status: u16, headers: &HeaderMap, content: &[u8]) -> Refused {
    let body: Value = serde_json::from_slice(content).unwrap_or_default();
    let header = headers.get("x-amzn-errortype").and_then(|value| value.to_str().ok());
    // "com.amazonaws.glue#EntityNotFoundException", "…Exception:http://…"
    let code = body["__type"].as_str().or(header).unwrap_or_default();
    let code = code.rsplit('#').next().unwrap_or(code);
    let code = code.split(':').next().unwrap_or(code);
    let message = body["Message"].as_str().or(body["message"].as_str()).unwrap_or_default();
    let (reason, undone, transient, remedy) = meaning(status, code, message);
    let said = match code {
        "" => format!("HTTP status {status}"),
        code => format!("{code}: {message}"),
    };
    let said: String = said.trim_end_matches([' ', ':']).chars().take(WORDS).collect();
    Refused::Call(reason, Failure { source: said.into(), undone, transient, remedy })
}

/// Kind of refusal, whether the call is certain not to be done, whether it may
/// succeed later, and what to do.
fn meaning(status: u16, code: &str, message: &str) -> (Reason, bool, bool, &'static str) {
    let definite = |remedy| (Reason::Other, true, false, remedy);
    if aws::is_clock(code, message) {
        return definite(aws::SET_THE_CLOCK);
    }
    match code.trim_end_matches("Exception") {
        "EntityNotFound" => (Reason::NotFound, true, false, ""),
        "AlreadyExists" => (Reason::Exists, true, false, ""),
        "ConcurrentModification" | "VersionMismatch" => (Reason::Changed, true, false, ""),
        "Throttling"
        | "Throttled"
        | "RequestThrottled"
        | "TooManyRequests"
        | "RequestLimitExceeded"
        | "SlowDown" => (Reason::Throttled, true, true, ""),
        "InvalidSignature" if message.contains("valid region") => definite(REGION),
        "UnrecognizedClient"
        | "InvalidSignature"
        | "IncompleteSignature"
        | "InvalidClientTokenId"
        | "MissingAuthenticationToken"
        | "ExpiredToken"
        | "SignatureDoesNotMatch" => definite(KEYS),
        "AccessDenied" => definite(PERMISSION),
        "ResourceNumberLimitExceeded" => definite(FULL),
        "ResourceNotReady" | "FederationSourceRetryable" => (Reason::Other, true, true, ""),
        // Glue has given up waiting for itself.
        "OperationTimeout" | "InternalService" => (Reason::Other, false, true, ""),
        other => match status {
            429 => (Reason::Throttled, true, true, ""),
            408 | 500.. => (Reason::Other, false, true, ""),
            _ if other.is_empty() || other == "UnknownOperation" => definite(NO_GLUE),
            _ => definite(""),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_glue_answers_has_its_meaning() {
        let expired = "Signature expired: 20261125T100000Z is now earlier than 20261125T101500Z";
        for (status, code, message, reason, undone, transient, remedy) in [
            (
                400,
                "com.amazonaws.glue#EntityNotFoundException",
                "",
                Reason::NotFound,
                true,
                false,
                "",
            ),
            (400, "AlreadyExistsException", "", Reason::Exists, true, false, ""),
            (400, "ConcurrentModificationException", "", Reason::Changed, true, false, ""),
            (400, "VersionMismatchException", "", Reason::Changed, true, false, ""),
            (400, "ThrottlingException", "Rate exceeded", Reason::Throttled, true, true, ""),
            (429, "", "", Reason::Throttled, true, true, ""),
            (500, "InternalServiceException", "", Reason::Other, false, true, ""),
            (400, "OperationTimeoutException", "", Reason::Other, false, true, ""),
            (504, "", "", Reason::Other, false, true, ""),
            (400, "UnrecognizedClientException", "", Reason::Other, true, false, KEYS),
            (403, "InvalidSignatureException", "The request", Reason::Other, true, false, KEYS),
            (403, "InvalidSignatureException", expired, Reason::Other, true, false, "clock"),
            (400, "AccessDeniedException", "", Reason::Other, true, false, PERMISSION),
            (400, "InvalidInputException", "", Reason::Other, true, false, ""),
            (404, "", "<html>", Reason::Other, true, false, NO_GLUE),
        ] {
            let body = serde_json::json!({"__type": code, "Message": message}).to_string();
            let answer = refused(status, &HeaderMap::new(), body.as_bytes());
            let Refused::Call(found, failure) = answer else { panic!("{answer:?}") };
            assert_eq!((found, failure.undone), (reason, undone), "{status} {code}");
            assert_eq!(failure.transient, transient, "{status} {code}");
            assert!(failure.remedy.contains(remedy), "{status} {code}: {}", failure.remedy);
        }
    }

    #[test]
    fn glue_is_at_its_region_or_where_it_is_said_to_be() {
        let of = |endpoint: &str, region| url(endpoint, region).map_err(|error| error.to_string());
        assert_eq!(of("", "eu-north-1").unwrap(), "https://glue.eu-north-1.amazonaws.com/");
        assert_eq!(of("", "cn-north-1").unwrap(), "https://glue.cn-north-1.amazonaws.com.cn/");
        assert_eq!(of("http://localhost:5000/", "").unwrap(), "http://localhost:5000/");
        for bad in ["localhost:5000", "ftp://glue", "http://key:secret@glue", "https://"] {
            let said = of(bad, "eu-north-1").unwrap_err();
            assert!(said.contains("glue_endpoint") && !said.contains("secret"), "{said}");
        }
    }
}
