use super::*;
use crate::capture::table::tests::table as plain;

fn table(name: &str, publishable: bool, kind: Kind) -> Table {
    let mut table = Table { publishable, ..plain(name) };
    table.stream.relation.kind = kind;
    table
}

fn found(tables: &[&str]) -> Found {
    let covered = |name: &&str| {
        let columns = Some(vec!["a".to_owned(), "b".to_owned()]);
        (("public".to_owned(), (*name).to_owned()), Covered { columns, row_filter: false })
    };
    Found {
        publishes: [true; 4],
        via_root: true,
        stored: false,
        tables: tables.iter().map(covered).collect(),
    }
}

#[test]
fn a_table_without_identity_never_makes_its_users_updates_fail() {
    let tables = [table("orders", true, Kind::Table), table("log", false, Kind::Table)];
    let names = Names::new("", "1s").unwrap();
    let lacks = lacks(&Publications::default(), &names, &tables);
    assert_eq!(
        lacks.statements,
        [
            "CREATE PUBLICATION \"tidewater_1s\" FOR TABLE ONLY \"public\".\"orders\" \
             WITH (publish_via_partition_root = true)",
            "CREATE PUBLICATION \"tidewater_1s_insert\" FOR TABLE ONLY \"public\".\"log\" \
             WITH (publish_via_partition_root = true, publish = 'insert, truncate')",
        ]
    );
    assert_eq!(names.option(true), "\"tidewater_1s\",\"tidewater_1s_insert\"");
}

#[test]
fn a_table_that_has_lost_its_identity_goes_from_one_to_the_other_at_once() {
    let tables = [table("orders", true, Kind::Table), table("lost", false, Kind::Table)];
    let all = Some(found(&["orders", "lost"]));
    let there = Publications { all: all.clone(), insert: Some(found(&[])) };
    let out = "ALTER PUBLICATION \"tidewater_s\" DROP TABLE ONLY \"public\".\"lost\"";
    let into = "ALTER PUBLICATION \"tidewater_s_insert\" ADD TABLE ONLY \"public\".\"lost\"";
    let ours = lacks(&there, &Names::new("", "s").unwrap(), &tables);
    assert_eq!(ours.statements, [out, into]);
    assert_eq!(ours.adds.len(), 1);
    assert_eq!(ours.adds[0].statement, format!("{out}; {into}"));
    // It has been there before.
    let there = Publications { all: all.clone(), insert: Some(found(&["lost"])) };
    let ours = lacks(&there, &Names::new("", "s").unwrap(), &tables);
    assert_eq!((ours.statements.as_slice(), ours.adds.len()), (&[out.to_owned()][..], 1));
    // One of the user's own is theirs to change.
    let users = lacks(&there, &Names::new("users", "s").unwrap(), &tables);
    assert!(users.statements.is_empty());
    assert!(users.of_tables[0].1.contains("DROP TABLE ONLY \"public\".\"lost\""), "{users:?}");
}

#[test]
fn a_users_publication_is_not_changed_and_ours_is() {
    let tables = [table("orders", true, Kind::Table), table("more", true, Kind::Table)];
    let there = Publications { all: Some(found(&["orders"])), insert: Some(found(&[])) };
    let add = "ALTER PUBLICATION \"tidewater_s\" ADD TABLE ONLY \"public\".\"more\"";
    let ours = lacks(&there, &Names::new("", "s").unwrap(), &tables);
    assert_eq!((ours.statements, ours.faults.len()), (vec![add.to_owned()], 0));
    let users = lacks(&there, &Names::new("users", "s").unwrap(), &tables);
    assert!(users.statements.is_empty());
    let (of, fault) = &users.of_tables[0];
    assert_eq!(of.1, "more");
    assert!(fault.contains("ADD TABLE ONLY \"public\".\"more\""), "{users:?}");
}

#[test]
fn what_a_publication_keeps_from_us_is_a_fault() {
    let faults = |change: &dyn Fn(&mut Found), kind| {
        let mut all = found(&["orders"]);
        change(&mut all);
        let there = Publications { all: Some(all), insert: Some(found(&[])) };
        let tables = [table("orders", true, kind)];
        let lacks = lacks(&there, &Names::new("", "s").unwrap(), &tables);
        let of_tables = lacks.of_tables.into_iter().map(|(_, fault)| fault);
        lacks.faults.into_iter().chain(of_tables).collect::<Vec<_>>().join("; ")
    };
    let key = ("public".to_owned(), "orders".to_owned());
    assert_eq!(faults(&|_| {}, Kind::PartitionedTable), "");
    assert!(faults(&|all| all.publishes[1] = false, Kind::Table).contains("SET (publish ="));
    let leaves = |all: &mut Found| {
        all.via_root = false;
        all.tables.clear();
    };
    assert!(faults(&leaves, Kind::PartitionedTable).contains("publish_via_partition_root"));
    let filtered = |all: &mut Found| all.tables.get_mut(&key).unwrap().row_filter = true;
    assert!(faults(&filtered, Kind::Table).contains("filters the rows"));
    let listed = |all: &mut Found| {
        all.tables.get_mut(&key).unwrap().columns = Some(vec!["a".to_owned()]);
    };
    assert!(faults(&listed, Kind::Table).contains("without b"));
}

#[test]
fn a_name_that_postgresql_would_cut_is_refused() {
    assert!(Names::new(&"p".repeat(56), "s").is_ok());
    assert!(Names::new(&"p".repeat(57), "s").is_err());
}
