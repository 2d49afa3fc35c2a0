//! What hardware and boot loader say of the last reset: watchdogs, reset
//! controllers, the device tree's `chosen` node.
//!
//! Source: `Documentation/watchdog/watchdog-api.rst` (`WDIOF_*`),
//! `ABI/testing/sysfs-class-watchdog`, `ABI/testing/sysfs-platform-power-on-reason`
//! with `include/linux/power/power_on_reason.h`, the device tree
//! specification's `/chosen`, Raspberry Pi's documentation of its properties there.

use std::path::{Path, PathBuf};

use super::evidence::{Cause, Evidence, Reset, names, shown, tail};
use super::record::clean;

const WATCHDOGS: &str = "sys/class/watchdog";
const BUSES: [&str; 2] = ["sys/bus/platform/devices", "sys/bus/i2c/devices"];
const ATTRIBUTES: [&str; 2] = ["power_on_reason", "reset_reason"];
const CHOSEN: [&str; 2] = [
    "proc/device-tree/chosen",
    "sys/firmware/devicetree/base/chosen",
];
/// More than any of these files has.
const BYTES: u64 = 512;
/// Watchdogs, and folders below `chosen`.
const FEW: usize = 16;
/// Devices of a bus, and properties of a node.
const MANY: usize = 1024;
/// What is told at most.
const RESETS: usize = 8;

/// `WDIOF_*` of a boot status that says why there was a reset.
const OVERHEAT: u32 = 0x01;
const POWER_UNDER: u32 = 0x10;
const CARD_RESET: u32 = 0x20;
/// All bits that there are.
const WATCHDOG_BITS: u32 = 0xffff;

/// Looks at all of them.
pub(super) fn look(root: &Path, found: &mut Evidence) {
    for watchdog in names(&root.join(WATCHDOGS), FEW).unwrap_or_default() {
        watchdog_status(root, &watchdog.join("bootstatus"), found);
    }
    for bus in BUSES {
        for device in names(&root.join(bus), MANY).unwrap_or_default() {
            for attribute in ATTRIBUTES {
                let path = device.join(attribute);
                if let Some(text) = tail(&path, BYTES).ok().and_then(|bytes| words(&bytes)) {
                    let cause = meaning(&text);
                    push(root, &path, &text, cause, found);
                }
            }
        }
    }
    let mut chosen = CHOSEN.iter().map(|path| root.join(path));
    if let Some(node) = chosen.find(|path| path.is_dir()) {
        properties(root, &node, found);
        for below in names(&node, MANY).unwrap_or_default() {
            if below.is_dir() {
                properties(root, &below, found);
            }
        }
    }
}

fn push(root: &Path, path: &Path, text: &str, cause: Option<Cause>, found: &mut Evidence) {
    if found.resets.len() < RESETS {
        found.resets.push(Reset {
            text: clean(&format!("{}: {text}", shown(root, path))),
            cause,
        });
    }
}

fn watchdog_status(root: &Path, path: &Path, found: &mut Evidence) {
    let Ok(bytes) = tail(path, BYTES) else { return };
    let text = String::from_utf8_lossy(&bytes);
    let Ok(bits) = text.trim().parse::<u32>() else {
        let note = format!("{} is no number", shown(root, path));
        return found.notes.push(note);
    };
    if bits & !WATCHDOG_BITS != 0 {
        let note = format!("{} has bits that do not exist", shown(root, path));
        return found.notes.push(note);
    }
    for (bit, cause, words) in [
        (CARD_RESET, Cause::Watchdog, "reset by the watchdog"),
        (POWER_UNDER, Cause::LowVoltage, "reset for low power"),
        (OVERHEAT, Cause::Heat, "reset for heat"),
    ] {
        if bits & bit != 0 {
            push(root, path, &format!("{bits}, {words}"), Some(cause), found);
        }
    }
}

/// Properties of one node whose names promise a reason.
fn properties(root: &Path, node: &Path, found: &mut Evidence) {
    let known: Vec<PathBuf> = names(node, MANY).unwrap_or_default();
    for path in known {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.unwrap_or_default().to_ascii_lowercase();
        let reason = (name.contains("reset") || name.contains("boot"))
            && (name.contains("reason") || name.contains("cause"));
        if !reason && name != "power_reset" && name != "rsts" {
            continue;
        }
        let Ok(bytes) = tail(&path, BYTES) else {
            continue;
        };
        if let Some(text) = words(&bytes).filter(|_| reason) {
            let cause = meaning(&text);
            push(root, &path, &text, cause, found);
        } else if let Ok(cell) = <[u8; 4]>::try_from(bytes.as_slice()) {
            let cell = u32::from_be_bytes(cell);
            // `rsts` decides nothing: some boards take their power away at every reboot.
            let cause = (name == "power_reset").then(|| pmic(cell)).flatten();
            push(root, &path, &format!("{cell:#x}"), cause, found);
        }
    }
}

/// Raspberry Pi 5: why the power controller was reset.
fn pmic(bits: u32) -> Option<Cause> {
    match bits {
        0b00010 => Some(Cause::LowVoltage),
        0b00100 => Some(Cause::Heat),
        0b10000 => Some(Cause::Watchdog),
        _ => None,
    }
}

/// A short text, or nothing.
fn words(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    let plain = text.chars().all(|c| !c.is_control());
    (plain && !text.is_empty()).then(|| text.to_owned())
}

/// What a reason in words means, if it means one thing.
fn meaning(text: &str) -> Option<Cause> {
    let text = text.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let word = |short: &str| {
        let mut parts = text.split(|c: char| !c.is_ascii_alphanumeric());
        parts.any(|part| part == short)
    };
    let found = [
        (says(&["watchdog", "wdog"]) || word("wdt"), Cause::Watchdog),
        (
            says(&[
                "brown-out",
                "brown out",
                "brownout",
                "under-voltage",
                "undervoltage",
            ]) || word("bor"),
            Cause::LowVoltage,
        ),
        (
            says(&["power-on", "power on", "power-up", "power up", "cold"]) || word("por"),
            Cause::PowerOn,
        ),
        (says(&["thermal", "overheat", "temperature"]), Cause::Heat),
    ];
    let mut causes = found.iter().filter(|(is, _)| *is).map(|(_, cause)| *cause);
    let first = causes.next();
    first.filter(|_| causes.next().is_none())
}
