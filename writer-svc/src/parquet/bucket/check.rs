//! Whether a bucket can be written, tried for real: every kind of step that a
//! commit takes, on objects of its own that are removed again.

use std::io::Write;
use std::sync::Arc;

use proto::v1::Parquet;
use uuid::Uuid;

use crate::Options;
use crate::error::WriterError;
use crate::s3::Bucket;
use crate::s3::bucket::{Condition, Pending};
use crate::s3::upload::Parts;
use crate::stage::Sink;

/// What is written.
const CONTENT: &[u8] = b"tidewater";

/// Tries, and leaves nothing behind.
pub fn check(parquet: &Parquet, options: &Options) -> Result<(), WriterError> {
    let (bucket, location) = super::open(parquet, options)?;
    try_steps(&bucket, &location)
}

fn try_steps(bucket: &Bucket, location: &str) -> Result<(), WriterError> {
    let probe = format!("{location}/.tidewater-check-{}", Uuid::new_v4().simple());
    let (record, file) = (format!("{probe}/record"), format!("{probe}/file"));
    let outcome = conditions(bucket, &record).and_then(|()| uploads(bucket, &file));
    let found = outcome.and_then(|()| bucket.walk(&probe));
    let removed = bucket.delete(&record).and(bucket.delete(&file));
    let found = found?;
    removed?;
    match found == ["file", "record"] {
        true => Ok(()),
        false => Err(unlike(format!("of two objects in {probe} it lists {found:?}"))),
    }
}

/// A store that takes every put would let two commits of a table lose one of
/// them.
fn conditions(bucket: &Bucket, at: &str) -> Result<(), WriterError> {
    let first = bucket.write_if(at, CONTENT, Condition::Absent)?;
    let tag = bucket.read(at)?.and_then(|object| object.tag);
    let again = bucket.write_if(at, b"other", Condition::Absent)?;
    let of_tag = match &tag {
        Some(tag) => bucket.write_if(at, b"more", Condition::Is(tag))?,
        None => false,
    };
    let outdated = match &tag {
        Some(tag) => bucket.write_if(at, b"other", Condition::Is(tag))?,
        None => true,
    };
    match (first && of_tag, again || outdated) {
        (true, false) => Ok(()),
        _ => Err(unlike("it does not keep the conditions of a put (If-None-Match, If-Match)")),
    }
}

fn uploads(bucket: &Bucket, at: &str) -> Result<(), WriterError> {
    let given_up = bucket.begin(at)?;
    bucket.abort(at, &given_up)?;
    let (parts, upload) = (Parts::default(), bucket.begin(at)?);
    let mut sink = bucket.create(at)?.held(upload.clone(), Arc::clone(&parts));
    sink.write_all(CONTENT).map_err(WriterError::io("writing", at))?;
    let bytes = sink.finish()?;
    let seen = bucket.size(at)?.is_some();
    let parts = parts.get().cloned().unwrap_or_default();
    let pending = Pending { location: at.to_owned(), upload: &upload, parts: &parts, bytes };
    let completed = bucket.complete(&pending);
    if !matches!(completed, Ok(true)) {
        bucket.abort(at, &upload)?;
    }
    match !seen && completed? && bucket.size(at)? == Some(bytes) {
        true => Ok(()),
        false => Err(unlike("an upload in parts does not become an object when it is completed")),
    }
}

fn unlike(problem: impl Into<String>) -> WriterError {
    WriterError::invalid_table(
        format!("the S3 store cannot hold tables of Parquet files: {}", problem.into()),
        "use a store that knows multipart uploads and conditional writes, as AWS and recent \
         releases of other stores do; or write Iceberg tables, which need neither",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::fake::{Fake, blocking};

    #[test]
    fn a_check_leaves_nothing_behind() {
        blocking(|| {
            let fake = Arc::<Fake>::default();
            let bucket = fake.bucket();
            try_steps(&bucket, "s3://lake/in").unwrap();
            assert_eq!(bucket.walk("s3://lake").unwrap(), [""; 0]);
            fake.failing.lock().unwrap().push("complete");
            assert!(try_steps(&bucket, "s3://lake/in").is_err());
            assert_eq!(fake.keys_of("begun").len(), 4);
            assert_eq!(fake.keys_of("aborted").len(), 3);
            assert_eq!(bucket.walk("s3://lake").unwrap(), [""; 0]);
        });
    }
}
