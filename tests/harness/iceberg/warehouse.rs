//! One catalog with one store, for our programs and for theirs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Result, bail};
use proto::v1::{GlueCatalog, HiveCatalog, Iceberg, JdbcCatalog, RestCatalog, S3, iceberg as wire};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::{Client, redirected};
use super::glue::{self, Glue};
use super::hive::Hive;
use super::java_rest::JavaRest;
use super::pair::{Catalog, Pair, Store};
use super::seaweed::{self, Seaweed};
use super::spark::Spark;
use super::table::Table;
use crate::postgres::{Database, PASSWORD, USER};
use crate::proxy::Proxy;
use crate::run::Project;
use crate::supervised::percent_encoded;
use crate::truth::destination_name;

/// The catalog's name, which the JDBC catalog keeps with every table: the
/// default of destination.json's `catalog_name`.
pub const CATALOG_NAME: &str = "olake_iceberg";

const REGION: &str = "us-east-1";

/// A catalog and a place for files, with nothing in them. Ends when dropped.
#[derive(Debug)]
pub struct Warehouse {
    pair: Pair,
    directory: TempDir,
    catalog: Server,
    store: Option<Arc<Seaweed>>,
}

#[derive(Debug)]
enum Server {
    Sqlite(PathBuf),
    Postgres(Database),
    Rest(Arc<Seaweed>),
    Glue(Arc<Glue>),
    Hive(Arc<Hive>),
    JavaRest(Arc<JavaRest>),
}

impl Warehouse {
    /// Starts what the pair needs and is not running yet.
    pub fn start(pair: Pair) -> Result<Warehouse> {
        let directory = TempDir::with_prefix("tidewater-lake-")?;
        let catalog = match pair.catalog {
            Catalog::Sqlite => Server::Sqlite(directory.path().join("catalog.db")),
            Catalog::Postgres => Server::Postgres(Database::new("iceberg")?),
            Catalog::Rest => Server::Rest(Seaweed::shared()?),
            Catalog::Glue => Server::Glue(Glue::shared()?),
            Catalog::Hive => Server::Hive(Hive::shared()?),
            Catalog::JavaRest => Server::JavaRest(JavaRest::shared(pair.store)?),
        };
        let store = match pair.store {
            Store::Local => None,
            Store::S3 => Some(Seaweed::shared()?),
        };
        Ok(Warehouse { pair, directory, catalog, store })
    }

    /// What it is made of.
    pub fn pair(&self) -> Pair {
        self.pair
    }

    /// Where the files of a local one lie, and SQLite's.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The warehouse's URL.
    pub fn location(&self) -> String {
        let name = self.directory.path().file_name().unwrap_or_default().to_string_lossy();
        match (&self.catalog, self.pair.store) {
            (Server::Rest(_), _) => format!("s3://{}", seaweed::TABLE_BUCKET),
            (_, Store::S3) => format!("s3://{}/{name}", seaweed::BUCKET),
            (_, Store::Local) => format!("file://{}/files", self.directory.path().display()),
        }
    }

    /// The catalog's "127.0.0.1:port"; none for a file.
    pub fn catalog_address(&self) -> Option<String> {
        match &self.catalog {
            Server::Sqlite(_) => None,
            Server::Postgres(database) => Some(format!("127.0.0.1:{}", database.server.port())),
            Server::Rest(seaweed) => Some(seaweed.rest().to_owned()),
            Server::Glue(glue) => Some(glue.address().to_owned()),
            Server::Hive(hive) => Some(hive.address().to_owned()),
            Server::JavaRest(rest) => Some(rest.address().to_owned()),
        }
    }

    /// destination.json, as a user would write it.
    pub fn destination(&self) -> Value {
        let mut writer = json!({"iceberg_s3_path": self.location(), "normalization": true});
        let mut set = |settings: Value| {
            if let (Some(writer), Value::Object(settings)) = (writer.as_object_mut(), settings) {
                writer.extend(settings);
            }
        };
        match &self.catalog {
            Server::Sqlite(file) => set(json!({
                "catalog_type": "jdbc", "jdbc_url": format!("jdbc:sqlite:{}", file.display()),
            })),
            Server::Postgres(database) => set(json!({
                "catalog_type": "jdbc",
                "jdbc_url": jdbc_url(database),
                "jdbc_username": USER,
                "jdbc_password": PASSWORD,
            })),
            Server::Rest(seaweed) => set(json!({
                "catalog_type": "rest",
                "rest_catalog_url": format!("http://{}", seaweed.rest()),
                "oauth2_uri": format!("http://{}/v1/oauth/tokens", seaweed.rest()),
                "credential": format!("{}:{}", seaweed::KEY, seaweed::SECRET),
            })),
            Server::Glue(glue) => set(json!({
                "catalog_type": "glue",
                "glue_endpoint": format!("http://{}", glue.address()),
                "aws_region": REGION,
                "aws_access_key": glue::KEY,
                "aws_secret_key": glue::SECRET,
            })),
            Server::Hive(hive) => set(json!({
                "catalog_type": "hive", "hive_uri": format!("thrift://{}", hive.address()),
            })),
            Server::JavaRest(rest) => set(json!({
                "catalog_type": "rest", "rest_catalog_url": format!("http://{}", rest.address()),
            })),
        }
        if let Some(store) = &self.store {
            // Glue takes these, too.
            set(json!({
                "s3_endpoint": format!("http://{}", store.s3()),
                "s3_use_ssl": false,
                "s3_path_style": true,
                "aws_region": REGION,
                "aws_access_key": seaweed::KEY,
                "aws_secret_key": seaweed::SECRET,
            }));
        }
        json!({"type": "ICEBERG", "writer": writer})
    }

    /// The same as writer-svc is sent it.
    pub fn wire(&self) -> Iceberg {
        let jdbc = |url| JdbcCatalog {
            url,
            catalog_name: CATALOG_NAME.to_owned(),
            username: USER.to_owned(),
            password: PASSWORD.to_owned(),
        };
        let catalog = match &self.catalog {
            Server::Sqlite(file) => {
                wire::Catalog::Jdbc(jdbc(format!("jdbc:sqlite:{}", file.display())))
            }
            Server::Postgres(database) => wire::Catalog::Jdbc(jdbc(jdbc_url(database))),
            Server::Rest(seaweed) => wire::Catalog::Rest(RestCatalog {
                url: format!("http://{}", seaweed.rest()),
                warehouse: self.location(),
                oauth2_uri: format!("http://{}/v1/oauth/tokens", seaweed.rest()),
                credential: format!("{}:{}", seaweed::KEY, seaweed::SECRET),
                ..Default::default()
            }),
            Server::Glue(glue) => wire::Catalog::Glue(GlueCatalog {
                endpoint: format!("http://{}", glue.address()),
                ..Default::default()
            }),
            Server::Hive(hive) => {
                wire::Catalog::Hive(HiveCatalog { uri: format!("thrift://{}", hive.address()) })
            }
            Server::JavaRest(rest) => wire::Catalog::Rest(RestCatalog {
                url: format!("http://{}", rest.address()),
                ..Default::default()
            }),
        };
        let s3 = match &self.store {
            Some(store) => S3 {
                endpoint: format!("http://{}", store.s3()),
                access_key: seaweed::KEY.to_owned(),
                secret_key: seaweed::SECRET.to_owned(),
                path_style: Some(true),
                ..Default::default()
            },
            // Glue's.
            None => S3 {
                access_key: glue::KEY.to_owned(),
                secret_key: glue::SECRET.to_owned(),
                ..Default::default()
            },
        };
        Iceberg {
            warehouse: self.location(),
            catalog: Some(catalog),
            s3: Some(S3 { region: REGION.to_owned(), ..s3 }),
            ..Default::default()
        }
    }

    /// destination.json, with another address of the catalog, a proxy's perhaps. That
    /// chooses PostgreSQL's statements by their text, so the way is without TLS.
    pub fn destination_at(&self, address: &str) -> Value {
        let Some(own) = self.catalog_address() else { return self.destination() };
        let mut destination = redirected(&self.destination(), &own, address);
        if let (Server::Postgres(_), Some(url)) =
            (&self.catalog, destination["writer"]["jdbc_url"].as_str())
        {
            destination["writer"]["jdbc_url"] = format!("{url}?sslmode=disable").into();
        }
        destination
    }

    /// PyIceberg with this catalog.
    pub fn client(&self) -> Client {
        let mut properties = json!({"warehouse": self.location()});
        match &self.catalog {
            Server::Sqlite(file) => {
                properties["type"] = "sql".into();
                properties["uri"] = format!("sqlite:///{}", file.display()).into();
            }
            Server::Postgres(database) => {
                properties["type"] = "sql".into();
                let address = format!("127.0.0.1:{}/{}", database.server.port(), database.name);
                let password = percent_encoded(PASSWORD);
                properties["uri"] =
                    format!("postgresql+psycopg2://{USER}:{password}@{address}").into();
            }
            Server::Rest(seaweed) => {
                let url = format!("http://{}", seaweed.rest());
                properties["type"] = "rest".into();
                properties["oauth2-server-uri"] = format!("{url}/v1/oauth/tokens").into();
                properties["uri"] = url.into();
                properties["credential"] = format!("{}:{}", seaweed::KEY, seaweed::SECRET).into();
            }
            Server::Glue(glue) => {
                properties["type"] = "glue".into();
                properties["glue.endpoint"] = format!("http://{}", glue.address()).into();
                properties["glue.region"] = REGION.into();
                properties["glue.access-key-id"] = glue::KEY.into();
                properties["glue.secret-access-key"] = glue::SECRET.into();
            }
            Server::Hive(hive) => {
                properties["type"] = "hive".into();
                properties["uri"] = format!("thrift://{}", hive.address()).into();
            }
            Server::JavaRest(rest) => {
                properties["type"] = "rest".into();
                properties["uri"] = format!("http://{}", rest.address()).into();
            }
        }
        if let Some(store) = &self.store {
            properties["s3.endpoint"] = format!("http://{}", store.s3()).into();
            properties["s3.region"] = REGION.into();
            properties["s3.access-key-id"] = seaweed::KEY.into();
            properties["s3.secret-access-key"] = seaweed::SECRET.into();
        }
        Client::new(properties)
    }

    /// A table by its name, "namespace.table".
    pub fn table(&self, name: &str) -> Table {
        Table::new(self.client(), name)
    }

    /// The same, with the proxy before the catalog.
    pub fn table_through(&self, proxy: &Proxy, name: &str) -> Table {
        let address = self.catalog_address().unwrap_or_default();
        Table::new(self.client().redirected(&address, proxy.address()), name)
    }

    /// The table of a stream, in the `destination_database` that streams.json
    /// gives it, else as the default names have it.
    pub fn table_of(&self, project: &Project, namespace: &str, name: &str) -> Table {
        let catalog = project.read("streams.json").unwrap_or_default();
        let streams = catalog["streams"].as_array().into_iter().flatten();
        let mut streams = streams.map(|entry| &entry["stream"]);
        let ours = streams.find(|it| it["namespace"] == namespace && it["name"] == name);
        let given = ours.and_then(|stream| stream["destination_database"].as_str());
        let given = given.filter(|database| !database.is_empty()).map(str::to_owned);
        let database = given.unwrap_or_else(|| namespace_of(project, namespace));
        self.table(&format!("{database}.{}", destination_name(name)))
    }

    /// The paths of all objects below a location, the warehouse's or a table's,
    /// whether a table knows them or not.
    pub fn files(&self, location: &str) -> Result<Vec<String>> {
        self.client().ask("files", json!({"location": location}))
    }

    /// Removes objects, as somebody does who does not ask the table.
    pub fn remove(&self, locations: &[String]) -> Result<()> {
        self.client().call("remove", json!({"locations": locations})).map(drop)
    }

    /// Objects whose upload to the bucket has begun and not ended.
    pub fn uploads(&self) -> Result<Vec<String>> {
        self.client().ask("uploads", json!({"location": self.location()}))
    }

    /// From now on the S3 store lets nobody write into this warehouse.
    pub fn forbid_writes(&self) -> Result<()> {
        // A bucket's policy is read, and written with more in it.
        static POLICY: Mutex<()> = Mutex::new(());
        let _one_at_a_time = POLICY.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.client().call("forbid", json!({"location": self.location()})).map(drop)
    }

    /// Of how many tables each commit so far was, of those in this namespace of
    /// Java's REST catalog.
    pub fn commits(&self, namespace: &str) -> Result<Vec<u32>> {
        match &self.catalog {
            Server::JavaRest(rest) => rest.commits(namespace),
            other => bail!("{other:?} does not tell its commits"),
        }
    }

    /// A call of a Glue catalog's own, by boto3's name of it.
    pub fn glue(&self, action: &str, arguments: Value) -> Result<Value> {
        self.client().ask("glue", json!({"action": action, "arguments": arguments}))
    }

    /// Statements of SQL that Spark runs, in which this catalog is [`CATALOG_NAME`].
    pub fn spark(&self, statements: &[String]) -> Result<()> {
        let mut settings = match &self.catalog {
            Server::Hive(hive) => {
                json!({"type": "hive", "uri": format!("thrift://{}", hive.address())})
            }
            Server::Postgres(database) => json!({
                "catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog",
                "uri": jdbc_url(database),
                "jdbc.user": USER,
                "jdbc.password": PASSWORD,
                "jdbc.schema-version": "V1",
            }),
            Server::JavaRest(rest) => {
                json!({"type": "rest", "uri": format!("http://{}", rest.address())})
            }
            other => bail!("how Spark is to use {other:?} is not known"),
        };
        settings["warehouse"] = self.location().into();
        if let Some(store) = &self.store {
            settings["io-impl"] = "org.apache.iceberg.aws.s3.S3FileIO".into();
            settings["s3.endpoint"] = format!("http://{}", store.s3()).into();
            settings["s3.path-style-access"] = "true".into();
            settings["s3.access-key-id"] = seaweed::KEY.into();
            settings["s3.secret-access-key"] = seaweed::SECRET.into();
            settings["client.region"] = REGION.into();
        }
        Spark::shared()?.run(CATALOG_NAME, &settings, statements)
    }

    /// A call of a Hive metastore's own; `{"is": type, …}` is a struct.
    pub fn hive(&self, action: &str, arguments: Value) -> Result<Value> {
        self.client().ask("hive", json!({"action": action, "arguments": arguments}))
    }

    /// The names of a namespace's tables, in order; none when there is no such
    /// namespace.
    pub fn tables(&self, namespace: &str) -> Result<Option<Vec<String>>> {
        self.client().ask("tables", json!({"namespace": namespace}))
    }
}

fn jdbc_url(database: &Database) -> String {
    format!("jdbc:postgresql://127.0.0.1:{}/{}", database.server.port(), database.name)
}

/// The destination's namespace of a source schema, as the default names have it.
pub fn namespace_of(project: &Project, schema: &str) -> String {
    destination_name(&format!("postgres_{}_{schema}", project.database().name))
}
