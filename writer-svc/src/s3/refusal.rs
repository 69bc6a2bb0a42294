//! Why an object store did not do what it was asked, and what that means to a
//! user.
//!
//! The client's own errors print whole answers, with the request's signature in
//! some; of an answer only code and message are kept.

use std::error::Error as _;

use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};
use proto::v1::ErrorCode;

use super::{Names, lent};
use crate::aws;
use crate::error::WriterError;

/// Characters of foreign words that are kept.
const WORDS: usize = 300;

/// What kind of refusal it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such object.
    NoObject,
    /// There is no such upload: it was completed, given up or forgotten.
    NoUpload,
    /// There is no such bucket.
    NoBucket,
    /// The keys are unknown, wrong or expired.
    Credentials,
    /// The keys may be right, but the time of the signature is not the store's.
    Clock,
    /// There are none.
    NoCredentials,
    /// Who lends the keys lends no more.
    NotLent,
    /// The keys are right, and may not do this.
    Permission,
    /// The bucket is in another region.
    Region,
    /// No answer from there.
    Unreachable,
    /// TLS failed.
    Tls,
    /// It failed in a way that may pass.
    Busy,
    /// Anything else.
    Other,
}

impl Refusal {
    /// Whether trying again may succeed.
    pub fn is_transient(self) -> bool {
        // Without its upload a chunk can be staged again.
        matches!(self, Refusal::Unreachable | Refusal::Busy | Refusal::NoUpload | Refusal::NotLent)
    }

    /// What it means, and what to do with the settings of these names.
    pub fn code_and_remedy(self, names: &Names) -> (ErrorCode, String) {
        let Names { bucket, path, region, endpoint, access_key, secret_key } = names;
        match self {
            Refusal::NoObject | Refusal::NoUpload => (ErrorCode::Destination, String::new()),
            Refusal::NoBucket => (
                ErrorCode::Destination,
                format!(
                    "create the bucket, or correct {bucket} (and {region}, {endpoint}) in \
                     destination.json"
                ),
            ),
            Refusal::Credentials => (
                ErrorCode::Authentication,
                format!(
                    "correct {access_key} and {secret_key} (of temporary ones, also the session \
                     token) in destination.json; empty ones are the default credential chain of \
                     writer-svc"
                ),
            ),
            Refusal::Clock => (ErrorCode::Authentication, aws::SET_THE_CLOCK.to_owned()),
            Refusal::NoCredentials => (
                ErrorCode::Authentication,
                format!(
                    "set {access_key} and {secret_key} in destination.json, or give writer-svc \
                     credentials by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a web identity \
                     or its machine's role"
                ),
            ),
            Refusal::NotLent => (
                ErrorCode::Authentication,
                format!(
                    "make sure that the catalog lends keys for its tables, or set {access_key} \
                     and {secret_key} in destination.json"
                ),
            ),
            Refusal::Permission => (
                ErrorCode::DestinationPermission,
                format!(
                    "let the owner of {access_key} do s3:ListBucket on the bucket, and \
                     s3:GetObject, s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload \
                     below {path}"
                ),
            ),
            Refusal::Region => (
                ErrorCode::InvalidConfig,
                format!("set {region} in destination.json to the region of the bucket"),
            ),
            Refusal::Unreachable => (
                ErrorCode::Unreachable,
                format!(
                    "make sure that writer-svc can reach the S3 store, or correct {endpoint} (of \
                     AWS, {region}) in destination.json"
                ),
            ),
            Refusal::Tls => (
                ErrorCode::Tls,
                format!(
                    "make the machine of writer-svc trust the S3 store's certificate, or correct \
                     {endpoint} in destination.json"
                ),
            ),
            Refusal::Busy => {
                (ErrorCode::Destination, "run again when the S3 store is well".to_owned())
            }
            Refusal::Other => (
                ErrorCode::Destination,
                format!(
                    "make sure that {endpoint} of destination.json is an S3 store (empty: AWS)"
                ),
            ),
        }
    }
}

/// Whether the store answered, and that it could not do it now.
pub fn is_busy(error: &Error) -> bool {
    status(&error.to_string()).is_some_and(may_pass)
}

/// Whether the store refused the keys, or whoever they belong to.
pub fn is_about_keys(error: &Error) -> bool {
    let refused = refused("asking", "", &Names::ICEBERG, error);
    matches!(
        refused,
        WriterError::Store { refusal: Refusal::Credentials | Refusal::Permission, .. }
    )
}

/// What the client said, in our words.
pub fn refused(
    doing: &'static str,
    location: &str,
    names: &'static Names,
    error: &Error,
) -> WriterError {
    let mut texts = vec![error.to_string()];
    let mut transport = None;
    let mut cause = error.source();
    while let Some(inner) = cause {
        transport = transport.or_else(|| inner.downcast_ref::<HttpError>().map(HttpError::kind));
        texts.push(inner.to_string());
        cause = inner.source();
    }
    let whole = &texts[0];
    let last = texts.last().unwrap_or(whole);
    let (refusal, said) = match tag(whole, "Code") {
        Some(code) => {
            let message = tag(whole, "Message").unwrap_or_default();
            let refusal = match aws::is_clock(code, message) {
                true => Refusal::Clock,
                false => of_code(code, status(whole)),
            };
            (refusal, format!("{code}: {message}"))
        }
        None => {
            let at = origin(whole).map(|origin| format!("{origin}: ")).unwrap_or_default();
            (without_code(error, whole, last, transport), at + last)
        }
    };
    // Whoever cannot log in at the credentials' source has none.
    let chain = ["169.254.", "security-credentials", "AssumeRoleWithWebIdentity"];
    let refusal = match refusal {
        _ if whole.contains(lent::SOURCE) => Refusal::NotLent,
        _ if chain.iter().any(|mark| whole.contains(mark)) => Refusal::NoCredentials,
        refusal => refusal,
    };
    let said = said.trim().trim_end_matches(':').chars().take(WORDS).collect();
    WriterError::Store { doing, location: location.to_owned(), names, refusal, said }
}

/// The text of an element of an answer in XML.
fn tag<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(inside, _)| inside)
}

/// Scheme and host of the first URL in a text.
fn origin(text: &str) -> Option<&str> {
    let url = text.split_whitespace().find(|word| word.contains("://"))?;
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.split('/').next().unwrap_or(rest);
    url.get(..scheme.len() + 3 + host.len())
}

/// The HTTP status that an error's text tells.
fn status(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

fn of_code(code: &str, status: Option<u16>) -> Refusal {
    match code {
        "NoSuchKey" => Refusal::NoObject,
        "NoSuchBucket" => Refusal::NoBucket,
        "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "InvalidToken"
        | "ExpiredToken"
        | "TokenRefreshRequired"
        | "InvalidSecurity"
        | "NotSignedUp" => Refusal::Credentials,
        "AccessDenied" | "AllAccessDisabled" => Refusal::Permission,
        "PermanentRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException" => Refusal::Region,
        "NoSuchUpload" => Refusal::NoUpload,
        "SlowDown" | "InternalError" | "RequestTimeout" => Refusal::Busy,
        _ => of_status(status),
    }
}

/// Whether a status says that it fails for the moment. 501: the store never does
/// such a thing.
fn may_pass(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502..)
}

fn of_status(status: Option<u16>) -> Refusal {
    match status {
        Some(301 | 307) => Refusal::Region,
        Some(401) => Refusal::Credentials,
        Some(403) => Refusal::Permission,
        Some(status) if may_pass(status) => Refusal::Busy,
        _ => Refusal::Other,
    }
}

/// Of an error that no answer of S3 is in.
fn without_code(
    error: &Error,
    whole: &str,
    last: &str,
    transport: Option<HttpErrorKind>,
) -> Refusal {
    match transport {
        Some(_) if last.to_ascii_lowercase().contains("certificate") => Refusal::Tls,
        Some(HttpErrorKind::Decode) => Refusal::Busy,
        Some(_) => Refusal::Unreachable,
        None if whole.contains("redirect without LOCATION") => Refusal::Region,
        None => match (error, status(whole)) {
            // An answer without a body, as some stores give; or no HTTP at all.
            (Error::NotFound { .. }, Some(_)) if whole.trim_end().ends_with(':') => {
                Refusal::NoObject
            }
            (Error::NotFound { .. }, None) => Refusal::NoObject,
            (_, status) => of_status(status),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: &str, body: &str) -> Error {
        let text = format!("Server returned non-2xx status code: {status}: {body}");
        let source = text.into();
        match &status[..3] {
            "404" => Error::NotFound { path: "a/b".into(), source },
            _ => Error::Generic { store: "S3", source },
        }
    }

    fn xml(code: &str) -> String {
        format!(
            "<Error><Code>{code}</Code><Message>so it is</Message>\
             <AWSAccessKeyId>AKIA</AWSAccessKeyId><StringToSign>hunter2</StringToSign></Error>"
        )
    }

    #[test]
    fn what_s3_answers_has_its_meaning_and_only_its_message_is_shown() {
        for (status, code, expected) in [
            ("404 Not Found", "NoSuchKey", Refusal::NoObject),
            ("404 Not Found", "NoSuchBucket", Refusal::NoBucket),
            ("403 Forbidden", "SignatureDoesNotMatch", Refusal::Credentials),
            ("403 Forbidden", "InvalidAccessKeyId", Refusal::Credentials),
            ("400 Bad Request", "ExpiredToken", Refusal::Credentials),
            ("403 Forbidden", "RequestTimeTooSkewed", Refusal::Clock),
            ("403 Forbidden", "AccessDenied", Refusal::Permission),
            ("403 Forbidden", "Novel", Refusal::Permission),
            ("400 Bad Request", "AuthorizationHeaderMalformed", Refusal::Region),
            ("404 Not Found", "NoSuchUpload", Refusal::NoUpload),
            ("503 Service Unavailable", "SlowDown", Refusal::Busy),
            ("501 Not Implemented", "NotImplemented", Refusal::Other),
            ("502 Bad Gateway", "Novel", Refusal::Busy),
            ("400 Bad Request", "Novel", Refusal::Other),
        ] {
            let error =
                refused("writing", "s3://b/k", &Names::ICEBERG, &answered(status, &xml(code)));
            let WriterError::Store { refusal, .. } = &error else { panic!("{error}") };
            assert_eq!(*refusal, expected, "{code}");
            assert_eq!(error.to_string(), format!("writing s3://b/k: {code}: so it is"));
        }
    }

    #[test]
    fn answers_that_are_not_of_s3_are_told_apart_from_missing_objects() {
        for (status, body, expected) in [
            ("404 Not Found", "", Refusal::NoObject),
            ("404 Not Found", "<html>nothing here</html>", Refusal::Other),
            ("401 Unauthorized", "", Refusal::Credentials),
            ("503 Service Unavailable", "<html>later</html>", Refusal::Busy),
        ] {
            let error = refused("reading", "s3://b/k", &Names::ICEBERG, &answered(status, body));
            let WriterError::Store { refusal, .. } = &error else { panic!("{error}") };
            assert_eq!(*refusal, expected, "{status} {body}");
        }
        let text = "Error performing PUT http://169.254.169.254/latest/api/token";
        let chain = Error::Generic { store: "S3", source: text.into() };
        let error = refused("writing", "s3://b/k", &Names::ICEBERG, &chain);
        let WriterError::Store { refusal, .. } = &error else { panic!("{error}") };
        assert_eq!(*refusal, Refusal::NoCredentials);
    }
}
