//! Promises of sensors on the gateway's buses.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::bus::Open;
use super::driver::Driver;
use super::*;
use crate::clock::{Clock, ClockTrust};
use crate::gauge::sensor::Sensor;
use crate::gauge::{Missing, Readings, Registry, Source as _, Value};

type Script = VecDeque<Step>;

/// A sensor's name, and what it gave.
type Seen = (String, Result<f64, Missing>);

/// What a sensor does when it is read.
enum Step {
    Gives(Result<f64, Missing>),
    /// Once.
    GivesAll(Vec<Result<f64, Missing>>),
    /// Nothing, until the test lets it go on.
    Hangs(Receiver<()>),
    /// Its device cannot be opened.
    Closed(Missing),
}

/// A bench with sensors that do as they are told; the last step is repeated.
#[derive(Clone, Default)]
struct Bench {
    scripts: Arc<Mutex<BTreeMap<String, Script>>>,
    /// How often each was really asked.
    asked: Arc<Mutex<BTreeMap<String, u32>>>,
}

struct Fake {
    place: String,
    bench: Bench,
}

impl Bench {
    fn set(&self, name: &str, steps: impl IntoIterator<Item = Step>) {
        self.set_at(&tmp(name).kind.place(), steps);
    }

    fn set_at(&self, place: &str, steps: impl IntoIterator<Item = Step>) {
        let steps = steps.into_iter().collect();
        self.scripts.lock().unwrap().insert(place.into(), steps);
    }

    fn next(&self, place: &str) -> Option<Step> {
        *self.asked.lock().unwrap().entry(place.into()).or_default() += 1;
        let mut scripts = self.scripts.lock().unwrap();
        let script = scripts.get_mut(place)?;
        match script.front() {
            Some(Step::Gives(value)) if script.len() == 1 => Some(Step::Gives(*value)),
            Some(Step::Closed(missing)) if script.len() == 1 => Some(Step::Closed(*missing)),
            _ => script.pop_front(),
        }
    }

    fn asked(&self, name: &str) -> u32 {
        let place = tmp(name).kind.place();
        self.asked.lock().unwrap().get(&place).copied().unwrap_or(0)
    }

    fn open(&self) -> Open {
        let bench = self.clone();
        Arc::new(move |kind: &Kind, _: &Path| {
            let place = kind.place();
            let closed = matches!(
                bench
                    .scripts
                    .lock()
                    .unwrap()
                    .get(&place)
                    .and_then(|s| s.front()),
                Some(Step::Closed(_))
            );
            if closed && let Some(Step::Closed(missing)) = bench.next(&place) {
                return Err(missing);
            }
            let bench = bench.clone();
            Ok(Box::new(Fake { place, bench }) as Box<dyn Driver>)
        })
    }
}

impl Driver for Fake {
    fn read(&mut self) -> Vec<Result<f64, Missing>> {
        match self.bench.next(&self.place) {
            Some(Step::Gives(value)) => vec![value],
            Some(Step::GivesAll(values)) => values,
            Some(Step::Hangs(gate)) => {
                let _ = gate.recv();
                vec![Ok(0.0)]
            }
            Some(Step::Closed(missing)) => vec![Err(missing)],
            None => vec![Err(Missing::Gone)],
        }
    }
}

/// `bus/sensor`: the bus's name says where it is.
fn tmp(name: &str) -> Settings {
    let (bus, number) = name.split_once('-').unwrap();
    Settings {
        name: name.into(),
        kind: Kind::Tmp102(I2cPlace {
            bus: bus.into(),
            address: 0x48 + number.parse::<u8>().unwrap(),
        }),
    }
}

/// A device of the kernel, and its place.
fn iio(name: &str, channels: usize) -> (Settings, String) {
    let channels = (0..channels).map(|n| format!("in_voltage{n}")).collect();
    let kind = Kind::Iio(format!("/sys/bus/iio/devices/{name}").into(), channels);
    let name = name.to_owned();
    let place = kind.place();
    (Settings { name, kind }, place)
}

fn gate() -> (Sender<()>, Step) {
    let (open, gate) = channel();
    (open, Step::Hangs(gate))
}

struct Rig {
    bench: Bench,
    sensors: Sensors,
    source: Sensor,
    registry: Registry,
}

impl Rig {
    fn new(names: &[&str], patience: Duration) -> Self {
        let (bench, sensors) = (Bench::default(), Sensors::default());
        let clock = Clock::new(ClockTrust::Always);
        let source = Sensor::with(
            sensors.clone(),
            Path::new("/"),
            clock,
            bench.open(),
            patience,
        );
        sensors.configure(names.iter().map(|name| tmp(name)).collect());
        Self {
            bench,
            sensors,
            source,
            registry: Registry::default(),
        }
    }

    fn tick(&mut self) -> Result<Vec<Seen>, Missing> {
        let mut out = Readings::new(self.registry.clone());
        self.source.read(crate::frame::Stamp::default(), &mut out)?;
        let mut all: Vec<_> = out
            .listed()
            .into_iter()
            // The family's own counts have no sensor.
            .filter_map(|(name, value)| {
                let id = name.split("hw.id=").nth(1)?;
                let id = id.split('/').next()?;
                Some((id.to_owned(), value.map(Value::as_f64)))
            })
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }

    fn status(&self, name: &str) -> SensorStatus {
        let all = self.sensors.status();
        all.into_iter().find(|s| s.name == name).unwrap()
    }

    fn state(&self, name: &str) -> String {
        self.status(name).state
    }
}

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(30);

fn is(name: &str, value: Result<f64, Missing>) -> Seen {
    (name.into(), value)
}

#[test]
fn every_sensor_of_every_bus_is_read_at_each_tick() {
    let mut rig = Rig::new(&["a-0", "a-1", "b-0"], LONG);
    for (name, value) in [("a-0", 1.0), ("a-1", 2.0), ("b-0", 3.0)] {
        rig.bench.set(name, [Step::Gives(Ok(value))]);
    }
    let wanted = [is("a-0", Ok(1.0)), is("a-1", Ok(2.0)), is("b-0", Ok(3.0))];
    for _ in 0..3 {
        assert_eq!(rig.tick().unwrap(), wanted);
    }
    assert_eq!(rig.state("b-0"), "ok");
}

#[test]
fn a_bus_that_hangs_is_a_timeout_alone_and_recovers_without_a_second_thread() {
    let mut rig = Rig::new(&["a-0", "a-1", "b-0"], SHORT);
    let (open, hangs) = gate();
    rig.bench.set("a-0", [hangs, Step::Gives(Ok(1.0))]);
    rig.bench.set("a-1", [Step::Gives(Ok(2.0))]);
    rig.bench.set("b-0", [Step::Gives(Ok(3.0))]);
    let late = Err(Missing::Timeout);
    for _ in 0..5 {
        let seen = rig.tick().unwrap();
        assert_eq!(seen[..2], [is("a-0", late), is("a-1", late)]);
    }
    assert_eq!(rig.state("a-0"), "hangs");
    assert_eq!(rig.state("a-1"), "waits");
    let why = rig.status("a-1").waits_for.unwrap();
    assert_eq!(why, "sensor a-0 hangs on its bus");
    assert_eq!(rig.bench.asked("a-0"), 1, "asked again while it hung");
    // The other bus may be late by chance, never for good.
    while rig.tick().unwrap()[2] != is("b-0", Ok(3.0)) {}
    open.send(()).unwrap();
    let wanted = [is("a-0", Ok(1.0)), is("a-1", Ok(2.0))];
    while rig.tick().unwrap()[..2] != wanted {}
    assert_eq!(rig.state("a-0"), "ok");
}

#[test]
fn a_sensor_that_is_gone_is_asked_less_and_less_and_comes_back() {
    let mut rig = Rig::new(&["a-0"], LONG);
    rig.bench.set("a-0", [Step::Gives(Err(Missing::Gone))]);
    for _ in 0..100 {
        assert_eq!(rig.tick().unwrap(), [is("a-0", Err(Missing::Gone))]);
    }
    let asked = rig.bench.asked("a-0");
    assert!((5..=9).contains(&asked), "{asked} of 100");
    assert_eq!(rig.state("a-0"), "absent");
    rig.bench.set("a-0", [Step::Gives(Ok(4.0))]);
    let mut rounds = 0;
    while rig.tick().unwrap() != [is("a-0", Ok(4.0))] {
        rounds += 1;
    }
    assert!(rounds <= 32, "{rounds}");
    // From then on at every tick.
    let before = rig.bench.asked("a-0");
    (0..10).for_each(|_| drop(rig.tick()));
    assert_eq!(rig.bench.asked("a-0"), before + 10);
}

#[test]
fn a_sensor_that_answers_only_sometimes_gives_what_it_gives() {
    let mut rig = Rig::new(&["a-0"], LONG);
    let steps = (0..20).map(|n| match n % 2 {
        0 => Step::Gives(Ok(f64::from(n))),
        _ => Step::Gives(Err(Missing::Garbage)),
    });
    rig.bench.set("a-0", steps);
    for n in 0..19 {
        let wanted = match n % 2 {
            0 => Ok(f64::from(n)),
            _ => Err(Missing::Garbage),
        };
        assert_eq!(rig.tick().unwrap(), [is("a-0", wanted)]);
    }
}

#[test]
fn a_device_that_is_not_there_at_the_start_is_absent_with_its_reason() {
    let mut rig = Rig::new(&["a-0"], LONG);
    rig.bench.set(
        "a-0",
        [Step::Closed(Missing::Unsupported), Step::Gives(Ok(1.0))],
    );
    assert_eq!(rig.tick().unwrap(), [is("a-0", Err(Missing::Unsupported))]);
    while rig.tick().unwrap() != [is("a-0", Ok(1.0))] {}
}

#[test]
fn a_reload_adds_and_removes_and_keeps_away_from_a_bus_that_hangs() {
    let mut rig = Rig::new(&["a-0"], SHORT);
    let (open, hangs) = gate();
    rig.bench.set("a-0", [hangs, Step::Gives(Ok(1.0))]);
    rig.bench.set("a-1", [Step::Gives(Ok(2.0))]);
    rig.bench.set("b-0", [Step::Gives(Ok(3.0))]);
    assert_eq!(rig.tick().unwrap(), [is("a-0", Err(Missing::Timeout))]);
    rig.sensors.configure(vec![tmp("a-1"), tmp("b-0")]);
    while rig.tick().unwrap() != [is("a-1", Err(Missing::Timeout)), is("b-0", Ok(3.0))] {}
    assert_eq!(
        rig.bench.asked("a-1"),
        0,
        "a second thread on a bus that hangs"
    );
    let why = rig.status("a-1").waits_for.unwrap();
    assert_eq!(why, "sensor a-0, no longer configured, hangs on its bus");
    assert_eq!(rig.sensors.left_behind(), ["a-0 at a 0x48"]);
    open.send(()).unwrap();
    while rig.tick().unwrap() != [is("a-1", Ok(2.0)), is("b-0", Ok(3.0))] {}
    assert_eq!(rig.status("a-1").waits_for, None);
    assert!(rig.sensors.left_behind().is_empty());
    rig.sensors.configure(Vec::new());
    assert_eq!(rig.tick(), Err(Missing::Unsupported));
    assert!(rig.sensors.status().is_empty());
}

#[test]
fn a_device_of_the_kernel_that_hangs_stops_no_other_and_is_not_blamed_once_it_is_removed() {
    let ((bad, bad_place), (good, good_place)) = (iio("bad", 1), iio("good", 1));
    let mut rig = Rig::new(&[], SHORT);
    let (_shut, hangs) = gate();
    rig.bench.set_at(&bad_place, [hangs]);
    rig.bench.set_at(&good_place, [Step::Gives(Ok(1.0))]);
    rig.sensors.configure(vec![bad, good.clone()]);
    let late = is("bad", Err(Missing::Timeout));
    while rig.tick().unwrap() != [late.clone(), is("good", Ok(1.0))] {}
    assert_eq!(rig.state("bad"), "hangs");
    // While a tick runs, the other may be waited for; it is never held.
    assert_eq!(rig.status("good").waits_for, None);
    rig.sensors.configure(vec![good]);
    while rig.tick().unwrap() != [is("good", Ok(1.0))] {}
    assert_eq!(rig.state("good"), "ok");
    assert_eq!(rig.sensors.left_behind(), [format!("bad at {bad_place}")]);
}

#[test]
fn threads_that_were_left_behind_are_bounded_and_make_room_when_they_return() {
    let mut rig = Rig::new(&[], SHORT);
    let mut gates = Vec::new();
    for n in 0..MAX_BUSES + MAX_LEFT {
        let name = format!("d{n}");
        let (settings, place) = iio(&name, 1);
        let (open, hangs) = gate();
        rig.bench.set_at(&place, [hangs]);
        gates.push(open);
        rig.sensors.configure(vec![settings]);
        assert_eq!(rig.tick().unwrap(), [is(&name, Err(Missing::Timeout))]);
    }
    let (last, place) = iio("last", 1);
    rig.bench.set_at(&place, [Step::Gives(Ok(1.0))]);
    rig.sensors.configure(vec![last]);
    assert_eq!(rig.tick().unwrap(), [is("last", Err(Missing::Timeout))]);
    assert_eq!(rig.state("last"), "waits");
    assert_eq!(rig.sensors.left_behind().len(), MAX_BUSES + MAX_LEFT);
    gates.remove(0).send(()).unwrap();
    while rig.tick().unwrap() != [is("last", Ok(1.0))] {}
    assert_eq!(rig.sensors.left_behind().len(), MAX_BUSES + MAX_LEFT - 1);
}

#[test]
fn when_the_last_sensor_is_removed_nothing_of_it_is_shown_but_its_thread_if_that_hangs() {
    let mut rig = Rig::new(&["a-0", "b-0"], SHORT);
    let (_shut, hangs) = gate();
    rig.bench.set("a-0", [hangs]);
    rig.bench.set("b-0", [Step::Gives(Ok(3.0))]);
    while rig.tick().unwrap() != [is("a-0", Err(Missing::Timeout)), is("b-0", Ok(3.0))] {}
    // Without a sensor the family is not read any more.
    rig.sensors.configure(Vec::new());
    assert!(rig.sensors.status().is_empty());
    assert_eq!(rig.sensors.left_behind(), ["a-0 at a 0x48"]);
}

#[test]
fn a_sensor_of_which_some_values_are_missing_is_not_ok_and_says_how_many() {
    let (adc, place) = iio("adc", 4);
    let mut rig = Rig::new(&[], LONG);
    let garbage = Err(Missing::Garbage);
    let half = vec![Ok(1.0), garbage, Ok(2.0), garbage];
    let all = vec![Ok(1.0); 4];
    rig.bench
        .set_at(&place, [Step::GivesAll(half), Step::GivesAll(all)]);
    rig.sensors.configure(vec![adc]);
    rig.tick().unwrap();
    let status = rig.status("adc");
    assert_eq!(
        (status.state.as_str(), status.values, status.of),
        ("partial", 2, 4)
    );
    assert_eq!(status.missing.as_deref(), Some("garbage"));
    rig.tick().unwrap();
    let status = rig.status("adc");
    assert_eq!(
        (status.state.as_str(), status.values, status.of),
        ("ok", 4, 4)
    );
    assert_eq!(status.missing, None);
}

#[test]
fn channels_of_the_kernel_are_read_below_the_root() {
    let root = tempfile::tempdir().unwrap();
    let folder = Path::new("/sys/bus/iio/devices/iio:device0");
    let real = root.path().join(folder.strip_prefix("/").unwrap());
    std::fs::create_dir_all(&real).unwrap();
    std::fs::write(real.join("in_voltage0_raw"), "2048\n").unwrap();
    std::fs::write(real.join("in_voltage_scale"), "0.5\n").unwrap();
    let sensors = Sensors::default();
    let channels = vec!["in_voltage0".to_owned(), "in_temp".to_owned()];
    sensors.configure(vec![Settings {
        name: "adc".into(),
        kind: Kind::Iio(folder.into(), channels),
    }]);
    let clock = Clock::new(ClockTrust::Always);
    let open: Open = Arc::new(driver::open);
    let mut source = Sensor::with(sensors, root.path(), clock, open, LONG);
    let registry = Registry::default();
    let mut read = || {
        let mut out = Readings::new(registry.clone());
        source
            .read(crate::frame::Stamp::default(), &mut out)
            .unwrap();
        ["voltage0", "temp"].map(|name| {
            let gauge = if name == "temp" {
                "hw.temperature"
            } else {
                "hw.voltage"
            };
            let key = format!("{gauge} hw.id=adc/{name} hw.name={name}");
            out.value(&key).unwrap()
        })
    };
    let absent = Err(Missing::Unsupported);
    assert_eq!(read(), [Ok(Value::Float(1.024)), absent]);
    std::fs::write(real.join("in_voltage0_raw"), "-1\n").unwrap();
    std::fs::write(real.join("in_temp_input"), "-12250\n").unwrap();
    assert_eq!(
        read(),
        [Ok(Value::Float(-0.0005)), Ok(Value::Float(-12.25))]
    );
}

#[test]
fn a_gpio_chip_that_is_none_or_is_not_there_is_absent_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| Kind::Gpio(folder.path().join(name), 3, false);
    let open = |kind: &Kind| driver::open(kind, Path::new("/")).err();
    assert_eq!(open(&at("gpiochip0")), Some(Missing::Unsupported));
    std::fs::write(folder.path().join("gpiochip1"), "no device").unwrap();
    assert_eq!(open(&at("gpiochip1")), Some(Missing::Gone));
}

#[test]
fn an_spi_device_that_is_none_or_is_not_there_is_absent_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| {
        Kind::Bme280(Place::Spi(SpiPlace {
            device: folder.path().join(name),
            speed: 1_000_000,
            mode: 0,
        }))
    };
    let open = |kind: &Kind| driver::open(kind, Path::new("/")).err();
    assert_eq!(open(&at("spidev0.0")), Some(Missing::Unsupported));
    std::fs::write(folder.path().join("spidev0.1"), "no device").unwrap();
    assert_eq!(open(&at("spidev0.1")), Some(Missing::Gone));
}

#[test]
fn chips_on_one_spi_bus_share_a_thread_and_each_gives_what_it_has() {
    let chip = |name: &str, kind: fn(Place) -> Kind| {
        let at = SpiPlace {
            device: format!("/dev/{name}").into(),
            speed: 1_000_000,
            mode: 0,
        };
        Settings {
            name: name.into(),
            kind: kind(Place::Spi(at)),
        }
    };
    let (a, b) = ("spidev0.0", "spidev0.1");
    let mut rig = Rig::new(&[], SHORT);
    let (open, hangs) = gate();
    let three = || Step::GivesAll(vec![Ok(21.5), Ok(101_300.0), Ok(40.0)]);
    let unplugged = Step::GivesAll(vec![Err(Missing::Gone); 3]);
    rig.bench
        .set_at("/dev/spidev0.0", [hangs, three(), unplugged]);
    rig.bench.set_at("/dev/spidev0.1", (0..99).map(|_| three()));
    let other = chip("spidev1.0", Kind::Bme280);
    rig.bench
        .set_at("/dev/spidev1.0", (0..999).map(|_| three()));
    let both = vec![chip(a, Kind::Bme280), chip(b, Kind::Bmp280), other];
    rig.sensors.configure(both);
    // Which bus is late by chance does not matter; which hangs does.
    while rig.tick().unwrap().last() != Some(&is("spidev1.0", Ok(40.0))) {}
    assert_eq!(
        (rig.state(a), rig.state(b)),
        ("hangs".into(), "waits".into())
    );
    open.send(()).unwrap();
    let values = |rig: &mut Rig, name: &str| {
        let all = rig.tick().unwrap();
        let own = all.into_iter().filter(|(of, _)| of == name);
        own.map(|(_, value)| value).collect::<Vec<_>>()
    };
    while values(&mut rig, b) != [Ok(21.5), Ok(101_300.0)] {}
    assert_eq!((rig.status(b).values, rig.status(b).of), (2, 2));
    while rig.status(a).missing.as_deref() != Some("gone") {
        rig.tick().unwrap();
    }
    assert_eq!(rig.state(a), "absent");
}
