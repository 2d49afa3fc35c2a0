//! A file system that forgets all it may: un-synced bytes go sector by sector,
//! un-synced names come and go, a failed sync drops what it was asked for and
//! says nothing the next time. It can stop at any call.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::storage::{Listed, Storage};

const SECTOR: usize = 512;

/// A small generator, so that a seed replays everything.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound.max(1)
    }
}

#[derive(Clone, Debug, Default)]
struct Inode {
    durable: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
    current: Vec<u8>,
    /// Bytes that it occupies at least.
    reserved: u64,
}

impl Inode {
    fn occupied(&self) -> u64 {
        (self.current.len() as u64).max(self.reserved)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct State {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    next: u64,
    dice: Dice,
    /// Calls so far; it stops at `cut`.
    pub(crate) calls: u64,
    pub(crate) cut: Option<u64>,
    pub(crate) dead: bool,
    /// One call in so many fails: appends with ENOSPC or EIO after a short write, syncs with EIO.
    pub(crate) faults: Option<u64>,
    /// Bytes there are.
    pub(crate) capacity: u64,
    pub(crate) no_inodes: bool,
    /// Blocks are reserved ahead, as on ext4.
    pub(crate) reserves: bool,
    /// Every sync fails; nothing can be made or written.
    pub(crate) failing: bool,
    /// What a failing sync was asked for is on disk all the same.
    pub(crate) resurfacing: bool,
    pub(crate) read_only: bool,
    /// Somebody took away the right to read.
    pub(crate) denied: bool,
}

/// The disk; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Simulated(Arc<Mutex<State>>);

impl Simulated {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            inodes: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            next: 1,
            dice: Dice::new(seed ^ 0x5bd1),
            calls: 0,
            cut: None,
            dead: false,
            faults: None,
            capacity: 1 << 30,
            no_inodes: false,
            reserves: seed % 4 == 3,
            failing: false,
            resurfacing: false,
            read_only: false,
            denied: false,
        })))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Another disk with the same contents.
    pub(crate) fn fork(&self) -> Self {
        Self(Arc::new(Mutex::new(self.state().clone())))
    }

    /// Power goes and comes back.
    pub(crate) fn crash(&self) {
        let mut state = self.state();
        let state = &mut *state;
        let mut kept = state.durable_names.clone();
        let mut all: Vec<String> = state.names.keys().chain(kept.keys()).cloned().collect();
        all.sort();
        all.dedup();
        for name in all {
            if state.dice.below(2) == 0 {
                match state.names.get(&name) {
                    Some(&inode) => kept.insert(name, inode),
                    None => kept.remove(&name),
                };
            }
        }
        for inode in state.inodes.values_mut() {
            let mut bytes = inode.durable.clone();
            for (offset, written) in inode.pending.drain(..) {
                let mut at = 0;
                while at < written.len() {
                    let end = (at + SECTOR - (offset + at) % SECTOR).min(written.len());
                    if state.dice.below(2) == 0 {
                        let upto = offset + end;
                        if bytes.len() < upto {
                            bytes.resize(upto, 0);
                        }
                        bytes[offset + at..upto].copy_from_slice(&written[at..end]);
                    }
                    at = end;
                }
            }
            inode.durable = bytes.clone();
            inode.current = bytes;
            // A reservation may be forgotten like anything else.
            if inode.reserved > 0 && state.dice.below(2) == 0 {
                inode.reserved = 0;
            }
        }
        state.names = kept.clone();
        state.durable_names = kept;
        state.dead = false;
        state.cut = None;
        state.calls = 0;
    }

    /// All files, to damage them.
    pub(crate) fn files(&self) -> Vec<(String, usize)> {
        let state = self.state();
        let files = state.names.iter();
        files
            .map(|(name, inode)| (name.clone(), state.inodes[inode].current.len()))
            .collect()
    }

    pub(crate) fn flip(&self, name: &str, at: usize) {
        let mut state = self.state();
        let inode = state.names[name];
        let inode = state.inodes.get_mut(&inode).unwrap();
        inode.current[at] ^= 0x55;
        inode.durable = inode.current.clone();
    }

    /// Somebody cuts a file short.
    pub(crate) fn cut_short(&self, name: &str, len: usize) {
        let mut state = self.state();
        let inode = state.names[name];
        let inode = state.inodes.get_mut(&inode).unwrap();
        inode.current.truncate(len);
        inode.pending.clear();
        inode.durable = inode.current.clone();
    }

    /// Somebody removes a file.
    pub(crate) fn take_away(&self, name: &str) {
        let mut state = self.state();
        state.names.remove(name);
        state.durable_names.remove(name);
    }

    pub(crate) fn plant(&self, name: &str, bytes: Vec<u8>) {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        let inode = Inode {
            durable: bytes.clone(),
            pending: Vec::new(),
            current: bytes,
            reserved: 0,
        };
        state.inodes.insert(number, inode);
        state.names.insert(name.to_owned(), number);
        state.durable_names.insert(name.to_owned(), number);
    }
}

impl State {
    fn step(&mut self) -> io::Result<bool> {
        if self.dead {
            return Err(io::Error::other("the power is off"));
        }
        self.calls += 1;
        if self.cut == Some(self.calls) {
            self.dead = true;
        }
        let faulty = self.faults.is_some_and(|odds| self.dice.below(odds) == 0);
        Ok(faulty)
    }

    fn writable(&self) -> io::Result<()> {
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        Ok(())
    }

    fn alive(&self) -> io::Result<()> {
        if self.dead {
            Err(io::Error::other("the power is off"))
        } else {
            Ok(())
        }
    }

    fn used(&self) -> u64 {
        let files = self
            .names
            .values()
            .filter_map(|inode| self.inodes.get(inode));
        files.map(Inode::occupied).sum()
    }

    fn put(&mut self, number: u64, offset: usize, bytes: &[u8]) {
        let inode = self.inodes.entry(number).or_default();
        if inode.current.len() < offset + bytes.len() {
            inode.current.resize(offset + bytes.len(), 0);
        }
        inode.current[offset..offset + bytes.len()].copy_from_slice(bytes);
        inode.pending.push((offset, bytes.to_vec()));
    }

    fn settle(&mut self, number: u64) {
        let inode = self.inodes.entry(number).or_default();
        for (offset, bytes) in inode.pending.drain(..) {
            if inode.durable.len() < offset + bytes.len() {
                inode.durable.resize(offset + bytes.len(), 0);
            }
            inode.durable[offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
    }
}

impl Storage for Simulated {
    type File = u64;

    fn make_dir(&mut self, _: &str) -> io::Result<()> {
        self.state().step()?;
        self.state().alive()
    }

    fn list(&mut self, path: &str) -> io::Result<Vec<Listed>> {
        let mut state = self.state();
        state.step()?;
        let names = state.names.iter().filter_map(|(name, inode)| {
            let (folder, name) = name.rsplit_once('/').unwrap_or(("", name));
            if folder != path {
                return None;
            }
            let inode = &state.inodes[inode];
            Some(Listed {
                name: name.to_owned(),
                len: inode.current.len() as u64,
                occupied: inode.occupied().div_ceil(4096) * 4096,
            })
        });
        Ok(names.collect())
    }

    fn create(&mut self, path: &str) -> io::Result<u64> {
        let mut state = self.state();
        state.step()?;
        state.writable()?;
        if state.no_inodes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let number = state.next;
        state.next += 1;
        state.inodes.insert(number, Inode::default());
        state.names.insert(path.to_owned(), number);
        state.alive()?;
        Ok(number)
    }

    fn open_append(&mut self, path: &str) -> io::Result<u64> {
        let mut state = self.state();
        state.step()?;
        let found = state.names.get(path).copied();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn append(&mut self, file: &mut u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let faulty = state.step()?;
        state.writable()?;
        let offset = state.inodes[file].current.len();
        let ahead = state.inodes[file].occupied() - offset as u64;
        let room = state.capacity.saturating_sub(state.used()) + ahead;
        let short = faulty || state.dead || bytes.len() as u64 > room;
        let count = if short {
            let most = room.min(bytes.len() as u64);
            state.dice.below(most + 1) as usize
        } else {
            bytes.len()
        };
        state.put(*file, offset, &bytes[..count]);
        state.alive()?;
        if bytes.len() as u64 > room || (faulty && state.dice.below(2) == 0) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if faulty {
            Err(io::Error::other("append failed"))
        } else {
            Ok(())
        }
    }

    fn reserve(&mut self, file: &mut u64, len: u64) {
        let mut state = self.state();
        let room = state.capacity.saturating_sub(state.used());
        let alive = !state.dead;
        if let Some(inode) = state.inodes.get_mut(file)
            && alive
            && len.saturating_sub(inode.occupied()) <= room
        {
            inode.reserved = inode.reserved.max(len);
        }
    }

    fn reserves(&mut self) -> bool {
        self.state().reserves
    }

    fn sync(&mut self, file: &mut u64) -> io::Result<()> {
        let mut state = self.state();
        if state.step()? || state.failing {
            if state.resurfacing {
                state.settle(*file);
            }
            // Marked clean and never written: what a failed fsync leaves on ext4.
            if let Some(inode) = state.inodes.get_mut(file) {
                inode.pending.clear();
            }
            return Err(io::Error::other("sync failed"));
        }
        state.alive()?;
        state.settle(*file);
        Ok(())
    }

    fn sync_dir(&mut self, path: &str) -> io::Result<()> {
        let mut state = self.state();
        if state.step()? {
            return Err(io::Error::other("sync of a folder failed"));
        }
        state.alive()?;
        let inside = |name: &str| match name.rsplit_once('/') {
            Some((folder, _)) => folder == path,
            None => path.is_empty(),
        };
        let state = &mut *state;
        state.durable_names.retain(|name, _| !inside(name));
        let now = state.names.iter().filter(|(name, _)| inside(name));
        state
            .durable_names
            .extend(now.map(|(name, inode)| (name.clone(), *inode)));
        Ok(())
    }

    fn read_at(&mut self, path: &str, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state();
        state.step()?;
        if state.denied {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let number = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        let bytes = &state.inodes[&number].current;
        let from = (offset as usize).min(bytes.len());
        let count = out.len().min(bytes.len() - from);
        out[..count].copy_from_slice(&bytes[from..from + count]);
        Ok(count)
    }

    fn unlink(&mut self, path: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        state.names.remove(path);
        state.alive()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        if state.step()? {
            return Err(io::Error::other("rename failed"));
        }
        state.writable()?;
        let inode = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), inode);
        state.alive()
    }

    fn write_slot(&mut self, path: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let faulty = state.step()?;
        state.writable()?;
        let number = match state.names.get(path).copied() {
            Some(number) => number,
            None => {
                let number = state.next;
                state.next += 1;
                state.names.insert(path.to_owned(), number);
                state.inodes.insert(number, Inode::default());
                number
            }
        };
        let len = state.inodes.get(&number).map_or(0, |i| i.current.len()) as u64;
        let grown = (offset + bytes.len() as u64).saturating_sub(len);
        if grown > state.capacity.saturating_sub(state.used()) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.put(number, offset as usize, bytes);
        state.alive()?;
        if faulty {
            return Err(io::Error::other("slot failed"));
        }
        state.settle(number);
        state.durable_names.insert(path.to_owned(), number);
        Ok(())
    }

    fn allocate(&mut self, path: &str, len: u64) -> io::Result<u64> {
        let held = {
            let state = self.state();
            let inode = state.names.get(path);
            inode.map_or(0, |inode| state.inodes[inode].current.len() as u64)
        };
        if held >= len {
            return Ok(0);
        }
        self.write_slot(path, held, &vec![0; (len - held) as usize])?;
        Ok(len - held)
    }

    fn size(&mut self) -> io::Result<u64> {
        Ok(self.state().capacity)
    }

    fn free(&mut self) -> io::Result<(u64, bool)> {
        let state = self.state();
        let room = state.capacity.saturating_sub(state.used());
        Ok((room, !state.no_inodes))
    }

    fn device_written(&mut self) -> Option<u64> {
        None
    }

    fn measure(&mut self, file: &mut u64) -> io::Result<(u64, u64)> {
        let state = self.state();
        if !state.names.values().any(|inode| inode == file) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inode = &state.inodes[file];
        let occupied = inode.occupied().div_ceil(4096) * 4096;
        Ok((inode.current.len() as u64, occupied))
    }
}
