//! The status as Prometheus text exposition 0.0.4. Pure.
//!
//! Names follow OpenTelemetry's rules for Prometheus ("Prometheus and
//! OpenMetrics Compatibility", Metric metadata): other characters become `_`,
//! a unit becomes a suffix in words, `1` on a gauge `_ratio`, a counter ends in
//! `_total`. A series that is missing has no line. The resource is `target_info`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::status::Status;

/// One metric: its type and its sample lines.
struct Metric {
    counter: bool,
    lines: String,
}

/// All metrics by name: the format wants the lines of one together.
#[derive(Default)]
struct Page(BTreeMap<String, Metric>);

/// Writes the page.
pub fn render(status: &Status) -> String {
    let mut page = Page::default();
    for gauge in &status.gauges {
        if let Some(value) = gauge.number() {
            let counter = gauge.kind == "counter";
            let ratio = gauge.kind != "counter" && gauge.kind != "updowncounter";
            let name = name(&gauge.name, &gauge.unit, counter, ratio);
            let labels = gauge
                .attributes
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str()));
            page.add(name, counter, labels, value);
        }
    }
    let mut figures = Page::default();
    figures.agent(status);
    // A sampled gauge of the same name is the same figure: one of them is enough.
    for (name, metric) in figures.0 {
        page.0.entry(name).or_insert(metric);
    }
    let mut out = String::new();
    for (name, metric) in &page.0 {
        let kind = if metric.counter { "counter" } else { "gauge" };
        let _ = writeln!(out, "# TYPE {name} {kind}");
        out.push_str(&metric.lines);
    }
    out
}

impl Page {
    fn add<'a>(
        &mut self,
        name: String,
        counter: bool,
        labels: impl Iterator<Item = (&'a str, &'a str)>,
        value: f64,
    ) {
        // Two attributes whose names meet are joined with `;`, as the rules say.
        let mut joined: BTreeMap<String, String> = BTreeMap::new();
        for (key, value) in labels {
            let slot = joined.entry(label_name(key)).or_default();
            if !slot.is_empty() {
                slot.push(';');
            }
            slot.push_str(value);
        }
        let mut line = name.clone();
        for (at, (key, value)) in joined.iter().enumerate() {
            line.push(if at == 0 { '{' } else { ',' });
            let _ = write!(line, "{key}=\"");
            escape(&mut line, value);
            line.push('"');
        }
        if !joined.is_empty() {
            line.push('}');
        }
        let _ = writeln!(line, " {value}");
        let metric = self.0.entry(name).or_insert(Metric {
            counter,
            lines: String::new(),
        });
        metric.lines.push_str(&line);
    }

    fn gauge(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.add(name.to_owned(), false, labels.iter().copied(), value);
    }

    fn counter(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.add(name.to_owned(), true, labels.iter().copied(), value as f64);
    }

    fn agent(&mut self, status: &Status) {
        let attributes = &status.device.attributes;
        let labels = attributes.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        self.add("target_info".to_owned(), false, labels, 1.0);
        let agent = &status.agent;
        self.gauge("sonde_uptime_seconds", &[], agent.uptime_s as f64);
        self.counter("sonde_ticks_total", &[], agent.ticks);
        self.counter("sonde_points_total", &[], agent.points);
        self.counter("sonde_overruns_total", &[], agent.overruns);
        for (reason, n) in &agent.dropped {
            self.counter("sonde_dropped_total", &[("reason", reason)], *n);
        }
        let receiver = &status.receiver;
        self.gauge(
            "sonde_receiver_connections",
            &[],
            receiver.connections as f64,
        );
        for (signal, received) in &receiver.signals {
            let labels = [("signal", signal.as_str())];
            self.counter("sonde_receiver_requests_total", &labels, received.requests);
            self.counter("sonde_receiver_items_total", &labels, received.items);
            self.counter(
                "sonde_receiver_received_bytes_total",
                &labels,
                received.bytes,
            );
            self.counter(
                "sonde_receiver_rejected_items_total",
                &labels,
                received.rejected_items,
            );
        }
        for (reason, n) in &receiver.refused {
            self.counter("sonde_receiver_refused_total", &[("reason", reason)], *n);
        }
        for (reason, n) in &status.pushes_refused {
            self.counter("sonde_pushes_refused_total", &[("reason", reason)], *n);
        }
        let synchronised = f64::from(u8::from(status.clock.synchronised));
        self.gauge("sonde_clock_synchronised", &[], synchronised);
        for severity in ["error", "warning"] {
            let n = status
                .problems
                .iter()
                .filter(|p| p.severity == severity)
                .count();
            self.gauge("sonde_problems", &[("severity", severity)], n as f64);
        }
        let spool = &status.spool;
        self.gauge("sonde_spool_usage_bytes", &[], spool.bytes as f64);
        self.gauge("sonde_spool_limit_bytes", &[], spool.limit_bytes as f64);
        self.gauge("sonde_spool_memory_bytes", &[], spool.memory_bytes as f64);
        self.gauge("sonde_spool_frames", &[], spool.frames as f64);
        let memory_only = f64::from(u8::from(spool.alarm.is_some()));
        self.gauge("sonde_spool_alarm", &[], memory_only);
        if let Some(age) = spool.oldest_age_s {
            self.gauge("sonde_spool_oldest_age_seconds", &[], age);
        }
        self.counter("sonde_spool_written_bytes_total", &[], spool.written_bytes);
        if let Some(written) = spool.device_written_bytes {
            self.counter("sonde_spool_device_written_bytes_total", &[], written);
        }
        self.counter("sonde_spool_syncs_total", &[], spool.syncs);
        self.counter("sonde_spool_damaged_total", &[], spool.damaged);
        for lost in &spool.lost {
            let labels = [
                ("class", lost.class.as_str()),
                ("reason", lost.reason.as_str()),
            ];
            self.counter("sonde_spool_lost_frames_total", &labels, lost.frames);
            self.counter("sonde_spool_lost_items_total", &labels, lost.items);
        }
        for (class, waiting) in &spool.classes {
            let class = [("class", class.as_str())];
            self.gauge("sonde_spool_class_frames", &class, waiting.frames as f64);
            self.gauge("sonde_spool_class_bytes", &class, waiting.bytes as f64);
        }
        self.counter("sonde_outbox_stored_total", &[], status.outbox.stored);
        for (reason, n) in &status.outbox.refused {
            self.counter("sonde_outbox_refused_total", &[("reason", reason)], *n);
        }
        for uplink in &status.uplinks {
            let who = [("uplink", uplink.name.as_str())];
            let up = f64::from(u8::from(uplink.state == "up"));
            self.gauge("sonde_uplink_up", &who, up);
            self.gauge(
                "sonde_uplink_pending_frames",
                &who,
                uplink.pending_frames as f64,
            );
            self.gauge(
                "sonde_uplink_pending_items",
                &who,
                uplink.pending_items as f64,
            );
            self.gauge(
                "sonde_uplink_pending_bytes",
                &who,
                uplink.pending_bytes as f64,
            );
            if let Some(age) = uplink.last_ack_s {
                self.gauge("sonde_uplink_last_ack_age_seconds", &who, age);
            }
            self.counter("sonde_uplink_acked_frames_total", &who, uplink.acked_frames);
            self.counter("sonde_uplink_acked_items_total", &who, uplink.acked_items);
            self.counter(
                "sonde_uplink_rejected_items_total",
                &who,
                uplink.rejected_items,
            );
            self.counter(
                "sonde_uplink_condemned_frames_total",
                &who,
                uplink.condemned_frames,
            );
            self.counter("sonde_uplink_retries_total", &who, uplink.retries);
            self.counter("sonde_uplink_connections_total", &who, uplink.connections);
            self.counter(
                "sonde_uplink_sent_bytes_total",
                &who,
                uplink.wire_sent_bytes,
            );
            self.counter(
                "sonde_uplink_received_bytes_total",
                &who,
                uplink.wire_received_bytes,
            );
        }
    }
}

/// `system.network.io` in `By`, a counter: `system_network_io_bytes_total`.
fn name(otel: &str, unit: &str, counter: bool, ratio: bool) -> String {
    let mut name = sanitise(otel, true);
    let mut words = unit_words(unit);
    if unit == "1" && ratio {
        "ratio".clone_into(&mut words);
    }
    if !words.is_empty() {
        // A name that says its unit already does not say it twice.
        if counter && let Some(stem) = name.strip_suffix("_total") {
            name.truncate(stem.len());
        }
        if name != words && !name.ends_with(&format!("_{words}")) {
            name.push('_');
            name.push_str(&words);
        }
    }
    if counter && !name.ends_with("_total") {
        name.push_str("_total");
    }
    name
}

/// UCUM to Prometheus' words; what stands in braces is a remark and is left out.
fn unit_words(unit: &str) -> String {
    let mut bare = String::with_capacity(unit.len());
    let mut depth = 0_u32;
    for c in unit.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ if depth == 0 => bare.push(c),
            _ => {}
        }
    }
    match bare.split_once('/') {
        Some((over, under)) if !under.is_empty() => {
            let over = word(over);
            let joint = if over.is_empty() { "per_" } else { "_per_" };
            format!("{over}{joint}{}", word(under).trim_end_matches('s'))
        }
        _ => word(bare.trim_end_matches('/')),
    }
}

fn word(unit: &str) -> String {
    match unit {
        "" | "1" => "",
        "d" => "days",
        "h" => "hours",
        "min" => "minutes",
        "s" => "seconds",
        "ms" => "milliseconds",
        "us" => "microseconds",
        "ns" => "nanoseconds",
        "By" => "bytes",
        "KiBy" => "kibibytes",
        "MiBy" => "mebibytes",
        "m" => "meters",
        "V" => "volts",
        "A" => "amperes",
        "J" => "joules",
        "W" => "watts",
        "g" => "grams",
        "Cel" => "celsius",
        "Hz" => "hertz",
        "%" => "percent",
        other => return sanitise(other, false).trim_matches('_').to_owned(),
    }
    .to_owned()
}

/// `[a-zA-Z_][a-zA-Z0-9_]*`, and `:` where colons are allowed; runs of others are one `_`.
fn sanitise(text: &str, colons: bool) -> String {
    let mut out = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || (colons && c == ':') {
            if out.is_empty() && c.is_ascii_digit() {
                out.push('_');
            }
            out.push(c);
        } else if !out.ends_with('_') {
            out.push('_');
        }
    }
    if out.is_empty() {
        out.push('_');
    }
    out
}

/// Labels that begin with `__` are Prometheus' own; runs are one `_`, so none does.
fn label_name(key: &str) -> String {
    let name = sanitise(key, false);
    if key.starts_with(|c: char| c.is_ascii_digit()) {
        format!("key{name}")
    } else {
        name
    }
}

fn escape(out: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::sample;

    #[test]
    fn names_follow_opentelemetrys_rules() {
        for (otel, unit, counter, expected) in [
            (
                "system.network.io",
                "By",
                true,
                "system_network_io_bytes_total",
            ),
            (
                "system.cpu.time",
                "s",
                true,
                "system_cpu_time_seconds_total",
            ),
            (
                "system.cpu.utilization",
                "1",
                false,
                "system_cpu_utilization_ratio",
            ),
            ("hw.temperature", "Cel", false, "hw_temperature_celsius"),
            (
                "system.network.packet.count",
                "{packet}",
                true,
                "system_network_packet_count_total",
            ),
            ("requests", "1", true, "requests_total"),
            ("jobs_total", "By", true, "jobs_bytes_total"),
            ("boot.seconds", "s", false, "boot_seconds"),
            ("speed", "By/s", false, "speed_bytes_per_second"),
            ("rate", "{item}/s", false, "rate_per_second"),
            ("9 lives--é", "", false, "_9_lives_"),
            ("", "", false, "_"),
        ] {
            assert_eq!(name(otel, unit, counter, !counter), expected);
        }
    }

    #[test]
    fn each_metric_is_one_block_with_a_type() {
        let page = render(&sample::link_down());
        let mut seen = std::collections::BTreeSet::new();
        let mut current = String::new();
        for line in page.lines() {
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                current = kind.split(' ').next().unwrap().to_owned();
                assert!(seen.insert(current.clone()), "{current} twice");
            } else {
                let end = line.find(['{', ' ']).unwrap();
                assert_eq!(&line[..end], current);
                let value = line.rsplit(' ').next().unwrap();
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
        for line in [
            "system_network_io_bytes_total{network_io_direction=\"transmit\"} 123456",
            "sonde_uplink_up{uplink=\"otlp\"} 0",
            "sonde_problems{severity=\"error\"} 1",
            "target_info{device_id=\"gw-42\"} 1",
        ] {
            assert!(page.contains(&format!("{line}\n")), "{line}\n{page}");
        }
    }

    #[test]
    fn a_missing_series_has_no_line_and_strange_labels_stay_one_line() {
        let mut status = sample::fine();
        status.gauges = vec![
            sample::gauge("x", "", &[("a.b", "one\n\"two\"\\"), ("a_b", "three")], 1.5),
            sample::gauge("gone", "", &[], 0.0),
        ];
        status.gauges[1].value = None;
        let page = render(&status);
        assert!(
            page.contains("x{a_b=\"one\\n\\\"two\\\"\\\\;three\"} 1.5\n"),
            "{page}"
        );
        assert!(!page.contains("gone"));
    }
}
