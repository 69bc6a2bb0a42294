//! What a catalog lends with a table: the way to its files, and keys for a
//! while.
//!
//! It comes with every answer that describes the table. What destination.json
//! says of the store counts first; keys that are written there are the only ones
//! that are used, and none are asked for.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use object_store::CredentialProvider;
use object_store::aws::{AwsCredential, AwsCredentialProvider};
use proto::v1::S3;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::client::{Ask, Client, json};
use super::failure::Failure;
use crate::iceberg::catalog::TableName;
use crate::s3::{Lender, lent};

/// Keys are renewed so long before their end, or at four fifths of their life.
const BEFORE: Duration = Duration::from_secs(300);
/// Whatever is said of their life.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// The part of a table's description that tells of its storage.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Terms {
    config: Option<Properties>,
    storage_credentials: Option<Vec<Credentials>>,
}

/// For all locations that begin with the prefix.
#[derive(Clone, Debug, Deserialize)]
struct Credentials {
    prefix: String,
    #[serde(default)]
    config: Properties,
}

/// Iceberg's `s3.…` and `client.…`, secrets among them.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
struct Properties(HashMap<String, String>);

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

/// What is lent for one location.
#[derive(Clone)]
pub struct Loan {
    /// `None`: only the way is told.
    keys: Option<Keys>,
    endpoint: Option<String>,
    region: Option<String>,
    path_style: Option<bool>,
}

#[derive(Clone)]
struct Keys {
    credential: Arc<AwsCredential>,
    since: Instant,
    /// `None`: until they are refused.
    renew_at: Option<Instant>,
}

impl Terms {
    /// What of it is for a location: the longest prefix says more than the rest.
    pub fn of(&self, location: &str) -> Loan {
        let ours = self.storage_credentials.iter().flatten();
        let ours = ours.filter(|credentials| location.starts_with(&credentials.prefix));
        let ours = ours.max_by_key(|credentials| credentials.prefix.len());
        let find = |key: &str| {
            let own = ours.and_then(|credentials| credentials.config.0.get(key));
            let all = self.config.as_ref().and_then(|config| config.0.get(key));
            own.or(all).filter(|value| !value.is_empty()).cloned()
        };
        let keys = find("s3.access-key-id").zip(find("s3.secret-access-key"));
        let since = Instant::now();
        let keys = keys.map(|(key_id, secret_key)| Keys {
            credential: Arc::new(AwsCredential {
                key_id,
                secret_key,
                token: find("s3.session-token"),
            }),
            since,
            renew_at: find("s3.session-token-expires-at-ms")
                .and_then(|at| at.parse().ok())
                .map(|at| since + until_renewal(at, SystemTime::now())),
        });
        Loan {
            keys,
            endpoint: find("s3.endpoint"),
            region: find("client.region").or_else(|| find("s3.region")),
            path_style: find("s3.path-style-access").map(|word| word == "true"),
        }
    }
}

/// Of keys that end at a time, in milliseconds since 1970; a day at most.
fn until_renewal(at: u64, now: SystemTime) -> Duration {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let life = Duration::from_millis(at).saturating_sub(now).min(LONGEST);
    life - BEFORE.min(life / 5)
}

impl Loan {
    /// Whether keys are lent, too.
    pub fn has_keys(&self) -> bool {
        self.keys.is_some()
    }

    /// The store that is meant, in so far as `own` leaves it open.
    pub fn over(&self, own: &S3) -> S3 {
        let mut store = own.clone();
        // A path style belongs to its endpoint.
        if store.endpoint.is_empty() {
            store.endpoint = self.endpoint.clone().unwrap_or_default();
            store.path_style = store.path_style.or(self.path_style);
        }
        if store.region.is_empty() {
            store.region = self.region.clone().unwrap_or_default();
        }
        store
    }
}

/// The loan of one table, renewed when its time has come.
pub struct Lending {
    client: Arc<Client>,
    table: TableName,
    /// The location that it is for, and what is at hand.
    held: Mutex<(String, Option<Loan>)>,
}

impl Lending {
    /// Of a table that need not exist yet.
    pub fn new(client: Arc<Client>, table: TableName) -> Self {
        Lending { client, table, held: Mutex::default() }
    }

    /// Takes what came with a description of the table, which lies there.
    pub async fn take(&self, terms: &Terms, location: &str) {
        *self.held.lock().await = (location.to_owned(), Some(terms.of(location)));
    }

    /// What is lent for the table's files, at a location.
    pub async fn loan(&self, location: &str) -> Result<Loan, Failure> {
        let mut held = self.held.lock().await;
        if let (_, Some(loan)) = &*held {
            return Ok(loan.clone());
        }
        held.0 = location.to_owned();
        self.renewed(&mut held).await
    }

    async fn renewed(&self, held: &mut (String, Option<Loan>)) -> Result<Loan, Failure> {
        let TableName { namespace, name } = &self.table;
        let ask = Ask::of(&["namespaces", namespace, "tables", name])
            .with("snapshots", "refs")
            .delegated(true);
        let answer = self.client.ask(&ask).await?;
        let terms: Terms = json(&answer)?;
        let loan = terms.of(&held.0);
        held.1 = Some(loan.clone());
        Ok(loan)
    }
}

#[tonic::async_trait]
impl CredentialProvider for Lending {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut held = self.held.lock().await;
        let is_good = |keys: &&Keys| keys.renew_at.is_none_or(|at| Instant::now() < at);
        if let Some(keys) = held.1.as_ref().and_then(|loan| loan.keys.as_ref()).filter(is_good) {
            return Ok(Arc::clone(&keys.credential));
        }
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| {
            object_store::Error::Generic { store: lent::SOURCE, source }
        };
        let renewed = self.renewed(&mut held).await.map_err(|failure| failed(failure.into()))?;
        let keys = renewed.keys.ok_or_else(|| failed("the catalog lends no more keys".into()))?;
        Ok(keys.credential)
    }
}

#[tonic::async_trait]
impl Lender for Lending {
    fn provider(self: Arc<Self>) -> AwsCredentialProvider {
        self
    }

    async fn renew(&self, used: Instant) -> bool {
        let mut held = self.held.lock().await;
        let since = held.1.as_ref().and_then(|loan| loan.keys.as_ref()).map(|keys| keys.since);
        // Somebody else was quicker.
        since.is_some_and(|since| since > used) || self.renewed(&mut held).await.is_ok()
    }
}

// The keys stay inside.
impl fmt::Debug for Lending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lending").field("table", &self.table).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> Terms {
        serde_json::from_str(
            r#"{
            "config": {"s3.endpoint": "http://minio:9000", "s3.path-style-access": "true",
                "s3.region": "other", "client.region": "eu-north-1",
                "s3.access-key-id": "all", "s3.secret-access-key": "hunter2"},
            "storage-credentials": [
                {"prefix": "s3://lake/", "config": {
                    "s3.access-key-id": "lake", "s3.secret-access-key": "hunter2"}},
                {"prefix": "s3://lake/d/t", "config": {"s3.access-key-id": "table",
                    "s3.secret-access-key": "hunter2", "s3.session-token": "token",
                    "s3.session-token-expires-at-ms": "1"}}
            ]}"#,
        )
        .unwrap()
    }

    #[test]
    fn the_longest_prefix_lends_the_keys() {
        let key = |location| terms().of(location).keys.unwrap().credential.key_id.clone();
        for (location, expected) in
            [("s3://lake/d/t/x", "table"), ("s3://lake/d/u", "lake"), ("s3://other/d/t", "all")]
        {
            assert_eq!(key(location), expected, "{location}");
        }
        let keys = terms().of("s3://lake/d/t").keys.unwrap();
        assert_eq!(keys.credential.token.as_deref(), Some("token"));
        assert!(keys.renew_at.unwrap() <= keys.since, "they have ended");
        assert!(terms().of("s3://lake/d/u").keys.unwrap().renew_at.is_none());
        assert!(!format!("{:?}", terms()).contains("hunter2"));
    }

    #[test]
    fn what_is_configured_counts_before_what_is_told() {
        let loan = terms().of("s3://lake/d/t");
        let told = loan.over(&S3::default());
        let endpoint = "http://minio:9000".to_owned();
        let expected = S3 {
            endpoint,
            region: "eu-north-1".into(),
            path_style: Some(true),
            ..Default::default()
        };
        assert_eq!(told, expected);
        let own = S3 {
            endpoint: "http://127.0.0.1:9000".into(),
            region: "r".into(),
            ..Default::default()
        };
        assert_eq!(loan.over(&own), own);
    }

    #[test]
    fn keys_are_renewed_before_they_end() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let until = |seconds: u64| until_renewal(seconds * 1000, now).as_secs();
        assert_eq!((until(1010), until(4600), until(900)), (8, 3300, 0));
    }
}
