//! What Glue is asked, and what its answers come to.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Mutex;

use super::super::example::{comment, name, next};
use super::*;
use crate::iceberg::storage::LocalStorage;
use crate::s3::fake::blocking;

/// A Glue that gives the answers it was given: a status with JSON, or none at all.
struct Fake {
    address: String,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
}

type Answer = Option<(u16, Value)>;

fn refusal(code: &str) -> Answer {
    Some((400, json!({"__type": code, "Message": "so it is"})))
}

fn done() -> Answer {
    Some((200, json!({})))
}

impl Fake {
    fn answering(answers: Vec<Answer>) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::<Mutex<Vec<_>>>::default();
        let (told, mut answers) = (Arc::clone(&seen), VecDeque::from(answers));
        std::thread::spawn(move || {
            while !answers.is_empty() {
                let (stream, _) = listener.accept().unwrap();
                serve(&stream, &told, &mut answers);
            }
        });
        Fake { address, seen }
    }

    fn catalog(&self, root: &Path) -> GlueCatalog {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let glue = v1::GlueCatalog {
            endpoint: format!("http://{}", self.address),
            catalog_id: "123456789012".into(),
            archive: false,
        };
        let settings =
            S3 { access_key: "key".into(), secret_key: "secret".into(), ..Default::default() };
        let storage = Arc::new(LocalStorage::new(root.join("w")));
        GlueCatalog::new(&glue, &settings, storage).unwrap()
    }

    /// Calls since the last look, with what they asked.
    fn seen(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    fn actions(&self) -> Vec<String> {
        self.seen().into_iter().map(|(action, _)| action).collect()
    }
}

/// Answers the one request of a connection, unless it is to have no answer. (A
/// client that is told to close cannot wait on a connection that nobody reads.)
fn serve(stream: &TcpStream, told: &Mutex<Vec<(String, Value)>>, answers: &mut VecDeque<Answer>) {
    let mut reader = BufReader::new(stream);
    let (mut action, mut length, mut line) = (String::new(), 0, String::new());
    while reader.read_line(&mut line).unwrap_or(0) > 0 && line != "\r\n" {
        let (header, value) = line.trim().split_once(": ").unwrap_or_default();
        match header.to_ascii_lowercase().as_str() {
            "x-amz-target" => action = value.trim_start_matches("AWSGlue.").to_owned(),
            "content-length" => length = value.parse().unwrap(),
            _ => {}
        }
        line.clear();
    }
    if action.is_empty() {
        return;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    told.lock().unwrap().push((action, serde_json::from_slice(&body).unwrap()));
    let Some(Some((status, answer))) = answers.pop_front() else { return };
    let answer = answer.to_string();
    let length = answer.len();
    let head =
        format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    let mut stream = stream;
    stream.write_all((head + &answer).as_bytes()).unwrap();
}

/// A table as Glue describes it.
fn described(location: &str, version: &str) -> Value {
    json!({"Table": {
        "Name": "t", "DatabaseName": "ns", "Owner": "them", "Retention": 7, "CreatedBy": "them",
        "CreateTime": 1.5, "VersionId": version, "TableType": "EXTERNAL_TABLE",
        "PartitionKeys": [{"Name": "p", "Type": "int"}],
        "Parameters": {"table_type": "iceberg", "metadata_location": location, "theirs": "kept"},
        "StorageDescriptor": {
            "Columns": [{"Name": "id", "Type": "int", "Comment": "theirs"}],
            "SerdeInfo": {"Name": "theirs"},
            "AdditionalLocations": ["s3://b/theirs"],
        },
    }})
}

/// A catalog with a first version of the table, whose metadata file is there.
fn with_a_table(root: &Path, more: Vec<Answer>) -> (Fake, GlueCatalog, Loaded) {
    let first = Fake::answering(vec![done()]);
    let made = first.catalog(root).swap(&name("t"), None, &next(root, None, "first")).unwrap();
    assert!(matches!(made, Swap::Swapped));
    let location = first.seen()[0].1["TableInput"]["Parameters"]["metadata_location"].clone();
    let base = described(location.as_str().unwrap(), "4");
    let loaded = Some((200, base.clone()));
    let again = Some((200, base));
    let fake = Fake::answering([vec![loaded, again], more].concat());
    let catalog = fake.catalog(root);
    let base = catalog.load(&name("t")).unwrap().unwrap();
    fake.seen();
    (fake, catalog, base)
}

fn metadata_files(root: &Path) -> usize {
    std::fs::read_dir(root.join("w/ns/t/metadata")).unwrap().count()
}

/// Runs a test as the writer runs a call, in a directory of its own.
fn in_a_directory(test: impl FnOnce(&Path) + Send + 'static) {
    blocking(|| test(tempfile::tempdir().unwrap().path()));
}

#[test]
fn a_table_is_created_with_its_database_if_need_be() {
    in_a_directory(|root| {
        let answers = vec![refusal("EntityNotFoundException"), done(), done()];
        let fake = Fake::answering(answers);
        let swap = fake.catalog(root).swap(&name("t"), None, &next(root, None, "first")).unwrap();
        assert!(matches!(swap, Swap::Swapped));
        let seen = fake.seen();
        let actions: Vec<&str> = seen.iter().map(|(action, _)| action.as_str()).collect();
        assert_eq!(actions, ["CreateTable", "CreateDatabase", "CreateTable"]);
        assert_eq!(seen[1].1["DatabaseInput"]["Name"], "ns");
        let input = &seen[2].1["TableInput"];
        assert_eq!(seen[2].1["CatalogId"], "123456789012");
        assert_eq!(input["TableType"], "EXTERNAL_TABLE");
        assert_eq!(input["Parameters"]["table_type"], "ICEBERG");
        let storage = &input["StorageDescriptor"];
        assert_eq!(storage["Location"], format!("file://{}/w/ns/t", root.display()));
        let column = json!({"Name": "id", "Type": "bigint", "Parameters": {
            "iceberg.field.id": "1", "iceberg.field.optional": "false",
            "iceberg.field.current": "true"}});
        assert_eq!(storage["Columns"], json!([column]));
    });
}

#[test]
fn an_update_names_its_version_and_keeps_what_is_not_ours() {
    in_a_directory(|root| {
        let (fake, catalog, base) = with_a_table(root, vec![done()]);
        assert_eq!(comment(&base), "first");
        let swap =
            catalog.swap(&name("t"), Some(&base), &next(root, Some(&base), "second")).unwrap();
        assert!(matches!(swap, Swap::Swapped));
        let (_, request) = fake.seen().pop().unwrap();
        assert_eq!((&request["VersionId"], &request["SkipArchive"]), (&json!("4"), &json!(true)));
        let input = &request["TableInput"];
        assert_eq!((&input["Owner"], &input["Retention"]), (&json!("them"), &json!(7)));
        assert_eq!(input["PartitionKeys"][0]["Name"], "p");
        for own in ["CreatedBy", "CreateTime", "VersionId", "DatabaseName"] {
            assert!(input[own].is_null(), "{own} is Glue's own");
        }
        let parameters = &input["Parameters"];
        assert_eq!(parameters["theirs"], "kept");
        assert_eq!(parameters["previous_metadata_location"], base.location);
        assert!(parameters["metadata_location"].as_str().unwrap().contains("/metadata/00001-"));
        let storage = &input["StorageDescriptor"];
        assert_eq!(storage["SerdeInfo"]["Name"], "theirs");
        assert_eq!(storage["AdditionalLocations"][0], "s3://b/theirs");
        let column = &storage["Columns"][0];
        assert_eq!((&column["Type"], &column["Comment"]), (&json!("bigint"), &json!("theirs")));
    });
}

#[test]
fn a_base_that_is_no_longer_current_is_a_conflict_and_leaves_nothing() {
    in_a_directory(|root| {
        let refused = refusal("ConcurrentModificationException");
        let moved = Some((200, described("file:///elsewhere/00009-x.metadata.json", "9")));
        let (fake, catalog, base) = with_a_table(root, vec![refused, None, moved]);
        let swap = catalog.swap(&name("t"), Some(&base), &next(root, Some(&base), "second"));
        assert!(matches!(swap, Ok(Swap::Conflict)), "{swap:?}");
        assert_eq!(fake.actions()[..2], ["GetTable", "UpdateTable"]);
        // What it is now could not be read, so the file may be referred to.
        assert_eq!(metadata_files(root), 2);

        let fake = Fake::answering(vec![
            refusal("AlreadyExistsException"),
            refusal("EntityNotFoundException"),
        ]);
        let swap = fake.catalog(root).swap(&name("t"), None, &next(root, None, "another"));
        assert!(matches!(swap, Ok(Swap::Conflict)), "{swap:?}");
        assert_eq!(metadata_files(root), 2);
    });
}

#[test]
fn a_swap_without_an_answer_is_unknown_and_not_repeated() {
    in_a_directory(|root| {
        for answer in [
            None,
            Some((500, json!({"__type": "InternalServiceException"}))),
            refusal("OperationTimeoutException"),
            Some((504, json!("no JSON of Glue"))),
        ] {
            let (fake, catalog, base) = with_a_table(root, vec![answer, done()]);
            let before = metadata_files(root);
            let swap = catalog.swap(&name("t"), Some(&base), &next(root, Some(&base), "second"));
            let Ok(Swap::Unknown(error)) = swap else { panic!("{swap:?}") };
            assert!(error.to_string().contains(&fake.address), "{error}");
            assert_eq!(fake.actions(), ["GetTable", "UpdateTable"]);
            assert_eq!(metadata_files(root), before + 1, "it may be referred to");
        }
    });
}

#[test]
fn a_refused_swap_is_an_error_and_leaves_nothing() {
    in_a_directory(|root| {
        let denied = refusal("AccessDeniedException");
        let (_fake, catalog, base) = with_a_table(root, vec![denied]);
        let swap = catalog.swap(&name("t"), Some(&base), &next(root, Some(&base), "second"));
        let fault = proto::Fault::from(swap.unwrap_err());
        assert!(fault.message.contains("AccessDeniedException: so it is"), "{fault}");
        assert!(fault.remedy.contains("glue:UpdateTable") && !fault.transient, "{fault}");
        assert_eq!(metadata_files(root), 1);

        let late = json!({"__type": "InvalidSignatureException",
            "message": "Signature expired: 20261125T100000Z is now earlier than 20261125T101500Z"});
        let catalog = Fake::answering(vec![Some((400, late))]).catalog(root);
        let fault = proto::Fault::from(catalog.load(&name("t")).unwrap_err());
        assert!(fault.message.contains("Signature expired"), "{fault}");
        assert!(fault.remedy.contains("set the clock"), "{fault}");
    });
}

#[test]
fn what_is_throttled_is_repeated_and_so_is_a_look_without_an_answer() {
    in_a_directory(|root| {
        let busy = || refusal("ThrottlingException");
        let (fake, catalog, base) = with_a_table(root, vec![busy(), done()]);
        let swap =
            catalog.swap(&name("t"), Some(&base), &next(root, Some(&base), "second")).unwrap();
        assert!(matches!(swap, Swap::Swapped));
        assert_eq!(fake.actions(), ["GetTable", "UpdateTable", "UpdateTable"]);

        let fake = Fake::answering(vec![None, refusal("EntityNotFoundException")]);
        assert!(fake.catalog(root).load(&name("t")).unwrap().is_none());
        assert_eq!(fake.actions(), ["GetTable", "GetTable"]);
    });
}

#[test]
fn what_is_no_iceberg_table_is_refused_and_not_listed() {
    in_a_directory(|root| {
        let hive = json!({"Name": "t", "TableType": "EXTERNAL_TABLE", "VersionId": "0",
            "Parameters": {"classification": "parquet"}});
        let page = |token: Value, names: &[&str]| {
            let iceberg =
                |name: &&str| json!({"Name": name, "Parameters": {"table_type": "ICEBERG"}});
            let mut tables: Vec<Value> = names.iter().map(iceberg).collect();
            tables.push(hive.clone());
            Some((200, json!({"TableList": tables, "NextToken": token})))
        };
        let fake = Fake::answering(vec![
            Some((200, json!({"Table": hive}))),
            page(json!("more"), &["b"]),
            page(Value::Null, &["a"]),
        ]);
        let catalog = fake.catalog(root);
        let said = catalog.load(&name("t")).unwrap_err().to_string();
        assert!(said.contains("ns.t that is no Iceberg table (EXTERNAL_TABLE)"), "{said}");
        assert_eq!(catalog.list("ns").unwrap(), [name("a"), name("b")]);
        assert_eq!(fake.seen()[2].1["NextToken"], "more");
    });
}

#[test]
fn a_drop_is_of_the_table_that_was_read() {
    in_a_directory(|root| {
        let (fake, catalog, base) = with_a_table(root, vec![done()]);
        assert!(catalog.drop_table(&name("t"), &base).unwrap());
        assert_eq!(fake.actions(), ["GetTable", "DeleteTable"]);

        let gone = vec![None, refusal("EntityNotFoundException")];
        let (_fake, catalog, base) = with_a_table(root, gone);
        assert!(catalog.drop_table(&name("t"), &base).unwrap(), "nobody else has dropped it");

        let other = Some((200, described("file:///elsewhere/00009-x.metadata.json", "9")));
        let fake = Fake::answering(vec![other]);
        assert!(!fake.catalog(root).drop_table(&name("t"), &base).unwrap());
        assert_eq!(fake.actions(), ["GetTable"]);
    });
}
