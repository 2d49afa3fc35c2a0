//! Deliberate mistakes. They exist only in tests, which must catch each one:
//! a suite that lets one live proves nothing. Outside tests [`made`] is always
//! false and the compiler drops what hangs on it.
//!
//! The feature `mutants` is for tests of the whole program, whose power is cut:
//! the environment variable `SONDE_MUTANT` then names the mistake. Nothing that
//! is shipped is built with it.

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// A commit is not synced.
    NoSync,
    /// A new file's folder is not synced.
    NoFolderSync,
    /// A failed sync is asked again on the same descriptor.
    SyncAskedAgain,
    /// A failed sync counts as durable.
    FailedSyncTaken,
    /// Cursors count what was given out as acknowledged.
    CursorAhead,
    /// Segments go once they were given out.
    DeletedBeforeAcknowledged,
    /// Each start begins its seqs anew.
    ReusedIds,
    /// Checksums do not depend on the segment.
    UnseededChecksums,
    /// Payloads are believed.
    PayloadUnchecked,
    /// Evictions are not counted.
    UncountedEviction,
    /// What a failed sync left behind counts after a restart.
    PreviousEndIgnored,
    /// Recovery does not look into commit frames for the cursors.
    CommitsIgnored,
    /// The quota stops nothing.
    QuotaIgnored,
    /// A full outbox evicts its oldest.
    OutboxEvicted,
    /// An uplink waits for another one that is down.
    HeldByTheDead,
    /// Nobody looks whether the segment that is written is as long as it should be.
    LengthUnchecked,
    /// What an eviction costs is written down some time after the file went.
    CountedLater,
    /// A thinned segment takes the old one's place before it is synced.
    RenamedUnsynced,
    /// What was read under a wrong clock goes out as it was.
    WrongTimes,
    /// Thinning keeps the first and the last point, and no others.
    ExtremesLost,
    /// Stored data goes before files that nobody can read.
    RealBeforeJunk,
    /// A message that only memory holds is acknowledged as stored.
    OutboxInMemory,
}

#[cfg(test)]
thread_local! {
    static MADE: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Whether this mistake is being made.
#[cfg(test)]
pub(crate) fn made(mutant: Mutant) -> bool {
    MADE.get() == Some(mutant)
}

/// Whether the environment asks for this mistake.
#[cfg(all(not(test), feature = "mutants"))]
pub(crate) fn made(mutant: Mutant) -> bool {
    static ASKED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let asked = ASKED.get_or_init(|| std::env::var("SONDE_MUTANT").ok());
    asked
        .as_deref()
        .is_some_and(|name| name == format!("{mutant:?}"))
}

/// Never.
#[cfg(not(any(test, feature = "mutants")))]
pub(crate) const fn made(_: Mutant) -> bool {
    false
}

/// Makes a mistake on this thread while `work` runs.
#[cfg(test)]
pub(super) fn with<T>(mutant: Mutant, work: impl FnOnce() -> T) -> T {
    MADE.set(Some(mutant));
    let out = work();
    MADE.set(None);
    out
}
