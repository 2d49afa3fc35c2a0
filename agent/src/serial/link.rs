//! What is known of one serial line: pure. Bytes and moments go in, the latest
//! reading of every gauge and counts of everything that went wrong come out.
//!
//! A line is noise until a frame's checksum fits, so nothing here grows with
//! what a line says: at most [`MAX_SOURCES`] senders of 32 gauges, and at most
//! `max_series` names for as long as the link lives. What is refused is counted.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sonde_firmware_hal::wire::{
    Arrival, Body, Counts, Decoder, Described, Frame, GAUGES, SeqWatch, TraceContext,
};
use sonde_firmware_hal::{Missing as Absent, Resolution};

use crate::gauge::measured::absence;
use crate::gauge::readings::found;
use crate::gauge::{Attribute, Descriptor, Family, Missing, Readings, SeriesId, Value, measured};
use crate::status::SerialStatus;

/// Senders on one line; more are counted and not heard.
pub const MAX_SOURCES: usize = 16;

/// Spans that one line may begin in a second.
const SPANS_A_SECOND: u32 = 8;

const SECOND_NS: u64 = 1_000_000_000;

/// `[serial.NAME]`, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// NAME.
    pub name: String,
    /// The terminal device.
    pub device: PathBuf,
    /// Bits a second.
    pub baud: u32,
    /// Names that senders may make up.
    pub max_series: usize,
    /// How long a reading counts after it came.
    pub stale: Duration,
    /// What the file says about gauges, instead of the senders.
    pub gauges: Vec<Channel>,
}

/// `[serial.NAME.gauges.GAUGE]`, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Channel {
    /// GAUGE.
    pub name: String,
    /// The sender's number on the line.
    pub source: u8,
    /// The gauge's number at the sender, 0 to 31.
    pub number: u8,
    /// UCUM unit.
    pub unit: String,
    /// How much one step is.
    pub scale: f64,
    /// Added after scaling.
    pub offset: f64,
}

/// An operation that a frame's readings belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traced {
    /// The sender's context.
    pub context: TraceContext,
    /// The sender's number on the line.
    pub source: u8,
    /// The frame's number.
    pub seq: u16,
    /// Readings in the frame.
    pub readings: usize,
}

/// One line.
#[derive(Debug)]
pub struct Link {
    settings: Arc<Settings>,
    decoder: Decoder,
    bytes: u64,
    state: State,
    since_ns: u64,
    opens: u64,
    senders: BTreeMap<u8, Sender>,
    /// Names that were ever given a series.
    made: usize,
    refused_series: u64,
    refused_sources: u64,
    lost: u64,
    repeated: u64,
    resyncs: u64,
    restarts: u64,
    /// Bad runs at the last good frame.
    bad_before: u64,
    last_frame_ns: Option<u64>,
    traced: u64,
    untraced: u64,
    spans: (u64, u32),
}

/// How the line is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not tried yet.
    Starting,
    /// Bytes can come.
    Open,
    /// There is no such device, it was unplugged, or it cannot be used: why.
    Absent(String),
}

#[derive(Debug, Default)]
struct Sender {
    watch: SeqWatch,
    /// Samples that it lost since it started, and those of its earlier lives.
    lost: u32,
    lost_before: u64,
    gauges: BTreeMap<u8, Latest>,
}

#[derive(Debug, Default)]
struct Latest {
    about: Option<About>,
    reading: Option<(Result<i32, Absent>, u64)>,
    /// Outer: asked for; inner: given.
    series: Option<Option<SeriesId>>,
}

/// A description that outlives its frame.
#[derive(Clone, Debug, PartialEq)]
struct About {
    name: String,
    unit: String,
    step: Step,
    least: i32,
    most: i32,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Exact(Resolution),
    Scaled(f64, f64),
}

impl Link {
    /// Nothing heard yet.
    pub fn new(settings: Arc<Settings>, now_ns: u64) -> Self {
        Self {
            settings,
            decoder: Decoder::new(),
            bytes: 0,
            state: State::Starting,
            since_ns: now_ns,
            opens: 0,
            senders: BTreeMap::new(),
            made: 0,
            refused_series: 0,
            refused_sources: 0,
            lost: 0,
            repeated: 0,
            resyncs: 0,
            restarts: 0,
            bad_before: 0,
            last_frame_ns: None,
            traced: 0,
            untraced: 0,
            spans: (0, 0),
        }
    }

    /// What it was made from.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// The device is open.
    pub fn opened(&mut self, now_ns: u64) {
        self.state = State::Open;
        self.since_ns = now_ns;
        self.opens = self.opens.saturating_add(1);
    }

    /// The device cannot be used, for a reason in words. `true`: that is news.
    pub fn absent(&mut self, why: String, now_ns: u64) -> bool {
        // Half a frame before a gap is no beginning of what comes after it.
        self.decode(&[0], now_ns, |_| {});
        let news = match &self.state {
            State::Absent(before) => *before != why,
            State::Starting | State::Open => true,
        };
        if news {
            self.state = State::Absent(why);
            self.since_ns = now_ns;
        }
        news
    }

    /// Takes what the line said; `traced` hears of frames that belong to an operation.
    pub fn feed(&mut self, bytes: &[u8], now_ns: u64, traced: impl FnMut(Traced)) {
        let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.bytes = self.bytes.saturating_add(count);
        self.decode(bytes, now_ns, traced);
    }

    fn decode(&mut self, bytes: &[u8], now_ns: u64, mut traced: impl FnMut(Traced)) {
        // The decoder lends its frame, so it is set apart from the rest meanwhile.
        let mut decoder = std::mem::take(&mut self.decoder);
        for byte in bytes {
            if let Some(frame) = decoder.feed(*byte) {
                let readings = self.take(&frame, now_ns);
                if let (Some(context), Some(readings)) = (frame.trace, readings) {
                    self.operation(context, &frame, readings, now_ns, &mut traced);
                }
                let bad = decoder.counts().bad();
                if bad > self.bad_before {
                    self.resyncs = self.resyncs.saturating_add(1);
                    self.bad_before = bad;
                }
            }
        }
        self.decoder = decoder;
    }

    /// How many readings the frame holds; `None`: it was heard before or may not be heard.
    fn take(&mut self, frame: &Frame<'_>, now_ns: u64) -> Option<usize> {
        self.last_frame_ns = Some(now_ns);
        if !self.senders.contains_key(&frame.source) && self.senders.len() >= MAX_SOURCES {
            self.refused_sources = self.refused_sources.saturating_add(1);
            return None;
        }
        let settings = self.settings.clone();
        let sender = self
            .senders
            .entry(frame.source)
            .or_insert_with(|| Sender::of(&settings, frame.source));
        match sender.watch.saw(frame) {
            Arrival::New | Arrival::Next => {}
            Arrival::After(frames) => self.lost = self.lost.saturating_add(frames.into()),
            Arrival::Again => {
                self.repeated = self.repeated.saturating_add(1);
                return None;
            }
            Arrival::Restarted => {
                self.restarts = self.restarts.saturating_add(1);
                sender.lost_before = sender.lost_before.saturating_add(sender.lost.into());
                sender.lost = 0;
            }
        }
        sender.lost = sender.lost.max(frame.lost);
        match &frame.body {
            Body::Readings(readings) => {
                let mut count = 0;
                for sample in readings.clone() {
                    let latest = sender.gauges.entry(sample.gauge.number()).or_default();
                    latest.reading = Some((sample.reading, now_ns));
                    count += 1;
                }
                Some(count)
            }
            Body::Descriptions(descriptions) => {
                for described in descriptions.clone() {
                    let number = described.gauge.number();
                    if settings.channel(frame.source, number).is_none() {
                        sender.describe(number, About::told(&described));
                    }
                }
                Some(0)
            }
        }
    }

    fn operation(
        &mut self,
        context: TraceContext,
        frame: &Frame<'_>,
        readings: usize,
        now_ns: u64,
        traced: &mut impl FnMut(Traced),
    ) {
        let second = now_ns / SECOND_NS;
        if self.spans.0 != second {
            self.spans = (second, 0);
        }
        if self.spans.1 >= SPANS_A_SECOND {
            self.untraced = self.untraced.saturating_add(1);
            return;
        }
        self.spans.1 = self.spans.1.saturating_add(1);
        self.traced = self.traced.saturating_add(1);
        traced(Traced {
            context,
            source: frame.source,
            seq: frame.seq,
            readings,
        });
    }

    /// What was decoded, good and bad.
    pub fn counts(&self) -> Counts {
        self.decoder.counts()
    }

    /// Bytes that came.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Frames that the line lost, seen from gaps in their numbers.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Good frames after something bad.
    pub fn resyncs(&self) -> u64 {
        self.resyncs
    }

    /// How often the device was opened.
    pub fn opens(&self) -> u64 {
        self.opens
    }

    /// Whether bytes can come.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Samples that senders say they lost, by sender.
    pub fn samples_lost(&self) -> impl Iterator<Item = (u8, u64)> + '_ {
        self.senders.iter().map(|(number, sender)| {
            let lost = sender.lost_before.saturating_add(sender.lost.into());
            (*number, lost)
        })
    }

    /// Puts the latest reading of every gauge that has a name. One that is too
    /// old is a timeout, and all are gone while the device is.
    pub fn read(&mut self, now_ns: u64, out: &mut Readings) {
        let open = self.is_open();
        let stale = u64::try_from(self.settings.stale.as_nanos()).unwrap_or(u64::MAX);
        for (source, sender) in &mut self.senders {
            for latest in sender.gauges.values_mut() {
                let (Some(about), Some((reading, at_ns))) = (&latest.about, latest.reading) else {
                    continue;
                };
                let series = match latest.series {
                    Some(series) => series,
                    None if self.made < self.settings.max_series => {
                        self.made += 1;
                        about.series(&self.settings.name, *source, out)
                    }
                    None => {
                        self.refused_series = self.refused_series.saturating_add(1);
                        None
                    }
                };
                latest.series = Some(series);
                let value = if !open {
                    Err(Missing::Gone)
                } else if now_ns.saturating_sub(at_ns) > stale {
                    Err(Missing::Timeout)
                } else {
                    about.value(reading)
                };
                out.put(series, value);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn forget_series(&mut self) {
        self.made = 0;
        for sender in self.senders.values_mut() {
            sender.gauges.values_mut().for_each(|g| g.series = None);
        }
    }

    /// For people.
    pub fn status(&self, now_ns: u64) -> SerialStatus {
        let counts = self.decoder.counts();
        let ago = |at: u64| now_ns.saturating_sub(at) as f64 / SECOND_NS as f64;
        let (state, error) = match &self.state {
            State::Starting => ("starting", None),
            State::Open => ("open", None),
            State::Absent(why) => ("absent", Some(why.clone())),
        };
        let gauges = self
            .senders
            .values()
            .flat_map(|sender| sender.gauges.values());
        let unnamed = gauges
            .clone()
            .filter(|latest| latest.about.is_none() && latest.reading.is_some());
        SerialStatus {
            name: self.settings.name.clone(),
            device: self.settings.device.display().to_string(),
            state: state.into(),
            since_s: ago(self.since_ns),
            error,
            opens: self.opens,
            bytes: self.bytes,
            frames: counts.frames,
            last_frame_s: self.last_frame_ns.map(ago),
            bad: bad(&counts)
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(reason, count)| (reason.to_owned(), count))
                .collect(),
            lost: self.lost,
            repeated: self.repeated,
            resyncs: self.resyncs,
            sources: self.senders.len(),
            restarts: self.restarts,
            samples_lost: self.samples_lost().map(|(_, lost)| lost).sum(),
            gauges: gauges.filter(|latest| latest.about.is_some()).count(),
            unnamed: unnamed.count(),
            refused_gauges: self.refused_series,
            refused_sources: self.refused_sources,
            traced: self.traced,
            untraced: self.untraced,
        }
    }
}

/// Bad runs by reason.
pub fn bad(counts: &Counts) -> [(&'static str, u64); 6] {
    [
        ("broken", counts.broken),
        ("too_long", counts.too_long),
        ("too_short", counts.too_short),
        ("checksum", counts.checksum),
        ("version", counts.version),
        ("malformed", counts.malformed),
    ]
}

impl Settings {
    fn channel(&self, source: u8, number: u8) -> Option<&Channel> {
        let mut all = self.gauges.iter();
        all.find(|channel| channel.source == source && channel.number == number)
    }
}

impl Sender {
    fn of(settings: &Settings, source: u8) -> Self {
        let mut sender = Self::default();
        let own = settings.gauges.iter().filter(|g| g.source == source);
        for channel in own.take(GAUGES) {
            sender.describe(channel.number, About::configured(channel));
        }
        sender
    }

    /// Another description is another series.
    fn describe(&mut self, number: u8, about: About) {
        let latest = self.gauges.entry(number).or_default();
        if latest.about.as_ref() != Some(&about) {
            latest.about = Some(about);
            latest.series = None;
        }
    }
}

impl About {
    fn told(described: &Described<'_>) -> Self {
        let about = &described.about;
        Self {
            name: about.name.to_owned(),
            unit: about.unit.ucum().to_owned(),
            step: Step::Exact(about.resolution),
            least: about.least,
            most: about.most,
        }
    }

    fn configured(channel: &Channel) -> Self {
        Self {
            name: channel.name.clone(),
            unit: channel.unit.clone(),
            step: Step::Scaled(channel.scale, channel.offset),
            least: i32::MIN,
            most: i32::MAX,
        }
    }

    fn series(&self, link: &str, source: u8, out: &Readings) -> Option<SeriesId> {
        let gauge: Arc<Descriptor> = measured(&self.name, &self.unit, Family::Serial);
        let id = format!("{link}/{source}/{}", self.name);
        let attributes: Vec<(Cow<'static, str>, Attribute)> = vec![
            ("hw.id".into(), found(&id)),
            ("hw.name".into(), found(&self.name)),
        ];
        out.owned(&gauge, attributes)
    }

    fn value(&self, reading: Result<i32, Absent>) -> Result<Value, Missing> {
        let steps = reading.map_err(absence)?;
        if !(self.least..=self.most).contains(&steps) {
            return Err(Missing::Garbage);
        }
        Value::float(match self.step {
            Step::Exact(resolution) => resolution.value(steps),
            Step::Scaled(scale, offset) => f64::from(steps) * scale + offset,
        })
    }
}
