//! Messages that hold secrets: Debug shows everything but them, and what is
//! hashed for identity does without them.

use std::fmt;

use crate::v1::destination::Kind;
use crate::v1::iceberg::Catalog;
use crate::v1::{
    Destination, JdbcCatalog, ReadChunkRequest, ReplicateTable, RestCatalog, S3, SourceConfig,
    SshConfig, Ssl,
};

const HIDDEN: &str = "…";

/// Shows whether a secret is set, never what it is.
fn hide(secret: &str) -> &'static str {
    if secret.is_empty() { "" } else { HIDDEN }
}

impl fmt::Debug for SourceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceConfig")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("database", &self.database)
            .field("username", &self.username)
            .field("password", &hide(&self.password))
            .field("jdbc_url_params", &self.jdbc_url_params.keys())
            .field("ssl", &self.ssl)
            .field("max_threads", &self.max_threads)
            .field("reader_batch_size", &self.reader_batch_size)
            .field("retry_count", &self.retry_count)
            .field("ssh_config", &self.ssh_config)
            .field("schemas", &self.schemas)
            .field("max_row_bytes", &self.max_row_bytes)
            .field("lock_timeout_ms", &self.lock_timeout_ms)
            .field("connect_timeout_ms", &self.connect_timeout_ms)
            .finish()
    }
}

impl fmt::Debug for Ssl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ssl")
            .field("mode", &self.mode())
            .field("server_ca", &hide(&self.server_ca))
            .field("client_cert", &hide(&self.client_cert))
            .field("client_key", &hide(&self.client_key))
            .finish()
    }
}

impl fmt::Debug for SshConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SshConfig")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("username", &self.username)
            .field("private_key", &hide(&self.private_key))
            .field("passphrase", &hide(&self.passphrase))
            .field("password", &hide(&self.password))
            .field("known_hosts", &self.known_hosts)
            .finish()
    }
}

impl fmt::Debug for ReadChunkRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadChunkRequest")
            .field("load_id", &self.load_id)
            .field("namespace", &self.namespace)
            .field("name", &self.name)
            .field("chunk_id", &self.chunk_id)
            .field("writer_address", &self.writer_address)
            .field("writer_token", &hide(&self.writer_token))
            .field("stage", &format_args!("{} bytes", self.stage.len()))
            .finish()
    }
}

impl fmt::Debug for ReplicateTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicateTable")
            .field("stream", &self.stream)
            .field("position", &self.position)
            .field("writer_address", &self.writer_address)
            .field("writer_token", &hide(&self.writer_token))
            .field("stage", &format_args!("{} bytes", self.stage.len()))
            .finish()
    }
}

impl fmt::Debug for JdbcCatalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JdbcCatalog")
            .field("url", &hide(&self.url))
            .field("username", &self.username)
            .field("password", &hide(&self.password))
            .field("catalog_name", &self.catalog_name)
            .finish()
    }
}

impl fmt::Debug for RestCatalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestCatalog")
            .field("url", &self.url)
            .field("warehouse", &self.warehouse)
            .field("token", &hide(&self.token))
            .field("credential", &hide(&self.credential))
            .field("oauth2_uri", &self.oauth2_uri)
            .field("scope", &self.scope)
            .field("signing", &self.signing)
            .finish()
    }
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3")
            .field("region", &self.region)
            .field("endpoint", &self.endpoint)
            .field("access_key", &hide(&self.access_key))
            .field("secret_key", &hide(&self.secret_key))
            .field("session_token", &hide(&self.session_token))
            .field("path_style", &self.path_style)
            .field("profile", &self.profile)
            .finish()
    }
}

impl Destination {
    /// The same place, whoever writes to it: a hash of it may be stored, and
    /// does not change with a password.
    pub fn without_credentials(&self) -> Destination {
        let mut destination = self.clone();
        match &mut destination.kind {
            Some(Kind::Iceberg(iceberg)) => {
                iceberg.s3.as_mut().map(S3::forget_credentials);
                match &mut iceberg.catalog {
                    Some(Catalog::Jdbc(jdbc)) => {
                        jdbc.username.clear();
                        jdbc.password.clear();
                        // Parameters may name a password; the database is before them.
                        let end = jdbc.url.find('?').unwrap_or(jdbc.url.len());
                        jdbc.url.truncate(end);
                    }
                    Some(Catalog::Rest(rest)) => {
                        rest.token.clear();
                        rest.credential.clear();
                        rest.oauth2_uri.clear();
                        rest.scope.clear();
                        rest.signing = None;
                    }
                    Some(Catalog::Glue(_) | Catalog::Hive(_)) | None => {}
                }
            }
            Some(Kind::Parquet(parquet)) => {
                parquet.s3.as_mut().map(S3::forget_credentials);
            }
            None => {}
        }
        destination
    }
}

impl S3 {
    fn forget_credentials(&mut self) {
        self.access_key.clear();
        self.secret_key.clear();
        self.session_token.clear();
        self.profile.clear();
    }
}

#[cfg(test)]
mod tests {
    use crate::v1::Iceberg;

    use super::*;

    #[test]
    fn no_secret_is_printed_by_debug() {
        let secret = || "hunter2".to_owned();
        let config = SourceConfig {
            password: secret(),
            jdbc_url_params: [("sslpassword".to_owned(), secret())].into(),
            ssl: Some(Ssl { client_key: secret(), ..Default::default() }),
            ssh_config: Some(SshConfig {
                password: secret(),
                passphrase: secret(),
                private_key: secret(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let chunk = ReadChunkRequest { writer_token: secret(), ..Default::default() };
        let table = ReplicateTable { writer_token: secret(), ..Default::default() };
        let jdbc = JdbcCatalog {
            url: "jdbc:postgresql://db/c?password=hunter2".to_owned(),
            password: secret(),
            ..Default::default()
        };
        let catalog = Some(Catalog::Jdbc(jdbc));
        let s3 = S3 {
            region: "eu-north-1".to_owned(),
            access_key: secret(),
            secret_key: secret(),
            session_token: secret(),
            ..Default::default()
        };
        let kind = Some(Kind::Iceberg(Iceberg { catalog, s3: Some(s3), ..Default::default() }));
        let destination = Destination { kind };
        let bare = destination.without_credentials();
        let Some(Kind::Iceberg(Iceberg { catalog: Some(Catalog::Jdbc(jdbc)), s3, .. })) = bare.kind
        else {
            panic!("another kind")
        };
        assert_eq!((jdbc.url.as_str(), jdbc.password.as_str()), ("jdbc:postgresql://db/c", ""));
        let region = "eu-north-1".to_owned();
        assert_eq!(s3, Some(S3 { region, ..Default::default() }));
        let url = "https://catalog/api".to_owned();
        let rest = RestCatalog { url, token: secret(), credential: secret(), ..Default::default() };
        let catalog = Some(Catalog::Rest(rest.clone()));
        let kind = Some(Kind::Iceberg(Iceberg { catalog, ..Default::default() }));
        let bare = Destination { kind }.without_credentials();
        let Some(Kind::Iceberg(Iceberg { catalog: Some(Catalog::Rest(bare)), .. })) = bare.kind
        else {
            panic!("another kind")
        };
        assert_eq!(bare, RestCatalog { url: rest.url.clone(), ..Default::default() });
        let shown = format!("{config:?} {chunk:?} {table:?} {destination:?} {rest:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains(HIDDEN));
    }
}
