//! Change capture into a bucket: changes are appended, and what they leave out is
//! read there.

use anyhow::{Context, Result, ensure};
use tests::bucket::Place;
use tests::follow;
use tests::moment;

#[test]
fn changes_are_appended_and_what_they_leave_out_is_the_tables() -> Result<()> {
    let project = follow::project(
        "changes_s3",
        "CREATE TABLE t (id int PRIMARY KEY, n int, v text);
         ALTER TABLE t ALTER v SET STORAGE EXTERNAL;
         INSERT INTO t SELECT i, i, repeat(i || 'v', 1500) FROM generate_series(1, 60) i",
    )?;
    let place = Place::new(&project)?;
    let streams = ["public.t"];
    project.sync()?;
    for sql in [
        "INSERT INTO t VALUES (100, 0, 'short'); DELETE FROM t WHERE id = 50",
        "UPDATE t SET n = n + 1 WHERE id < 20; UPDATE t SET v = repeat('new', 900) WHERE id = 3",
        "UPDATE t SET n = 8 WHERE id IN (3, 4, 100); UPDATE t SET id = 204 WHERE id = 4",
        "TRUNCATE t; INSERT INTO t VALUES (1, 1, repeat('after', 900))",
        "UPDATE t SET n = 2",
    ] {
        project.database().psql(sql)?;
        let outcome = project.sync()?;
        ensure!(!outcome.stderr.contains("loaded anew"), "{}", outcome.stderr);
        place.mirror(&project)?;
        follow::equals_source(&project, &streams).context(sql)?;
        // But for what is certified of them, nothing is left beside the tables.
        let left = moment::leftovers(&project);
        ensure!(left.iter().all(|path| path.extension().is_some_and(|e| e == "json")), "{left:?}");
        assert_eq!(place.uploads()?, [""; 0]);
    }
    Ok(())
}
