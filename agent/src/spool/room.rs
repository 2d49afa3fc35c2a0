//! What room the log has: the quota in effect, and the cursor file, which has
//! all of its own from the start.
//!
//! Others may fill the disk. That takes nothing from what is stored, and the
//! ledger can still be written: its file is overwritten in place.

use std::io;

use super::cursor::{Ledger, SLOT, SLOT_FILE};
use super::log::{JOURNAL, Log, SLOTS, WriteError, blocks};
use super::storage::Storage;
use crate::status::words::bytes;

impl<S: Storage> Log<S> {
    /// The quota in effect: what is configured, or on a full disk what the files
    /// occupy now, for others taking the room is no reason to give up any of it.
    /// What an eviction freed may be taken again, whatever the reserve.
    pub(crate) fn limit(&mut self) -> u64 {
        let usage = self.usage();
        match self.storage.free() {
            Ok((free, inodes)) => {
                self.inodes = inodes;
                let room = free.saturating_sub(self.settings.reserve);
                if room >= self.credit {
                    self.credit = 0;
                }
                let room = room.max(self.credit.min(free));
                let limit = self.settings.quota.min(usage.saturating_add(room));
                self.widest = self.widest.max(limit);
                limit
            }
            Err(_) => self.settings.quota,
        }
    }

    /// Writes the ledger into the cursor file.
    pub(crate) fn write_slot(&mut self, ledger: &Ledger) -> Result<(), WriteError> {
        let Some((offset, bytes)) = ledger.encode_slot() else {
            return Err(WriteError::Full);
        };
        if !self.slots_made && self.usage() + SLOTS > self.settings.quota {
            return Err(WriteError::Full);
        }
        // Without that it may still find room.
        let _ = self.allocate_slots();
        self.flash = self.flash.saturating_add(blocks(bytes.len() as u64));
        self.storage.write_slot(SLOT_FILE, offset, &bytes)?;
        self.slots_made = true;
        self.written = self.written.saturating_add(bytes.len() as u64);
        self.syncs = self.syncs.saturating_add(1);
        self.holder = (ledger.version, None);
        Ok(())
    }

    /// Gives the cursor file its full size, so that a full disk can take the ledger.
    pub(crate) fn allocate_slots(&mut self) -> io::Result<()> {
        let fits = self.slots_made || self.usage() + SLOTS <= self.settings.quota;
        if self.slots_allocated || !fits {
            return Ok(());
        }
        let written = self.storage.allocate(SLOT_FILE, 2 * SLOT)?;
        if written > 0 {
            self.written = self.written.saturating_add(written);
            self.flash = self.flash.saturating_add(blocks(written) + JOURNAL);
            self.syncs = self.syncs.saturating_add(1);
        }
        self.slots_made = true;
        self.slots_allocated = true;
        Ok(())
    }

    /// Lets new data take what an eviction freed.
    pub(crate) fn freed(&mut self, bytes: u64) {
        self.credit = self.credit.saturating_add(bytes);
    }

    /// What keeps new data from the disk, for people.
    pub(crate) fn shortage(&mut self) -> (String, &'static str) {
        let reserve = self.settings.reserve;
        let Ok((free, inodes)) = self.storage.free() else {
            return ("the disk is full".into(), "Free space");
        };
        if !inodes {
            return ("the disk has no inodes left".into(), "Remove files");
        }
        if free >= reserve.max(1) {
            let text = format!("the disk is nearly full ({} free)", bytes(free));
            return (text, "Free space");
        }
        if reserve == 0 {
            return ("the disk is full (0 bytes free)".into(), "Free space");
        }
        let size = self.storage.size().unwrap_or(u64::MAX);
        if size <= reserve {
            let text = format!(
                "the file system has {} in all, and spool.reserve keeps {} free ({} are)",
                bytes(size),
                bytes(reserve),
                bytes(free)
            );
            return (text, "Lower spool.reserve");
        }
        let text = format!(
            "{} are free, and spool.reserve keeps {} free",
            bytes(free),
            bytes(reserve)
        );
        (text, "Free space or lower spool.reserve")
    }

    /// What both slots hold, the newer one.
    pub(super) fn read_slots(&mut self) -> Option<Ledger> {
        let mut newest: Option<Ledger> = None;
        for slot in 0..2 {
            let mut bytes = vec![0; SLOT as usize];
            let Ok(count) = self.storage.read_at(SLOT_FILE, slot * SLOT, &mut bytes) else {
                continue;
            };
            self.slots_made = true;
            let found = bytes.get(..count).and_then(Ledger::decode_slot);
            if let Some(found) = found
                && newest.as_ref().is_none_or(|n| n.version < found.version)
            {
                newest = Some(found);
            }
        }
        newest
    }
}
