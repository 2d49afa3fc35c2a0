//! The gauges that the config describes, one item each: the last value with
//! its age, or why there is none.

use crate::status::words::{duration, of};
use crate::status::{GaugeStatus, Status};

/// More than this is for `--json`.
const SHOWN: usize = 24;

/// Nothing where none is configured and nothing was refused.
pub(super) fn items(status: &Status) -> Vec<String> {
    let described = status.gauges.iter().filter(|g| g.table.is_some());
    let (good, absent): (Vec<_>, Vec<_>) = described.partition(|gauge| gauge.value.is_some());
    let count = good.len() + absent.len();
    // Those without a value first: they are why somebody looks.
    let mut items: Vec<String> = absent
        .into_iter()
        .chain(good)
        .take(SHOWN)
        .map(item)
        .collect();
    if count > SHOWN {
        items.push(format!("{} more: sonde status --json", count - SHOWN));
    }
    let refused: u64 = status.pushes_refused.values().sum();
    if refused > 0 {
        let reasons = status.pushes_refused.iter();
        let reasons: Vec<_> = reasons
            .map(|(why, count)| format!("{why} {count}"))
            .collect();
        items.push(format!(
            "{} refused: {}",
            of(refused, "number"),
            reasons.join(", ")
        ));
        if let Some(last) = &status.push_refused_last {
            items.push(format!("the last refused: {last}"));
        }
    }
    items
}

fn item(gauge: &GaugeStatus) -> String {
    let attributes: Vec<_> = gauge
        .attributes
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let mut name = gauge.name.clone();
    if !attributes.is_empty() {
        name = format!("{name}{{{}}}", attributes.join(","));
    }
    let unit = match gauge.unit.as_str() {
        "1" => String::new(),
        unit => format!(" {unit}"),
    };
    match (gauge.value, &gauge.missing) {
        (Some(value), _) => format!("{name} {value}{unit}, {} ago", duration(gauge.age_s)),
        (None, missing) => {
            let missing = missing.as_deref().unwrap_or("nothing");
            match &gauge.why {
                Some(why) => format!("{name} has no value ({missing}): {why}"),
                None => format!("{name} has no value ({missing})"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::sample;

    #[test]
    fn each_shows_its_value_or_why_it_has_none() {
        let mut status = sample::fine();
        assert!(items(&status).is_empty());
        let table = |name: &str| Some(format!("gauge.{name}"));
        status.gauges.push(GaugeStatus {
            table: table("modem"),
            ..sample::gauge("modem.signal", "dBm", &[("sim", "1")], -67.5)
        });
        status.gauges.push(GaugeStatus {
            table: table("speed"),
            value: None,
            missing: Some("gone".into()),
            why: Some("exit code 3: no carrier".into()),
            ..sample::gauge("speed", "1", &[], 0.0)
        });
        status.pushes_refused = [("rate".to_owned(), 2), ("series".to_owned(), 1)].into();
        status.push_refused_last = Some("line: the attribute \"a\": no".into());
        assert_eq!(
            items(&status),
            [
                "speed has no value (gone): exit code 3: no carrier",
                "modem.signal{sim=1} -67.5 dBm, 1s ago",
                "3 numbers refused: rate 2, series 1",
                "the last refused: line: the attribute \"a\": no",
            ]
        );
        let many = status.gauges.last().cloned().unwrap();
        status.gauges.extend(std::iter::repeat_n(many, 30));
        assert!(items(&status).iter().any(|item| item.starts_with("8 more")));
    }
}
