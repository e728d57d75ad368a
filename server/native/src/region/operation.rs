//! The operations a plan carries, parsed from the wire's columns. Knows names and numbers; not memory.

use super::RegionError;

/// One operation, in the numbering of `RibbonOpKind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "fields are the slot and storage ids and token ends of the variant's sentence"
)]
pub enum Operation {
    /// Seats a storage in a slot: a new one, or a cached one cut to `tokens`.
    Open {
        slot: u32,
        storage: u32,
        tokens: u32,
    },
    /// Shows tokens up to `end` of the storage that owns them.
    Share { slot: u32, storage: u32, end: u32 },
    /// The slot's own storage owns the pages of its tokens up to `end`.
    Grow { slot: u32, end: u32 },
    /// The slot gives up its tokens before `begin`; its address stays.
    TrimFront { slot: u32, begin: u32 },
    /// The slot is free; its storage becomes a cached one or is given back.
    Close { slot: u32, keep: bool },
    /// A storage gives up its tokens from `end` on.
    Truncate { storage: u32, end: u32 },
    /// A cached storage is given back.
    Drop { storage: u32 },
}

/// Name of a kind on the wire, for messages.
pub fn kind_name(kind: u8) -> &'static str {
    const NAMES: [&str; 8] = [
        "unspecified",
        "open",
        "share",
        "grow",
        "trim_front",
        "close",
        "truncate",
        "drop",
    ];
    NAMES
        .get(usize::from(kind))
        .copied()
        .unwrap_or("unknown kind")
}

impl Operation {
    /// The slot it names.
    pub fn slot(&self) -> Option<u32> {
        match *self {
            Self::Open { slot, .. }
            | Self::Share { slot, .. }
            | Self::Grow { slot, .. }
            | Self::TrimFront { slot, .. }
            | Self::Close { slot, .. } => Some(slot),
            Self::Truncate { .. } | Self::Drop { .. } => None,
        }
    }

    /// Reads one row of the columns.
    ///
    /// # Errors
    /// Refuses kinds that do not exist.
    pub fn parse(kind: u8, slot: u32, storage: u32, tokens: u32) -> Result<Self, RegionError> {
        match kind {
            1 => Ok(Self::Open {
                slot,
                storage,
                tokens,
            }),
            2 => Ok(Self::Share {
                slot,
                storage,
                end: tokens,
            }),
            3 => Ok(Self::Grow { slot, end: tokens }),
            4 => Ok(Self::TrimFront {
                slot,
                begin: tokens,
            }),
            5 if tokens > 1 => Err(RegionError::Refused(format!(
                "close takes 0 (give back) or 1 (keep), not {tokens}"
            ))),
            5 => Ok(Self::Close {
                slot,
                keep: tokens == 1,
            }),
            6 => Ok(Self::Truncate {
                storage,
                end: tokens,
            }),
            7 => Ok(Self::Drop { storage }),
            _ => Err(RegionError::Refused(format!(
                "{kind} is no kind of ribbon operation"
            ))),
        }
    }
}
