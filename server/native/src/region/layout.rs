//! Where tokens lie: bytes and pages of slots and storages. Pure arithmetic.

use super::RegionError;

/// The sizes of a region, checked once so that no later product can overflow.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Slots of virtual memory, the reserved slot 0 included.
    pub num_slots: u32,
    /// Storages, the reserved storage 0 included.
    pub num_storages: u32,
    /// Tokens that fit a slot.
    pub slot_tokens: u32,
    /// Bytes from one token to the next.
    pub stride_bytes: u32,
    /// Bytes of a physical page.
    pub page_bytes: u64,
    /// Spans of other storages that a slot may show at once: each is a memory map, and the kernel bounds those.
    pub max_spans: u32,
}

impl Layout {
    /// Checks the sizes.
    ///
    /// # Errors
    /// Names the first size that cannot be.
    pub fn checked(self) -> Result<Self, RegionError> {
        let refuse = |what: String| Err(RegionError::Layout(what));
        if self.num_slots == 0 || self.num_storages == 0 {
            return refuse(
                "num_slots and num_storages must be at least 1: slot and storage 0 are reserved"
                    .into(),
            );
        }
        if self.slot_tokens == 0 {
            return refuse("slot_tokens must be at least 1".into());
        }
        if self.stride_bytes == 0 || !self.stride_bytes.is_multiple_of(64) {
            return refuse(format!(
                "stride_bytes is {}; it must be a positive multiple of 64",
                self.stride_bytes
            ));
        }
        let ranges = u64::from(self.num_slots.max(self.num_storages));
        match self.slot_bytes().checked_mul(ranges) {
            Some(bytes) if i64::try_from(bytes).is_ok() => Ok(self),
            _ => refuse(format!(
                "{ranges} ranges of {} bytes do not fit an address space",
                self.slot_bytes()
            )),
        }
    }

    /// Refuses slots that could need more maps than there are: each has one of its own and one for each span.
    ///
    /// # Errors
    /// Names the sizes and the limit.
    pub fn check_maps(&self, max_maps: usize) -> Result<(), RegionError> {
        let needed = u64::from(self.num_slots) * (1 + u64::from(self.max_spans));
        if needed > max_maps as u64 {
            return Err(RegionError::Layout(format!(
                "{} slots that show {} spans each can need {needed} memory maps; the limit here is {max_maps} (vm.max_map_count)",
                self.num_slots, self.max_spans
            )));
        }
        Ok(())
    }

    /// Bytes of one slot and of one storage's file range: a whole number of pages.
    pub fn slot_bytes(&self) -> u64 {
        (u64::from(self.slot_tokens) * u64::from(self.stride_bytes))
            .next_multiple_of(self.page_bytes)
    }

    /// Byte at which a token begins within its slot.
    pub fn token_byte(&self, token: u32) -> u64 {
        u64::from(token) * u64::from(self.stride_bytes)
    }

    /// Page that holds a token's first byte: ⌊token·stride/page⌋.
    pub fn page_floor(&self, token: u32) -> u64 {
        self.token_byte(token) / self.page_bytes
    }

    /// Pages needed for the tokens before `token`: ⌈token·stride/page⌉.
    pub fn page_ceil(&self, token: u32) -> u64 {
        self.token_byte(token).div_ceil(self.page_bytes)
    }

    /// File offset or slot offset of a range number.
    pub fn range_start(&self, number: u32) -> u64 {
        u64::from(number) * self.slot_bytes()
    }
}
