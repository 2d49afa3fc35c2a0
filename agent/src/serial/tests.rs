//! Promises of a serial line.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use sonde_firmware_hal::wire::{Encoder, GaugeId, TraceContext};
use sonde_firmware_hal::{About, Missing as Absent, Resolution, Unit};

use super::*;
use crate::clock::ClockTrust;
use crate::gauge::{Missing, Readings, Registry, Source as _, Value, serial::Serial as Family};
use crate::trace::testing;

const S: u64 = 1_000_000_000;

fn settings(device: &Path) -> Settings {
    Settings {
        name: "boiler".into(),
        device: device.into(),
        baud: 115_200,
        max_series: 32,
        stale: Duration::from_secs(30),
        gauges: Vec::new(),
    }
}

fn link() -> Link {
    let mut link = Link::new(Arc::new(settings(Path::new("/dev/ttyX"))), 0);
    link.opened(0);
    link
}

/// A microcontroller.
struct Board(Encoder);

impl Board {
    fn describes(&mut self, number: u8, name: &str, unit: Unit) -> Vec<u8> {
        let about = About {
            name,
            unit,
            resolution: Resolution::one_in(16),
            least: -880,
            most: 2048,
        };
        let gauge = GaugeId::new(number).unwrap();
        self.0.describe(1, gauge, &about).unwrap();
        self.0.finish().to_vec()
    }

    fn reads(&mut self, number: u8, reading: Result<i32, Absent>) -> Vec<u8> {
        let gauge = GaugeId::new(number).unwrap();
        self.0.push(5, gauge, reading).unwrap();
        self.0.finish().to_vec()
    }
}

fn board() -> Board {
    Board(Encoder::new(1))
}

/// A link that knows one thermometer, and its board.
fn thermometer() -> (Link, Board) {
    let (mut link, mut board) = (link(), board());
    hear(&mut link, &board.describes(0, "water", Unit::Celsius));
    (link, board)
}

fn hear(link: &mut Link, bytes: &[u8]) {
    link.feed(bytes, S, |_| {});
}

const WATER: &str = "hw.temperature hw.id=boiler/1/water hw.name=water";

fn value(link: &mut Link, now_ns: u64, name: &str) -> Option<Result<Value, Missing>> {
    let mut out = Readings::new(Registry::default());
    // Numbers of another registry mean nothing here.
    link.forget_series();
    link.read(now_ns, &mut out);
    out.value(name)
}

#[test]
fn a_reading_has_the_name_the_unit_and_the_resolution_that_its_sender_says() {
    let (mut link, mut board) = thermometer();
    assert_eq!(value(&mut link, S, WATER), None);
    for (steps, degrees) in [(504, 31.5), (-3, -0.1875)] {
        hear(&mut link, &board.reads(0, Ok(steps)));
        assert_eq!(value(&mut link, S, WATER), Some(Ok(Value::Float(degrees))));
    }
    hear(&mut link, &board.describes(1, "humidity", Unit::Percent));
    hear(&mut link, &board.reads(1, Ok(16)));
    let name = "sonde.sensor.humidity hw.id=boiler/1/humidity hw.name=humidity";
    assert_eq!(value(&mut link, S, name), Some(Ok(Value::Float(1.0))));
}

#[test]
fn what_the_file_says_about_a_gauge_counts_more_than_what_the_sender_says() {
    let mut settings = settings(Path::new("/dev/ttyX"));
    settings.gauges.push(Channel {
        name: "level".into(),
        source: 1,
        number: 0,
        unit: "m".into(),
        scale: 0.5,
        offset: -1.0,
    });
    let mut link = Link::new(Arc::new(settings), 0);
    link.opened(0);
    let mut board = board();
    hear(&mut link, &board.describes(0, "water", Unit::Celsius));
    hear(&mut link, &board.reads(0, Ok(5)));
    let name = "sonde.sensor.level hw.id=boiler/1/level hw.name=level";
    assert_eq!(value(&mut link, S, name), Some(Ok(Value::Float(1.5))));
    assert_eq!(value(&mut link, S, WATER), None);
}

#[test]
fn absence_has_its_reason_and_is_never_a_number() {
    let (mut link, mut board) = thermometer();
    for (absent, missing) in [
        (Absent::Gone, Missing::Gone),
        (Absent::Bus, Missing::Gone),
        (Absent::NotReady, Missing::Timeout),
        (Absent::Garbage, Missing::Garbage),
    ] {
        hear(&mut link, &board.reads(0, Err(absent)));
        assert_eq!(value(&mut link, S, WATER), Some(Err(missing)));
    }
    // Beyond what the sensor can measure.
    hear(&mut link, &board.reads(0, Ok(5000)));
    assert_eq!(value(&mut link, S, WATER), Some(Err(Missing::Garbage)));
    hear(&mut link, &board.reads(0, Ok(16)));
    assert_eq!(
        value(&mut link, 32 * S, WATER),
        Some(Err(Missing::Timeout)),
        "a reading that is too old"
    );
    assert!(link.absent("was unplugged".into(), 2 * S));
    assert!(!link.absent("was unplugged".into(), 3 * S), "no news");
    assert_eq!(value(&mut link, 3 * S, WATER), Some(Err(Missing::Gone)));
}

#[test]
fn noise_half_frames_and_wrong_checksums_are_counted_and_cost_nothing_else() {
    let (mut link, mut board) = thermometer();
    hear(&mut link, &board.reads(0, Ok(16)));
    // Every frame of a minute is hit in one bit.
    for n in 0..600_usize {
        let mut frame = board.reads(0, Ok(32));
        let at = n % (frame.len() - 1);
        // Never to zero: that would be two runs.
        frame[at] ^= if frame[at] == 0x40 { 0x20 } else { 0x40 };
        hear(&mut link, &frame);
    }
    assert_eq!(value(&mut link, S, WATER), Some(Ok(Value::Float(1.0))));
    assert_eq!(link.counts().frames, 2);
    assert!(link.counts().bad() >= 600);
    // Noise without an end.
    hear(&mut link, &[0x55; 10_000]);
    let half = board.reads(0, Ok(64));
    hear(&mut link, &half[..half.len() / 2]);
    hear(&mut link, &[0]);
    assert_eq!(link.resyncs(), 0);
    hear(&mut link, &board.reads(0, Ok(48)));
    assert_eq!(value(&mut link, S, WATER), Some(Ok(Value::Float(3.0))));
    assert_eq!(link.resyncs(), 1);
    assert_eq!(link.lost(), 601);
    let status = link.status(S);
    assert_eq!(status.bad.values().sum::<u64>(), link.counts().bad());
    assert!(status.bad["checksum"] > 0);
}

#[test]
fn half_a_frame_before_an_unplug_does_not_spoil_the_first_after_it() {
    let (mut link, mut board) = thermometer();
    let half = board.reads(0, Ok(16));
    hear(&mut link, &half[..5]);
    link.absent("was unplugged".into(), S);
    link.opened(2 * S);
    hear(&mut link, &board.reads(0, Ok(32)));
    assert_eq!(value(&mut link, 2 * S, WATER), Some(Ok(Value::Float(2.0))));
    assert_eq!(link.counts().bad(), 1);
    assert_eq!(link.lost(), 1);
}

#[test]
fn a_frame_that_comes_twice_is_heard_once_and_a_restart_is_no_loss() {
    let (mut link, mut board) = thermometer();
    let frame = board.reads(0, Ok(16));
    hear(&mut link, &frame);
    hear(&mut link, &frame);
    assert_eq!(link.status(S).repeated, 1);
    let mut again = self::board();
    again.0.lost(7);
    hear(&mut link, &again.reads(0, Ok(32)));
    assert_eq!((link.lost(), link.status(S).restarts), (0, 1));
    assert_eq!(link.samples_lost().collect::<Vec<_>>(), [(1, 7)]);
    assert_eq!(value(&mut link, S, WATER), Some(Ok(Value::Float(2.0))));
}

#[test]
fn senders_that_make_up_names_or_numbers_do_not_grow_the_agent() {
    let mut settings = settings(Path::new("/dev/ttyX"));
    settings.max_series = 3;
    let mut link = Link::new(Arc::new(settings), 0);
    link.opened(0);
    let registry = Registry::default();
    let mut board = board();
    for n in 0..20 {
        hear(&mut link, &board.describes(0, &format!("n{n}"), Unit::One));
        hear(&mut link, &board.reads(0, Ok(n)));
        let mut out = Readings::new(registry.clone());
        link.read(S, &mut out);
    }
    assert_eq!(registry.len(), 3);
    assert_eq!(link.status(S).refused_gauges, 17);
    for source in 0..=255 {
        let mut board = Board(Encoder::new(source));
        hear(&mut link, &board.reads(0, Ok(1)));
    }
    let status = link.status(S);
    assert_eq!(status.sources, link::MAX_SOURCES);
    assert_eq!(status.refused_sources, 256 - link::MAX_SOURCES as u64);
    assert_eq!(status.unnamed, link::MAX_SOURCES - 1);
}

#[test]
fn traces_are_handed_on_a_few_a_second() {
    let (mut link, mut board) = thermometer();
    let context = TraceContext::new([7; 16], [9; 8], 1).unwrap();
    let mut heard = Vec::new();
    for _ in 0..20 {
        board.0.trace(context);
        let frame = board.reads(0, Ok(1));
        link.feed(&frame, S, |traced| heard.push(traced));
    }
    assert_eq!(heard.len(), 8);
    assert_eq!((heard[0].context, heard[0].readings), (context, 1));
    let status = link.status(S);
    assert_eq!((status.traced, status.untraced), (8, 12));
}

/// A serial adapter: a pseudo terminal under a name that stays.
struct Adapter {
    name: PathBuf,
    board_side: OwnedFd,
}

impl Adapter {
    fn plug(name: &Path) -> Self {
        let board_side = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&board_side).unwrap();
        unlockpt(&board_side).unwrap();
        let device = ptsname(&board_side, Vec::new()).unwrap();
        std::os::unix::fs::symlink(device.to_str().unwrap(), name).unwrap();
        Self {
            name: name.into(),
            board_side,
        }
    }

    fn send(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let sent = rustix::io::write(&self.board_side, bytes).unwrap();
            bytes = &bytes[sent..];
        }
    }

    fn unplug(self) {
        std::fs::remove_file(&self.name).unwrap();
    }
}

fn serial() -> (Serial, testing::Finished) {
    let (tracer, finished) = testing::tracer();
    (
        Serial::new(crate::clock::Clock::new(ClockTrust::Always), tracer),
        finished,
    )
}

fn only(settings: Settings) -> BTreeMap<String, Settings> {
    [(settings.name.clone(), settings)].into()
}

/// Waits until the line is so. A terminal that nobody has opened is in no
/// state to take frames: it echoes and edits lines.
async fn stands(serial: &Serial, state: &str) -> SerialStatus {
    let wait = async {
        loop {
            let status = serial.status(0).remove(0);
            if status.state == state {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), wait).await;
    waited.unwrap_or_else(|_| panic!("the line is never {state}"))
}

/// Waits until the family's readings hold this one.
async fn until(family: &mut Family, registry: &Registry, wanted: Result<f64, Missing>) {
    let clock = crate::clock::Clock::new(ClockTrust::Always);
    let wait = async {
        loop {
            let mut out = Readings::new(registry.clone());
            let _ = family.read(clock.now(), &mut out);
            if out.value(WATER) == Some(wanted.map(Value::Float)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), wait).await;
    waited.unwrap_or_else(|_| panic!("{wanted:?} never came"));
}

#[tokio::test]
async fn a_device_may_be_missing_at_the_start_and_be_unplugged_and_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("ttyUSB0");
    let (serial, _) = serial();
    serial.configure(&only(settings(&name))).await;
    let mut family = Family::new(serial.clone());
    let registry = Registry::default();

    stands(&serial, "absent").await;
    let adapter = Adapter::plug(&name);
    stands(&serial, "open").await;
    let mut board = board();
    adapter.send(&board.describes(0, "water", Unit::Celsius));
    adapter.send(&board.reads(0, Ok(504)));
    until(&mut family, &registry, Ok(31.5)).await;

    adapter.unplug();
    until(&mut family, &registry, Err(Missing::Gone)).await;
    let status = serial.status(0).remove(0);
    assert_eq!(status.state, "absent");
    assert!(status.error.is_some());

    let adapter = Adapter::plug(&name);
    stands(&serial, "open").await;
    adapter.send(&board.reads(0, Ok(-16)));
    until(&mut family, &registry, Ok(-1.0)).await;
    let status = serial.status(0).remove(0);
    assert_eq!((status.state.as_str(), status.opens), ("open", 2));
    assert!(serial.stop(Duration::from_secs(20)).await);
}

#[tokio::test]
async fn a_flood_of_noise_is_counted_and_the_next_frame_is_heard() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("ttyUSB0");
    let adapter = Adapter::plug(&name);
    let (serial, _) = serial();
    serial.configure(&only(settings(&name))).await;
    let mut family = Family::new(serial.clone());
    let registry = Registry::default();
    stands(&serial, "open").await;
    let flood = tokio::task::spawn_blocking(move || {
        for _ in 0..64 {
            adapter.send(&[0xA7; 4096]);
        }
        let mut board = board();
        // A board says again and again what it measures.
        adapter.send(&[0]);
        adapter.send(&board.describes(0, "water", Unit::Celsius));
        adapter.send(&board.reads(0, Ok(504)));
        adapter
    });
    until(&mut family, &registry, Ok(31.5)).await;
    let adapter = flood.await.unwrap();
    let status = serial.status(0).remove(0);
    assert!(status.bytes > 64 * 4096, "{}", status.bytes);
    assert_eq!(status.bad.get("too_long"), Some(&1));
    assert!(serial.stop(Duration::from_secs(20)).await);
    drop(adapter);
}

#[tokio::test]
async fn a_reload_closes_what_is_gone_and_opens_what_changed() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("ttyUSB0");
    let adapter = Adapter::plug(&name);
    let (serial, _) = serial();
    let mut wanted = settings(&name);
    serial.configure(&only(wanted.clone())).await;
    stands(&serial, "open").await;
    let mut family = Family::new(serial.clone());
    let registry = Registry::default();
    let mut board = board();
    adapter.send(&board.describes(0, "water", Unit::Celsius));
    adapter.send(&board.reads(0, Ok(16)));
    until(&mut family, &registry, Ok(1.0)).await;

    // Unchanged: what is known stays.
    serial.configure(&only(wanted.clone())).await;
    until(&mut family, &registry, Ok(1.0)).await;
    wanted.baud = 9600;
    serial.configure(&only(wanted)).await;
    stands(&serial, "open").await;
    adapter.send(&board.describes(0, "water", Unit::Celsius));
    adapter.send(&board.reads(0, Ok(32)));
    until(&mut family, &registry, Ok(2.0)).await;
    serial.configure(&BTreeMap::new()).await;
    assert!(serial.status(0).is_empty());
    let mut out = Readings::new(registry.clone());
    assert_eq!(
        family.read(crate::frame::Stamp::default(), &mut out),
        Err(Missing::Unsupported)
    );
}

#[tokio::test]
async fn what_is_no_terminal_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("file");
    std::fs::write(&name, "x").unwrap();
    let (serial, _) = serial();
    serial.configure(&only(settings(&name))).await;
    let status = stands(&serial, "absent").await;
    assert_eq!(status.error.as_deref(), Some("is no serial line"));
    assert!(serial.stop(Duration::from_secs(20)).await);
}

/// A driver in which devices hang while they are opened, each until it is let go.
#[derive(Clone, Default)]
struct Driver {
    gates: Arc<Mutex<BTreeMap<PathBuf, std::sync::mpsc::Receiver<()>>>>,
    opened: Arc<Mutex<Vec<PathBuf>>>,
}

impl Driver {
    /// The next time that the device is opened, it hangs.
    fn hangs(&self, device: &Path) -> std::sync::mpsc::Sender<()> {
        let (open, gate) = std::sync::mpsc::channel();
        self.gates.lock().unwrap().insert(device.into(), gate);
        open
    }

    fn serial(&self) -> Serial {
        let driver = self.clone();
        let open = move |device: &Path, _| {
            driver.opened.lock().unwrap().push(device.into());
            let gate = driver.gates.lock().unwrap().remove(device);
            if let Some(gate) = gate {
                let _ = gate.recv();
            }
            Err("is a test's".to_owned())
        };
        Serial {
            open: Opener::new(open),
            close: Duration::from_millis(20),
            ..serial().0
        }
    }

    fn count(&self, device: &Path) -> usize {
        let opened = self.opened.lock().unwrap();
        opened.iter().filter(|other| *other == device).count()
    }

    /// Waits until the device was opened so often.
    async fn opened(&self, device: &Path, times: usize) {
        while self.count(device) < times {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(self.count(device), times);
    }

    /// The same, while somebody looks at the lines.
    async fn opened_at_last(&self, serial: &Serial, device: &Path, times: usize) {
        while self.count(device) < times {
            serial.status(0);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

#[tokio::test]
async fn a_device_that_hangs_is_opened_again_when_it_returns_and_not_before() {
    let device = Path::new("/dev/ttyX");
    let driver = Driver::default();
    let returns = driver.hangs(device);
    let serial = driver.serial();
    let mut wanted = settings(device);
    serial.configure(&only(wanted.clone())).await;
    driver.opened(device, 1).await;
    wanted.baud = 9600;
    serial.configure(&only(wanted.clone())).await;
    let status = stands(&serial, "absent").await;
    let why = "is not opened: an earlier reader of it hangs in its driver";
    assert_eq!(status.error.as_deref(), Some(why));
    assert_eq!(serial.left_behind(), ["boiler at /dev/ttyX"]);
    // Another device is opened meanwhile.
    let other = Settings {
        name: "other".into(),
        device: "/dev/ttyY".into(),
        ..wanted.clone()
    };
    let both = [wanted, other].map(|one| (one.name.clone(), one));
    serial.configure(&both.into()).await;
    driver.opened(Path::new("/dev/ttyY"), 1).await;
    driver.opened(device, 1).await;
    drop(returns);
    driver.opened_at_last(&serial, device, 2).await;
    assert!(serial.left_behind().is_empty());
}

#[tokio::test]
async fn lines_that_hang_are_bounded_and_make_room_when_they_return() {
    let driver = Driver::default();
    let serial = driver.serial();
    let mut gates = Vec::new();
    for n in 0..MAX_LINES + MAX_LEFT {
        let device = PathBuf::from(format!("/dev/tty{n}"));
        gates.push(driver.hangs(&device));
        serial.configure(&only(settings(&device))).await;
        driver.opened(&device, 1).await;
    }
    let last = Path::new("/dev/ttyLast");
    serial.configure(&only(settings(last))).await;
    let status = stands(&serial, "absent").await;
    let why = status.error.unwrap();
    assert!(why.contains("too many closed lines hang"), "{why}");
    driver.opened(last, 0).await;
    assert_eq!(serial.left_behind().len(), MAX_LINES + MAX_LEFT);
    gates.remove(0);
    driver.opened_at_last(&serial, last, 1).await;
    assert_eq!(serial.left_behind().len(), MAX_LINES + MAX_LEFT - 1);
    assert!(!serial.stop(Duration::from_millis(1)).await);
}

#[tokio::test]
async fn the_senders_trace_goes_on_in_a_span() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("ttyUSB0");
    let adapter = Adapter::plug(&name);
    let (serial, finished) = serial();
    serial.configure(&only(settings(&name))).await;
    stands(&serial, "open").await;
    let mut board = board();
    board
        .0
        .trace(TraceContext::new([7; 16], [9; 8], 1).unwrap());
    adapter.send(&board.reads(0, Ok(1)));
    let span = finished.named("receive sonde.serial").await;
    assert_eq!(span.span_context.trace_id().to_bytes(), [7; 16]);
    assert_eq!(span.parent_span_id.to_bytes(), [9; 8]);
    assert!(span.parent_span_is_remote);
    assert!(serial.stop(Duration::from_secs(20)).await);
}
