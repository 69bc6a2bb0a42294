//! Partition transforms over columns (Iceberg's spec, "Partition Transforms").
//!
//! Years to hours are ours, floored as the spec wants them: the crate's are a
//! day late for some moments before 1970 and end with the calendar that it
//! borrows, before PostgreSQL's. The rest are the crate's.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Date32Type, TimestampMicrosecondType};
use iceberg::spec::Transform;
use iceberg::transform::create_transform_function;

use crate::error::WriterError;
use crate::render::datetime::{DAY, Date};

/// Microseconds in an hour.
const HOUR: i64 = 3_600_000_000;

/// A column's partition values. Dates and timestamps (in UTC) become numbers
/// since 1970: years, months, hours as Int32, days as Date32.
pub fn apply(transform: Transform, column: &ArrayRef) -> Result<ArrayRef, WriterError> {
    let column = widened(column)?;
    Ok(match transform {
        Transform::Year => Arc::new(of_days(&column, |days| Date::from_days(days).year - 1970)?),
        Transform::Month => Arc::new(of_days(&column, |days| {
            let date = Date::from_days(days);
            (date.year - 1970) * 12 + i64::from(date.month) - 1
        })?),
        Transform::Day => {
            let days = of_days(&column, |days| days)?;
            Arc::new(days.reinterpret_cast::<Date32Type>()) as ArrayRef
        }
        Transform::Hour => match column.as_primitive_opt::<TimestampMicrosecondType>() {
            Some(times) => {
                let hours: Int32Array = times.unary(|time| fit(time.div_euclid(HOUR)));
                Arc::new(hours)
            }
            None => return Err(no_time(column.data_type())),
        },
        other => create_transform_function(&other)
            .and_then(|function| function.transform(column))
            .map_err(WriterError::iceberg(format!("partitioning by {other}")))?,
    })
}

/// Decimals in the 128 bits that the crate and the table's type have.
fn widened(column: &ArrayRef) -> Result<ArrayRef, WriterError> {
    let DataType::Decimal64(precision, scale) = column.data_type() else {
        return Ok(Arc::clone(column));
    };
    cast(column, &DataType::Decimal128(*precision, *scale))
        .map_err(|source| WriterError::Arrow { doing: "widening a decimal".into(), source })
}

/// Numbers made of days since 1970.
fn of_days(column: &ArrayRef, number: impl Fn(i64) -> i64) -> Result<Int32Array, WriterError> {
    if let Some(dates) = column.as_primitive_opt::<Date32Type>() {
        return Ok(dates.unary(|days| fit(number(i64::from(days)))));
    }
    match column.as_primitive_opt::<TimestampMicrosecondType>() {
        Some(times) => Ok(times.unary(|time| fit(number(time.div_euclid(DAY))))),
        None => Err(no_time(column.data_type())),
    }
}

/// What 32 bits do not hold (hours after the year 246,953) is their greatest
/// number: the order stays.
fn fit(number: i64) -> i32 {
    i32::try_from(number).unwrap_or(if number < 0 { i32::MIN } else { i32::MAX })
}

fn no_time(kind: &DataType) -> WriterError {
    WriterError::Internal(format!("no date or time is in a column of {kind}"))
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Date32Array, Decimal64Array, Int64Array, StringArray, TimestampMicrosecondArray,
    };
    use arrow::datatypes::Int32Type;

    use super::*;

    fn numbers(transform: Transform, column: impl Array + 'static) -> Vec<Option<i32>> {
        let column: ArrayRef = Arc::new(column);
        let values = apply(transform, &column).unwrap();
        let values = cast(&values, &DataType::Int32).unwrap();
        values.as_primitive::<Int32Type>().iter().collect()
    }

    #[test]
    fn moments_before_1970_are_floored() {
        let at = |microseconds: &[i64]| {
            TimestampMicrosecondArray::from(microseconds.to_vec()).with_timezone("UTC")
        };
        let moments =
            [0, -1, -DAY, -DAY - 1, -DAY - 500_000, -1_500_000, DAY - 1, -HOUR, -HOUR - 1];
        let some = |numbers: [i32; 9]| numbers.map(Some).to_vec();
        assert_eq!(numbers(Transform::Day, at(&moments)), some([0, -1, -1, -2, -2, -1, 0, -1, -1]));
        assert_eq!(
            numbers(Transform::Hour, at(&moments)),
            some([0, -1, -24, -25, -25, -1, 23, -1, -2])
        );
        assert_eq!(
            numbers(Transform::Month, at(&moments)),
            some([0, -1, -1, -1, -1, -1, 0, -1, -1])
        );
        assert_eq!(
            numbers(Transform::Year, at(&moments)),
            some([0, -1, -1, -1, -1, -1, 0, -1, -1])
        );
    }

    #[test]
    fn the_ends_of_postgresqls_calendar_have_their_place() {
        // 4714-11-24 BC and 294247-01-10 04:00:54.775807, the last that fits.
        let ends = || TimestampMicrosecondArray::from(vec![-210_866_803_200_000_000, i64::MAX]);
        assert_eq!(numbers(Transform::Year, ends()), [Some(-6683), Some(292_277)]);
        assert_eq!(numbers(Transform::Month, ends()), [Some(-80_186), Some(292_277 * 12)]);
        assert_eq!(numbers(Transform::Day, ends()), [Some(-2_440_588), Some(106_751_991)]);
        assert_eq!(numbers(Transform::Hour, ends()), [Some(-58_574_112), Some(i32::MAX)]);
        // 5874897-12-31
        let dates =
            || Date32Array::from(vec![Some(-2_440_588), None, Some(-1), Some(2_145_042_905)]);
        let years = [Some(-6683), None, Some(-1), Some(5_872_927)];
        assert_eq!(numbers(Transform::Year, dates()), years);
        let days: Vec<_> = dates().iter().collect();
        assert_eq!(numbers(Transform::Day, dates()), days);
    }

    /// The table of hash values in the spec's Appendix B; bucket\[2^31 - 1\] is
    /// the hash without its sign.
    #[test]
    fn hashes_are_those_of_the_spec() {
        let all = Transform::Bucket(i32::MAX as u32);
        let of = |hash: i32| vec![Some((hash & i32::MAX) % i32::MAX)];
        assert_eq!(numbers(all, Int32Array::from(vec![34])), of(2_017_239_379));
        assert_eq!(numbers(all, Int64Array::from(vec![34])), of(2_017_239_379));
        let decimal = || Decimal64Array::from(vec![1420]).with_precision_and_scale(9, 2).unwrap();
        assert_eq!(numbers(all, decimal()), of(-500_754_589));
        assert_eq!(numbers(all, Date32Array::from(vec![17_486])), of(-653_330_422));
        assert_eq!(numbers(all, StringArray::from(vec!["iceberg"])), of(1_210_000_089));
        let time = TimestampMicrosecondArray::from(vec![1_510_871_468_000_000]);
        assert_eq!(numbers(all, time), of(-2_047_944_441));
    }

    #[test]
    fn truncating_rounds_down_and_counts_code_points() {
        let truncated =
            |width, column: ArrayRef| apply(Transform::Truncate(width), &column).unwrap();
        let text: ArrayRef = Arc::new(StringArray::from(vec!["日本語", "é", "🦀🦀🦀"]));
        let expected = StringArray::from(vec!["日本", "é", "🦀🦀"]);
        assert_eq!(truncated(2, text).as_string::<i32>(), &expected);
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![-1, -10, 9, 10]));
        assert_eq!(truncated(10, numbers).as_primitive::<Int32Type>().values(), &[-10, -10, 0, 10]);
        let money = Decimal64Array::from(vec![1065, -5]).with_precision_and_scale(4, 2).unwrap();
        let money = truncated(50, Arc::new(money));
        assert_eq!(money.as_primitive::<arrow::datatypes::Decimal128Type>().values(), &[1050, -50]);
    }
}
