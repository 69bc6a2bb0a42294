//! The storage of a table whose catalog says where it lies and how it is
//! reached.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use proto::v1::Iceberg;
use tokio::runtime::Handle;

use super::lending::Lending;
use crate::Options;
use crate::error::WriterError;
use crate::iceberg::storage::{self, Storage};
use crate::s3::bucket::Below;
use crate::s3::{self, Bucket, Names, Uploads};
use crate::stage::Sink;
use crate::target::file_bytes;

/// A storage that is opened when the first location is known.
pub struct LentStorage {
    lending: Arc<Lending>,
    iceberg: Iceberg,
    options: Options,
    handle: Handle,
    open: Mutex<Option<Arc<dyn Storage>>>,
}

impl LentStorage {
    /// With what `iceberg` says of the store. Must be called within a runtime.
    pub fn new(
        lending: Arc<Lending>,
        iceberg: &Iceberg,
        options: &Options,
    ) -> Result<Self, WriterError> {
        let handle = Handle::try_current()
            .map_err(|e| WriterError::Internal(format!("a REST catalog needs a runtime: {e}")))?;
        let (iceberg, options) = (iceberg.clone(), options.clone());
        Ok(LentStorage { lending, iceberg, options, handle, open: Mutex::default() })
    }

    /// The storage that this location is in.
    fn at(&self, location: &str) -> Result<Arc<dyn Storage>, WriterError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &*open {
            return Ok(Arc::clone(open));
        }
        let storage: Arc<dyn Storage> = match s3::split(location) {
            Some(_) => Arc::new(self.bucket(location)?),
            None => {
                let iceberg = Iceberg { warehouse: location.to_owned(), ..self.iceberg.clone() };
                storage::open(&iceberg, &self.options)?
            }
        };
        Ok(Arc::clone(open.insert(storage)))
    }

    fn bucket(&self, location: &str) -> Result<Bucket, WriterError> {
        let loan = self
            .handle
            .block_on(self.lending.loan(location))
            .map_err(|failure| failure.doing(format!("asking for the way to {location}")))?;
        let own = self.iceberg.s3.clone().unwrap_or_default();
        let (store, names) = (loan.over(&own), &Names::ICEBERG);
        let uploads = Uploads::of(&self.options, file_bytes(self.iceberg.max_file_size_mb));
        match loan.has_keys() && own.access_key.is_empty() && own.profile.is_empty() {
            true => {
                let lender = Arc::clone(&self.lending) as Arc<dyn s3::Lender>;
                Bucket::lent(location, &store, names, uploads, lender)
            }
            false => Bucket::new(location, &store, names, uploads),
        }
    }
}

impl Storage for LentStorage {
    fn read(&self, location: &str) -> Result<Option<Bytes>, WriterError> {
        self.at(location)?.read(location)
    }

    fn read_range(&self, location: &str, range: Range<u64>) -> Result<Option<Bytes>, WriterError> {
        self.at(location)?.read_range(location, range)
    }

    fn write(&self, location: &str, content: &[u8]) -> Result<(), WriterError> {
        self.at(location)?.write(location, content)
    }

    fn create(&self, location: &str) -> Result<Box<dyn Sink>, WriterError> {
        self.at(location)?.create(location)
    }

    fn list(&self, directory: &str) -> Result<Below, WriterError> {
        self.at(directory)?.list(directory)
    }

    fn delete(&self, location: &str) -> Result<(), WriterError> {
        self.at(location)?.delete(location)
    }

    fn scratch(&self) -> PathBuf {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.as_ref().map_or_else(std::env::temp_dir, |open| open.scratch())
    }
}

impl fmt::Debug for LentStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LentStorage").field("lending", &self.lending).finish_non_exhaustive()
    }
}
