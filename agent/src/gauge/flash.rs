//! How worn the flash is, where the kernel tells it without asking the device
//! to work: eMMC and UFS health, UBI erase counts, MTD errors (kernel
//! documentation, driver-api/mmc/mmc-dev-attrs, ABI/testing/sysfs-driver-ufs,
//! ABI/stable/sysfs-class-ubi, ABI/testing/sysfs-class-mtd).
//!
//! ```text
//! /sys/block/mmcblk0/device/life_time      0x02 0x01      areas a and b, steps of 10 %
//! /sys/block/mmcblk0/device/pre_eol_info   0x01
//! /sys/class/ubi/ubi0/{max_ec,bad_peb_count,avail_eraseblocks,reserved_for_bad,ro_mode}
//! /sys/class/mtd/mtd3/{bad_blocks,corrected_bits,ecc_failures}
//! ```
//!
//! SD cards tell nothing; a SATA or NVMe disk's wear is behind an ioctl that
//! only root may do.

use std::path::Path;

use super::probe::{Found, Parse, count, entries, flag};
use super::readings::{found, text};
use super::table::{
    BAD_BLOCKS, ECC_CORRECTED, ECC_FAILURES, ENDURANCE, ERASES_MAX, FLASH_CORRUPTED,
    FLASH_READ_ONLY, FREE_BLOCKS, LIFE_USED, PRE_EOL, RESERVED_BLOCKS,
};
use super::{Descriptor, Missing, Value};

/// The flash family.
pub fn look(root: &Path, out: &mut Found) {
    emmc(root, out);
    ufs(root, out);
    ubi(root, out);
    mtd(root, out);
}

fn emmc(root: &Path, out: &mut Found) {
    let block = root.join("sys/block");
    // Its boot areas are disks of their own with the same device behind them.
    for disk in entries(&block, "mmcblk")
        .iter()
        .filter(|name| !name.contains("boot"))
    {
        let device = block.join(disk).join("device");
        let id = ("hw.id", found(disk));
        if device.join("life_time").exists() {
            let remaining = [id.clone(), ("hw.physical_disk.state", text("remaining"))];
            out.add(&device, "life_time", &ENDURANCE, &remaining, left);
            for (area, parse) in [("a", used::<0> as Parse), ("b", used::<1>)] {
                let area = [id.clone(), ("sonde.flash.area", text(area))];
                out.add(&device, "life_time", &LIFE_USED, &area, parse);
            }
        }
        if device.join("pre_eol_info").exists() {
            out.add(&device, "pre_eol_info", &PRE_EOL, &[id], pre_eol);
        }
    }
}

/// The controller's health, told at its first disk.
fn ufs(root: &Path, out: &mut Found) {
    let block = root.join("sys/block");
    let mut told = Vec::new();
    for disk in entries(&block, "sd") {
        let health = block.join(&disk).join("device/../../../health_descriptor");
        let Ok(controller) = health.canonicalize() else {
            continue;
        };
        if told.contains(&controller) {
            continue;
        }
        told.push(controller);
        let id = ("hw.id", found(&disk));
        for area in ["a", "b"] {
            let attributes = [id.clone(), ("sonde.flash.area", text(area))];
            let file = format!("life_time_estimation_{area}");
            out.add(&health, &file, &LIFE_USED, &attributes, used::<0>);
        }
        out.add(&health, "eol_info", &PRE_EOL, &[id], pre_eol);
    }
}

fn ubi(root: &Path, out: &mut Found) {
    const FILES: [(&str, &Descriptor, Parse); 5] = [
        ("max_ec", &ERASES_MAX, count),
        ("bad_peb_count", &BAD_BLOCKS, count),
        ("avail_eraseblocks", &FREE_BLOCKS, count),
        ("reserved_for_bad", &RESERVED_BLOCKS, count),
        ("ro_mode", &FLASH_READ_ONLY, flag),
    ];
    let folder = root.join("sys/class/ubi");
    for name in entries(&folder, "ubi") {
        let device = folder.join(&name);
        let id = [("hw.id", found(&name))];
        let files: &[_] = match name.contains('_') {
            true => &[("corrupted", &FLASH_CORRUPTED, flag as Parse)],
            false => &FILES,
        };
        for (file, gauge, parse) in files {
            if device.join(file).exists() {
                out.add(&device, file, gauge, &id, *parse);
            }
        }
    }
}

fn mtd(root: &Path, out: &mut Found) {
    let folder = root.join("sys/class/mtd");
    for name in entries(&folder, "mtd")
        .iter()
        .filter(|name| !name.ends_with("ro"))
    {
        let device = folder.join(name);
        let id = [("hw.id", found(name))];
        for (file, gauge) in [
            ("bad_blocks", &BAD_BLOCKS),
            ("corrected_bits", &ECC_CORRECTED),
            ("ecc_failures", &ECC_FAILURES),
        ] {
            if device.join(file).exists() {
                out.add(&device, file, gauge, &id, count);
            }
        }
    }
}

fn hex(text: &str) -> Result<u8, Missing> {
    let digits = text.strip_prefix("0x").ok_or(Missing::Garbage)?;
    u8::from_str_radix(digits, 16).map_err(|_| Missing::Garbage)
}

/// Tenths of the life that are used up; 0 is "not defined" (JEDEC JESD84-B51, 7.4.29).
fn tenths(text: &str) -> Result<u8, Missing> {
    match hex(text)? {
        0 => Err(Missing::Unsupported),
        tenths @ 1..=11 => Ok(tenths),
        _ => Err(Missing::Garbage),
    }
}

fn area(text: &str, at: usize) -> Result<u8, Missing> {
    let area = text.split_ascii_whitespace().nth(at);
    area.ok_or(Missing::Garbage).and_then(tenths)
}

fn used<const AREA: usize>(text: &str) -> Result<Value, Missing> {
    Value::grained(f64::from(area(text, AREA)?) / 10.0, 10.0)
}

/// Of the more worn area; one that does not tell does not count.
fn left(text: &str) -> Result<Value, Missing> {
    let (a, b) = (area(text, 0), area(text, 1));
    let worst = match (a, b) {
        (Ok(a), Ok(b)) => a.max(b),
        (Ok(known), Err(Missing::Unsupported)) | (Err(Missing::Unsupported), Ok(known)) => known,
        (Err(missing), _) | (_, Err(missing)) => return Err(missing),
    };
    Value::grained(f64::from(10_u8.saturating_sub(worst)) / 10.0, 10.0)
}

fn pre_eol(text: &str) -> Result<Value, Missing> {
    match hex(text)? {
        0 => Err(Missing::Unsupported),
        state @ 1..=3 => Ok(Value::Int(i64::from(state))),
        _ => Err(Missing::Garbage),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Family;
    use super::super::probe::testing::{Tree, read};
    use super::*;

    #[test]
    fn wear_of_emmc_and_raw_flash_is_read() {
        let tree = Tree::new(&[
            ("sys/block/mmcblk0/device/life_time", "0x02 0x05\n"),
            ("sys/block/mmcblk0/device/pre_eol_info", "0x02\n"),
            ("sys/block/mmcblk0boot0/device/life_time", "0x02 0x05\n"),
            ("sys/block/mmcblk1/device/type", "SD\n"),
            ("sys/class/ubi/ubi0/max_ec", "812\n"),
            ("sys/class/ubi/ubi0/bad_peb_count", "3\n"),
            ("sys/class/ubi/ubi0/avail_eraseblocks", "0\n"),
            ("sys/class/ubi/ubi0/reserved_for_bad", "37\n"),
            ("sys/class/ubi/ubi0_0/corrupted", "0\n"),
            ("sys/class/mtd/mtd3/ecc_failures", "1\n"),
            ("sys/class/mtd/mtd3ro/ecc_failures", "1\n"),
        ]);
        let out = read(&mut tree.probe(Family::Flash, look), 1);
        for (name, wanted) in [
            (
                "hw.physical_disk.endurance_utilization hw.id=mmcblk0 hw.physical_disk.state=remaining",
                Value::Float(0.5),
            ),
            (
                "sonde.flash.life.used hw.id=mmcblk0 sonde.flash.area=a",
                Value::Float(0.2),
            ),
            (
                "sonde.flash.life.used hw.id=mmcblk0 sonde.flash.area=b",
                Value::Float(0.5),
            ),
            ("sonde.flash.pre_eol hw.id=mmcblk0", Value::Int(2)),
            ("sonde.flash.erases.max hw.id=ubi0", Value::Int(812)),
            ("sonde.flash.blocks.bad hw.id=ubi0", Value::Int(3)),
            ("sonde.flash.blocks.available hw.id=ubi0", Value::Int(0)),
            ("sonde.flash.blocks.reserved hw.id=ubi0", Value::Int(37)),
            ("sonde.flash.corrupted hw.id=ubi0_0", Value::Int(0)),
            ("sonde.flash.ecc.failures hw.id=mtd3", Value::Int(1)),
        ] {
            assert_eq!(out.value(name), Some(Ok(wanted)), "{name}");
        }
        assert_eq!(out.as_slice().len(), 10);
    }

    #[test]
    fn a_phone_flash_tells_it_at_its_controller_once() {
        let tree = Tree::new(&[
            (
                "sys/devices/ufs/health_descriptor/life_time_estimation_a",
                "0x01\n",
            ),
            (
                "sys/devices/ufs/health_descriptor/life_time_estimation_b",
                "0x00\n",
            ),
            ("sys/devices/ufs/health_descriptor/eol_info", "0x01\n"),
            ("sys/devices/ufs/host0/target0/0:0:0:0/type", "0\n"),
            ("sys/devices/ufs/host0/target0/0:0:0:1/type", "0\n"),
        ]);
        tree.link(
            "sys/block/sda/device",
            "../../devices/ufs/host0/target0/0:0:0:0",
        );
        tree.link(
            "sys/block/sdb/device",
            "../../devices/ufs/host0/target0/0:0:0:1",
        );
        let out = read(&mut tree.probe(Family::Flash, look), 1);
        let used = |area| {
            out.value(&format!(
                "sonde.flash.life.used hw.id=sda sonde.flash.area={area}"
            ))
        };
        assert_eq!(used("a"), Some(Ok(Value::Float(0.1))));
        assert_eq!(used("b"), Some(Err(Missing::Unsupported)));
        assert_eq!(out.as_slice().len(), 3);
    }

    #[test]
    fn steps_beyond_the_standard_are_garbage_and_undefined_is_unsupported() {
        assert_eq!(used::<0>("0x0b 0x01"), Ok(Value::Float(1.1)));
        assert_eq!(left("0x0b 0x01"), Ok(Value::Float(0.0)));
        assert_eq!(left("0x00 0x03"), Ok(Value::Float(0.7)));
        assert_eq!(left("0x00 0x00"), Err(Missing::Unsupported));
        for wild in ["0x0c 0x01", "", "2 5", "0x", "0x100 0x01"] {
            assert_eq!(used::<0>(wild), Err(Missing::Garbage), "{wild}");
        }
        assert_eq!(used::<1>("0x01"), Err(Missing::Garbage));
        assert_eq!(pre_eol("0x04"), Err(Missing::Garbage));
    }
}
