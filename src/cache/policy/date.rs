//! The three forms of an HTTP date (RFC 9110, section 5.6.7).

/// Seconds since 1970-01-01T00:00:00Z, or `None` for what only looks like a date.
///
/// Names and `GMT` are matched in any case; everything else must be exactly of one of the three forms.
/// `now` places the two-digit year of the RFC 850 form: a date that seems more than 50 years in the
/// future is the most recent year in the past with the same last two digits.
pub(crate) fn parse(value: &[u8], now: i64) -> Option<i64> {
    if !value.is_ascii() {
        return None;
    }
    imf_fixdate(value).or_else(|| rfc850(value, now)).or_else(|| asctime(value))
}

/// The preferred form: `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(crate) fn format(seconds: i64) -> String {
    let days = seconds.div_euclid(86_400);
    let second = seconds.rem_euclid(86_400);
    let (year, month, day) = civil(days);
    let weekday = DAYS[(days + 3).rem_euclid(7) as usize];
    let month = MONTHS[month as usize - 1];
    format!(
        "{}, {day:02} {month} {year:04} {:02}:{:02}:{:02} GMT",
        &weekday[..3],
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

const DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// `Sun, 06 Nov 1994 08:49:37 GMT`
fn imf_fixdate(value: &[u8]) -> Option<i64> {
    if value.len() != 29 || !short_day(&value[..3]) || &value[3..5] != b", " {
        return None;
    }
    let day = number(&value[5..7])?;
    let month = month(&value[8..11])?;
    let year = number(&value[12..16])?;
    let time = time(&value[17..25])?;
    let spaces = [7, 11, 16, 25].iter().all(|at| value[*at] == b' ');
    (spaces && value[26..].eq_ignore_ascii_case(b"GMT"))
        .then(|| seconds(year, month, day, time))
        .flatten()
}

/// `Sunday, 06-Nov-94 08:49:37 GMT`
fn rfc850(value: &[u8], now: i64) -> Option<i64> {
    let comma = value.iter().position(|byte| *byte == b',')?;
    let (name, rest) = value.split_at(comma);
    if !DAYS.iter().any(|day| name.eq_ignore_ascii_case(day.as_bytes()))
        || rest.len() != 24
        || &rest[..2] != b", "
        || rest[4] != b'-'
        || rest[8] != b'-'
        || rest[11] != b' '
        || rest[20] != b' '
        || !rest[21..].eq_ignore_ascii_case(b"GMT")
    {
        return None;
    }
    let day = number(&rest[2..4])?;
    let month = month(&rest[5..8])?;
    let two_digits = number(&rest[9..11])?;
    let time = time(&rest[12..20])?;
    let this_year = civil(now.div_euclid(86_400)).0;
    let mut year = this_year - this_year.rem_euclid(100) + two_digits;
    if year > this_year + 50 {
        year -= 100;
    } else if year + 50 <= this_year {
        // The next century is as near as this one, and not more than 50 years away.
        year += 100;
        if year > this_year + 50 {
            year -= 100;
        }
    }
    seconds(year, month, day, time)
}

/// `Sun Nov  6 08:49:37 1994`
fn asctime(value: &[u8]) -> Option<i64> {
    if value.len() != 24
        || !short_day(&value[..3])
        || ![3, 7, 10, 19].iter().all(|at| value[*at] == b' ')
    {
        return None;
    }
    let month = month(&value[4..7])?;
    let day = match value[8] {
        b' ' => number(&value[9..10])?,
        _ => number(&value[8..10])?,
    };
    let time = time(&value[11..19])?;
    let year = number(&value[20..])?;
    seconds(year, month, day, time)
}

fn short_day(name: &[u8]) -> bool {
    DAYS.iter().any(|day| name.eq_ignore_ascii_case(&day.as_bytes()[..3]))
}

fn month(name: &[u8]) -> Option<i64> {
    let at = MONTHS.iter().position(|month| name.eq_ignore_ascii_case(month.as_bytes()))?;
    Some(at as i64 + 1)
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |sum, digit| {
        digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0'))
    })
}

/// `08:49:37`; the second may be 60 (a leap second).
fn time(value: &[u8]) -> Option<i64> {
    let (hour, minute, second) =
        (number(&value[..2])?, number(&value[3..5])?, number(&value[6..8])?);
    let colons = value[2] == b':' && value[5] == b':';
    (colons && hour < 24 && minute < 60 && second <= 60)
        .then_some(hour * 3600 + minute * 60 + second)
}

fn seconds(year: i64, month: i64, day: i64, time: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    (1..=length).contains(&day).then(|| days(year, month, day) * 86_400 + time)
}

/// Days since 1970-01-01 of the proleptic Gregorian calendar; the year is counted from March, so that
/// the leap day is its last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The inverse of [`days`]: year, month, day.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    // 2026-01-01T00:00:00Z
    const NOW: i64 = 1_767_225_600;

    #[test]
    fn the_three_forms() {
        let table = [
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Sunday, 06-Nov-94 08:49:37 GMT", 784_111_777),
            ("Sun Nov  6 08:49:37 1994", 784_111_777),
            ("Sun Nov 06 08:49:37 1994", 784_111_777),
            ("SUN, 06 NOV 1994 08:49:37 gMT", 784_111_777),
            ("sunday, 06-nov-94 08:49:37 gmt", 784_111_777),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Tue, 29 Feb 2000 23:59:60 GMT", 951_868_800),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 253_402_300_799),
            ("Wed, 31 Dec 1969 23:59:59 GMT", -1),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text.as_bytes(), NOW), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_a_date() {
        let table = [
            "",
            "0",
            "foo",
            "Thu, 18 Aug 2050 02:01:18 UTC",
            "Thu, 18 Aug 2050 02:01:18 AEST",
            "Thu, 18 Aug 2050 02:01:18 +0000",
            "Thu, 18 Aug 2050 02:01:18",
            "Thu, 18 Aug 50 02:01:18 GMT",
            "Thu 18 Aug 2050 02:01:18 GMT",
            "Thu, 18  Aug  2050 02:01:18 GMT",
            "Thu, 18-Aug-2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 02.01.18 GMT",
            "Thu, 18 Aug 2050 2:01:18 GMT",
            "Thu, 8 Aug 2050 02:01:18 GMT",
            "Thu, 32 Aug 2050 02:01:18 GMT",
            "Thu, 00 Aug 2050 02:01:18 GMT",
            "Tue, 29 Feb 1900 00:00:00 GMT",
            "Thu, 18 Aux 2050 02:01:18 GMT",
            "Foo, 18 Aug 2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 24:00:00 GMT",
            "Thu, 18 Aug 2050 02:60:00 GMT",
            "Thu, 18 Aug 2050 02:00:61 GMT",
            " Thu, 18 Aug 2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 02:01:18 GMT ",
            "Thu, +8 Aug 2050 02:01:18 GMT",
            "Thursday, 18-Aug-2050 02:01:18 GMT",
            "Thu, 18-Aug-50 02:01:18 GMT",
            "Thu Aug 18 02:01:18 50",
            "Sun Nov 6 08:49:37 1994",
            "1994-11-06T08:49:37Z",
            "Thu, 18 Aug 2050 02:01:1\u{661} GMT",
        ];
        for text in table {
            assert_eq!(parse(text.as_bytes(), NOW), None, "{text}");
        }
    }

    #[test]
    fn two_digit_years_are_within_fifty_years() {
        let year = |text: &str, now: &str| {
            let now = parse(now.as_bytes(), 0).unwrap();
            civil(parse(text.as_bytes(), now).unwrap().div_euclid(86_400)).0
        };
        let in_2026 = "Thu, 01 Jan 2026 00:00:00 GMT";
        let in_2090 = "Sun, 01 Jan 2090 00:00:00 GMT";
        assert_eq!(year("Thursday, 18-Aug-50 02:01:18 GMT", in_2026), 2050);
        assert_eq!(year("Thursday, 18-Aug-76 02:01:18 GMT", in_2026), 2076);
        assert_eq!(year("Thursday, 18-Aug-77 02:01:18 GMT", in_2026), 1977);
        assert_eq!(year("Thursday, 18-Aug-94 02:01:18 GMT", in_2026), 1994);
        assert_eq!(year("Thursday, 18-Aug-10 02:01:18 GMT", in_2090), 2110);
        assert_eq!(year("Thursday, 18-Aug-95 02:01:18 GMT", in_2090), 2095);
        assert_eq!(year("Thursday, 18-Aug-41 02:01:18 GMT", in_2090), 2041);
    }

    #[test]
    fn what_is_formatted_is_parsed() {
        let mut state = 1_u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let moment = (state >> 26) as i64 % 253_402_300_800;
            let text = format(moment);
            assert_eq!(parse(text.as_bytes(), NOW), Some(moment), "{text}");
        }
        assert_eq!(format(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
