//! W3C Trace Context in 25 bytes: which operation a frame's readings belong to.

/// A trace id, the id of the span that caused the readings, and its flags
/// (W3C Trace Context level 1). Neither id is all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    flags: u8,
}

impl TraceContext {
    /// `None` if an id is all zero, which the standard calls invalid.
    pub fn new(trace_id: [u8; 16], span_id: [u8; 8], flags: u8) -> Option<Self> {
        if trace_id == [0; 16] || span_id == [0; 8] {
            return None;
        }
        Some(Self {
            trace_id,
            span_id,
            flags,
        })
    }

    /// Of the whole trace.
    pub fn trace_id(&self) -> [u8; 16] {
        self.trace_id
    }

    /// Of the span that caused the readings.
    pub fn span_id(&self) -> [u8; 8] {
        self.span_id
    }

    /// Bit 0: the sender sampled the trace.
    pub fn flags(&self) -> u8 {
        self.flags
    }

    /// As the header writes it: `00-<32 hex>-<16 hex>-<2 hex>`, in ASCII.
    pub fn traceparent(&self) -> [u8; 55] {
        const HEX: [u8; 16] = *b"0123456789abcdef";
        let bytes = [0]
            .into_iter()
            .chain(self.trace_id)
            .chain(self.span_id)
            .chain([self.flags]);
        let mut digits =
            bytes.flat_map(|byte| [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        let mut text = [b'-'; 55];
        for (place, letter) in text.iter_mut().enumerate() {
            if !matches!(place, 2 | 35 | 52) {
                *letter = digits.next().unwrap_or(b'0');
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_as_the_header_writes_it() {
        let trace_id = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes();
        let span_id = 0xb7ad_6b71_6920_3331_u64.to_be_bytes();
        let context = TraceContext::new(trace_id, span_id, 1).unwrap();
        assert_eq!(
            &context.traceparent(),
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        );
    }

    #[test]
    fn ids_of_zeroes_are_refused() {
        assert_eq!(TraceContext::new([0; 16], [1; 8], 0), None);
        assert_eq!(TraceContext::new([1; 16], [0; 8], 0), None);
    }
}
