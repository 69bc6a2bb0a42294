//! A record batch as one Arrow IPC message, written once.
//!
//! The body's size is known before a byte of it is copied, and its memory is
//! used again for a later batch when the network has let go of it: growing
//! fresh memory to megabytes for each batch cost more than decoding it.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayData, RecordBatch};
use arrow::buffer::Buffer;
use arrow::ipc;
use arrow_flight::FlightData;
use bytes::Bytes;
use flatbuffers::FlatBufferBuilder;

/// Where each buffer of a body begins: what Arrow recommends.
const ALIGNMENT: usize = 64;
/// Bodies kept for reuse: as many as are under way at once.
const MAX_BODIES: usize = 4;
/// A body larger than this is not kept: a large row is rare.
const KEEP_BYTES: usize = 16 << 20;

/// Encodes the batches of one stream.
#[derive(Default)]
pub struct Encoder {
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// A message's parts: where they lie, and what they are.
#[derive(Default)]
struct Layout {
    nodes: Vec<ipc::FieldNode>,
    places: Vec<ipc::Buffer>,
    buffers: Vec<Buffer>,
    bytes: usize,
}

/// A body that goes back to its encoder when the last reader drops it.
struct Body {
    bytes: Vec<u8>,
    home: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Encoder {
    /// The batch as Flight sends it: uncompressed, in one message. The arrays
    /// are as builders make them: not sliced, without dictionaries.
    pub fn encode(&self, batch: &RecordBatch) -> Result<FlightData, String> {
        let mut layout = Layout::default();
        for column in batch.columns() {
            layout.add(&column.to_data())?;
        }
        let header = layout.header(batch.num_rows());
        let mut bytes = self.bodies().pop().unwrap_or_default();
        bytes.clear();
        bytes.reserve_exact(layout.bytes);
        for (buffer, place) in layout.buffers.iter().zip(&layout.places) {
            bytes.resize(place.offset() as usize, 0);
            bytes.extend_from_slice(buffer);
        }
        bytes.resize(layout.bytes, 0);
        let body = Body { bytes, home: self.bodies.clone() };
        Ok(FlightData {
            data_header: header.into(),
            data_body: Bytes::from_owner(body),
            ..Default::default()
        })
    }

    fn bodies(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Layout {
    /// Depth first: validity, the array's own buffers, then its children.
    fn add(&mut self, data: &ArrayData) -> Result<(), String> {
        let nulls = data.nulls();
        if data.offset() != 0 || nulls.is_some_and(|nulls| nulls.offset() != 0) {
            return Err(format!("a sliced array of {}", data.data_type()));
        }
        let count = data.null_count();
        self.nodes.push(ipc::FieldNode::new(data.len() as i64, count as i64));
        // Without nulls the bitmap is left out.
        let validity = nulls.filter(|_| count > 0).map(|nulls| nulls.buffer().clone());
        self.place(validity.unwrap_or_default());
        data.buffers().iter().for_each(|buffer| self.place(buffer.clone()));
        data.child_data().iter().try_for_each(|child| self.add(child))
    }

    fn place(&mut self, buffer: Buffer) {
        let length = buffer.len();
        self.places.push(ipc::Buffer::new(self.bytes as i64, length as i64));
        self.bytes = (self.bytes + length).next_multiple_of(ALIGNMENT);
        self.buffers.push(buffer);
    }

    fn header(&self, rows: usize) -> Vec<u8> {
        let mut builder = FlatBufferBuilder::new();
        let buffers = builder.create_vector(&self.places);
        let nodes = builder.create_vector(&self.nodes);
        let mut batch = ipc::RecordBatchBuilder::new(&mut builder);
        batch.add_length(rows as i64);
        batch.add_nodes(nodes);
        batch.add_buffers(buffers);
        let batch = batch.finish().as_union_value();
        let mut message = ipc::MessageBuilder::new(&mut builder);
        message.add_version(ipc::MetadataVersion::V5);
        message.add_header_type(ipc::MessageHeader::RecordBatch);
        message.add_bodyLength(self.bytes as i64);
        message.add_header(batch);
        let message = message.finish();
        builder.finish(message, None);
        builder.finished_data().to_vec()
    }
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let mut bodies = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        if bodies.len() < MAX_BODIES && self.bytes.capacity() <= KEEP_BYTES {
            bodies.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use arrow::array::{
        ArrayRef, BooleanArray, Decimal128Array, Int32Array, ListArray, RecordBatchOptions,
        StringArray,
    };
    use arrow::datatypes::{Int32Type, Schema};
    use arrow_flight::utils::flight_data_to_arrow_batch;

    use super::*;

    #[test]
    fn a_batch_comes_out_of_its_message_as_it_went_in() {
        let lists =
            vec![Some(vec![Some(1), None]), None, Some(vec![]), Some(vec![Some(2), Some(3)])];
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("i", Arc::new(Int32Array::from(vec![Some(1), None, Some(3), Some(4)]))),
            ("s", Arc::new(StringArray::from(vec![Some("a"), Some(""), None, Some("é")]))),
            ("b", Arc::new(BooleanArray::from(vec![true, false, true, true]))),
            ("d", Arc::new(Decimal128Array::from(vec![Some(-1), None, Some(i128::MAX), None]))),
            ("l", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let encoder = Encoder::default();
        // The second time, in the memory of the first.
        for _ in 0..2 {
            let message = encoder.encode(&batch).unwrap();
            let read =
                flight_data_to_arrow_batch(&message, batch.schema(), &HashMap::new()).unwrap();
            assert_eq!(read, batch);
        }
        assert!(encoder.encode(&batch.slice(1, 2)).is_err());
    }

    #[test]
    fn rows_without_columns_keep_their_count() {
        let options = RecordBatchOptions::new().with_row_count(Some(7));
        let schema = Arc::new(Schema::empty());
        let batch = RecordBatch::try_new_with_options(schema, vec![], &options).unwrap();
        let message = Encoder::default().encode(&batch).unwrap();
        assert!(!message.data_header.is_empty());
        let read = flight_data_to_arrow_batch(&message, batch.schema(), &HashMap::new()).unwrap();
        assert_eq!((read.num_rows(), read.num_columns()), (7, 0));
    }
}
