//! What is left of a message's expiry. Pure.
//!
//! | stored | time that has passed |
//! |---|---|
//! | in this boot | by the boot clock, which no one can set |
//! | in an earlier boot, the wall clock believed then and now | by the wall clock, at least the time since this boot |
//! | in an earlier boot, otherwise | the time since this boot: the least that it can be |
//!
//! The last row keeps a message for too long rather than not long enough: a
//! gateway that never learns the time starts counting anew with each boot.

use super::envelope::Birth;
use crate::frame::Stamp;

const SECOND_NS: u64 = 1_000_000_000;

/// The clocks at the moment of asking.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Both clocks.
    pub stamp: Stamp,
    /// The wall clock is believed.
    pub believed: bool,
    /// The boot that the boot clock counts.
    pub boot_id: [u8; 16],
}

/// Whole seconds left, at least one; `None`: it has expired.
pub fn left(expiry: u32, birth: Birth, stored: Stamp, now: Now) -> Option<u32> {
    // An unreadable boot id is all zero and no boot's.
    let same_boot = birth.boot_id == now.boot_id && now.boot_id != [0; 16];
    let passed = if same_boot {
        now.stamp.boot_ns.saturating_sub(stored.boot_ns)
    } else if birth.believed && now.believed {
        let by_wall = now.stamp.unix_ns.saturating_sub(stored.unix_ns);
        by_wall.max(now.stamp.boot_ns)
    } else {
        now.stamp.boot_ns
    };
    let whole = u64::from(expiry).saturating_mul(SECOND_NS);
    let left = whole.checked_sub(passed).filter(|left| *left > 0)?;
    Some(u32::try_from(left.div_ceil(SECOND_NS)).unwrap_or(expiry))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(unix_s: u64, boot_s: u64) -> Stamp {
        Stamp {
            unix_ns: unix_s * SECOND_NS,
            boot_ns: boot_s * SECOND_NS,
        }
    }

    fn birth(boot: u8, believed: bool) -> Birth {
        Birth {
            boot_id: [boot; 16],
            believed,
        }
    }

    fn now(stamp: Stamp, boot: u8, believed: bool) -> Now {
        Now {
            stamp,
            believed,
            boot_id: [boot; 16],
        }
    }

    #[test]
    fn in_one_boot_a_clock_that_is_set_changes_nothing() {
        let stored = at(40, 40);
        let set = now(at(1_800_000_000, 50), 1, true);
        assert_eq!(left(60, birth(1, false), stored, set), Some(50));
        let back = now(at(1, 100), 1, true);
        assert_eq!(left(60, birth(1, true), stored, back), None);
    }

    #[test]
    fn across_a_reboot_a_believed_wall_clock_counts() {
        let stored = at(1_800_000_000, 5000);
        let later = now(at(1_800_000_050, 10), 2, true);
        assert_eq!(left(60, birth(1, true), stored, later), Some(10));
        let too_late = now(at(1_800_000_061, 10), 2, true);
        assert_eq!(left(60, birth(1, true), stored, too_late), None);
    }

    #[test]
    fn across_a_reboot_without_the_time_only_this_boot_counts() {
        let stored = at(100, 100);
        for (then, today) in [(false, true), (true, false), (false, false)] {
            let asked = now(at(1_800_000_000, 20), 2, today);
            assert_eq!(left(60, birth(1, then), stored, asked), Some(40));
            let asked = now(at(0, 60), 2, today);
            assert_eq!(left(60, birth(1, then), stored, asked), None);
        }
    }

    #[test]
    fn a_wall_clock_that_went_back_does_not_make_it_live_longer_than_this_boot() {
        let asked = now(at(1_700_000_000, 59), 2, true);
        assert_eq!(
            left(60, birth(1, true), at(1_800_000_000, 9), asked),
            Some(1)
        );
    }

    #[test]
    fn a_boot_without_a_name_is_never_the_same_one() {
        let asked = now(at(5, 20), 0, false);
        assert_eq!(left(60, birth(0, false), at(0, 19), asked), Some(40));
    }

    #[test]
    fn the_longest_expiry_does_not_overflow() {
        let asked = now(at(0, 0), 1, true);
        assert_eq!(
            left(u32::MAX, birth(1, true), at(0, 0), asked),
            Some(u32::MAX)
        );
    }
}
