//! A bucket of an S3 store: `s3://bucket/key`.
//!
//! The clients are asynchronous and this trait blocks: every call drives them by
//! the runtime's handle, on a thread that may block. An object appears whole
//! with its last request. Every name is new (a UUID is in it), so a put needs no
//! condition, which not every store knows, and may be repeated.
//!
//! A call has a short patience until the store has answered it once: what is
//! configured wrong is said soon. After that a store may be away for a while.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Setting};
use object_store::path::Path as Key;
use object_store::{
    BackoffConfig, ClientOptions, Error, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig,
};
use proto::v1::S3;
use tokio::runtime::Handle;

use super::refusal::refused;
use super::upload::Upload;
use super::{Listing, Storage, Uploads};
use crate::error::WriterError;
use crate::stage::Sink;

/// Until the store has answered: a connection, …
const FIRST_CONNECT: Duration = Duration::from_secs(2);
/// … an answer, and time within which a failed request is repeated.
const FIRST_ANSWER: Duration = Duration::from_secs(3);
/// The same once it has answered; and the longest for a request, which may
/// carry a whole part.
const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(60);
const REQUEST: Duration = Duration::from_secs(120);
/// Repetitions of a request, and the pauses between them.
const RETRIES: usize = 10;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// The bucket that the warehouse is in.
pub struct S3Storage {
    bucket: String,
    /// Used until it has answered once.
    first: Arc<dyn ObjectStore>,
    /// Used after that, and for data.
    steady: Arc<dyn ObjectStore>,
    answered: AtomicBool,
    handle: Handle,
    uploads: Uploads,
}

// The clients' own would show what the configuration says.
impl fmt::Debug for S3Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Storage").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

/// Bucket and key (perhaps empty) of a location; other writers use every one of
/// these schemes.
pub fn split(location: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = location.split_once("://")?;
    if !["s3", "s3a", "s3n"].contains(&scheme) {
        return None;
    }
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    (!bucket.is_empty() && bucket.chars().all(plain)).then_some((bucket, key))
}

impl S3Storage {
    /// Of the bucket in `warehouse`; reaches for nothing yet. Must be called
    /// within a runtime.
    pub fn new(warehouse: &str, settings: &S3, uploads: Uploads) -> Result<Self, WriterError> {
        let invalid = |problem: String| {
            WriterError::invalid_table(
                problem,
                "set iceberg_s3_path to s3://bucket/prefix, with plain names",
            )
        };
        let (bucket, key) = split(warehouse)
            .ok_or_else(|| invalid(format!("the warehouse {warehouse:?} names no bucket")))?;
        Key::parse(key).map_err(|e| invalid(format!("the warehouse {warehouse:?}: {e}")))?;
        let client = |patience| {
            let built = builder(bucket, settings, patience)?.build();
            built.map(Arc::new).map_err(|error| refused("setting up", warehouse, &error))
        };
        let (first, steady) = (client(Patience::Short)?, client(Patience::Long)?);
        S3Storage::over(bucket, first, steady, uploads)
    }

    /// Over clients that are there.
    pub(super) fn over(
        bucket: &str,
        first: Arc<dyn ObjectStore>,
        steady: Arc<dyn ObjectStore>,
        uploads: Uploads,
    ) -> Result<Self, WriterError> {
        let handle = Handle::try_current()
            .map_err(|e| WriterError::Internal(format!("S3 needs a runtime: {e}")))?;
        let answered = AtomicBool::new(false);
        Ok(S3Storage { bucket: bucket.to_owned(), first, steady, answered, handle, uploads })
    }

    fn key(&self, location: &str) -> Result<Key, WriterError> {
        match split(location) {
            Some((bucket, key)) if bucket == self.bucket => Key::parse(key)
                .map_err(|e| WriterError::BadData(format!("{location} is no location: {e}"))),
            _ => Err(WriterError::invalid_table(
                format!(
                    "{location} lies in another storage than the warehouse, the bucket {}",
                    self.bucket
                ),
                "set iceberg_s3_path to where the table lies, or give the stream another \
                 destination_table",
            )),
        }
    }

    /// Drives one call to its end.
    fn wait<T, F: Future<Output = Result<T, Error>>>(
        &self,
        call: impl FnOnce(Arc<dyn ObjectStore>) -> F,
    ) -> Result<T, Error> {
        let answered = self.answered.load(Ordering::Relaxed);
        let store = if answered { &self.steady } else { &self.first };
        let outcome = self.handle.block_on(call(Arc::clone(store)));
        if outcome.is_ok() {
            self.answered.store(true, Ordering::Relaxed);
        }
        outcome
    }
}

impl Storage for S3Storage {
    fn read(&self, location: &str) -> Result<Option<Bytes>, WriterError> {
        let key = self.key(location)?;
        match self.wait(|store| async move { store.get(&key).await?.bytes().await }) {
            Ok(content) => Ok(Some(content)),
            Err(error) => absent(refused("reading", location, &error)),
        }
    }

    fn write(&self, location: &str, content: &[u8]) -> Result<(), WriterError> {
        let key = self.key(location)?;
        let payload = PutPayload::from(Bytes::copy_from_slice(content));
        let put = self.wait(|store| async move { store.put(&key, payload).await });
        put.map(drop).map_err(|error| refused("writing", location, &error))
    }

    fn create(&self, location: &str) -> Result<Box<dyn Sink>, WriterError> {
        let key = self.key(location)?;
        let store = Arc::clone(&self.steady);
        Ok(Box::new(Upload::new(store, key, location, self.handle.clone(), self.uploads)))
    }

    fn list(&self, directory: &str) -> Result<Listing, WriterError> {
        let key = self.key(directory)?;
        let prefix = key.clone();
        let found = self
            .wait(|store| async move { store.list_with_delimiter(Some(&prefix)).await })
            .map_err(|error| refused("listing", directory, &error))?;
        let name = |path: &Key| path.filename().map(str::to_owned);
        // Some stores have an object for the directory itself.
        let inside = |path: &&Key| **path != key;
        let objects = found.objects.iter().map(|object| &object.location);
        let mut listing = Listing {
            directories: found.common_prefixes.iter().filter_map(name).collect(),
            objects: objects.filter(inside).filter_map(name).collect(),
        };
        listing.directories.sort();
        listing.objects.sort();
        Ok(listing)
    }

    fn delete(&self, location: &str) -> Result<(), WriterError> {
        let key = self.key(location)?;
        match self.wait(|store| async move { store.delete(&key).await }) {
            Ok(()) => Ok(()),
            Err(error) => absent::<()>(refused("removing", location, &error)).map(drop),
        }
    }
}

/// An object that is not there; what else is wrong is an error.
fn absent<T>(error: WriterError) -> Result<Option<T>, WriterError> {
    match error {
        WriterError::Store { refusal: super::refusal::Refusal::NoObject, .. } => Ok(None),
        error => Err(error),
    }
}

#[derive(Clone, Copy)]
enum Patience {
    Short,
    Long,
}

/// Where credentials come from that the settings leave out: keys, a web
/// identity, a container's role; failing all, an instance's.
const CHAIN: [Setting; 9] = [
    Setting::AccessKeyId,
    Setting::SecretAccessKey,
    Setting::Token,
    Setting::WebIdentityTokenFile,
    Setting::RoleArn,
    Setting::RoleSessionName,
    Setting::ContainerCredentialsRelativeUri,
    Setting::ContainerCredentialsFullUri,
    Setting::ContainerAuthorizationTokenFile,
];

/// A builder with those of these settings that `AWS_…` of the environment says.
fn from_environment(settings: &[Setting]) -> AmazonS3Builder {
    let said = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.to_str().filter(|name| name.starts_with("AWS_"))?;
        let setting = name.to_ascii_lowercase().parse::<Setting>().ok()?;
        let value = value.into_string().ok().filter(|value| !value.is_empty())?;
        settings.contains(&setting).then_some((setting, value))
    });
    said.fold(AmazonS3Builder::new(), |builder, (setting, value)| {
        builder.with_config(setting, value)
    })
}

/// What the settings say, or else the environment.
fn builder(
    bucket: &str,
    settings: &S3,
    patience: Patience,
) -> Result<AmazonS3Builder, WriterError> {
    let region = [Setting::Region, Setting::DefaultRegion];
    let mut builder = match (settings.access_key.is_empty(), settings.secret_key.is_empty()) {
        (true, true) => from_environment(&[&CHAIN[..], &region[..]].concat()),
        (false, false) => {
            let mut builder = from_environment(&region)
                .with_access_key_id(&settings.access_key)
                .with_secret_access_key(&settings.secret_key);
            if !settings.session_token.is_empty() {
                builder = builder.with_token(&settings.session_token);
            }
            builder
        }
        _ => {
            return Err(WriterError::invalid_table(
                "of aws_access_key and aws_secret_key only one is set",
                "set both in destination.json, or neither for the default credential chain",
            ));
        }
    };
    builder = builder
        .with_bucket_name(bucket)
        .with_client_options(client_options(settings, patience))
        .with_retry(retry(patience))
        // Its request needs a checksum that not every store takes.
        .with_disable_bulk_delete(true);
    if !settings.region.is_empty() {
        builder = builder.with_region(&settings.region);
    }
    let (endpoint, virtual_hosted) = address(bucket, settings)?;
    builder = builder.with_virtual_hosted_style_request(virtual_hosted);
    Ok(match endpoint {
        Some(endpoint) => builder.with_endpoint(endpoint),
        None => builder,
    })
}

/// The endpoint, if it is not AWS's own, with the bucket in its host where
/// buckets are addressed so; and whether they are.
fn address(bucket: &str, settings: &S3) -> Result<(Option<String>, bool), WriterError> {
    let endpoint = settings.endpoint.trim_end_matches('/');
    if endpoint.is_empty() {
        // No certificate of AWS fits a host with more dots.
        return Ok((None, !settings.path_style.unwrap_or(bucket.contains('.'))));
    }
    let (scheme, host) = endpoint.split_once("://").unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    if !["http", "https"].contains(&scheme) || host.is_empty() || !host.chars().all(plain) {
        return Err(WriterError::invalid_table(
            format!("s3_endpoint {endpoint:?} is not http://host:port or https://host:port"),
            "correct s3_endpoint in destination.json",
        ));
    }
    Ok(match settings.path_style.unwrap_or(true) {
        true => (Some(endpoint.to_owned()), false),
        false => (Some(format!("{scheme}://{bucket}.{host}")), true),
    })
}

fn client_options(settings: &S3, patience: Patience) -> ClientOptions {
    let options = ClientOptions::new()
        .with_allow_http(settings.endpoint.starts_with("http://"))
        .with_timeout(REQUEST);
    match patience {
        Patience::Short => {
            options.with_connect_timeout(FIRST_CONNECT).with_read_timeout(FIRST_ANSWER)
        }
        Patience::Long => options.with_connect_timeout(CONNECT),
    }
}

fn retry(patience: Patience) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig { init_backoff: FIRST_PAUSE, max_backoff: LONGEST_PAUSE, base: 2.0 },
        max_retries: RETRIES,
        retry_timeout: match patience {
            Patience::Short => FIRST_ANSWER,
            Patience::Long => ANSWER,
        },
    }
}

#[cfg(test)]
#[path = "s3_tests.rs"]
mod tests;
