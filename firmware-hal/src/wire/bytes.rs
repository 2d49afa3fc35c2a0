//! The small change of the format: varints, zigzag, CRC32C, and a reader and a
//! writer that cannot run past their ends.

/// CRC32C (Castagnoli, reflected), four bits at a time: 64 bytes of table are
/// room that every microcontroller has.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..2 {
            crc = (crc >> 4) ^ NIBBLES[(crc & 15) as usize];
        }
    }
    !crc
}

const NIBBLES: [u32; 16] = {
    let mut table = [0u32; 16];
    let mut nibble = 0;
    while nibble < 16 {
        let mut crc = nibble as u32;
        let mut bit = 0;
        while bit < 4 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 };
            bit += 1;
        }
        table[nibble] = crc;
        nibble += 1;
    }
    table
};

/// Small numbers of either sign become small numbers: 0, -1, 1, -2 are 0, 1, 2, 3.
pub(super) const fn zigzag(value: i32) -> u32 {
    ((value << 1) ^ (value >> 31)) as u32
}

/// Takes [`zigzag`] back.
pub(super) const fn unzigzag(value: u32) -> i32 {
    (value >> 1) as i32 ^ -((value & 1) as i32)
}

/// Fills a slice from its start. Once something did not fit it stays [`Writer::full`].
pub(super) struct Writer<'a> {
    room: &'a mut [u8],
    len: usize,
    full: bool,
}

impl<'a> Writer<'a> {
    pub(super) fn new(room: &'a mut [u8]) -> Self {
        Self {
            room,
            len: 0,
            full: false,
        }
    }

    pub(super) fn byte(&mut self, byte: u8) {
        match self.room.get_mut(self.len) {
            Some(place) => {
                *place = byte;
                self.len = self.len.wrapping_add(1);
            }
            None => self.full = true,
        }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.byte(*byte);
        }
    }

    /// Seven bits a byte, lowest first; the high bit says that more follow.
    pub(super) fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }

    /// How many bytes were written; `None` if something did not fit.
    pub(super) fn done(self) -> Option<usize> {
        if self.full { None } else { Some(self.len) }
    }
}

/// Takes a slice apart from its start. Every method is `None` when the bytes
/// do not hold what was asked for.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn slice(&mut self, len: usize) -> Option<&'a [u8]> {
        let (first, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(first)
    }

    /// A varint in its shortest form; a longer form of the same number is refused,
    /// so that each frame has one spelling.
    pub(super) fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return if byte == 0 && shift > 0 {
                    None
                } else {
                    Some(value)
                };
            }
        }
        None
    }

    pub(super) fn varint32(&mut self) -> Option<u32> {
        u32::try_from(self.varint()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc32c() {
        // The check value of CRC-32/ISCSI, and RFC 3720 B.4: 32 bytes of zeroes.
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
    }

    #[test]
    fn zigzag_comes_back_at_the_ends_too() {
        for value in [0, -1, 1, -2, 63, -64, i32::MAX, i32::MIN] {
            assert_eq!(unzigzag(zigzag(value)), value);
        }
        assert_eq!((zigzag(-1), zigzag(1), zigzag(-64)), (1, 2, 127));
    }

    #[test]
    fn varints_come_back_and_only_in_their_shortest_form() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::MAX >> 1, u64::MAX] {
            let mut room = [0; 10];
            let mut writer = Writer::new(&mut room);
            writer.varint(value);
            let len = writer.done().unwrap();
            let mut reader = Reader::new(&room[..len]);
            assert_eq!(reader.varint(), Some(value));
            assert!(reader.is_empty());
            assert_eq!(Reader::new(&room[..len - 1]).varint(), None, "cut");
        }
        assert_eq!(Reader::new(&[0x80, 0x00]).varint(), None, "too long for 0");
        assert_eq!(Reader::new(&[0xff; 10]).varint(), None, "beyond 64 bits");
        assert_eq!(Reader::new(&[0xff; 11]).varint(), None);
    }

    #[test]
    fn a_writer_without_room_says_so() {
        let mut room = [0; 2];
        let mut writer = Writer::new(&mut room);
        writer.bytes(&[1, 2, 3]);
        assert_eq!(writer.done(), None);
    }
}
