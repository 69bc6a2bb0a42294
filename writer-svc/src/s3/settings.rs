//! How an S3 store is reached: what destination.json says, or else the
//! environment of this process.

use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Setting};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use proto::v1::S3;

use super::profile;
use crate::error::WriterError;

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

/// What the settings are called in destination.json, for messages.
#[derive(Debug, PartialEq, Eq)]
pub struct Names {
    /// Where the bucket is named.
    pub bucket: &'static str,
    /// Where what lies in it is.
    pub path: &'static str,
    /// The region.
    pub region: &'static str,
    /// The store's address.
    pub endpoint: &'static str,
    /// The key's name.
    pub access_key: &'static str,
    /// The key.
    pub secret_key: &'static str,
}

impl Names {
    /// What the place of a bucket must be.
    pub const FORM: &str = "the name of a bucket, and below it plain names";

    /// All settings of the place, for messages.
    pub fn whole(&self) -> String {
        match self.bucket == self.path {
            true => self.bucket.to_owned(),
            false => format!("{} and {}", self.bucket, self.path),
        }
    }

    /// Of Iceberg tables.
    pub const ICEBERG: Names = Names {
        bucket: "iceberg_s3_path",
        path: "iceberg_s3_path",
        region: "aws_region",
        endpoint: "s3_endpoint",
        access_key: "aws_access_key",
        secret_key: "aws_secret_key",
    };
    /// Of plain Parquet files.
    pub const PARQUET: Names = Names {
        bucket: "s3_bucket",
        path: "s3_path",
        region: "s3_region",
        endpoint: "s3_endpoint",
        access_key: "s3_access_key",
        secret_key: "s3_secret_key",
    };
}

/// How long a call tries.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    /// Until the store has answered once.
    Short,
    /// After that.
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

/// The client's builder for a bucket.
pub fn builder(
    bucket: &str,
    settings: &S3,
    names: &Names,
    patience: Patience,
) -> Result<AmazonS3Builder, WriterError> {
    let region = [Setting::Region, Setting::DefaultRegion];
    let given = (!settings.access_key.is_empty(), !settings.secret_key.is_empty());
    let mut builder = match (given, settings.profile.as_str()) {
        ((false, false), "") => from_environment(&[&CHAIN[..], &region[..]].concat()),
        ((false, false), profile) => {
            let profile = profile::read(profile)?;
            let mut builder = with_keys(
                from_environment(&region),
                (&profile.access_key, &profile.secret_key, &profile.session_token),
                names,
            )?;
            if let Some(region) = profile.region {
                builder = builder.with_region(region);
            }
            builder
        }
        ((true, true), _) => with_keys(
            from_environment(&region),
            (&settings.access_key, &settings.secret_key, &settings.session_token),
            names,
        )?,
        _ => {
            return Err(WriterError::invalid_table(
                format!("of {} and {} only one is set", names.access_key, names.secret_key),
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

fn with_keys(
    builder: AmazonS3Builder,
    (access_key, secret_key, session_token): (&str, &str, &str),
    names: &Names,
) -> Result<AmazonS3Builder, WriterError> {
    // They become headers, of which the client takes only the possible for granted.
    if [access_key, session_token].iter().any(|key| !key.bytes().all(|b| b.is_ascii_graphic())) {
        return Err(WriterError::invalid_table(
            format!("{} or its session token has characters that no key has", names.access_key),
            "correct them in destination.json: look for spaces and ends of lines",
        ));
    }
    let builder = builder.with_access_key_id(access_key).with_secret_access_key(secret_key);
    Ok(match session_token {
        "" => builder,
        token => builder.with_token(token),
    })
}

/// The endpoint, if it is not AWS's own, with the bucket in its host where
/// buckets are addressed so; and whether they are.
pub(super) fn address(bucket: &str, settings: &S3) -> Result<(Option<String>, bool), WriterError> {
    let endpoint = settings.endpoint.trim_end_matches('/');
    if endpoint.is_empty() {
        // No certificate of AWS fits a host with more dots.
        return Ok((None, !settings.path_style.unwrap_or(bucket.contains('.'))));
    }
    let (scheme, host) = endpoint.split_once("://").unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    if !["http", "https"].contains(&scheme) || host.is_empty() || !host.chars().all(plain) {
        // Not shown: it may hold a key.
        return Err(WriterError::invalid_table(
            "s3_endpoint is not http://host:port or https://host:port",
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
