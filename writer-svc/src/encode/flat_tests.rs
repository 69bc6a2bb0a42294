//! Our pages against `parquet`: its reader finds every value, its own writer
//! says the same of the columns.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal64Array, Decimal128Array,
    FixedSizeBinaryArray, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Field, Schema};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::FileWriter;
use super::file_schema;

/// Numbers without a pattern, always the same.
fn scatter(n: i64) -> i64 {
    let mixed = (n as u64).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) as i64
}

fn text(n: i64) -> String {
    let long = if n % 50 == 0 { 40 } else { n % 4 };
    format!("{}{}", ["", "a", "é", "\u{10FFFF}", "~"][n as usize % 5].repeat(long as usize), n / 3)
}

/// One column of each kind, with nulls where `null` says.
fn columns(rows: i64, null: impl Fn(i64) -> bool) -> Vec<ArrayRef> {
    let some = |n: i64| (!null(n)).then_some(n);
    let rows = || (0..rows).map(some);
    let extreme = |n: i64| [i64::MIN, i64::MAX, 0, -1, scatter(n)][n as usize % 5];
    let narrow = |n: i64| [i32::MIN, i32::MAX, 0, -1, scatter(n) as i32][n as usize % 5];
    let float = |n: i64| [f64::NAN, -0.0, 0.0, f64::INFINITY, scatter(n) as f64][n as usize % 5];
    let digits = |n: i64| scatter(n) % 1_000_000_000;
    vec![
        Arc::new(rows().collect::<Int64Array>()),
        Arc::new(rows().map(|n| n.map(extreme)).collect::<Int64Array>()),
        Arc::new(rows().map(|n| n.map(narrow)).collect::<Int32Array>()),
        Arc::new(rows().map(|n| n.map(|n| (n % 7) as i32)).collect::<Date32Array>()),
        Arc::new(rows().map(|n| n.map(|n| n / 9 - 50)).collect::<TimestampMicrosecondArray>()),
        Arc::new(
            rows()
                .map(|n| n.map(digits))
                .collect::<Decimal64Array>()
                .with_precision_and_scale(9, 2)
                .unwrap(),
        ),
        Arc::new(
            rows()
                .map(|n| n.map(scatter).map(i128::from))
                .collect::<Decimal128Array>()
                .with_precision_and_scale(30, 2)
                .unwrap(),
        ),
        Arc::new(rows().map(|n| n.map(float)).collect::<Float64Array>()),
        Arc::new(rows().map(|n| n.map(|n| float(n) as f32)).collect::<Float32Array>()),
        Arc::new(rows().map(|n| n.map(text)).collect::<StringArray>()),
        Arc::new(rows().map(|n| n.map(|_| "same")).collect::<StringArray>()),
        Arc::new(
            rows()
                .map(|n| n.map(|n| vec![u8::MAX; n as usize % 90]))
                .collect::<Vec<_>>()
                .iter()
                .map(Option::as_deref)
                .collect::<BinaryArray>(),
        ),
        Arc::new(
            FixedSizeBinaryArray::try_from_sparse_iter_with_size(
                rows().map(|n| n.map(|n| i128::from(scatter(n)).to_be_bytes())),
                16,
            )
            .unwrap(),
        ),
        Arc::new(rows().map(|n| n.map(|n| n % 3 == 0)).collect::<BooleanArray>()),
    ]
}

fn batch(rows: i64, nullable: bool, null: impl Fn(i64) -> bool) -> RecordBatch {
    let columns = columns(rows, null);
    let fields = columns
        .iter()
        .enumerate()
        .map(|(at, column)| Field::new(format!("c{at}"), column.data_type().clone(), nullable));
    RecordBatch::try_new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), columns).unwrap()
}

/// As our writer stores the batches.
fn written(batches: &[RecordBatch], properties: &WriterProperties) -> Bytes {
    let schema = batches[0].schema();
    let descriptor = file_schema(&schema).unwrap();
    let mut out = Vec::new();
    let mut writer = FileWriter::new(&mut out, schema, &descriptor, properties.clone()).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.finish().unwrap();
    drop(writer);
    out.into()
}

fn ways() -> Vec<WriterProperties> {
    let compression = Compression::ZSTD(ZstdLevel::default());
    let builder = || {
        WriterProperties::builder()
            .set_compression(compression)
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_statistics_truncate_length(Some(crate::encoding::STATISTICS_BYTES))
            .set_offset_index_disabled(true)
            .set_encoding(Encoding::PLAIN)
    };
    let delta = (0..6).fold(builder().set_dictionary_enabled(false), |builder, column| {
        builder.set_column_encoding(format!("c{column}").into(), Encoding::DELTA_BINARY_PACKED)
    });
    vec![
        builder().set_dictionary_enabled(false).build(),
        builder().set_dictionary_enabled(true).build(),
        // Too small for what is not the same in every row.
        builder().set_dictionary_enabled(true).set_dictionary_page_size_limit(1 << 12).build(),
        delta.build(),
        builder().set_compression(Compression::UNCOMPRESSED).build(),
    ]
}

#[test]
fn every_value_is_read_back_and_the_footer_says_what_parquets_own_says() {
    let batches = [
        vec![batch(50_001, true, |n| n % 7 == 3 || (30_000..52_000).contains(&n))],
        vec![batch(20_000, true, |_| false), batch(129, true, |_| true), batch(1, true, |_| false)],
        vec![batch(3, true, |_| true)],
        vec![batch(40_003, false, |_| false).slice(5, 39_000)],
    ];
    for (batches, properties) in
        batches.iter().flat_map(|b| ways().into_iter().map(move |w| (b, w)))
    {
        let file = written(batches, &properties);
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        let ours = reader.metadata().clone();
        let rows = batches.iter().map(RecordBatch::num_rows).sum();
        let read: Vec<_> =
            reader.with_batch_size(rows).build().unwrap().map(Result::unwrap).collect();
        let schema = batches[0].schema();
        let expected = arrow::compute::concat_batches(&schema, batches).unwrap();
        assert_eq!(read.len(), 1);
        for (index, column) in expected.columns().iter().enumerate() {
            // Of decimals the reader knows only those of 128 bits.
            let read = arrow::compute::cast(read[0].column(index), column.data_type()).unwrap();
            assert!(read.as_ref() == column.as_ref(), "column {index}");
        }

        let mut out = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut out, schema, Some(properties)).unwrap();
        batches.iter().for_each(|batch| writer.write(batch).unwrap());
        writer.close().unwrap();
        let theirs = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(out)).unwrap();
        let theirs = theirs.metadata();
        for (ours, theirs) in ours.row_group(0).columns().iter().zip(theirs.row_group(0).columns())
        {
            assert_eq!(ours.num_values(), theirs.num_values());
            let [ours_say, theirs_say] = [ours, theirs].map(|column| column.statistics().unwrap());
            assert_eq!(
                format!("{ours_say:?}"),
                format!("{theirs_say:?}"),
                "{}",
                ours.column_path()
            );
        }
    }
}

#[test]
fn a_dictionary_that_grows_too_large_is_left() {
    let numbers: Int64Array = (0..60_000).map(scatter).collect();
    let batch = RecordBatch::try_from_iter([("c0", Arc::new(numbers) as ArrayRef)]).unwrap();
    let properties = WriterProperties::builder().set_dictionary_page_size_limit(1 << 10).build();
    let file = written(std::slice::from_ref(&batch), &properties);
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let encodings: Vec<_> = reader.metadata().row_group(0).column(0).encodings().collect();
    assert!(encodings.contains(&Encoding::PLAIN) && encodings.contains(&Encoding::RLE_DICTIONARY));
    let read = reader.with_batch_size(60_000).build().unwrap().next().unwrap().unwrap();
    assert_eq!(read.column(0), batch.column(0));
}
