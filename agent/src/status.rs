//! What `sonde status --json` prints: schema 1. Adding a field is free,
//! changing one is a new schema number.
//!
//! Each owner publishes its own part through a `tokio::sync::watch` channel;
//! the door only puts the parts together.
//!
//! What the figures mean for an operator is judged in one place, [`problems`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::gauge::Value;

mod problems;
#[cfg(test)]
pub(crate) mod sample;
mod value;
pub mod words;

pub use problems::problems;

/// The schema's number.
pub const SCHEMA: u32 = 1;

/// All of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Who.
    pub device: DeviceStatus,
    /// The program.
    pub agent: AgentStatus,
    /// Time.
    pub clock: ClockStatus,
    /// How boots and runs ended.
    #[serde(default)]
    pub boot: BootStatus,
    /// Last readings.
    pub gauges: Vec<GaugeStatus>,
    /// Numbers that local programs pushed and that were refused, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pushes_refused: BTreeMap<String, u64>,
    /// The last of them: which gauge, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push_refused_last: Option<String>,
    /// What is stored.
    pub spool: SpoolStatus,
    /// Ways out.
    pub uplinks: Vec<UplinkStatus>,
    /// What happened.
    #[serde(default)]
    pub events: EventsStatus,
    /// Local programs' messages.
    #[serde(default)]
    pub outbox: OutboxStatus,
    /// What local programs sent.
    #[serde(default)]
    pub receiver: ReceiverStatus,
    /// Sensors on the gateway's own buses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sensors: Vec<SensorStatus>,
    /// Sensors that are no longer configured and whose threads hang, with their places.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sensors_left_behind: Vec<String>,
    /// Serial lines from microcontrollers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub serial: Vec<SerialStatus>,
    /// Serial lines that were closed and whose threads hang, with their devices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub serial_left_behind: Vec<String>,
    /// Configured work.
    pub jobs: Vec<JobStatus>,
    /// Commands over MQTT; absent: none are taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commands: Option<CommandsStatus>,
    /// What was loaded.
    pub config: ConfigStatus,
    /// What an operator should know first, worst first; empty: fine.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `error` (data is or will be lost, or nothing gets out) or `warning`.
    pub severity: String,
    /// What part: `uplink otlp`, `spool`, `config`, `clock`, `gauges`.
    pub part: String,
    /// What happened and what to do.
    pub message: String,
}

/// `device`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceStatus {
    /// `device.id`
    pub id: String,
    /// Where the id came from: `config`, `device-tree`, `machine-id`, `dmi`, `hostname`, `random`.
    pub id_source: String,
    /// All resource attributes.
    pub attributes: BTreeMap<String, String>,
}

/// `agent`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentStatus {
    /// Version.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// Resident bytes; absent where it can't be read.
    pub rss_bytes: Option<u64>,
    /// CPU time used, in milliseconds.
    pub cpu_ms: Option<u64>,
    /// Ticks sampled since the start.
    pub ticks: u64,
    /// Data points sampled since the start.
    pub points: u64,
    /// Ticks that were due while an earlier one was still being read.
    pub overruns: u64,
    /// Values that were read after their tick had gone on without them, and are lost.
    #[serde(skip_serializing_if = "none")]
    pub late: u64,
    /// Series that are not reported because their family has more than its
    /// limit, by family.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub left_out: BTreeMap<String, u64>,
    /// Own log records and spans that were dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn none(count: &u64) -> bool {
    *count == 0
}

/// `clock`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ClockStatus {
    /// Wall clock now, nanoseconds since 1970.
    pub unix_ns: u64,
    /// Since boot.
    pub boot_ns: u64,
    /// Whether it is believed.
    pub synchronised: bool,
    /// By what rule: `timesync`, `file …`, `always`.
    pub trust: String,
}

/// One sensor on a bus of the gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SensorStatus {
    /// As in `[sensor.NAME]`.
    pub name: String,
    /// Which driver.
    pub kind: String,
    /// The bus and the place on it.
    pub place: String,
    /// `ok`; `partial`: some of its values; `absent`; `hangs`; `waits`: not asked, see `waits_for`.
    pub state: String,
    /// Nanoseconds of the boot clock when that began.
    pub since_boot_ns: u64,
    /// Values that the last reading had, and should have had.
    pub values: usize,
    /// As above.
    pub of: usize,
    /// Why it gives nothing, or not all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// What keeps it from being asked, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// Readings with a value.
    pub reads: u64,
    /// Readings that lacked one.
    pub failures: u64,
}

/// One serial line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SerialStatus {
    /// As in `[serial.NAME]`.
    pub name: String,
    /// The terminal device.
    pub device: String,
    /// `starting`, `open` or `absent`.
    pub state: String,
    /// Seconds since it is so.
    pub since_s: f64,
    /// Why it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Times the device was opened.
    pub opens: u64,
    /// Bytes that came.
    pub bytes: u64,
    /// Good frames.
    pub frames: u64,
    /// Seconds since the last good frame.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_frame_s: Option<f64>,
    /// Runs of bytes that were no good frame, by reason.
    pub bad: BTreeMap<String, u64>,
    /// Frames that never came.
    pub lost: u64,
    /// Frames that came twice.
    pub repeated: u64,
    /// Times a good frame came after something bad.
    pub resyncs: u64,
    /// Senders heard.
    pub sources: usize,
    /// Times a sender began anew.
    pub restarts: u64,
    /// Samples that senders say they lost.
    pub samples_lost: u64,
    /// Gauges with a name.
    pub gauges: usize,
    /// Gauges whose readings come and whose description has not come yet.
    pub unnamed: usize,
    /// Gauges beyond `max_series`.
    pub refused_gauges: u64,
    /// Frames of senders beyond the bound.
    pub refused_sources: u64,
    /// Frames whose trace was continued.
    pub traced: u64,
    /// Frames whose trace was not: too many in a second.
    pub untraced: u64,
}

/// `boot`: what its words mean is in docs/BOOT.md.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BootStatus {
    /// Which boot this is, counted from the first that the agent saw; absent:
    /// boots cannot be told apart.
    pub count: Option<u64>,
    /// How the boot before this one ended.
    pub last_boot: Option<EndStatus>,
    /// How the agent's run before this one ended; absent: this is the first.
    pub last_run: Option<EndStatus>,
    /// Restarts of the agent in this boot, by how the run before each ended.
    pub restarts: BTreeMap<String, u64>,
    /// Why what is said here may be wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alarm: Option<String>,
}

/// How a boot or a run ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndStatus {
    /// One word.
    pub reason: String,
    /// What speaks for it, then what was seen besides.
    pub evidence: Vec<String>,
}

/// One series.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GaugeStatus {
    /// Name.
    pub name: String,
    /// Unit.
    pub unit: String,
    /// How values relate over time: `gauge`, `counter` (cumulative, only
    /// grows), `updowncounter` (cumulative, may fall). Empty counts as `gauge`.
    #[serde(default)]
    pub kind: String,
    /// Attributes.
    pub attributes: BTreeMap<String, String>,
    /// Last value.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub value: Option<Value>,
    /// Or why there is none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub missing: Option<String>,
    /// The same in words, where there is more to say; of what the config describes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
    /// The table of the configuration that describes it, such as `gauge.modem`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub table: Option<String>,
    /// How often it is read, in seconds; of such a gauge.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub interval_s: Option<f64>,
    /// Seconds without a value; of such a gauge.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub absent_s: Option<f64>,
    /// Seconds since it was read.
    pub age_s: f64,
}

impl GaugeStatus {
    /// The last value, as near as a float comes to it.
    pub fn number(&self) -> Option<f64> {
        self.value.map(Value::as_f64)
    }
}

/// `spool`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SpoolStatus {
    /// Where; absent when it runs in memory only.
    pub path: Option<String>,
    /// What is wrong with it, if it had to leave flash alone.
    pub alarm: Option<String>,
    /// Bytes its files occupy.
    pub bytes: u64,
    /// The quota in effect.
    pub limit_bytes: u64,
    /// Bytes waiting in memory.
    pub memory_bytes: u64,
    /// Frames not yet acknowledged by every uplink that needs them.
    pub frames: u64,
    /// Age of the oldest of them in seconds.
    pub oldest_age_s: Option<f64>,
    /// Some of them are of an earlier boot whose clock was not believed: no age is known.
    pub oldest_unknown: bool,
    /// The loss window in effect, in seconds; absent while data waits in memory
    /// only: a power cut costs all of it.
    pub loss_window_s: Option<f64>,
    /// Per class.
    pub classes: BTreeMap<String, ClassStatus>,
    /// What was lost since the state folder was made, by class and reason.
    pub lost: Vec<LostStatus>,
    /// Bytes written to files since the start.
    pub written_bytes: u64,
    /// Segment files.
    pub segments: u64,
    /// fdatasync calls since the start.
    pub syncs: u64,
    /// The boot time that `oldest_age_s` was true at; 0: unknown.
    #[serde(skip)]
    pub as_of_boot_ns: u64,
    /// What recovery found at the start.
    pub recovered_frames: u64,
    /// Damaged stretches that recovery or reading stepped over.
    pub damaged: u64,
    /// What the writes cost the device since the start, journal included: an estimate.
    pub flash_bytes: u64,
    /// What all programs wrote to its device meanwhile; absent where it is not counted.
    pub device_written_bytes: Option<u64>,
    /// The day's target for `flash_bytes`; absent: none is set.
    pub write_budget_bytes: Option<u64>,
    /// What is left of it; the loss window stretches as it drains.
    pub write_budget_left_bytes: Option<u64>,
    /// Bytes that had to be written beyond it.
    pub write_overrun_bytes: u64,
    /// Segments that a newer version wrote: kept for it, untouched.
    pub newer_segments: u64,
    /// The last frames that a server refused for good; at most eight.
    pub condemned: Vec<CondemnedStatus>,
}

/// A frame that a server refused for good.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CondemnedStatus {
    /// Its name.
    pub frame: String,
    /// Class.
    pub class: String,
    /// The server's reason, at most 256 bytes of it.
    pub reason: String,
}

/// One class of the spool.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ClassStatus {
    /// Frames waiting.
    pub frames: u64,
    /// Items in them.
    pub items: u64,
    /// Bytes of bodies.
    pub bytes: u64,
    /// Age of the oldest in seconds; `None`: nothing waits, or nobody knows.
    pub oldest_age_s: Option<f64>,
}

/// One kind of loss.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LostStatus {
    /// Class.
    pub class: String,
    /// Reason: `quota`, `condemned`, `damaged`, `memory`, …
    pub reason: String,
    /// Frames.
    pub frames: u64,
    /// Items.
    pub items: u64,
    /// Wall time of the first lost reading.
    pub first_unix_ns: u64,
    /// Wall time of the last.
    pub last_unix_ns: u64,
}

/// One way out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UplinkStatus {
    /// `otlp` or `mqtt`.
    pub name: String,
    /// Where to.
    pub endpoint: String,
    /// `up`, `connecting`, `waiting` (backing off), `open` (circuit open), `idle`.
    pub state: String,
    /// Seconds in this state.
    pub since_s: f64,
    /// Seconds since it failed or refused us while nothing has been accepted
    /// since; absent: not down. Unlike `since_s` an attempt does not restart it.
    pub down_s: Option<f64>,
    /// Whether frames are held back for it.
    pub required: bool,
    /// Seconds since the last acknowledgement.
    pub last_ack_s: Option<f64>,
    /// Frames acknowledged.
    pub acked_frames: u64,
    /// Items acknowledged.
    pub acked_items: u64,
    /// Items the server took the frame of but rejected (OTLP partial success).
    pub rejected_items: u64,
    /// Frames condemned.
    pub condemned_frames: u64,
    /// Sends tried again.
    pub retries: u64,
    /// Frames handed over, whatever became of them.
    pub attempts: u64,
    /// What kept data here, by kind: `link` (no connection, or it broke), `retry`
    /// (not now), `hold` (we are refused), `refuse` (a signal is), `aside` (a
    /// topic is), `condemn` (a frame is, for good).
    pub failures: BTreeMap<String, u64>,
    /// From handing a frame over to hearing that it was delivered, the last time.
    pub round_trip_s: Option<f64>,
    /// Frames waiting for it.
    pub pending_frames: u64,
    /// Items waiting for it.
    pub pending_items: u64,
    /// Bytes waiting for it.
    pub pending_bytes: u64,
    /// Seconds until the backlog is gone at the present rate.
    pub drain_eta_s: Option<f64>,
    /// It takes data.
    pub up: bool,
    /// `closed`, `open` (it refuses us, data is held) or `half_open` (a probe is out).
    pub circuit: String,
    /// How often since the start, by `up`, `down`, `open`, `half_open`, `closed`.
    pub transitions: BTreeMap<String, u64>,
    /// Signals that the server refuses while it may take others.
    pub held: Vec<HeldStatus>,
    /// Topics of local programs that the broker refuses while it takes others; at most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused_topics: Vec<TopicStatus>,
    /// Bytes sent on the wire, TLS and headers included.
    pub wire_sent_bytes: u64,
    /// Bytes received.
    pub wire_received_bytes: u64,
    /// Connections made.
    pub connections: u64,
    /// Seconds until the next attempt, while waiting.
    pub next_attempt_s: Option<f64>,
    /// What went wrong last, in words.
    pub last_error: Option<String>,
    /// How long ago.
    pub last_error_s: Option<f64>,
    /// The boot time that the ages above were true at; 0: unknown.
    #[serde(skip)]
    pub as_of_boot_ns: u64,
}

impl SpoolStatus {
    /// Moves the age on from when the spool published it to `boot_ns`.
    pub fn aged_to(mut self, boot_ns: u64) -> Self {
        let later = seconds_later(&mut self.as_of_boot_ns, boot_ns);
        self.oldest_age_s = self.oldest_age_s.map(|age| age + later);
        for class in self.classes.values_mut() {
            class.oldest_age_s = class.oldest_age_s.map(|age| age + later);
        }
        self
    }
}

impl UplinkStatus {
    /// Moves the ages on from when the uplink published them to `boot_ns`. An
    /// attempt that should have begun by then is due: 0.
    pub fn aged_to(mut self, boot_ns: u64) -> Self {
        let later = seconds_later(&mut self.as_of_boot_ns, boot_ns);
        self.since_s += later;
        for age in [
            &mut self.down_s,
            &mut self.last_ack_s,
            &mut self.last_error_s,
        ] {
            *age = age.map(|age| age + later);
        }
        for held in &mut self.held {
            held.since_s += later;
        }
        self.next_attempt_s = self.next_attempt_s.map(|left| (left - later).max(0.0));
        self
    }
}

fn seconds_later(as_of_boot_ns: &mut u64, boot_ns: u64) -> f64 {
    // A status nobody published yet has no age to move.
    if *as_of_boot_ns == 0 {
        return 0.0;
    }
    let later = boot_ns.saturating_sub(*as_of_boot_ns);
    *as_of_boot_ns = boot_ns.max(*as_of_boot_ns);
    later as f64 / 1e9
}

/// A topic that a broker refuses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TopicStatus {
    /// The topic.
    pub topic: String,
    /// What the broker said, and what to do.
    pub reason: String,
    /// Seconds since the first refusal.
    pub since_s: f64,
    /// Messages that are known to wait for it.
    pub waiting: u64,
}

/// A signal that a server refuses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeldStatus {
    /// `metrics`, `traces`, `logs` or `messages`.
    pub signal: String,
    /// What the server said, and what to do.
    pub reason: String,
    /// Seconds since the first refusal.
    pub since_s: f64,
    /// Items of it that wait.
    pub pending_items: u64,
}

/// One job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobStatus {
    /// Name.
    pub name: String,
    /// Whether a command may start it.
    pub remote: bool,
    /// Seconds from one scheduled run to the next; absent: it has no schedule.
    pub every_s: Option<f64>,
    /// Seconds until the next one.
    pub next_run_s: Option<f64>,
    /// Runs under way.
    pub running: u64,
    /// Runs that wait for their turn.
    pub waiting: u64,
    /// Runs that ended since the start, by outcome: `succeeded`, `failed` (exit
    /// code), `signalled`, `timed_out`, `not_started`, `interrupted`.
    pub runs: BTreeMap<String, u64>,
    /// Orders that were refused since the start, by reason.
    pub refused: BTreeMap<String, u64>,
    /// CPU seconds of all runs that ended, as far as they are known.
    pub cpu_s: f64,
    /// What keeps runs apart: `cgroup`, or `process group: …` and why there is
    /// no cgroup; empty until the first run.
    pub isolation: String,
    /// The run that ended last.
    pub last: Option<RunStatus>,
}

/// A run that has ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunStatus {
    /// As in [`JobStatus::runs`].
    pub outcome: String,
    /// The same in words.
    pub message: String,
    /// Exit code, if it ended by itself.
    pub exit_code: Option<i32>,
    /// Wall time of its end.
    pub ended_unix_ns: u64,
    /// Seconds since.
    pub ago_s: f64,
    /// Seconds that it took.
    pub duration_s: f64,
    /// CPU seconds.
    pub cpu_s: Option<f64>,
    /// The most memory that it had.
    pub peak_memory_bytes: Option<u64>,
    /// Its trace.
    pub trace_id: String,
}

/// `outbox`: since the start; what waits is in the spool's class `outbox`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutboxStatus {
    /// Topic prefixes that local programs may publish under.
    pub allow: Vec<String>,
    /// Messages stored.
    pub stored: u64,
    /// Their bytes, topics and properties included.
    pub stored_bytes: u64,
    /// Messages refused, by reason.
    pub refused: BTreeMap<String, u64>,
}

/// `events`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EventsStatus {
    /// How often each happened since the start, by name.
    pub counts: BTreeMap<String, u64>,
    /// The last sixteen, oldest first.
    pub recent: Vec<EventStatus>,
    /// Events that were not taken, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Handlers that failed and were detached, each with its reason; at most eight.
    pub detached: Vec<String>,
    /// How many there were.
    pub detachments: u64,
}

/// One event.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EventStatus {
    /// Its name.
    pub name: String,
    /// Wall time.
    pub unix_ns: u64,
    /// Numbers.
    pub measurements: BTreeMap<String, f64>,
    /// Words, at most 128 bytes of each.
    pub metadata: BTreeMap<String, String>,
}

/// `receiver`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReceiverStatus {
    /// The port's address, if there is one.
    pub listen: Option<String>,
    /// Why the port does not listen.
    pub error: Option<String>,
    /// Connections of local programs now, whatever they send.
    pub connections: u64,
    /// The same since the start.
    pub accepted: u64,
    /// What was taken, by signal.
    pub signals: BTreeMap<String, ReceivedStatus>,
    /// Requests of which nothing was taken, by reason: `rate`, `too_large`,
    /// `too_slow`, `broken_off`, `malformed`, `unsupported`, `memory`,
    /// `spool_full`, `stopping`, `foreign`.
    pub refused: BTreeMap<String, u64>,
}

/// One signal's part of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReceivedStatus {
    /// Requests.
    pub requests: u64,
    /// Spans, data points or log records that were taken.
    pub items: u64,
    /// Bytes of protobuf that they came in.
    pub bytes: u64,
    /// Items that were not taken although the rest of their request was.
    pub rejected_items: u64,
}

impl RunStatus {
    /// Whether it did not do what it should. One that the agent's own stop
    /// ended is none of the job's failures.
    pub fn is_failure(&self) -> bool {
        !matches!(self.outcome.as_str(), "succeeded" | "interrupted")
    }
}

/// `commands`: what came over MQTT to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CommandsStatus {
    /// `subscribed`, `refused` (by the broker) or `waiting` (for a connection).
    pub state: String,
    /// Why the broker refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why none can be taken although they come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alarm: Option<String>,
    /// Messages that came.
    pub received: u64,
    /// New commands that were taken.
    pub accepted: u64,
    /// Messages that were known already, and answered again.
    pub repeated: u64,
    /// Messages of which nothing was run, by the code in their answer.
    pub refused: BTreeMap<String, u64>,
    /// Refusals and repeats beyond what is answered.
    pub unanswered: u64,
    /// Dropped unseen: QoS 0 beyond the queue, and what could not be read.
    pub dropped: u64,
    /// Answers other than a command's end that the outbox did not take.
    pub answers_lost: u64,
    /// Commands that are accepted and not over.
    pub under_way: u64,
    /// Commands that are remembered.
    pub remembered: u64,
    /// What they take.
    pub remembered_bytes: u64,
    /// What they may take.
    pub remembered_limit_bytes: u64,
    /// Bytes of the journal's file.
    pub journal_bytes: u64,
}

/// `config`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigStatus {
    /// Files read.
    pub files: Vec<String>,
    /// Wall time of the last load that was accepted.
    pub loaded_unix_ns: u64,
    /// Why the last reload was refused.
    pub reload_error: Option<String>,
    /// Reloads since the start, refused ones included.
    pub reloads: u64,
    /// Sections that changed and take effect when the agent is started again.
    pub restart_needed: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_move_on_between_publications_and_never_back() {
        let uplink = UplinkStatus {
            since_s: 1.0,
            down_s: Some(2.0),
            last_ack_s: Some(3.0),
            next_attempt_s: Some(4.0),
            as_of_boot_ns: 10_000_000_000,
            ..UplinkStatus::default()
        };
        let later = uplink.clone().aged_to(15_000_000_000);
        assert_eq!((later.since_s, later.down_s), (6.0, Some(7.0)));
        assert_eq!((later.last_ack_s, later.last_error_s), (Some(8.0), None));
        assert_eq!(later.next_attempt_s, Some(0.0));
        // Twice is once, and a clock read earlier changes nothing.
        assert_eq!(later.aged_to(15_000_000_000).since_s, 6.0);
        assert_eq!(uplink.aged_to(1).since_s, 1.0);

        let spool = SpoolStatus {
            oldest_age_s: Some(1.0),
            as_of_boot_ns: 10_000_000_000,
            ..SpoolStatus::default()
        };
        assert_eq!(spool.aged_to(12_000_000_000).oldest_age_s, Some(3.0));
        let unpublished = UplinkStatus::default().aged_to(u64::MAX);
        assert_eq!(unpublished.since_s, 0.0);
    }
}
