//! Made-up statuses for tests: one that is fine, and the ways not to be.

use super::*;

/// Everything works and nothing waits.
pub(crate) fn fine() -> Status {
    Status {
        schema: SCHEMA,
        device: DeviceStatus {
            id: "gw-42".into(),
            id_source: "config".into(),
            attributes: [("device.id".to_owned(), "gw-42".to_owned())].into(),
        },
        agent: AgentStatus {
            version: "0.1.0".into(),
            pid: 4242,
            uptime_s: 11_520,
            rss_bytes: Some(5_452_595),
            cpu_ms: Some(34_560),
            ticks: 11_520,
            points: 2_304_000,
            late: 0,
            overruns: 0,
            left_out: BTreeMap::new(),
            dropped: BTreeMap::new(),
        },
        clock: ClockStatus {
            unix_ns: 1_795_233_600_000_000_000,
            boot_ns: 20_000_000_000_000,
            synchronised: true,
            trust: "timesync".into(),
        },
        boot: BootStatus {
            count: Some(17),
            last_boot: Some(EndStatus {
                reason: "clean".into(),
                evidence: vec![
                    "/var/log/wtmp has a shutdown just before".into(),
                    "/sys/bus/platform/devices/rstc/power_on_reason: software reset".into(),
                ],
            }),
            last_run: Some(EndStatus {
                reason: "stopped".into(),
                evidence: vec!["/run/nologin says so".into()],
            }),
            restarts: BTreeMap::new(),
            alarm: None,
        },
        gauges: vec![
            gauge("system.cpu.utilization", "1", &[("cpu.mode", "idle")], 0.88),
            gauge("system.cpu.utilization", "1", &[("cpu.mode", "user")], 0.1),
            gauge(
                "system.cpu.utilization",
                "1",
                &[("cpu.mode", "system")],
                0.02,
            ),
            gauge("sonde.load.1m", "{thread}", &[], 0.52),
            gauge(
                "system.memory.utilization",
                "1",
                &[("system.memory.state", "used")],
                0.43,
            ),
            gauge(
                "system.filesystem.utilization",
                "1",
                &[("system.filesystem.mountpoint", "/")],
                0.71,
            ),
            gauge("hw.temperature", "Cel", &[("hw.id", "cpu-thermal")], 54.5),
            GaugeStatus {
                kind: "counter".into(),
                ..gauge(
                    "system.network.io",
                    "By",
                    &[("network.io.direction", "transmit")],
                    123_456.0,
                )
            },
        ],
        pushes_refused: BTreeMap::new(),
        push_refused_last: None,
        spool: SpoolStatus {
            path: Some("/var/lib/sonde/spool".into()),
            bytes: 65_536,
            limit_bytes: 64 << 20,
            memory_bytes: 12_288,
            frames: 1,
            oldest_age_s: Some(12.0),
            loss_window_s: Some(60.0),
            written_bytes: 131_072,
            syncs: 4,
            ..SpoolStatus::default()
        },
        uplinks: vec![UplinkStatus {
            name: "otlp".into(),
            endpoint: "https://collector.example:4318".into(),
            state: "up".into(),
            since_s: 11_400.0,
            required: true,
            last_ack_s: Some(4.0),
            acked_frames: 384,
            acked_items: 2_303_000,
            wire_sent_bytes: 8_060_928,
            wire_received_bytes: 61_440,
            connections: 1,
            ..UplinkStatus::default()
        }],
        events: EventsStatus::default(),
        outbox: OutboxStatus::default(),
        receiver: ReceiverStatus::default(),
        sensors: vec![],
        sensors_left_behind: vec![],
        serial_left_behind: vec![],
        serial: vec![],
        jobs: vec![],
        commands: None,
        config: ConfigStatus {
            files: vec!["/etc/sonde/sonde.toml".into()],
            loaded_unix_ns: 1_795_222_080_000_000_000,
            reload_error: None,
            reloads: 0,
            restart_needed: Vec::new(),
        },
        problems: vec![],
    }
}

/// The link has been down for five minutes.
pub(crate) fn link_down() -> Status {
    let mut status = fine();
    let uplink = &mut status.uplinks[0];
    uplink.state = "waiting".into();
    uplink.since_s = 8.0;
    uplink.last_ack_s = Some(312.0);
    uplink.down_s = Some(305.0);
    uplink.next_attempt_s = Some(12.0);
    uplink.pending_frames = 10;
    uplink.pending_items = 12_400;
    uplink.pending_bytes = 45_056;
    uplink.last_error = Some("connect to collector.example:4318: connection refused".into());
    uplink.last_error_s = Some(8.0);
    status.spool.frames = 10;
    status.spool.oldest_age_s = Some(318.0);
    judged(status)
}

/// Local programs hand in a little too much.
pub(crate) fn programs() -> Status {
    let mut status = fine();
    status.uplinks[0].name = "mqtt".into();
    status.uplinks[0].endpoint = "mqtts://broker.example:8883".into();
    let waiting = ClassStatus {
        frames: 3,
        items: 3,
        bytes: 660,
        oldest_age_s: Some(75.0),
    };
    status.spool.classes = [("outbox".to_owned(), waiting)].into();
    status.outbox = OutboxStatus {
        allow: vec!["plant/#".into()],
        stored: 1204,
        stored_bytes: 264_880,
        refused: [("rate".to_owned(), 12)].into(),
    };
    let spans = ReceivedStatus {
        requests: 40,
        items: 1600,
        ..ReceivedStatus::default()
    };
    status.receiver = ReceiverStatus {
        listen: Some("127.0.0.1:4318".into()),
        signals: [("traces".to_owned(), spans)].into(),
        refused: [("rate".to_owned(), 2)].into(),
        ..ReceiverStatus::default()
    };
    judged(status)
}

/// The credentials have expired.
pub(crate) fn circuit_open() -> Status {
    let mut status = link_down();
    let uplink = &mut status.uplinks[0];
    uplink.state = "open".into();
    uplink.last_error = Some("401 Unauthorized: token expired".into());
    judged(status)
}

/// The state folder can not be written.
pub(crate) fn memory_only() -> Status {
    let mut status = fine();
    status.spool = SpoolStatus {
        alarm: Some("/var/lib/sonde/spool: read-only file system".into()),
        memory_bytes: 4096,
        frames: 1,
        ..SpoolStatus::default()
    };
    judged(status)
}

/// The quota was too small for the outage.
pub(crate) fn losses() -> Status {
    let mut status = fine();
    status.spool.bytes = 63 << 20;
    status.spool.lost = vec![LostStatus {
        class: "bulk".into(),
        reason: "quota".into(),
        frames: 14,
        items: 84_000,
        first_unix_ns: status.clock.unix_ns - 7_200_000_000_000,
        last_unix_ns: status.clock.unix_ns - 3_600_000_000_000,
    }];
    judged(status)
}

/// The agent has just started: nothing is known.
pub(crate) fn fresh() -> Status {
    let mut status = fine();
    status.agent = AgentStatus {
        version: "0.1.0".into(),
        ..AgentStatus::default()
    };
    status.gauges.clear();
    status.spool = SpoolStatus::default();
    status.uplinks = vec![UplinkStatus {
        name: "otlp".into(),
        state: "idle".into(),
        required: true,
        ..UplinkStatus::default()
    }];
    status.config = ConfigStatus::default();
    status.clock = ClockStatus::default();
    status
}

/// One series with a value.
pub(crate) fn gauge(
    name: &str,
    unit: &str,
    attributes: &[(&str, &str)],
    value: f64,
) -> GaugeStatus {
    GaugeStatus {
        name: name.into(),
        unit: unit.into(),
        kind: "gauge".into(),
        attributes: attributes
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        value: Some(crate::gauge::Value::Float(value)),
        missing: None,
        why: None,
        table: None,
        interval_s: None,
        absent_s: None,
        age_s: 1.0,
    }
}

/// With the problems that the agent would report.
pub(crate) fn judged(mut status: Status) -> Status {
    status.problems = problems(&status);
    status
}
