//! What a gauge is: something with a unit, a resolution and a range that can
//! be asked for its value.

use crate::Missing;

/// A value in whole steps of the gauge's resolution, or why there is none.
pub type Reading = Result<i32, Missing>;

/// The unit of a gauge. The discriminants are the codes of the wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Unit {
    /// A plain number.
    One = 0,
    /// Degrees Celsius.
    Celsius = 1,
    /// Percent, such as relative humidity.
    Percent = 2,
    /// Volts.
    Volt = 3,
    /// Amperes.
    Ampere = 4,
    /// Watts.
    Watt = 5,
    /// Pascals.
    Pascal = 6,
    /// Hertz.
    Hertz = 7,
    /// Seconds.
    Second = 8,
    /// Bytes.
    Byte = 9,
    /// Metres.
    Metre = 10,
    /// Lux.
    Lux = 11,
    /// Ohms.
    Ohm = 12,
}

impl Unit {
    /// The byte that stands for it on the wire.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What a byte from the wire stands for; `None` when a newer sender knows more units.
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Unit::One,
            1 => Unit::Celsius,
            2 => Unit::Percent,
            3 => Unit::Volt,
            4 => Unit::Ampere,
            5 => Unit::Watt,
            6 => Unit::Pascal,
            7 => Unit::Hertz,
            8 => Unit::Second,
            9 => Unit::Byte,
            10 => Unit::Metre,
            11 => Unit::Lux,
            12 => Unit::Ohm,
            _ => return None,
        })
    }

    /// Its name in UCUM, as OpenTelemetry writes units.
    pub const fn ucum(self) -> &'static str {
        match self {
            Unit::One => "1",
            Unit::Celsius => "Cel",
            Unit::Percent => "%",
            Unit::Volt => "V",
            Unit::Ampere => "A",
            Unit::Watt => "W",
            Unit::Pascal => "Pa",
            Unit::Hertz => "Hz",
            Unit::Second => "s",
            Unit::Byte => "By",
            Unit::Metre => "m",
            Unit::Lux => "lx",
            Unit::Ohm => "Ohm",
        }
    }
}

/// How much one step is: `numerator / denominator` of the unit, neither 0.
/// A fraction, so that a sixteenth of a degree and a thousandth of a percent
/// are both exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolution {
    numerator: u32,
    denominator: u32,
}

impl Resolution {
    /// One step is one unit.
    pub const WHOLE: Self = Self::one_in(1);

    /// `numerator / denominator` of the unit; `None` if either is 0.
    pub const fn new(numerator: u32, denominator: u32) -> Option<Self> {
        if numerator == 0 || denominator == 0 {
            return None;
        }
        Some(Self {
            numerator,
            denominator,
        })
    }

    /// A step is the `denominator`th part of the unit; 0 counts as 1.
    pub const fn one_in(denominator: u32) -> Self {
        Self {
            numerator: 1,
            denominator: if denominator == 0 { 1 } else { denominator },
        }
    }

    /// The upper part of the fraction.
    pub const fn numerator(self) -> u32 {
        self.numerator
    }

    /// The lower part of the fraction.
    pub const fn denominator(self) -> u32 {
        self.denominator
    }

    /// The value of so many steps in the unit. For the gateway; a
    /// microcontroller has no need of it. Rounded once when
    /// `steps * numerator` stays below 2^53, which is so for every numerator
    /// up to 4 million.
    pub fn value(self, steps: i32) -> f64 {
        f64::from(steps) * f64::from(self.numerator) / f64::from(self.denominator)
    }
}

/// What a gauge says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About<'a> {
    /// 1 to 32 of `a-z 0-9 . _`, such as `board.temperature`.
    pub name: &'a str,
    /// The unit of its value.
    pub unit: Unit,
    /// How much one step is.
    pub resolution: Resolution,
    /// The smallest value that can be true, in steps.
    pub least: i32,
    /// The largest value that can be true, in steps.
    pub most: i32,
}

impl About<'_> {
    /// A raw value as a reading: [`Missing::Garbage`] outside the gauge's range.
    pub fn check(&self, steps: i64) -> Reading {
        match i32::try_from(steps) {
            Ok(value) if (self.least..=self.most).contains(&value) => Ok(value),
            _ => Err(Missing::Garbage),
        }
    }
}

/// Something that can be asked for one value.
pub trait Gauge {
    /// What it measures.
    fn about(&self) -> About<'static>;

    /// Measures. Returns within the bus's own limits and never blocks beyond
    /// them; a value outside the range of [`Gauge::about`] is
    /// [`Missing::Garbage`].
    fn read(&mut self) -> Reading;
}

/// Something that measures `N` values at once, such as temperature and
/// humidity. Every [`Gauge`] is one with `N = 1`.
pub trait Gauges<const N: usize> {
    /// What it measures, in the order of [`Gauges::read_all`].
    fn about_all(&self) -> [About<'static>; N];

    /// Measures all of them. One may be absent while another is there.
    fn read_all(&mut self) -> [Reading; N];
}

impl<G: Gauge> Gauges<1> for G {
    fn about_all(&self) -> [About<'static>; 1] {
        [self.about()]
    }

    fn read_all(&mut self) -> [Reading; 1] {
        [self.read()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_comes_back_from_its_code() {
        let known = (0..=255).filter_map(Unit::from_code);
        assert!(
            known
                .enumerate()
                .all(|(code, unit)| usize::from(unit.code()) == code)
        );
        assert_eq!(Unit::from_code(13), None);
    }

    #[test]
    fn a_resolution_is_exact_where_a_double_is() {
        assert_eq!(Resolution::one_in(16).value(504), 31.5);
        assert_eq!(Resolution::one_in(1000).value(23_730), 23.73);
        assert_eq!(Resolution::new(4, 1000).map(|r| r.value(-3)), Some(-0.012));
        assert_eq!(Resolution::new(0, 1), None);
        assert_eq!(Resolution::new(1, 0), None);
    }

    #[test]
    fn a_value_outside_the_range_is_garbage() {
        let about = About {
            name: "t",
            unit: Unit::Celsius,
            resolution: Resolution::one_in(16),
            least: -640,
            most: 2000,
        };
        assert_eq!(about.check(-640), Ok(-640));
        assert_eq!(about.check(2000), Ok(2000));
        assert_eq!(about.check(2001), Err(Missing::Garbage));
        assert_eq!(about.check(i64::MAX), Err(Missing::Garbage));
    }
}
