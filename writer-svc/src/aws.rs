//! Requests to the services of AWS: signed (Signature Version 4) by the keys, or
//! the chain of credentials, that an S3 store is reached with.

use std::sync::Arc;

use object_store::aws::{AmazonS3ConfigKey, AwsAuthorizer, AwsCredentialProvider};
use object_store::client::HttpRequestBody;
use proto::v1::S3;

use crate::error::WriterError;
use crate::s3::Names;
use crate::s3::refusal::refused;
use crate::s3::settings::{self, Patience};

/// Where nothing says a region; the same for buckets.
const REGION: &str = "us-east-1";

/// Signs requests to one service in one region.
pub struct Signer {
    service: String,
    region: String,
    credentials: AwsCredentialProvider,
}

// The provider's own might show keys.
impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer")
            .field("service", &self.service)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

impl Signer {
    /// For a service by its name in signatures ("glue"). Without a region of its
    /// own, that of `settings`, else of the environment. Reaches for nothing yet.
    pub fn new(service: &str, region: Option<&str>, settings: &S3) -> Result<Self, WriterError> {
        // Of the builder only keys and region count, so any bucket will do.
        let builder = settings::builder(service, settings, &Names::ICEBERG, Patience::Short)?;
        let configured = || builder.get_config_value(&AmazonS3ConfigKey::Region);
        let region = region.map(str::to_owned).or_else(configured);
        let region = region.unwrap_or_else(|| REGION.to_owned());
        // It is a part of hosts' names.
        if region.is_empty() || !region.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            return Err(WriterError::invalid_table(
                format!("{region:?} is no region of AWS"),
                format!("correct {} in destination.json", Names::ICEBERG.region),
            ));
        }
        let store = builder
            .build()
            .map_err(|error| refused("setting up", service, &Names::ICEBERG, &error))?;
        let credentials = Arc::clone(store.credentials());
        Ok(Signer { service: service.to_owned(), region, credentials })
    }

    /// The region that signatures are for.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Adds signature, time and session token to a request that is otherwise
    /// complete; its body must be whole. Takes credentials that are valid now.
    pub async fn sign(&self, request: &mut reqwest::Request) -> Result<(), WriterError> {
        let defect = |what: String| WriterError::Internal(format!("signing a request: {what}"));
        let body = match request.body().map(reqwest::Body::as_bytes) {
            None => Vec::new(),
            Some(Some(whole)) => whole.to_vec(),
            Some(None) => return Err(defect("its body is a stream".to_owned())),
        };
        let uri = request.url().as_str().parse::<http::Uri>().map_err(|e| defect(e.to_string()))?;
        let mut signed = http::Request::new(HttpRequestBody::from(body));
        *signed.method_mut() = request.method().clone();
        *signed.uri_mut() = uri;
        *signed.headers_mut() = request.headers().clone();
        let refused = |error| {
            refused("signing a request to", request.url().as_str(), &Names::ICEBERG, &error)
        };
        let credential = self.credentials.get_credential().await.map_err(refused)?;
        AwsAuthorizer::new(&credential, &self.service, &self.region)
            .try_authorize(&mut signed, None)
            .map_err(|error| defect(error.to_string()))?;
        *request.headers_mut() = std::mem::take(signed.headers_mut());
        Ok(())
    }
}

/// Whether an error of AWS says that the time of the signature is not the
/// service's: the clock of this machine is wrong.
pub fn is_clock(code: &str, message: &str) -> bool {
    // "Signature expired: … is now earlier than …", "Signature not yet current: …"
    let of_signature = ["Signature expired", "Signature not yet current"];
    matches!(code, "RequestTimeTooSkewed" | "RequestInTheFuture" | "RequestExpired")
        || of_signature.iter().any(|begin| message.starts_with(begin))
}

/// What to do about that.
pub const SET_THE_CLOCK: &str = "set the clock of writer-svc's machine (NTP): signatures hold for \
    a few minutes only";

#[cfg(test)]
mod tests {
    use hmac::{Hmac, KeyInit, Mac};
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::s3::fake::blocking;

    fn hex(bytes: impl AsRef<[u8]>) -> String {
        bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A request of AWS's test suite, or one of ours.
    struct Signed<'a> {
        method: &'a str,
        path: &'a str,
        /// Sorted by name.
        headers: Vec<(&'a str, &'a str)>,
        body: &'a str,
        date: &'a str,
        scope: [&'a str; 2],
        secret: &'a str,
    }

    impl Signed<'_> {
        /// Step by step as AWS describes it.
        fn signature(&self) -> String {
            let headers: String =
                self.headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
            let names: Vec<&str> = self.headers.iter().map(|(name, _)| *name).collect();
            let canonical = format!(
                "{}\n{}\n\n{headers}\n{}\n{}",
                self.method,
                self.path,
                names.join(";"),
                hex(Sha256::digest(self.body))
            );
            let [region, service] = self.scope;
            let day = &self.date[..8];
            let to_sign = format!(
                "AWS4-HMAC-SHA256\n{}\n{day}/{region}/{service}/aws4_request\n{}",
                self.date,
                hex(Sha256::digest(canonical))
            );
            let mut key = format!("AWS4{}", self.secret).into_bytes();
            for part in [day, region, service, "aws4_request", &to_sign] {
                let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
                mac.update(part.as_bytes());
                key = mac.finalize().into_bytes().to_vec();
            }
            hex(key)
        }
    }

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    #[test]
    fn a_signature_is_what_the_steps_give_that_give_the_published_ones() {
        // get-vanilla and post-vanilla of AWS's Signature Version 4 test suite.
        for (method, published) in [
            ("GET", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            ("POST", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        ] {
            let headers =
                vec![("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z")];
            let example = Signed {
                method,
                path: "/",
                headers,
                body: "",
                date: "20150830T123600Z",
                scope: ["us-east-1", "service"],
                secret: SECRET,
            };
            assert_eq!(example.signature(), published, "{method}");
        }

        let _ = rustls::crypto::ring::default_provider().install_default();
        blocking(|| {
            let settings = S3 {
                region: "eu-north-1".into(),
                access_key: "AKIDEXAMPLE".into(),
                secret_key: SECRET.into(),
                session_token: "token".into(),
                ..Default::default()
            };
            let signer = Signer::new("glue", None, &settings).unwrap();
            let mut request = reqwest::Client::new()
                .post("http://127.0.0.1:5000/")
                .header("x-amz-target", "AWSGlue.GetTable")
                .body(r#"{"Name":"t"}"#)
                .build()
                .unwrap();
            let signed = signer.sign(&mut request);
            tokio::runtime::Handle::current().block_on(signed).unwrap();
            let header = |name| request.headers()[name].to_str().unwrap();
            let date = header("x-amz-date");
            let (before, signature) = header("authorization").split_once("Signature=").unwrap();
            let names = "host;x-amz-content-sha256;x-amz-date;x-amz-security-token;x-amz-target";
            let expected = format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/{}/eu-north-1/glue/aws4_request, \
                 SignedHeaders={names}, ",
                &date[..8]
            );
            assert_eq!(before, expected);
            let ours = Signed {
                method: "POST",
                path: "/",
                headers: names
                    .split(';')
                    .map(|name| match name {
                        "host" => ("host", "127.0.0.1:5000"),
                        name => (name, header(name)),
                    })
                    .collect(),
                body: r#"{"Name":"t"}"#,
                date,
                scope: ["eu-north-1", "glue"],
                secret: SECRET,
            };
            assert_eq!(signature, ours.signature());
            assert!(!format!("{signer:?}").contains("wJalr"));
        });
    }

    #[test]
    fn a_region_is_a_part_of_a_name_and_the_callers_comes_first() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let settings = |region: &str| S3 {
            region: region.into(),
            access_key: "key".into(),
            secret_key: "secret".into(),
            ..Default::default()
        };
        let of = |own, region| Signer::new("glue", own, &settings(region));
        assert_eq!(of(None, "eu-north-1").unwrap().region(), "eu-north-1");
        assert_eq!(of(Some("us-west-2"), "eu-north-1").unwrap().region(), "us-west-2");
        let said = of(None, "eu.example.org/").unwrap_err().to_string();
        assert!(said.contains("no region"), "{said}");
    }

    #[test]
    fn a_wrong_clock_is_told_from_a_wrong_key() {
        let expired = "Signature expired: 20261125T100000Z is now earlier than 20261125T101500Z";
        for (code, message, expected) in [
            ("RequestTimeTooSkewed", "The difference between …", true),
            ("InvalidSignatureException", expired, true),
            ("SignatureDoesNotMatch", "Signature not yet current: …", true),
            ("InvalidSignatureException", "The request signature we calculated …", false),
        ] {
            assert_eq!(is_clock(code, message), expected, "{code}: {message}");
        }
    }
}
