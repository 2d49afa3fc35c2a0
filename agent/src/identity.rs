//! Who this device is: the OTLP resource.
//!
//! The id is the first of these that can be used:
//!
//! 1. `device.id` of the configuration;
//! 2. the board's serial number in the device tree;
//! 3. one derived from the machine id;
//! 4. one derived from the firmware's product UUID (DMI);
//! 5. the host name, with a warning, unless it is `localhost`;
//! 6. `unknown-` and random digits, kept in the state folder, with a warning.
//!
//! machine-id(5) asks not to show the machine id to anybody, so it and the
//! UUID go through SHA-256 together with a fixed name of this program; the
//! first 16 bytes are shown as hexadecimal digits. The same machine always
//! gives the same id, and the id gives nobody the machine id.
//!
//! No file found here can stop the start: what is huge, binary, empty or a
//! known placeholder counts as absent.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use sysinfo::System;

use crate::config::Config;
use crate::frame::push_hex;
use crate::gauge::file;

/// Mixed into derived ids; changing it changes every device's id.
const APPLICATION: &[u8] = b"sonde device id 1\0";
/// Longer ones are no serial numbers.
const MAX_ID: usize = 128;
/// In the state folder: an id that was made up, so that the next start is the same device.
const KEPT: &str = "device-id";
/// What such an id begins with.
const MADE_UP: &str = "unknown-";
const SERIALS: [&str; 2] = [
    "proc/device-tree/serial-number",
    "sys/firmware/devicetree/base/serial-number",
];
const MODELS: [&str; 3] = [
    "proc/device-tree/model",
    "sys/firmware/devicetree/base/model",
    "sys/class/dmi/id/product_name",
];
const MACHINE_IDS: [&str; 2] = ["etc/machine-id", "var/lib/dbus/machine-id"];

/// Found once at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `device.id`
    pub device_id: String,
    /// Where it came from: `config`, `device-tree`, `machine-id`, `dmi`, `hostname`, `random`.
    pub source: &'static str,
    /// This boot, from `/proc/sys/kernel/random/boot_id`; zero if unreadable.
    pub boot_id: [u8; 16],
    /// All resource attributes, `device.id` included, sorted by key.
    pub attributes: Vec<(String, String)>,
}

impl Identity {
    /// Looks everywhere the design names; never fails.
    pub fn find(config: &Config) -> Self {
        let root = &config.paths.root;
        let host_name = host_name(root);
        let (device_id, source) = device_id(config, root, host_name.as_deref());
        let mut attributes = host_attributes(root, host_name);
        // What people wrote wins over what was found, what has a key of its own over both.
        for (key, value) in &config.device.attributes {
            set(&mut attributes, key, Some(value.clone()));
        }
        set(&mut attributes, "device.id", Some(device_id.clone()));
        set(
            &mut attributes,
            "service.name",
            Some(config.device.service_name.clone()).filter(|name| !name.is_empty()),
        );
        set(
            &mut attributes,
            "service.version",
            Some(env!("CARGO_PKG_VERSION").to_owned()),
        );
        set(&mut attributes, "service.instance.id", Some(uuid(random())));
        set(
            &mut attributes,
            "deployment.environment.name",
            config.device.environment.clone(),
        );
        attributes.sort();
        Self {
            device_id,
            source,
            boot_id: boot_id(root),
            attributes,
        }
    }

    /// Writes a made-up id into the state folder, which must be there: one small write, once.
    ///
    /// Without it each start would be a new device at collector and broker.
    pub fn keep(&self, state: &Path) {
        let path = state.join(KEPT);
        if self.source != "random" || kept(&path).as_ref() == Some(&self.device_id) {
            return;
        }
        if let Err(error) = replace(&path, &self.device_id) {
            log::warn!(
                "cannot keep the device.id that was made up: {}: {error}; the next start is another device. Set [device] id in the configuration",
                path.display()
            );
        }
    }
}

fn device_id(config: &Config, root: &Path, host_name: Option<&str>) -> (String, &'static str) {
    if let Some(id) = &config.device.id {
        return (id.clone(), "config");
    }
    if let Some(serial) = SERIALS.iter().find_map(|path| serial(&root.join(path))) {
        return (serial, "device-tree");
    }
    if let Some(id) = MACHINE_IDS
        .iter()
        .find_map(|path| machine_id(&root.join(path)))
    {
        return (derived(&id), "machine-id");
    }
    if let Some(id) = product_uuid(&root.join("sys/class/dmi/id/product_uuid")) {
        return (derived(&id), "dmi");
    }
    if let Some(name) = host_name.filter(|name| !name.starts_with("localhost")) {
        log::warn!(
            "this device has no serial number and no machine id; its host name {name:?} is taken as device.id. Set [device] id in the configuration if another device may have the same name"
        );
        return (name.to_owned(), "hostname");
    }
    let path = config.paths.state.join(KEPT);
    let id = kept(&path).unwrap_or_else(|| {
        let mut id = MADE_UP.to_owned();
        push_hex(&mut id, &random());
        id
    });
    log::warn!(
        "nothing identifies this device; it calls itself {id}, as kept in {}. Set [device] id in the configuration, or make /etc/machine-id with systemd-machine-id-setup",
        path.display()
    );
    (id, "random")
}

/// An id that an earlier start made up.
fn kept(path: &Path) -> Option<String> {
    let id = file::small(path)?;
    let digits = id.strip_prefix(MADE_UP)?;
    let whole = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    whole.then_some(id)
}

/// A power cut leaves no file or a whole one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// A serial number that is not one of the placeholders of boards without one.
fn serial(path: &Path) -> Option<String> {
    let serial = file::small(path)?;
    let plain = serial.len() <= MAX_ID && serial.chars().all(|c| c.is_ascii_graphic());
    let distinct = serial.chars().any(|c| c != '0') && !serial.eq_ignore_ascii_case("unknown");
    (plain && distinct).then_some(serial)
}

/// 32 hexadecimal digits; `uninitialized` and all zeros are none.
fn machine_id(path: &Path) -> Option<String> {
    let id = file::small(path)?.to_ascii_lowercase();
    let valid = id.len() == 32
        && id.bytes().all(|byte| byte.is_ascii_hexdigit())
        && id.bytes().any(|byte| byte != b'0');
    valid.then_some(id)
}

/// A UUID that is not one of the placeholders of boards without one.
fn product_uuid(path: &Path) -> Option<String> {
    let id: String = file::small(path)?
        .to_ascii_lowercase()
        .chars()
        .filter(|c| *c != '-')
        .collect();
    let first = id.bytes().next()?;
    let distinct = id.bytes().any(|byte| byte != first) && id != "03000200040005000006000700080009";
    (id.len() == 32 && distinct && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

fn derived(secret: &str) -> String {
    let mut input = APPLICATION.to_vec();
    input.extend_from_slice(secret.as_bytes());
    let hash = sha256(&input);
    let mut out = String::with_capacity(32);
    push_hex(&mut out, hash.get(..16).unwrap_or_default());
    out
}

fn host_attributes(root: &Path, host_name: Option<String>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let release = OsRelease::read(root);
    set(
        &mut found,
        "device.model.identifier",
        MODELS.iter().find_map(|path| file::small(&root.join(path))),
    );
    set(
        &mut found,
        "host.id",
        MACHINE_IDS
            .iter()
            .find_map(|path| machine_id(&root.join(path)))
            .map(|id| derived(&id)),
    );
    set(&mut found, "host.name", host_name);
    set(&mut found, "host.arch", Some(arch(&System::cpu_arch())));
    set(&mut found, "os.type", Some("linux".to_owned()));
    set(&mut found, "os.name", release.name);
    set(&mut found, "os.version", release.version);
    set(&mut found, "os.build_id", release.build);
    let kernel = System::kernel_version()
        .ok()
        .map(|version| format!("Linux {version}"));
    set(&mut found, "os.description", release.pretty.or(kernel));
    found
}

/// Puts a value in place of an earlier one; `None` or an empty one changes nothing.
fn set(attributes: &mut Vec<(String, String)>, key: &str, value: Option<String>) {
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return;
    };
    match attributes.iter_mut().find(|(other, _)| other == key) {
        Some((_, old)) => *old = value,
        None => attributes.push((key.to_owned(), value)),
    }
}

/// The kernel's; below another root that root's.
fn host_name(root: &Path) -> Option<String> {
    let name = if root == Path::new("/") {
        System::host_name().ok()
    } else {
        file::small(&root.join("proc/sys/kernel/hostname"))
    };
    name.filter(|name| !name.is_empty() && name.len() <= MAX_ID)
}

/// The convention's words for the kernel's.
fn arch(machine: &str) -> String {
    match machine {
        "x86_64" => "amd64",
        "aarch64" | "arm64" => "arm64",
        "i386" | "i486" | "i586" | "i686" => "x86",
        arm if arm.starts_with("arm") => "arm32",
        other => other,
    }
    .to_owned()
}

/// What the firmware says of itself (os-release(5)).
#[derive(Debug, Default, PartialEq, Eq)]
struct OsRelease {
    name: Option<String>,
    version: Option<String>,
    build: Option<String>,
    pretty: Option<String>,
}

impl OsRelease {
    fn read(root: &Path) -> Self {
        let text = ["etc/os-release", "usr/lib/os-release"]
            .iter()
            .find_map(|path| file::small(&root.join(path)));
        Self::parse(&text.unwrap_or_default())
    }

    /// `IMAGE_VERSION` names a firmware image more exactly than `VERSION_ID` names its base.
    fn parse(text: &str) -> Self {
        let value = |wanted: &str| {
            let found = text.lines().find_map(|line| {
                let (key, value) = line.trim().split_once('=')?;
                (key == wanted).then(|| unquote(value))
            });
            found.filter(|value| !value.is_empty())
        };
        Self {
            name: value("NAME").or_else(|| value("ID")),
            version: value("IMAGE_VERSION")
                .or_else(|| value("VERSION_ID"))
                .or_else(|| value("BUILD_ID")),
            build: value("BUILD_ID"),
            pretty: value("PRETTY_NAME"),
        }
    }
}

/// Shell quoting as far as os-release(5) allows it.
fn unquote(value: &str) -> String {
    let value = value.trim();
    let inner = ['"', '\'']
        .iter()
        .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    let mut out = String::new();
    let mut escaped = false;
    for c in inner.unwrap_or(value).chars() {
        if c == '\\' && !escaped {
            escaped = true;
        } else {
            escaped = false;
            out.push(c);
        }
    }
    out
}

fn boot_id(root: &Path) -> [u8; 16] {
    let text = file::small(&root.join("proc/sys/kernel/random/boot_id")).unwrap_or_default();
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    match u128::from_str_radix(&digits, 16) {
        Ok(id) if digits.len() == 32 => id.to_be_bytes(),
        _ => [0; 16],
    }
}

/// Without a random source the instance is all zeros: worth less, harmful to nobody.
fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    let _ = getrandom::fill(&mut bytes);
    bytes
}

/// Version 4 (RFC 9562).
fn uuid(bytes: [u8; 16]) -> String {
    let id = u128::from_be_bytes(bytes);
    let id = id & !(0xf << 76) | (0x4 << 76);
    let id = id & !(0x3 << 62) | (0x2 << 62);
    let digits = format!("{id:032x}");
    let part = |from: usize, to: usize| digits.get(from..to).unwrap_or_default();
    format!(
        "{}-{}-{}-{}-{}",
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32)
    )
}

fn sha256(input: &[u8]) -> Vec<u8> {
    rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256
        .tls13()
        .map(|suite| suite.common.hash_provider.hash(input).as_ref().to_vec())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn root(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path: PathBuf = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        dir
    }

    const ID: &[u8] = b"0123456789abcdef0123456789abcdef\n";

    fn found(files: &[(&str, &[u8])]) -> (String, &'static str) {
        let dir = root(files);
        let config = crate::pipeline::tests::config(dir.path());
        let identity = Identity::find(&config);
        (identity.device_id, identity.source)
    }

    #[test]
    fn the_first_usable_source_names_the_device() {
        let serial = ("proc/device-tree/serial-number", b"1000abcd\0".as_slice());
        assert_eq!(
            found(&[serial, ("etc/machine-id", ID)]),
            ("1000abcd".to_owned(), "device-tree")
        );
        let (id, source) = found(&[("etc/machine-id", ID)]);
        assert_eq!((id.len(), source), (32, "machine-id"));
        assert_eq!(
            found(&[("proc/sys/kernel/hostname", b"gw7\n")]),
            ("gw7".to_owned(), "hostname")
        );
        assert_eq!(
            found(&[("proc/sys/kernel/hostname", b"localhost\n")]).1,
            "random"
        );
    }

    #[test]
    fn a_made_up_id_is_kept_in_the_state_folder() {
        let dir = root(&[("proc/sys/kernel/hostname", b"localhost\n")]);
        let mut config = crate::pipeline::tests::config(dir.path());
        config.paths.state = dir.path().join("state");
        std::fs::create_dir(&config.paths.state).unwrap();
        let first = Identity::find(&config);
        first.keep(&config.paths.state);
        let second = Identity::find(&config);
        assert_eq!(first.device_id, second.device_id);
        assert_eq!(second.source, "random");
        for broken in [
            "",
            "unknown-12",
            "gateway",
            &format!("unknown-{}", "x".repeat(32)),
        ] {
            std::fs::write(config.paths.state.join(KEPT), broken).unwrap();
            assert_ne!(Identity::find(&config).device_id, first.device_id);
        }
        // What identifies the device wins over it.
        first.keep(&config.paths.state);
        config.device.id = Some("gw-1".into());
        assert_eq!(Identity::find(&config).device_id, "gw-1");
    }

    #[test]
    fn an_id_that_is_no_made_up_one_is_kept_nowhere() {
        let dir = root(&[("etc/machine-id", ID)]);
        let config = crate::pipeline::tests::config(dir.path());
        let state = dir.path().join("state");
        std::fs::create_dir(&state).unwrap();
        Identity::find(&config).keep(&state);
        assert_eq!(std::fs::read_dir(&state).unwrap().count(), 0);
    }

    #[test]
    fn the_machine_id_is_derived_from_and_never_shown() {
        let dir = root(&[("etc/machine-id", ID)]);
        let config = crate::pipeline::tests::config(dir.path());
        let (a, b) = (Identity::find(&config), Identity::find(&config));
        assert_eq!(a.device_id, b.device_id);
        assert!(!format!("{a:?}").contains("0123456789abcdef"));
        // sha256("abc"), FIPS 180-2.
        assert_eq!(
            sha256(b"abc").get(..4),
            Some([0xba, 0x78, 0x16, 0xbf].as_slice())
        );
    }

    #[test]
    fn bad_files_count_as_absent() {
        let huge = vec![b'a'; 1 << 20];
        for content in [
            b"".as_slice(),
            b"uninitialized\n",
            b"\0\0\0",
            b"\xff\xfe\x00",
            b"00000000000000000000000000000000\n",
            &huge,
        ] {
            let files = [
                ("etc/machine-id", content),
                (
                    "proc/device-tree/serial-number",
                    if content == b"uninitialized\n" {
                        b"0000"
                    } else {
                        content
                    },
                ),
            ];
            assert_eq!(found(&files).1, "random", "{:?}", content.get(..10));
        }
        assert_eq!(
            found(&[(
                "sys/class/dmi/id/product_uuid",
                b"FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF\n"
            )])
            .1,
            "random"
        );
        assert_eq!(
            found(&[(
                "sys/class/dmi/id/product_uuid",
                b"4C4C4544-0051-3510-8054-B4C04F4E3132\n"
            )])
            .1,
            "dmi"
        );
    }

    #[test]
    fn the_firmware_version_is_the_images_own_if_it_has_one() {
        let release = OsRelease::parse(
            "NAME=\"My \\\"OS\\\"\"\nVERSION_ID='12'\nIMAGE_VERSION=2026.11\nBUILD_ID=b7\n#x\njunk\n",
        );
        assert_eq!(release.name.as_deref(), Some("My \"OS\""));
        assert_eq!(release.version.as_deref(), Some("2026.11"));
        assert_eq!(
            OsRelease::parse("VERSION_ID=\"\"\nBUILD_ID=b7")
                .version
                .as_deref(),
            Some("b7")
        );
        assert_eq!(OsRelease::parse("\0\0"), OsRelease::default());
    }

    #[test]
    fn people_override_what_was_found_but_not_the_id() {
        let dir = root(&[
            ("etc/machine-id", ID),
            (
                "proc/sys/kernel/random/boot_id",
                b"00000000-0000-0000-0000-0000000000ff\n",
            ),
        ]);
        let mut config = crate::pipeline::tests::config(dir.path());
        config.device.id = Some("gw-1".into());
        config.device.environment = Some("test".into());
        config
            .device
            .attributes
            .insert("host.name".into(), "mine".into());
        config
            .device
            .attributes
            .insert("device.id".into(), "other".into());
        let identity = Identity::find(&config);
        let value = |key: &str| {
            identity
                .attributes
                .iter()
                .find(|(k, _)| k == key)
                .map(|(_, v)| v.as_str())
        };
        assert_eq!(
            (value("device.id"), value("host.name")),
            (Some("gw-1"), Some("mine"))
        );
        assert_eq!(value("deployment.environment.name"), Some("test"));
        assert_eq!(value("service.instance.id").map(str::len), Some(36));
        assert!(identity.attributes.is_sorted());
        assert_eq!(identity.boot_id[15], 0xff);
        assert_eq!(boot_id(Path::new("/nowhere")), [0; 16]);
    }
}
