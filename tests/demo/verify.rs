//! The same questions to PostgreSQL and to DuckDB, answers compared.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use tests::postgres::Server;

/// What is asked, PostgreSQL's way and DuckDB's way: every table's rows, and
/// sums that go wrong with the first lost digit.
const QUESTIONS: [(&str, &str, &str); 9] = [
    ("customers", "SELECT count(*) FROM customers", "SELECT count(*) FROM {customers}"),
    ("products", "SELECT count(*) FROM products", "SELECT count(*) FROM {products}"),
    ("orders", "SELECT count(*) FROM orders", "SELECT count(*) FROM {orders}"),
    ("order_items", "SELECT count(*) FROM order_items", "SELECT count(*) FROM {order_items}"),
    ("visits", "SELECT count(*) FROM visits", "SELECT count(*) FROM {visits}"),
    ("trips", "SELECT count(*) FROM trips", "SELECT count(*) FROM {trips}"),
    (
        "revenue of orders in March 2025",
        "SELECT sum(quantity * unit_price) FROM order_items JOIN orders ON id = order_id
         WHERE ordered_at >= '2025-03-01 00:00:00+00' AND ordered_at < '2025-04-01 00:00:00+00'",
        "SELECT sum(quantity * unit_price) FROM {order_items} JOIN {orders} ON id = order_id
         WHERE ordered_at >= '2025-03-01 00:00:00+00'::timestamptz AND ordered_at < '2025-04-01 00:00:00+00'::timestamptz",
    ),
    (
        "tips on the ten busiest routes",
        "SELECT sum(tips) FROM (SELECT sum(tip) AS tips FROM trips GROUP BY pickup_zone, dropoff_zone
         ORDER BY count(*) DESC, pickup_zone, dropoff_zone LIMIT 10) AS busiest",
        "SELECT sum(tips) FROM (SELECT sum(tip) AS tips FROM {trips} GROUP BY pickup_zone, dropoff_zone
         ORDER BY count(*) DESC, pickup_zone, dropoff_zone LIMIT 10) AS busiest",
    ),
    (
        "products tagged 'sale'",
        "SELECT count(*) FROM products WHERE 'sale' = ANY (tags)",
        "SELECT count(*) FROM {products} WHERE list_contains(tags, 'sale')",
    ),
];

/// Asks both, prints a table; an error when any answer differs.
pub fn verify(server: &Server, database: &str, tables: &Path) -> Result<()> {
    let theirs = ask_duckdb(tables)?;
    let mut differences = 0;
    println!("  {:<34}{:>14}{:>14}", "", "PostgreSQL", "DuckDB");
    for (name, question, _) in QUESTIONS {
        let ours = server.psql(database, question)?;
        let answer = theirs.get(name).map_or("nothing", String::as_str);
        let mark = if ours == answer { "✓" } else { "✗" };
        differences += usize::from(ours != answer);
        println!("  {name:<34}{ours:>14}{answer:>14}  {mark}");
    }
    ensure!(differences == 0, "{differences} of the answers differ");
    Ok(())
}

fn ask_duckdb(tables: &Path) -> Result<BTreeMap<String, String>> {
    let questions: BTreeMap<_, _> = QUESTIONS.iter().map(|(name, _, sql)| (name, sql)).collect();
    let mut python = Command::new(tests::parts::python()?)
        .args(["-c", include_str!("verify.py")])
        .arg(tables)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting Python")?;
    let mut stdin = python.stdin.take().context("Python without stdin")?;
    stdin.write_all(serde_json::to_string(&questions)?.as_bytes())?;
    drop(stdin);
    let output = python.wait_with_output()?;
    ensure!(output.status.success(), "DuckDB could not read {}", tables.display());
    Ok(serde_json::from_slice(&output.stdout)?)
}
