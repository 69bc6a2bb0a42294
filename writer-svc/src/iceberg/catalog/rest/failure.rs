//! Why a request to a catalog did not do what it was for: what is certain of
//! it, and what it means to a user.

use std::error::Error;
use std::fmt;

use serde::Deserialize;

use crate::aws;
use crate::error::WriterError;

/// Characters of foreign words that are kept.
const WORDS: usize = 500;

/// A request that brought no answer that helps.
#[derive(Debug)]
pub enum Failure {
    /// The catalog answered, and did nothing.
    Refused(Refusal),
    /// There was no connection: the request was never sent.
    Unreachable {
        /// TLS failed.
        tls: bool,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// It was sent, and nothing says what became of it.
    Unanswered(Box<dyn Error + Send + Sync>),
    /// The catalog has failed at it, and may have done it.
    Failed(Refusal),
    /// There is no token to send it with.
    Login {
        /// Where tokens are.
        uri: String,
        /// What became of the request for one.
        failure: Box<Failure>,
    },
    /// There are no keys to sign it with.
    Unsigned(Box<dyn Error + Send + Sync>),
}

/// An answer that says no.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// Of HTTP.
    pub status: u16,
    /// Iceberg's name of the error: "NoSuchTableException"; empty when the
    /// answer is none of a catalog.
    pub kind: String,
    /// Its words.
    pub message: String,
    /// What the request was sent with.
    pub login: Login,
}

/// What a request proves who we are by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// Nothing is configured.
    None,
    /// A token, or what is exchanged for one.
    Token,
    /// A signature by AWS's keys.
    Keys,
}

/// An error's body, of the catalog or of OAuth2.
#[derive(Debug, Deserialize)]
struct Body {
    error: Said,
    #[serde(default)]
    error_description: String,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Said {
    Iceberg {
        #[serde(default)]
        message: Option<String>,
        #[serde(default, rename = "type")]
        kind: Option<String>,
    },
    OAuth(String),
}

impl Refusal {
    /// Of an answer with this status and body.
    pub fn new(status: u16, body: &[u8], login: Login) -> Self {
        let (kind, message) = match serde_json::from_slice(body) {
            Ok(Body { error: Said::Iceberg { message, kind }, .. }) => (
                kind.filter(|kind| !kind.is_empty()).unwrap_or_else(|| "error".into()),
                message.unwrap_or_default(),
            ),
            Ok(Body { error: Said::OAuth(kind), error_description }) => (kind, error_description),
            // AWS's own, or no JSON at all.
            Err(_) => (String::new(), String::from_utf8_lossy(body).trim().to_owned()),
        };
        let message = message.chars().take(WORDS).collect();
        Refusal { status, kind, message, login }
    }

    /// Whether it says that something is not there, and not the catalog itself.
    pub fn is_missing(&self) -> bool {
        self.status == 404 && !self.kind.is_empty()
    }

    /// Whether it says so of a namespace.
    pub fn is_missing_namespace(&self) -> bool {
        self.is_missing() && self.kind.contains("Namespace")
    }
}

impl Failure {
    /// Whether the request is certain to have had no effect, and to have none
    /// later.
    pub fn is_undone(&self) -> bool {
        !matches!(self, Failure::Unanswered(_) | Failure::Failed(_))
    }

    /// Whether the same may succeed soon.
    pub fn is_transient(&self) -> bool {
        match self {
            Failure::Refused(refusal) => refusal.status == 429,
            Failure::Unreachable { tls, .. } => !tls,
            Failure::Unanswered(_) | Failure::Failed(_) => true,
            Failure::Login { failure, .. } => failure.is_transient(),
            Failure::Unsigned(_) => false,
        }
    }

    /// The refusal, if the catalog answered.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Failure::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// As the error of doing something.
    pub fn doing(self, doing: String) -> WriterError {
        WriterError::Catalog {
            doing,
            transient: self.is_transient(),
            remedy: self.remedy(),
            source: self.into(),
        }
    }

    fn remedy(&self) -> &'static str {
        match self {
            Failure::Unreachable { tls: true, .. } => {
                "make the machine of writer-svc trust the catalog's certificate, or correct \
                 rest_catalog_url and oauth2_uri in destination.json (http:// where there is \
                 no TLS)"
            }
            Failure::Unreachable { .. } | Failure::Unanswered(_) => {
                "check rest_catalog_url in destination.json, that the catalog runs and listens \
                 there, and that no firewall is in between"
            }
            Failure::Failed(_) => {
                "look into the catalog's log: it failed by itself, or at the storage where it puts \
                 its metadata"
            }
            Failure::Login { failure, .. } => match failure.as_ref() {
                Failure::Unreachable { tls: true, .. } => failure.remedy(),
                Failure::Refused(refusal) if refusal.kind.is_empty() => {
                    "correct oauth2_uri in destination.json: nobody gives out OAuth2 tokens there"
                }
                Failure::Refused(_) => {
                    "correct credential (id:secret) in destination.json, and where they are \
                     needed oauth2_uri and scope"
                }
                _ => {
                    "check oauth2_uri in destination.json (empty: rest_catalog_url with \
                     /v1/oauth/tokens), and that it can be reached"
                }
            },
            Failure::Unsigned(_) => {
                "set aws_access_key and aws_secret_key in destination.json, or give writer-svc \
                 AWS credentials"
            }
            Failure::Refused(refusal) => refusal.remedy(),
        }
    }
}

impl Refusal {
    fn remedy(&self) -> &'static str {
        match self.status {
            _ if self.login == Login::Keys && aws::is_clock(&self.kind, &self.message) => {
                aws::SET_THE_CLOCK
            }
            401 | 403 | 419 if self.login == Login::None => {
                "set token or credential in destination.json, or rest_signing_v_4"
            }
            401 | 403 | 419 if self.login == Login::Keys => {
                "correct aws_access_key, aws_secret_key, rest_signing_name and \
                 rest_signing_region in destination.json, or let that key use this catalog"
            }
            401 | 419 => {
                "correct token, or credential with oauth2_uri and scope, in destination.json"
            }
            403 => {
                "let the principal of token or credential list and create namespaces, and create, \
                 write and drop tables"
            }
            300..=399 => "set rest_catalog_url in destination.json to where it redirects to",
            404 if self.is_missing() => {
                "correct rest_catalog_url in destination.json (up to and without /v1), or \
                 iceberg_s3_path (the warehouse, as the catalog knows it), or create that warehouse \
                 in the catalog"
            }
            404 | 405 => {
                "correct rest_catalog_url in destination.json: the address of the Iceberg REST \
                 catalog, up to and without /v1"
            }
            400 | 422 => {
                "change what it objects to: databases and tables are named by iceberg_db in \
                 destination.json, destination_database and destination_table in streams.json"
            }
            429 => "run again when the catalog is less busy",
            406 | 501 => "use a catalog that can do this, or do it there by its own means",
            _ => "",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(Refusal { status, kind, message, .. })
            | Failure::Failed(Refusal { status, kind, message, .. }) => {
                let words: Vec<&str> =
                    [kind.as_str(), message].into_iter().filter(|word| !word.is_empty()).collect();
                write!(f, "the answer is {status}")?;
                if words.is_empty() { Ok(()) } else { write!(f, ": {}", words.join(": ")) }
            }
            Failure::Unreachable { .. } => f.write_str("no connection"),
            Failure::Unanswered(_) => f.write_str("no answer"),
            Failure::Login { uri, failure } => write!(f, "no token from {uri}: {failure}"),
            Failure::Unsigned(_) => f.write_str("no keys to sign with"),
        }
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Failure::Refused(_) | Failure::Failed(_) => None,
            Failure::Unreachable { source, .. }
            | Failure::Unanswered(source)
            | Failure::Unsigned(source) => Some(source.as_ref()),
            Failure::Login { failure, .. } => failure.source(),
        }
    }
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        // It may hold a password.
        let error = error.without_url();
        if !error.is_connect() {
            return Failure::Unanswered(error.into());
        }
        let mut tls = false;
        let mut cause = error.source();
        while let Some(inner) = cause {
            let said = inner.to_string().to_ascii_lowercase();
            tls |= ["certificate", "tls", "handshake"].iter().any(|word| said.contains(word));
            cause = inner.source();
        }
        Failure::Unreachable { tls, source: error.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_in_any_form_is_kept() {
        let iceberg =
            br#"{"error": {"message": "no t", "type": "NoSuchTableException", "code": 404}}"#;
        let oauth = br#"{"error": "invalid_client", "error_description": "who?"}"#;
        for (status, body, kind, message) in [
            (404, &iceberg[..], "NoSuchTableException", "no t"),
            (401, oauth, "invalid_client", "who?"),
            (404, b"<html>lost</html>\n", "", "<html>lost</html>"),
            (403, br#"{"message": "Forbidden"}"#, "", r#"{"message": "Forbidden"}"#),
            (500, br#"{"error": {}}"#, "error", ""),
            (502, b"", "", ""),
        ] {
            let refusal = Refusal::new(status, body, Login::Token);
            assert_eq!((refusal.kind.as_str(), refusal.message.as_str()), (kind, message));
        }
        let refusal = Refusal::new(401, oauth, Login::Token);
        assert_eq!(
            Failure::Refused(refusal).to_string(),
            "the answer is 401: invalid_client: who?"
        );
    }

    #[test]
    fn only_a_catalog_can_say_that_a_table_is_missing() {
        let missing = |body: &[u8]| Refusal::new(404, body, Login::Token).is_missing();
        assert!(missing(br#"{"error": {"message": "", "type": "NoSuchTableException"}}"#));
        assert!(missing(br#"{"error": {"message": "no such table"}}"#));
        assert!(!missing(b"404 page not found"));
    }
}
