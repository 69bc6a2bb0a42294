//! Rows that neither memory nor a writer has room for yet: one temporary file
//! for all tables of a Replicate, gone with it.
//!
//! It fills only where one interval, which may be one transaction, has large
//! changes of more tables than may be with their writers at once.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::SourceError;

/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;

/// The file, made when it is first needed.
#[derive(Default)]
pub struct Spool(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    file: Option<Arc<File>>,
    end: u64,
}

/// Bytes of one table in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    start: u64,
    length: u64,
}

impl Spool {
    /// Writes bytes behind all others.
    pub async fn write(&self, bytes: Vec<u8>) -> Result<Extent, SourceError> {
        let length = bytes.len() as u64;
        let (file, start) = {
            let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let file = match &inner.file {
                Some(file) => file.clone(),
                None => Arc::new(tempfile::tempfile().map_err(failed)?),
            };
            inner.file = Some(file.clone());
            let start = inner.end;
            inner.end += length;
            (file, start)
        };
        blocking(move || file.write_all_at(&bytes, start)).await?;
        Ok(Extent { start, length })
    }

    /// The next bytes of an extent, and what is left of it.
    pub async fn read(&self, extent: Extent) -> Result<(Vec<u8>, Option<Extent>), SourceError> {
        let file = self.0.lock().unwrap_or_else(PoisonError::into_inner).file.clone();
        let file = file.ok_or_else(|| SourceError::Internal("a spool without file".to_owned()))?;
        let length = extent.length.min(READ_BYTES as u64);
        let start = extent.start;
        let bytes = blocking(move || {
            let mut bytes = vec![0; length as usize];
            file.read_exact_at(&mut bytes, start)?;
            Ok(bytes)
        });
        let rest = Extent { start: start + length, length: extent.length - length };
        Ok((bytes.await?, (rest.length > 0).then_some(rest)))
    }

    /// The interval is done: the file is emptied.
    pub fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Inner::default();
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, SourceError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(failed),
        Err(_) => Err(SourceError::Internal("a spool's thread was cut short".to_owned())),
    }
}

fn failed(error: io::Error) -> SourceError {
    let place = std::env::temp_dir();
    SourceError::Capture {
        what: format!("changes could not be put aside in {}: {error}", place.display()),
        remedy: "make room there, or set TMPDIR of source-svc to a place that has some".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_put_aside_comes_back_in_order() {
        let spool = Spool::default();
        let large: Vec<u8> = (0..READ_BYTES + 7).map(|at| at as u8).collect();
        let first = spool.write(large.clone()).await.unwrap();
        let second = spool.write(b"second".to_vec()).await.unwrap();
        let (bytes, rest) = spool.read(second).await.unwrap();
        assert_eq!((bytes.as_slice(), rest), (&b"second"[..], None));
        let (mut bytes, rest) = spool.read(first).await.unwrap();
        let (more, rest) = spool.read(rest.unwrap()).await.unwrap();
        bytes.extend(more);
        assert_eq!((bytes, rest), (large, None));
        spool.clear();
        assert!(spool.read(second).await.is_err());
    }
}
