//! A record batch as a FlightData message, copied once: from the arrays into
//! the bytes that go to the network.
//!
//! The message's size is known before a byte of it is copied. (arrow-ipc and
//! prost together copy twice, each into memory that grows on the way: that
//! cost more than decoding did.)
//!
//! The header is padded so that the body, and with it every buffer, lies aligned
//! in the message as gRPC carries it: who receives it into aligned memory can
//! use the buffers where they are, and need not copy each of them.

use arrow::array::{Array, ArrayData, RecordBatch};
use arrow::buffer::Buffer;
use arrow::ipc;
use arrow_flight::{FlightData, PutResult};
use bytes::BufMut;
use flatbuffers::FlatBufferBuilder;
use prost::encoding::{WireType, encode_key, encode_varint, key_len};
use prost::{Message, length_delimiter_len};
use proto::metrics::Held;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic_prost::ProstCodec;

/// Where each buffer of a body begins: what Arrow recommends.
const ALIGNMENT: usize = 64;
/// Fields of FlightData (`format/Flight.proto`).
const DATA_HEADER: u32 = 2;
const DATA_BODY: u32 = 1000;
/// A header has at least so many bytes, so that padding does not make its
/// length's own encoding longer.
const MIN_HEADER: usize = 128;
/// Zeros for the space between buffers.
const PADDING: [u8; ALIGNMENT] = [0; ALIGNMENT];

/// What a DoPut sends.
pub enum Outgoing {
    /// A batch's message, which waits until it is encoded.
    Batch(BatchMessage, Held),
    /// Any other.
    Other(FlightData),
}

/// A batch that is not yet copied: where its parts will lie, and the parts.
#[derive(Default)]
pub struct BatchMessage {
    header: Vec<u8>,
    nodes: Vec<ipc::FieldNode>,
    places: Vec<ipc::Buffer>,
    buffers: Vec<Buffer>,
    body_bytes: usize,
}

impl BatchMessage {
    /// The batch uncompressed, in one message. The arrays are as builders make
    /// them: not sliced, without dictionaries.
    pub fn new(batch: &RecordBatch) -> Result<Self, String> {
        let mut message = BatchMessage::default();
        for column in batch.columns() {
            message.add(&column.to_data())?;
        }
        message.header = message.header(batch.num_rows());
        Ok(message)
    }

    /// Bytes on the wire.
    pub fn encoded_len(&self) -> usize {
        self.body_at(self.header.len()) + self.body_bytes
    }

    /// Where the body begins after a header of so many bytes.
    fn body_at(&self, header: usize) -> usize {
        let delimited = |field, bytes| key_len(field) + length_delimiter_len(bytes);
        delimited(DATA_HEADER, header) + header + delimited(DATA_BODY, self.body_bytes)
    }

    /// Writes the message as protobuf has it.
    fn write(&self, to: &mut impl BufMut) {
        encode_key(DATA_HEADER, WireType::LengthDelimited, to);
        encode_varint(self.header.len() as u64, to);
        to.put_slice(&self.header);
        encode_key(DATA_BODY, WireType::LengthDelimited, to);
        encode_varint(self.body_bytes as u64, to);
        for buffer in &self.buffers {
            to.put_slice(buffer);
            to.put_slice(&PADDING[..buffer.len().next_multiple_of(ALIGNMENT) - buffer.len()]);
        }
    }

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
        self.places.push(ipc::Buffer::new(self.body_bytes as i64, length as i64));
        self.body_bytes = (self.body_bytes + length).next_multiple_of(ALIGNMENT);
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
        message.add_bodyLength(self.body_bytes as i64);
        message.add_header(batch);
        let message = message.finish();
        builder.finish(message, None);
        let mut header = builder.finished_data().to_vec();
        header.resize(header.len().max(MIN_HEADER), 0);
        let body_at = self.body_at(header.len());
        header.resize(header.len() + body_at.next_multiple_of(ALIGNMENT) - body_at, 0);
        header
    }
}

/// DoPut's messages, both ways.
#[derive(Default)]
pub struct PutCodec;

impl Codec for PutCodec {
    type Encode = Outgoing;
    type Decode = PutResult;
    type Encoder = PutEncoder;
    type Decoder = <ProstCodec<FlightData, PutResult> as Codec>::Decoder;

    fn encoder(&mut self) -> PutEncoder {
        PutEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<FlightData, PutResult>::raw_decoder(BufferSettings::default())
    }
}

/// Writes [`Outgoing`] messages.
pub struct PutEncoder;

impl Encoder for PutEncoder {
    type Item = Outgoing;
    type Error = Status;

    fn encode(&mut self, item: Outgoing, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        match item {
            Outgoing::Batch(batch, _queued) => {
                to.reserve(batch.encoded_len());
                batch.write(to);
            }
            Outgoing::Other(message) => message
                .encode(to)
                .map_err(|error| Status::internal(format!("encoding a message: {error}")))?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, BooleanArray, Decimal128Array, Int32Array, ListArray, RecordBatchOptions,
        StringArray,
    };
    use arrow::datatypes::{Int32Type, Schema};
    use arrow_flight::utils::flight_data_to_arrow_batch;

    use super::*;

    /// As another program reads it.
    fn sent(batch: &RecordBatch) -> (Vec<u8>, FlightData) {
        let message = BatchMessage::new(batch).unwrap();
        let mut bytes = Vec::new();
        message.write(&mut bytes);
        assert_eq!(bytes.len(), message.encoded_len());
        let read = FlightData::decode(&bytes[..]).unwrap();
        (bytes, read)
    }

    fn read(batch: &RecordBatch) -> RecordBatch {
        let (_, message) = sent(batch);
        flight_data_to_arrow_batch(&message, batch.schema(), &HashMap::new()).unwrap()
    }

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
        assert_eq!(read(&batch), batch);
        assert!(BatchMessage::new(&batch.slice(1, 2)).is_err());
    }

    #[test]
    fn a_body_lies_aligned_in_its_message() {
        for columns in [1, 2, 7, 20, 100, 1000] {
            for rows in [1, 100, 5_000] {
                let column: ArrayRef = Arc::new(Int32Array::from_iter_values(0..rows));
                let columns = (0..columns).map(|index| (format!("c{index}"), column.clone()));
                let batch = RecordBatch::try_from_iter(columns).unwrap();
                let (bytes, message) = sent(&batch);
                let body_at = bytes.len() - message.data_body.len();
                assert_eq!(body_at % ALIGNMENT, 0, "{rows} rows");
            }
        }
    }

    #[test]
    fn rows_without_columns_keep_their_count() {
        let options = RecordBatchOptions::new().with_row_count(Some(7));
        let schema = Arc::new(Schema::empty());
        let batch = RecordBatch::try_new_with_options(schema, vec![], &options).unwrap();
        let read = read(&batch);
        assert_eq!((read.num_rows(), read.num_columns()), (7, 0));
    }
}
