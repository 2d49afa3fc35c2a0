//! What a gauge that the config names may be called, and its unit and attributes.
//!
//! Names follow OpenTelemetry's instrument name syntax, units the syntax of
//! UCUM. Its units without brackets are looked up; what stands in square
//! brackets (`[degF]`, `[in_i'Hg]`) is believed, since there are hundreds. The
//! words that people write by mistake are refused with the one they mean.

/// As OpenTelemetry limits an instrument's name.
const MAX_NAME: usize = 255;
/// As OpenTelemetry limits an instrument's unit.
const MAX_UNIT: usize = 63;
/// The longest key of an attribute.
const MAX_KEY: usize = 64;
/// The longest value of an attribute.
const MAX_VALUE: usize = 256;

/// What people write, and UCUM's code for it.
const MEANT: [(&str, &str); 35] = [
    ("bytes", "By"),
    ("byte", "By"),
    ("B", "By"),
    ("kB", "kBy"),
    ("KB", "kBy"),
    ("MB", "MBy"),
    ("bits", "bit"),
    ("seconds", "s"),
    ("second", "s"),
    ("sec", "s"),
    ("milliseconds", "ms"),
    ("minutes", "min"),
    ("hours", "h"),
    ("days", "d"),
    ("celsius", "Cel"),
    ("Celsius", "Cel"),
    ("degC", "Cel"),
    ("degF", "[degF]"),
    ("fahrenheit", "[degF]"),
    ("percent", "%"),
    ("volts", "V"),
    ("volt", "V"),
    ("amps", "A"),
    ("ampere", "A"),
    ("watts", "W"),
    ("watt", "W"),
    ("hertz", "Hz"),
    ("ohm", "Ohm"),
    ("Volt", "V"),
    ("Ampere", "A"),
    ("Watt", "W"),
    ("Hertz", "Hz"),
    ("Pascal", "Pa"),
    ("hour", "h"),
    ("count", "{thing}, as {packet}"),
];

/// OpenTelemetry's unit of a fan's speed, though it is none of UCUM's.
const RPM: &str = "rpm";

/// UCUM's prefixes, the longer ones first.
const PREFIXES: &str = "Ki Mi Gi Ti da Y Z E P T G M k h d c m u n p f a z y";

/// UCUM's units without brackets that take a prefix …
const METRIC: &str = "m s g rad K C cd mol sr Hz N Pa J W A V F Ohm S Wb Cel T H lm lx Bq Gy Sv \
    l L ar t bar u eV pc st b Ky Gal dyn erg P Bi St Mx G Oe Gb sb Lmb ph Ci R RAD REM mho cal cal_th \
    cal_IT cal_m gf osm eq kat U tex g% Np B bit_s bit By Bd";

/// … and those that take none.
const WHOLE: &str =
    "% 10* 10^ deg gon ' '' min h d a a_t a_j a_g wk mo mo_s mo_j mo_g AU atm sph circ att";

/// Whether OpenTelemetry allows the name of a gauge; else what is wrong with it.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    let mut bytes = name.bytes();
    match bytes.next() {
        None => return Err("must not be empty"),
        Some(first) if !first.is_ascii_alphabetic() => return Err("must begin with a letter"),
        Some(_) => {}
    }
    if name.len() > MAX_NAME {
        return Err("must not be longer than 255 characters");
    }
    if !bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-/".contains(&byte)) {
        return Err("may hold letters, digits and _ . - / only");
    }
    Ok(())
}

/// Whether a unit can be UCUM; else what is wrong with it.
pub fn check_unit(unit: &str) -> Result<(), String> {
    if unit.is_empty() {
        return Err(
            "must not be empty; what has no unit is \"1\", what is counted is as \"{packet}\""
                .into(),
        );
    }
    if unit.len() > MAX_UNIT {
        return Err("must not be longer than 63 characters".into());
    }
    if unit == RPM {
        return Ok(());
    }
    if unit.contains('°') {
        return Err("is no UCUM unit; degrees Celsius are \"Cel\", of an angle \"deg\"".into());
    }
    if !unit.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("may hold ASCII characters without blanks only".into());
    }
    // Braces hold anything, brackets belong to an atom, parentheses group.
    let mut open: Option<u8> = None;
    let mut groups = 0_u32;
    let mut term = false;
    for byte in unit.bytes() {
        match (open, byte) {
            (Some(b'{'), b'}') | (Some(b'['), b']') => {
                open = None;
                term = true;
            }
            (Some(b'{'), b'{') | (Some(b'['), b'[' | b'{' | b'}') => return Err(UNPAIRED.into()),
            (Some(_), _) => {}
            (None, b'{' | b'[') => open = Some(byte),
            (None, b'}' | b']') => return Err(UNPAIRED.into()),
            (None, b'(') if term => return Err("has a bracket without . or / before it".into()),
            (None, b'(') => groups += 1,
            (None, b')') if groups == 0 || !term => return Err(UNPAIRED.into()),
            (None, b')') => groups -= 1,
            (None, b'/') => term = false,
            (None, b'.') if !term => return Err("has a . with nothing before it".into()),
            (None, b'.') => term = false,
            (None, b'"' | b'\\' | b'$' | b'&' | b',' | b';' | b'<' | b'>' | b'=' | b'?' | b'@') => {
                return Err(format!(
                    "holds {:?}, which is in no UCUM unit",
                    char::from(byte)
                ));
            }
            (None, _) => term = true,
        }
    }
    if open.is_some() || groups > 0 {
        return Err(UNPAIRED.into());
    }
    if !term {
        return Err("ends with an operator".into());
    }
    let mut parts = parts(unit);
    match parts.find(|part| meant(part).is_some() || !is_unit(part)) {
        None => Ok(()),
        Some(part) => {
            let which = match part == unit {
                true => String::new(),
                false => format!("has {part:?}, which "),
            };
            Err(match meant(part) {
                Some(meant) => format!("{which}is no UCUM unit; write \"{meant}\""),
                None => format!("{which}is no UCUM unit; what is counted is as \"{{{part}}}\""),
            })
        }
    }
}

fn meant(part: &str) -> Option<&'static str> {
    let found = MEANT.iter().find(|(wrong, _)| *wrong == part);
    found.map(|(_, meant)| *meant)
}

/// What stands between operators and parentheses, without what is in braces.
fn parts(unit: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    let parts = unit.split(move |c| {
        depth += i32::from(matches!(c, '[' | '{')) - i32::from(matches!(c, ']' | '}'));
        depth == 0 && matches!(c, '.' | '/' | '(' | ')')
    });
    // An annotation comes last, or alone.
    parts.filter_map(|part| part.split('{').next().filter(|part| !part.is_empty()))
}

/// A number, or a unit with or without a prefix and an exponent.
fn is_unit(part: &str) -> bool {
    let base = part.trim_end_matches(|c: char| c.is_ascii_digit());
    if base.is_empty() {
        return true;
    }
    let base = match base.len() < part.len() {
        true => base.strip_suffix(['+', '-']).unwrap_or(base),
        false => base,
    };
    let is = |list: &str, unit: &str| list.split_ascii_whitespace().any(|one| one == unit);
    let metric = |unit: &str| {
        let mut prefixes = PREFIXES
            .split(' ')
            .filter_map(|prefix| unit.strip_prefix(prefix));
        is(METRIC, unit) || prefixes.any(|unit| is(METRIC, unit))
    };
    match base.split_once('[') {
        // As in mm[Hg], dB[mW], k[IU].
        Some((before, _)) => before.is_empty() || is(PREFIXES, before) || metric(before),
        None => is(WHOLE, base) || metric(base),
    }
}

const UNPAIRED: &str = "has a bracket without its pair";

/// Whether an attribute of a gauge is within its bounds; else what is wrong.
pub fn check_attribute(key: &str, value: &str) -> Result<(), &'static str> {
    if key.is_empty() || key.len() > MAX_KEY {
        return Err("a name must have 1 to 64 characters");
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-/".contains(&byte);
    if !key.bytes().all(plain) {
        return Err("a name may hold letters, digits and _ . - / only");
    }
    if value.len() > MAX_VALUE {
        return Err("a value must not be longer than 256 bytes");
    }
    if value.chars().any(char::is_control) {
        return Err("a value must not hold control characters");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gauge::table;

    #[test]
    fn every_gauge_of_our_own_table_keeps_the_rules() {
        for (gauge, keys) in table::ALL {
            assert_eq!(check_name(&gauge.name), Ok(()), "{}", gauge.name);
            assert_eq!(check_unit(&gauge.unit), Ok(()), "{}", gauge.unit);
            for key in *keys {
                assert_eq!(check_attribute(key, "x"), Ok(()), "{key}");
            }
        }
    }

    #[test]
    fn names_that_opentelemetry_refuses_are_refused() {
        let long = "a".repeat(256);
        for name in ["", "1a", ".a", "a b", "a\n", "ä", "a{b}", long.as_str()] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["a", "modem.signal", "A-b_c/d.9", &long[..255]] {
            assert_eq!(check_name(name), Ok(()), "{name:?}");
        }
    }

    #[test]
    fn units_that_cannot_be_ucum_are_refused_and_common_slips_corrected() {
        for unit in [
            "1",
            "%",
            "Cel",
            "[degF]",
            "By/s",
            "{packet}",
            "{packet}/s",
            "m/s2",
            "kg.m/s2",
            "/min",
            "10*3/ul",
            "dB[mW]",
            "J/(kg.K)",
            "m3{gas}/h",
            "mm[Hg]",
            "Ohm.m",
            "''",
            "deg",
            "rpm",
            "{sheet/side}/min",
            "{revolution}/min",
            "kW.h",
            "hPa",
            "m/s2",
            "KiBy",
            "MBy/s",
            "dB",
            "uS/cm",
            "[ppm]",
            "[in_i'Hg]",
            "k[IU]/l",
            "10*-3",
            "m3.s-1",
            "ug/m3",
            "L/min",
            "1/s",
        ] {
            assert_eq!(check_unit(unit), Ok(()), "{unit}");
        }
        for unit in [
            "", "°C", "m s", "{a", "a}", "[a", "(m", "m)", "m/", ".m", "m..s", "a\"b", "m(s)",
            "{a{b}}", "\u{3a9}", "bananas", "Volt", "m/sec", "kWh", "count", "B/s", "Pas", "x[y",
            "foo[bar]", "m-", "kk",
        ] {
            assert!(check_unit(unit).is_err(), "{unit:?}");
        }
        assert!(check_unit("bytes").unwrap_err().contains("\"By\""));
        let wrong = check_unit("m/sec").unwrap_err();
        assert_eq!(wrong, "has \"sec\", which is no UCUM unit; write \"s\"");
        let wrong = check_unit("bananas").unwrap_err();
        assert!(
            wrong.ends_with("what is counted is as \"{bananas}\""),
            "{wrong}"
        );
        assert!(check_unit(&"m".repeat(64)).is_err());
    }

    #[test]
    fn attributes_are_bounded() {
        assert_eq!(check_attribute("line.id", "Halle 3"), Ok(()));
        assert!(check_attribute("", "x").is_err());
        assert!(check_attribute("a b", "x").is_err());
        assert!(check_attribute("a", "x\u{7}").is_err());
        assert!(check_attribute("a", &"x".repeat(257)).is_err());
        assert!(check_attribute(&"k".repeat(65), "x").is_err());
    }
}
