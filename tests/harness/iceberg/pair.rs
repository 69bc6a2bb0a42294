//! Which catalogs and stores there are, and which go together.

use std::fmt;

/// Who knows a table's newest metadata file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Catalog {
    /// The JDBC catalog's tables in a file of SQLite.
    Sqlite,
    /// The JDBC catalog's tables in a database of PostgreSQL.
    Postgres,
    /// SeaweedFS's REST catalog, with OAuth2 client credentials.
    Rest,
    /// moto's Glue, as strict as AWS.
    Glue,
    /// A Hive metastore.
    Hive,
    /// Iceberg's own REST catalog, in Java, with no authentication.
    JavaRest,
}

/// Where a table's files lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Store {
    /// A directory, `file://`.
    Local,
    /// A bucket of SeaweedFS.
    S3,
}

/// A catalog with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    /// The catalog.
    pub catalog: Catalog,
    /// The store.
    pub store: Store,
}

impl Pair {
    /// Every pair there is. SeaweedFS's REST catalog keeps tables in its own
    /// buckets only.
    pub const ALL: [Pair; 11] = [
        Pair::new(Catalog::Sqlite, Store::Local),
        Pair::new(Catalog::Sqlite, Store::S3),
        Pair::new(Catalog::Postgres, Store::Local),
        Pair::new(Catalog::Postgres, Store::S3),
        Pair::new(Catalog::Rest, Store::S3),
        Pair::new(Catalog::Glue, Store::Local),
        Pair::new(Catalog::Glue, Store::S3),
        Pair::new(Catalog::Hive, Store::Local),
        Pair::new(Catalog::Hive, Store::S3),
        Pair::new(Catalog::JavaRest, Store::Local),
        Pair::new(Catalog::JavaRest, Store::S3),
    ];

    /// A pair.
    pub const fn new(catalog: Catalog, store: Store) -> Pair {
        Pair { catalog, store }
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} × {:?}", self.catalog, self.store)
    }
}
