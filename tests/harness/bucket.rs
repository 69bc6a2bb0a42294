//! Plain Parquet in a bucket of the tests' S3 store.
//!
//! ```text
//! let place = Place::new(&project)?;    // destination.json says this place
//! project.sync()?;
//! place.mirror(&project)?;              // its objects, as files of project.output()
//! verify::equals_source(&project, …)?;
//! ```

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::certificates::Certificates;
use crate::iceberg::client::Client;
use crate::iceberg::seaweed::{self, Seaweed};
use crate::proxy::Proxy;
use crate::run::Project;
use crate::watch;

const REGION: &str = "us-east-1";

/// A bucket, or a prefix of one, that nobody else uses.
#[derive(Debug)]
pub struct Place {
    store: Arc<Seaweed>,
    /// Who has signed the store's certificate; none: it speaks no TLS.
    authority: Option<PathBuf>,
    bucket: String,
    path: String,
}

impl Place {
    /// A prefix of the tests' bucket, which the project's `destination.json`
    /// says from here on.
    pub fn new(project: &Project) -> Result<Place> {
        let name = project.path().file_name().context("a directory has a name")?;
        let path = format!("parquet/{}", name.to_string_lossy());
        let bucket = seaweed::BUCKET.to_owned();
        let place = Place { store: Seaweed::shared()?, authority: None, bucket, path };
        project.write("destination.json", &place.destination())?;
        Ok(place)
    }

    /// A new bucket, all of it.
    pub fn bucket(name: &str) -> Result<Place> {
        let (bucket, path) = (name.to_owned(), String::new());
        let place = Place { store: Seaweed::shared()?, authority: None, bucket, path };
        place.client().call("bucket", json!({"location": place.location()}))?;
        Ok(place)
    }

    /// A prefix of a bucket in a store of its own, which speaks TLS.
    pub fn behind_tls(project: &Project, certificates: &Certificates) -> Result<Place> {
        let place = Place {
            store: Arc::new(Seaweed::start_with_tls(certificates)?),
            authority: Some(certificates.authority.clone()),
            bucket: seaweed::BUCKET.to_owned(),
            path: "parquet".to_owned(),
        };
        project.write("destination.json", &place.destination())?;
        Ok(place)
    }

    /// destination.json, as a user would write it.
    pub fn destination(&self) -> Value {
        json!({"type": "PARQUET", "writer": {
            "normalization": true,
            "s3_bucket": self.bucket,
            "s3_path": self.path,
            "s3_region": REGION,
            "s3_endpoint": self.endpoint(),
            "s3_access_key": seaweed::KEY,
            "s3_secret_key": seaweed::SECRET,
        }})
    }

    /// A proxy before the store, through which the project goes from here on.
    pub fn through_proxy(&self, project: &Project) -> Result<Proxy> {
        let proxy = Proxy::start(self.store.s3())?;
        let endpoint = format!("http://{}", proxy.address());
        project.edit("destination.json", |file| file["writer"]["s3_endpoint"] = endpoint.into())?;
        Ok(proxy)
    }

    /// The store's address.
    pub fn endpoint(&self) -> String {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.store.s3())
    }

    fn location(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.path)
    }

    fn client(&self) -> Client {
        let mut properties = json!({
            // PyIceberg wants one; nothing is asked of it.
            "type": "sql",
            "uri": "sqlite:///:memory:",
            "warehouse": self.location(),
            "s3.endpoint": self.endpoint(),
            "s3.region": REGION,
            "s3.access-key-id": seaweed::KEY,
            "s3.secret-access-key": seaweed::SECRET,
        });
        if let Some(authority) = &self.authority {
            properties["authority"] = authority.to_string_lossy().into();
        }
        Client::new(properties)
    }

    /// The keys of all objects.
    pub fn objects(&self) -> Result<Vec<String>> {
        self.client().ask("objects", json!({"location": self.location()}))
    }

    /// Objects whose upload has begun and not ended.
    pub fn uploads(&self) -> Result<Vec<String>> {
        self.client().ask("uploads", json!({"location": self.location()}))
    }

    /// Removes an object.
    pub fn delete(&self, key: &str) -> Result<()> {
        self.client().call("delete", json!({"location": self.location(), "key": key})).map(drop)
    }

    /// From now on the store lets nobody write here.
    pub fn forbid_writes(&self) -> Result<()> {
        self.client().call("forbid", json!({"location": self.location()})).map(drop)
    }

    /// Makes the project's output a copy of what lies here, hidden objects too.
    pub fn mirror(&self, project: &Project) -> Result<()> {
        let output = project.output();
        if output.exists() {
            std::fs::remove_dir_all(&output)?;
        }
        std::fs::create_dir_all(&output)?;
        let request = json!({"location": self.location(), "directory": output});
        self.client().call("mirror", request).map(drop)
    }

    /// Rows of a table ("database/table") by pyarrow, straight from the store.
    pub fn rows(&self, table: &str) -> Result<u64> {
        let location = match self.path.as_str() {
            "" => format!("s3://{}/{table}", self.bucket),
            path => format!("s3://{}/{path}/{table}", self.bucket),
        };
        self.client().ask("rows", json!({"location": location}))
    }
}

/// The paths that the record of a mirrored table names, which must all be there.
pub fn named(table: &Path) -> Result<BTreeSet<String>> {
    let record = table.join(".tidewater-commit.json");
    let record: Value = serde_json::from_str(
        &std::fs::read_to_string(&record).with_context(|| record.display().to_string())?,
    )?;
    let names: BTreeSet<String> = serde_json::from_value(record["files"].clone())?;
    match names.iter().find(|name| !table.join(name).exists()) {
        Some(missing) => bail!("the record names {missing}, which is not there"),
        None => Ok(names),
    }
}

/// The paths of a mirrored table that `*.parquet` matches.
pub fn seen(table: &Path) -> BTreeSet<String> {
    let relative = |path: PathBuf| {
        path.strip_prefix(table).map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
    };
    watch::parquet_files(table).into_iter().map(relative).collect()
}
