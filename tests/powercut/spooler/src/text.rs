//! What a message says: who stored it, and then bytes that follow from that, so
//! that any other byte is noticed.
//!
//! ```text
//! TOPIC NUMBER LENGTH \n, then LENGTH bytes
//! ```

use std::fmt;

/// One message.
pub(crate) struct Text {
    pub(crate) topic: String,
    pub(crate) number: u64,
    length: u64,
}

impl Text {
    pub(crate) fn new(topic: &str, number: u64, length: u64) -> Self {
        let topic = topic.to_owned();
        Self {
            topic,
            number,
            length,
        }
    }

    /// Its bytes.
    pub(crate) fn body(&self) -> Vec<u8> {
        let mut body = format!("{} {} {}\n", self.topic, self.number, self.length).into_bytes();
        // A generator with a long period (Knuth, MMIX), begun anew for each message.
        let mut state = self.number ^ (self.length << 32);
        body.extend((0..self.length).map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        }));
        body
    }

    /// The message whose bytes these are, all of them.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let end = body.iter().position(|byte| *byte == b'\n')?;
        let head = std::str::from_utf8(body.get(..end)?).ok()?;
        let mut words = head.split(' ');
        let topic = words.next()?;
        let number = words.next()?.parse().ok()?;
        let text = Self::new(topic, number, words.next()?.parse().ok()?);
        (text.length < 1 << 20 && text.body() == body).then_some(text)
    }
}

/// `TOPIC NUMBER LENGTH`.
impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.topic, self.number, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::Text;

    #[test]
    fn a_message_is_read_back_and_any_changed_byte_is_noticed() {
        let body = Text::new("t1", 7, 40).body();
        assert_eq!(Text::read(&body).unwrap().to_string(), "t1 7 40");
        for at in 0..body.len() {
            let mut other = body.clone();
            other[at] ^= 1;
            let read = Text::read(&other);
            // A changed topic is another message's head; the rest follows from the numbers alone.
            assert!(read.is_none_or(|text| text.topic != "t1"), "byte {at}");
        }
    }
}
