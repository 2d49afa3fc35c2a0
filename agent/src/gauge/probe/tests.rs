use std::fs::File;

use super::testing::{Tree, read, read_into};
use super::*;
use crate::gauge::readings::found;
use crate::gauge::{Registry, table};

/// Each `sys/x/*` has a file `value`, and a limit.
fn look(root: &Path, out: &mut Found) {
    let folder = root.join("sys/x");
    for name in entries(&folder, "") {
        let device = folder.join(&name);
        let id = [("hw.id", found(&name))];
        out.add(&device, "value", &table::TEMPERATURE, &id, thousandths);
        if device.join("max").exists() {
            out.add_slow(&device, "max", &table::TEMPERATURE_LIMIT, &id, thousandths);
        }
    }
}

fn of(out: &Readings, name: &str) -> Option<Result<Value, Missing>> {
    out.value(&format!("hw.temperature hw.id={name}"))
}

#[test]
fn whatever_a_file_holds_is_a_value_or_typed_absence() {
    let tree = Tree::new(&[
        ("sys/x/cold/value", "-40500\n"),
        ("sys/x/empty/value", ""),
        ("sys/x/word/value", "N/A\n"),
        ("sys/x/wild/value", "99999999999999999999\n"),
    ]);
    tree.write("sys/x/binary/value", [0xff, 0, 0xfe]);
    let huge = tree.path("sys/x/huge");
    std::fs::create_dir(&huge).unwrap();
    let file = File::create(huge.join("value")).unwrap();
    file.set_len(1 << 40).unwrap();
    // Reading a folder fails as a register that does not answer.
    std::fs::create_dir_all(tree.path("sys/x/error/value")).unwrap();
    std::fs::create_dir(tree.path("sys/x/nothing")).unwrap();
    let out = read(&mut tree.probe(Family::Temperature, look), 1);
    assert_eq!(of(&out, "cold"), Some(Ok(Value::Float(-40.5))));
    for name in ["empty", "word", "wild", "binary", "huge"] {
        assert_eq!(of(&out, name), Some(Err(Missing::Garbage)), "{name}");
    }
    for name in ["error", "nothing"] {
        assert_eq!(of(&out, name), Some(Err(Missing::Gone)), "{name}");
    }
    assert_eq!(out.as_slice().len(), 8);
}

#[test]
fn a_machine_without_such_a_thing_is_unsupported() {
    let tree = Tree::new(&[]);
    let mut out = Readings::new(Registry::default());
    let mut probe = tree.probe(Family::Temperature, look);
    assert_eq!(
        read_into(&mut probe, 1, &mut out),
        Err(Missing::Unsupported)
    );
    assert!(out.as_slice().is_empty());
}

#[test]
fn devices_come_and_go_and_keep_their_series() {
    let tree = Tree::new(&[("sys/x/a/value", "1000"), ("sys/x/b/value", "2000")]);
    let mut probe = tree.probe(Family::Temperature, look);
    let mut out = Readings::new(Registry::default());
    read_into(&mut probe, 1, &mut out).unwrap();
    let first = out.as_slice().to_vec();
    std::fs::remove_dir_all(tree.path("sys/x/b")).unwrap();
    tree.write("sys/x/c/value", "3000");
    // Within the minute nobody looks.
    read_into(&mut probe, 30, &mut out).unwrap();
    assert_eq!(of(&out, "c"), None);
    read_into(&mut probe, 62, &mut out).unwrap();
    assert_eq!(of(&out, "a"), Some(Ok(Value::Float(1.0))));
    assert_eq!(of(&out, "b"), Some(Err(Missing::Gone)));
    assert_eq!(of(&out, "c"), Some(Ok(Value::Float(3.0))));
    read_into(&mut probe, 63, &mut out).unwrap();
    assert_eq!(of(&out, "b"), None, "gone is said once");
    tree.write("sys/x/b/value", "2500");
    read_into(&mut probe, 124, &mut out).unwrap();
    assert_eq!(of(&out, "b"), Some(Ok(Value::Float(2.5))));
    assert!(
        first
            .iter()
            .all(|(id, _)| out.as_slice().iter().any(|(other, _)| other == id))
    );
}

#[test]
fn limits_are_read_once_a_minute_and_values_each_time() {
    let tree = Tree::new(&[("sys/x/a/value", "1000"), ("sys/x/a/max", "90000")]);
    let mut probe = tree.probe(Family::Temperature, look);
    let mut out = Readings::new(Registry::default());
    let lengths: Vec<_> = [1, 11, 50, 61, 62]
        .map(|at| {
            read_into(&mut probe, at, &mut out).unwrap();
            out.as_slice().len()
        })
        .into();
    assert_eq!(lengths, [2, 1, 1, 2, 1]);
}

#[test]
fn what_is_beyond_the_limit_is_counted() {
    let tree = Tree::new(&[]);
    for n in 0..70 {
        tree.write(&format!("sys/x/{n}/value"), "1000");
    }
    let mut probe = tree.probe(Family::Temperature, look);
    let mut out = Readings::new(Registry::default());
    read_into(&mut probe, 1, &mut out).unwrap();
    assert_eq!(
        (out.as_slice().len(), out.left_out(Family::Temperature)),
        (64, 6)
    );
    for n in 10..20 {
        std::fs::remove_dir_all(tree.path(&format!("sys/x/{n}"))).unwrap();
    }
    read_into(&mut probe, 61, &mut out).unwrap();
    assert_eq!(out.left_out(Family::Temperature), 0);
}

#[test]
fn a_stuck_device_is_a_timeout_alone_and_rests() {
    let tree = Tree::new(&[("sys/x/a/value", "1000"), ("sys/x/c/value", "3000")]);
    std::fs::create_dir(tree.path("sys/x/b")).unwrap();
    // Opening it for reading blocks until somebody opens it for writing.
    let stuck = tree.path("sys/x/b/value");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &stuck,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let mut probe = tree.probe(Family::Temperature, look);
    let mut out = Readings::new(Registry::default());
    for at in 1..20 {
        read_into(&mut probe, at, &mut out).unwrap();
        assert_eq!(of(&out, "a"), Some(Ok(Value::Float(1.0))));
        assert_eq!(of(&out, "b"), Some(Err(Missing::Timeout)));
        assert_eq!(of(&out, "c"), Some(Ok(Value::Float(3.0))));
    }
    // It answers at last: nothing, and then a number.
    drop(File::options().write(true).open(&stuck).unwrap());
    std::fs::remove_file(&stuck).unwrap();
    tree.write("sys/x/b/value", "2000");
    let mut at = 20;
    while of(&out, "b") != Some(Ok(Value::Float(2.0))) {
        at += 1;
        // The helper that hung has to have its turn as well.
        assert!(at < 100_000, "it is never asked again");
        read_into(&mut probe, at, &mut out).unwrap();
    }
}
