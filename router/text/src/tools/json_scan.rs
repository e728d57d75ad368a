//! Where JSON opens and closes, a byte at a time. Checks nothing else: what a model writes is passed on as it is.

/// What a byte means outside of strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    OpensString,
    ClosesString,
    /// An object or list; the depth is counted already.
    Opens,
    /// The same.
    Closes,
    Colon,
    Comma,
    Nothing,
}

#[derive(Debug, Default)]
pub(super) struct JsonScan {
    pub(super) depth: usize,
    in_string: bool,
    is_escaped: bool,
}

impl JsonScan {
    pub(super) fn take(&mut self, byte: u8) -> Mark {
        if self.in_string {
            return self.take_in_string(byte);
        }
        match byte {
            b'"' => {
                self.in_string = true;
                Mark::OpensString
            }
            b'{' | b'[' => {
                self.depth += 1;
                Mark::Opens
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                Mark::Closes
            }
            b':' => Mark::Colon,
            b',' => Mark::Comma,
            _ => Mark::Nothing,
        }
    }

    fn take_in_string(&mut self, byte: u8) -> Mark {
        if self.is_escaped {
            self.is_escaped = false;
        } else if byte == b'\\' {
            self.is_escaped = true;
        } else if byte == b'"' {
            self.in_string = false;
            return Mark::ClosesString;
        }
        Mark::Nothing
    }
}
