//! What a catalog asks of a server, and what it makes of the answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::thread::JoinHandle;

use iceberg::spec::Transform;
use serde_json::{Value, json};

use super::changes::updates;
use super::*;
use crate::s3::fake::blocking;

/// A request as it came: "GET /v1/config", and its JSON.
type Asked = (String, Value);

/// A server that gives these answers, each to the next request, and tells what
/// it was asked.
struct Server {
    url: String,
    asked: JoinHandle<Vec<Asked>>,
}

fn serve(answers: Vec<(u16, Value)>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for (status, answer) in answers {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if head.is_empty() {
                    head = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
                }
                if line == "\r\n" {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            asked.push((head, serde_json::from_slice(&body).unwrap_or_default()));
            let answer = answer.to_string();
            write!(
                reader.get_mut(),
                "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{answer}",
                answer.len()
            )
            .unwrap();
        }
        asked
    });
    Server { url, asked }
}

impl Server {
    /// Does something with a catalog of this server; what came of it, and what
    /// was asked.
    fn does<T: Send + 'static>(
        self,
        warehouse: &str,
        work: impl FnOnce(&dyn Catalog) -> T + Send + 'static,
    ) -> (T, Vec<Asked>) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let rest = proto::v1::RestCatalog {
            url: self.url,
            warehouse: "my lake".into(),
            ..Default::default()
        };
        let iceberg = Iceberg { warehouse: warehouse.into(), ..Default::default() };
        let outcome = blocking(move || {
            let (catalog, _) = open(&rest, &iceberg, &name(), &Options::default()).unwrap();
            work(catalog.as_ref())
        });
        (outcome, self.asked.join().unwrap())
    }
}

fn name() -> TableName {
    TableName { namespace: "d".into(), name: "t".into() }
}

fn config() -> (u16, Value) {
    (200, json!({"defaults": {"prefix": "no"}, "overrides": {"prefix": "a%2Fb"}}))
}

fn error(status: u16, kind: &str) -> (u16, Value) {
    (status, json!({"error": {"message": "so it is", "type": kind, "code": status}}))
}

fn heads(asked: &[Asked]) -> Vec<&str> {
    asked.iter().map(|(head, _)| head.as_str()).collect()
}

/// A table without content, and one step from it.
fn table(location: &str) -> TableMetadata {
    sample(Some(location), &name()).unwrap()
}

fn described(metadata: &TableMetadata) -> (u16, Value) {
    (200, json!({"metadata-location": "file:///w/v1.metadata.json", "metadata": metadata}))
}

#[test]
fn a_list_is_read_page_by_page_below_the_prefix_of_the_warehouse() {
    let server = serve(vec![
        config(),
        (200, json!({"identifiers": [{"namespace": ["d"], "name": "u"}], "next-page-token": "2&"})),
        // Some fail for the moment.
        error(503, "ServiceUnavailable"),
        (200, json!({"identifiers": [{"namespace": ["d"], "name": "t"}]})),
    ]);
    let (listed, asked) = server.does("file:///w", |catalog| catalog.list("d").unwrap());
    assert_eq!(listed.iter().map(ToString::to_string).collect::<Vec<_>>(), ["d.t", "d.u"]);
    let second = "GET /v1/a%2Fb/namespaces/d/tables?pageToken=2%26";
    let expected =
        ["GET /v1/config?warehouse=my+lake", "GET /v1/a%2Fb/namespaces/d/tables", second, second];
    assert_eq!(heads(&asked), expected);
}

#[test]
fn a_swap_demands_all_that_it_was_derived_from() {
    let base = table("file:///w");
    let server = serve(vec![config(), (200, json!({}))]);
    let (swap, asked) = server.does("file:///w", move |catalog| {
        let loaded = Loaded { metadata: base.clone(), location: "x".into() };
        let next = Next { metadata: base, changes: Vec::new(), absent: vec!["tag".into()] };
        catalog.swap(&name(), Some(&loaded), &next).unwrap()
    });
    assert!(matches!(swap, Swap::Swapped));
    assert_eq!(asked[1].0, "POST /v1/a%2Fb/namespaces/d/tables/t");
    let demanded: Vec<_> = asked[1].1["requirements"].as_array().unwrap().to_vec();
    let refs = |name| json!({"type": "assert-ref-snapshot-id", "ref": name, "snapshot-id": null});
    assert!(demanded.contains(&refs("main")) && demanded.contains(&refs("tag")), "{demanded:?}");
    for kind in [
        "assert-table-uuid",
        "assert-current-schema-id",
        "assert-last-assigned-field-id",
        "assert-default-spec-id",
        "assert-last-assigned-partition-id",
    ] {
        assert!(demanded.iter().any(|one| one["type"] == kind), "{kind}: {demanded:?}");
    }
}

/// The base with its columns and its partitions by these.
fn changed(base: &TableMetadata, columns: &[&str], by: Option<&str>) -> Next {
    let field = |(at, name): (i32, &&str)| {
        Arc::new(NestedField::optional(at, *name, Type::Primitive(PrimitiveType::Int)))
    };
    let fields = (1..).zip(columns).map(field);
    let schema = Schema::builder().with_fields(fields).build().unwrap();
    let spec = UnboundPartitionSpec::builder();
    let spec = match by {
        Some(name) => spec.add_partition_field(1, name, Transform::Identity).unwrap(),
        None => spec,
    };
    let made = base.clone().into_builder(None).add_current_schema(schema).unwrap();
    let made = made.add_default_partition_spec(spec.build()).unwrap().build().unwrap();
    Next { metadata: made.metadata, changes: made.changes, absent: Vec::new() }
}

#[test]
fn a_schema_and_a_spec_that_the_table_has_are_not_added_again() {
    let actions = |base: &TableMetadata, next: &Next| {
        let updates = serde_json::to_value(updates(base, next)).unwrap();
        let one = |update: &Value| {
            let id = update.get("schema-id").or_else(|| update.get("spec-id"));
            (update["action"].as_str().unwrap().to_owned(), id.and_then(Value::as_i64))
        };
        updates.as_array().unwrap().iter().map(one).collect::<Vec<_>>()
    };
    let is = |action: &str, id| (action.to_owned(), id);
    let first = table("file:///w");
    let second = changed(&first, &["x", "y"], Some("x"));
    let expected = [
        is("add-schema", None),
        is("set-current-schema", Some(-1)),
        is("add-spec", None),
        is("set-default-spec", Some(-1)),
    ];
    assert_eq!(actions(&first, &second), expected);
    let third = changed(&second.metadata, &["x"], None);
    let expected = [is("set-current-schema", Some(0)), is("set-default-spec", Some(0))];
    assert_eq!(actions(&second.metadata, &third), expected);
    // And there again, by a schema that is new.
    let fourth = changed(&third.metadata, &["x", "z"], Some("x"));
    let expected = [
        is("add-schema", None),
        is("set-current-schema", Some(-1)),
        is("set-default-spec", Some(1)),
    ];
    assert_eq!(actions(&third.metadata, &fourth), expected);
}

#[test]
fn what_became_of_a_swap_is_told_by_the_answer() {
    let is = |answers: Vec<(u16, Value)>| {
        let answers = std::iter::once(config()).chain(answers).collect();
        let base = table("file:///w");
        let (outcome, _) = serve(answers).does("file:///w", move |catalog| {
            let location = "file:///w/v1.metadata.json".to_owned();
            let loaded = Loaded { metadata: base.clone(), location };
            let next = Next { metadata: base, changes: Vec::new(), absent: Vec::new() };
            catalog.swap(&name(), Some(&loaded), &next)
        });
        match outcome {
            Ok(Swap::Swapped) => "made",
            Ok(Swap::Conflict) => "conflict",
            Ok(Swap::Unknown(_)) => "unknown",
            Err(_) => "refused",
        }
    };
    assert_eq!(is(vec![error(409, "CommitFailedException")]), "conflict");
    for status in [500, 502, 503, 504] {
        assert_eq!(is(vec![error(status, "CommitStateUnknownException")]), "unknown", "{status}");
    }
    let same = || described(&table("file:///w"));
    for status in [400, 401, 403, 422] {
        assert_eq!(is(vec![error(status, "BadRequestException"), same()]), "refused", "{status}");
    }
    // Dropped in between, or changed.
    let gone = || error(404, "NoSuchTableException");
    assert_eq!(is(vec![gone(), gone()]), "conflict");
    let moved = (200, json!({"metadata-location": "x", "metadata": table("file:///w")}));
    assert_eq!(is(vec![error(400, "ValidationException"), moved]), "conflict");
}

#[test]
fn a_table_is_created_without_content_where_it_is_not_there_yet() {
    let created = |answers| {
        serve(answers).does("file:///w", |catalog| {
            assert!(catalog.places_tables());
            catalog.create_empty(&name(), &table("file:///w"))
        })
    };
    let (outcome, asked) = created(vec![
        config(),
        error(404, "NoSuchNamespaceException"),
        (200, json!({"namespace": ["d"]})),
        described(&table("file:///w")),
    ]);
    outcome.unwrap();
    let prefix = "/v1/a%2Fb/namespaces";
    let expected = [
        "GET /v1/config?warehouse=my+lake".to_owned(),
        format!("GET {prefix}/d"),
        format!("POST {prefix}"),
        format!("POST {prefix}/d/tables"),
    ];
    assert_eq!(heads(&asked), expected);
    let made = &asked[3].1;
    assert_eq!(made["location"], "file:///w/d/t");
    assert_eq!((&made["stage-create"], &made["name"]), (&json!(false), &json!("t")));
    assert_eq!(made["properties"]["format-version"], "2");

    // Of several that create it, one does.
    let namespace = (200, json!({"namespace": ["d"]}));
    created(vec![config(), namespace, error(409, "AlreadyExistsException")]).0.unwrap();
}

#[test]
fn what_a_catalog_cannot_do_is_said_before_it_is_asked() {
    let only = |endpoint: &str| (200, json!({"overrides": {}, "endpoints": [endpoint]}));
    let ready = |answers| {
        let (outcome, _) = serve(answers).does("file:///w", |catalog| catalog.make_ready(&name()));
        outcome.unwrap_err().to_string()
    };
    let said = ready(vec![only("GET /v1/{prefix}/namespaces")]);
    assert!(said.contains("takes no commits"), "{said}");
    let said = ready(vec![only(COMMITS), error(404, "NoSuchNamespaceException")]);
    assert!(said.contains("no namespace d and creates none"), "{said}");
}

#[test]
fn a_catalog_that_drops_tables_with_their_files_only_is_told_to() {
    let base = table("file:///w");
    let location = "file:///w/v1.metadata.json".to_owned();
    let purge = (400, json!({"error": {"message": "purge must be true", "type": "Bad"}}));
    let server = serve(vec![config(), described(&base), purge, (204, Value::Null)]);
    let (dropped, asked) = server.does("file:///w", move |catalog| {
        catalog.drop_table(&name(), &Loaded { metadata: base, location }).unwrap()
    });
    assert!(dropped);
    let path = "DELETE /v1/a%2Fb/namespaces/d/tables/t?purgeRequested";
    assert_eq!(heads(&asked)[2..], [format!("{path}=false"), format!("{path}=true")]);
}

#[test]
fn several_tables_are_swapped_in_one_request() {
    let change = || {
        let base = table("file:///w");
        let loaded = Loaded { metadata: base.clone(), location: "x".into() };
        let next = Next { metadata: base, changes: Vec::new(), absent: Vec::new() };
        TableChange::of(&name(), &loaded, &next)
    };
    // What became of them, and whether the catalog is believed to be able to.
    let swapped = move |answers: Vec<(u16, Value)>| {
        let answers = std::iter::once(config()).chain(answers).collect();
        serve(answers).does("file:///w", move |catalog| {
            assert!(catalog.swaps_together().unwrap(), "it does not say that it cannot");
            let made = match catalog.swap_all(&[&change(), &change()]) {
                Ok(Some(Swap::Swapped)) => "made",
                Ok(Some(Swap::Conflict)) => "conflict",
                Ok(Some(Swap::Unknown(_))) => "unknown",
                Ok(None) => "apart",
                Err(error) if error.is_transient() => "later",
                Err(_) => "refused",
            };
            (made, catalog.swaps_together().unwrap())
        })
    };
    let (made, asked) = swapped(vec![(204, Value::Null)]);
    assert_eq!(made, ("made", true));
    assert_eq!(asked[1].0, "POST /v1/a%2Fb/transactions/commit");
    let changes = asked[1].1["table-changes"].as_array().unwrap();
    assert_eq!(changes.len(), 2);
    assert_eq!(changes[0]["identifier"], json!({"namespace": ["d"], "name": "t"}));
    assert!(changes[0]["requirements"].as_array().is_some_and(|all| all.len() > 1));
    let is = |status, kind| swapped(vec![error(status, kind)]).0;
    assert_eq!(is(409, "CommitFailedException"), ("conflict", true));
    for status in [500, 502, 504] {
        assert_eq!(is(status, "CommitStateUnknownException"), ("unknown", true), "{status}");
    }
    assert_eq!(is(429, "SlowDownException"), ("later", true));
    // One of the tables is not there; then the endpoint.
    assert_eq!(is(404, "NoSuchTableException"), ("apart", true));
    assert_eq!(swapped(vec![(404, Value::Null)]).0, ("apart", false));
    for status in [400, 403, 405, 406, 501] {
        assert_eq!(is(status, "UnsupportedOperationException"), ("apart", false), "{status}");
    }
    let only = (200, json!({"overrides": {}, "endpoints": [COMMITS]}));
    let told = serve(vec![only]).does("file:///w", |catalog| catalog.swaps_together().unwrap());
    assert!(!told.0, "it says what it can");
}
