use source_svc::{config::Config, connect::Session, relation, check, discover, sql::quote_ident};
fn cfg() -> Config {
    let mut w = proto::v1::SourceConfig::default();
    w.host = std::env::var("H").unwrap_or("127.0.0.1".into());
    w.port = std::env::var("P").unwrap_or("55431".into()).parse().unwrap();
    w.database = std::env::var("D").unwrap_or("postgres".into());
    w.username = std::env::var("U").unwrap_or("postgres".into());
    w.password = std::env::var("W").unwrap_or_default();
    if let Ok(o) = std::env::var("PARAMS") { for kv in o.split(',') { let (k,v)=kv.split_once('=').unwrap(); w.jdbc_url_params.insert(k.into(), v.into()); } }
    if let Ok(m) = std::env::var("SSL") {
        let read = |k: &str| std::env::var(k).ok().map(|p| std::fs::read_to_string(p).unwrap()).unwrap_or_default();
        w.ssl = Some(proto::v1::Ssl { mode: m.parse().unwrap(), server_ca: read("CA"), client_cert: read("CERT"), client_key: read("KEY") });
    }
    if let Ok(h) = std::env::var("SSH") {
        let read = |k: &str| std::env::var(k).ok().map(|p| std::fs::read_to_string(p).unwrap()).unwrap_or_default();
        let (h,p) = h.split_once(':').unwrap();
        w.ssh_config = Some(proto::v1::SshConfig { host: h.into(), port: p.parse().unwrap(), username: std::env::var("SSHU").unwrap_or("root".into()), private_key: read("SSHKEY"), passphrase: std::env::var("SSHPASS").unwrap_or_default(), password: std::env::var("SSHPW").unwrap_or_default(), known_hosts: read("KH") });
    }
    if let Ok(s) = std::env::var("SCHEMAS") { w.schemas = s.split(',').map(|s| s.to_string()).collect(); }
    w.retry_count = std::env::var("R").unwrap_or("3".into()).parse().unwrap();
    match Config::try_from(w) { Ok(c) => c, Err(e) => { println!("FAULT {:?}\n{}", e.to_fault().code, e.to_fault()); std::process::exit(1) } }
}
fn bail<T>(r: Result<T, source_svc::error::SourceError>) -> T { match r { Ok(v) => v, Err(e) => { let f = e.to_fault(); println!("FAULT {:?} transient={}\n{}", f.code, f.transient, f); std::process::exit(1) } } }
#[tokio::main]
async fn main() {
    let what = std::env::args().nth(1).unwrap();
    let c = cfg();
    let t = std::time::Instant::now();
    match &*what {
        "check" => { let r = check::check(&c).await; println!("in {:?}", t.elapsed()); println!("{:#?}", bail(r)) }
        "discover" => {
            let r = bail(discover::discover(&c, 0).await);
            println!("{:#?} {:?}", r.notices, t.elapsed());
            for rel in r.relations {
                println!("{}.{} {:?} pk={:?} cur={:?} est={}", rel.namespace, rel.name, rel.kind(), rel.primary_key, rel.cursor_fields, rel.estimated_rows);
                for col in rel.columns { println!("    {} {} | {} | {} {}", col.attnum, col.name, col.r#type, col.postgres_type, col.not_null) }
            }
        }
        "types" => {
            let s = bail(Session::open(&c, "x").await);
            let mut bad = 0; let mut n = 0;
            for rel in bail(relation::list(&s, &c.schemas).await) {
                if !rel.readable { continue }
                for col in &rel.columns {
                    let q = quote_ident(&col.name);
                    let e = col.column_type.select_expression(&q);
                    if !col.column_type.as_text { 
                        // binary copy must work
                        println!("  native {} {} {:?}", col.name, col.postgres_type, col.column_type.wire); continue }
                    let sql = format!("SELECT {q}, {e} FROM {}", rel.qualified());
                    let rows = match s.simple_query(&sql).await { Ok(r) => r, Err(er) => { println!("ERR {} {}: {:?}\n{sql}", rel.label(), col.name, er); bad += 1; continue } };
                    let mut k = 0;
                    for m in rows { if let tokio_postgres::SimpleQueryMessage::Row(r) = m { n += 1; k += 1;
                        if r.get(0) != r.get(1) { bad += 1; println!("DIFF {}.{} {} : {:?} vs {:?}", rel.label(), col.name, col.postgres_type, r.get(0), r.get(1)); } } }
                    println!("  text {} {} {:?} rows {k}", col.name, col.postgres_type, col.column_type.wire);
                }
            }
            println!("compared {n} bad {bad}");
        }
        "drop" => {
            use futures::StreamExt;
            let w = bail(Session::open(&c, "watch").await);
            let q = std::env::args().nth(2).unwrap();
            let s = bail(Session::open(&c, "victim").await);
            println!("version {}", s.server_version_num());
            let mut st = Box::pin(bail(s.copy_out(&*q).await.map_err(source_svc::error::SourceError::postgres("copy"))));
            let mut got = 0; for _ in 0..10 { if let Ok(Some(Ok(b))) = tokio::time::timeout(std::time::Duration::from_secs(1), st.next()).await { got += b.len(); } }
            println!("got {got}");
            let t = std::time::Instant::now();
            drop(st); drop(s);
            loop {
                let r = w.query_one("select count(*) from pg_stat_activity where application_name='victim'", &[]).await.unwrap();
                if r.get::<_, i64>(0) == 0 { println!("gone after {:?}", t.elapsed()); break }
                if t.elapsed().as_secs() > 20 { println!("STILL THERE"); break }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            w.close().await;
        }
        "settings" => {
            let s = bail(Session::open(&c, "x").await);
            for m in s.simple_query("select name||'='||setting from pg_settings where source='client' or name in ('search_path','row_security','client_encoding') order by 1").await.unwrap() { if let tokio_postgres::SimpleQueryMessage::Row(r) = m { println!("{}", r.get(0).unwrap()) } }
            for m in s.simple_query("select ssl, version, cipher from pg_stat_ssl where pid=pg_backend_pid()").await.unwrap() { if let tokio_postgres::SimpleQueryMessage::Row(r) = m { println!("ssl {:?} {:?} {:?}", r.get(0), r.get(1), r.get(2)) } }
        }
        _ => panic!(),
    }
}
