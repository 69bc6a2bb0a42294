//! Days and microseconds since 1970 as PostgreSQL writes dates and times.
//!
//! The calendar is the proleptic Gregorian one, of any year; years before 1
//! are written as years BC, as PostgreSQL does, which has no year 0.

/// Microseconds in a day.
pub const DAY: i64 = 86_400_000_000;

/// Between date and time: a blank in PostgreSQL's text, `T` in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// `2024-02-29 12:30:00.5+00`
    Iso,
    /// `2024-02-29T12:30:00.5+00:00`
    Xsd,
}

/// A calendar date. Year 0 is 1 BC, year -1 is 2 BC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    /// Astronomical year.
    pub year: i64,
    /// 1 to 12.
    pub month: u32,
    /// 1 to 31.
    pub day: u32,
}

impl Date {
    /// The date that lies this many days after 1970-01-01.
    pub fn from_days(days: i64) -> Self {
        // Years here begin on 1 March, so that the leap day comes last; an
        // era is the 400 years after which the calendar repeats.
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u32;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        Date { year, month: month as u32, day }
    }

    /// The ISO 8601 week, 1 to 53, of the day this many days after 1970-01-01.
    pub fn iso_week(days: i64) -> u32 {
        // A week belongs to the year of its Thursday; 1970-01-01 was one.
        let thursday = days - (days + 3).rem_euclid(7) + 3;
        let year = Date::from_days(thursday).year;
        let mut first = thursday;
        // The first Thursday of that year is at most 52 weeks back.
        while Date::from_days(first - 7).year == year {
            first -= 7;
        }
        ((thursday - first) / 7 + 1) as u32
    }

    /// The year without its era, as PostgreSQL prints it, and whether BC.
    pub fn year_and_era(self) -> (u64, bool) {
        if self.year > 0 {
            (self.year.unsigned_abs(), false)
        } else {
            ((1 - self.year).unsigned_abs(), true)
        }
    }
}

/// `2024-02-29`, `0044-03-15 BC`, `294276-12-31`.
pub fn write_date(days: i64, out: &mut Vec<u8>) {
    let date = Date::from_days(days);
    write_ymd(date, out);
    write_era(date, out);
}

/// `13:04:05`, `13:04:05.000001`; microseconds since midnight.
pub fn write_time(microseconds: i64, out: &mut Vec<u8>) {
    let seconds = microseconds.div_euclid(1_000_000);
    pad2((seconds / 3_600) as u64, out);
    out.push(b':');
    pad2((seconds / 60 % 60) as u64, out);
    out.push(b':');
    pad2((seconds % 60) as u64, out);
    let mut fraction = microseconds.rem_euclid(1_000_000);
    if fraction != 0 {
        let mut digits = [b'0'; 6];
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (fraction % 10) as u8;
            fraction /= 10;
        }
        let last = digits.iter().rposition(|&digit| digit != b'0').unwrap_or(0);
        out.push(b'.');
        out.extend_from_slice(&digits[..=last]);
    }
}

/// Microseconds since 1970; `zone` for a timestamptz, in UTC.
pub fn write_timestamp(microseconds: i64, zone: bool, style: Style, out: &mut Vec<u8>) {
    let date = Date::from_days(microseconds.div_euclid(DAY));
    write_ymd(date, out);
    out.push(if style == Style::Xsd { b'T' } else { b' ' });
    write_time(microseconds.rem_euclid(DAY), out);
    if zone {
        out.extend_from_slice(if style == Style::Xsd { b"+00:00" } else { b"+00" });
    }
    write_era(date, out);
}

fn write_ymd(date: Date, out: &mut Vec<u8>) {
    let (year, _) = date.year_and_era();
    write_year(year, out);
    out.push(b'-');
    pad2(date.month.into(), out);
    out.push(b'-');
    pad2(date.day.into(), out);
}

fn write_era(date: Date, out: &mut Vec<u8>) {
    if date.year_and_era().1 {
        out.extend_from_slice(b" BC");
    }
}

/// At least four digits.
pub fn write_year(year: u64, out: &mut Vec<u8>) {
    if year < 10_000 {
        pad2(year / 100, out);
        pad2(year % 100, out);
    } else {
        out.extend_from_slice(itoa::Buffer::new().format(year).as_bytes());
    }
}

/// Two digits of a number below 100.
pub fn pad2(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&[b'0' + (number / 10) as u8, b'0' + (number % 10) as u8]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn dates_are_written_as_the_server_writes_them() {
        for (days, expected) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (11_016, "2000-02-29"),
            (-719_162, "0001-01-01"),
            (-719_163, "0001-12-31 BC"),
            (-735_160, "0044-03-15 BC"),
            (-2_440_588, "4714-11-24 BC"),
            (2_932_897, "10000-01-01"),
            (106_751_991, "294247-01-10"),
        ] {
            assert_eq!(text(|out| write_date(days, out)), expected, "{days}");
        }
        // The ends of an i32 are outside PostgreSQL's range; they do no harm.
        text(|out| write_date(i32::MIN.into(), out));
        text(|out| write_date(i32::MAX.into(), out));
    }

    #[test]
    fn timestamps_are_written_as_the_server_writes_them() {
        for (microseconds, expected) in [
            (0, "1970-01-01 00:00:00"),
            (-1, "1969-12-31 23:59:59.999999"),
            (1_500_000, "1970-01-01 00:00:01.5"),
            (951_827_696_120_000, "2000-02-29 12:34:56.12"),
            (-210_866_803_200_000_000, "4714-11-24 00:00:00 BC"),
            (i64::MAX, "294247-01-10 04:00:54.775807"),
        ] {
            let written = text(|out| write_timestamp(microseconds, false, Style::Iso, out));
            assert_eq!(written, expected, "{microseconds}");
        }
        text(|out| write_timestamp(i64::MIN, true, Style::Xsd, out));
        text(|out| write_timestamp(i64::MAX, true, Style::Xsd, out));
    }

    #[test]
    fn a_zone_comes_before_the_era() {
        let caesar = -735_160 * DAY;
        let iso = text(|out| write_timestamp(caesar, true, Style::Iso, out));
        assert_eq!(iso, "0044-03-15 00:00:00+00 BC");
        let xsd = text(|out| write_timestamp(caesar, true, Style::Xsd, out));
        assert_eq!(xsd, "0044-03-15T00:00:00+00:00 BC");
    }

    #[test]
    fn iso_weeks_belong_to_the_year_of_their_thursday() {
        // 2021-01-03, 2021-01-04, 2020-12-31, 2019-12-30, 1970-01-01,
        // 1969-12-28, 1965-12-31
        for (days, week) in
            [(18_630, 53), (18_631, 1), (18_627, 53), (18_260, 1), (0, 1), (-4, 52), (-1_462, 52)]
        {
            assert_eq!(Date::iso_week(days), week, "{days}");
        }
    }
}
