//! How many pages tokens touch, in each KV group. Pure arithmetic; knows no slots.
//!
//! A storage that owns tokens [start, end) owns the pages ⌊start·stride ÷ page⌋ to ⌈end·stride ÷ page⌉ of its range: its first
//! page carries a copy of what precedes `start`. All groups draw from one pool.

use ribbon_core::KvGroup;

/// One KV group's sizes.
#[derive(Clone, Copy, Debug)]
struct Group {
    stride: u64,
    page: u64,
}

impl Group {
    fn pages(self, start: u32, end: u32) -> u64 {
        let first = u64::from(start) * self.stride / self.page;
        let last = (u64::from(end) * self.stride).div_ceil(self.page);
        last.saturating_sub(first)
    }

    /// Whole tokens in the pages that `tokens` tokens touch.
    fn whole(self, tokens: u32) -> u64 {
        (u64::from(tokens) * self.stride).div_ceil(self.page) * self.page / self.stride
    }
}

/// The sizes of all groups.
#[derive(Debug)]
pub(crate) struct Paging {
    groups: Vec<Group>,
    slot_tokens: u32,
}

impl Paging {
    pub(crate) fn new(groups: &[KvGroup]) -> Self {
        let sizes = |group: &KvGroup| Group {
            stride: u64::from(group.stride_bytes.max(1)),
            page: u64::from(group.page_bytes.max(1)),
        };
        let slot_tokens = groups.iter().map(|group| group.slot_tokens).min();
        Self {
            groups: groups.iter().map(sizes).collect(),
            slot_tokens: slot_tokens.unwrap_or_default(),
        }
    }

    /// Indices of the groups, as plans name them.
    pub(crate) fn groups(&self) -> impl Iterator<Item = u8> + use<> {
        0..self.groups.len() as u8
    }

    /// Pages of all groups that a storage with tokens [start, end) owns.
    pub(crate) fn pages(&self, start: u32, end: u32) -> u64 {
        self.groups
            .iter()
            .map(|group| group.pages(start, end))
            .sum()
    }

    /// How far a group's slot may be grown to hold `tokens` without owning a page more: so the next growth is due exactly when
    /// a token enters a page that is not owned.
    pub(crate) fn whole_tokens(&self, group: u8, tokens: u32) -> u32 {
        let whole = self
            .groups
            .get(usize::from(group))
            .map_or(0, |group| group.whole(tokens));
        (whole.min(u64::from(self.slot_tokens)) as u32).max(tokens)
    }

    /// Bytes of one token in all groups.
    pub(crate) fn stride_bytes(&self) -> u64 {
        self.groups.iter().map(|group| group.stride).sum()
    }

    /// Bytes of a page.
    pub(crate) fn page_bytes(&self) -> u64 {
        self.groups.first().map_or(1, |group| group.page)
    }

    /// Most tokens of one sequence that fit `pages` pages.
    pub(crate) fn tokens_in(&self, pages: u64) -> u64 {
        let (mut fits, mut beyond) = (0, u64::from(self.slot_tokens) + 1);
        while beyond - fits > 1 {
            let middle = u64::midpoint(fits, beyond);
            if self.pages(0, middle as u32) <= pages {
                fits = middle;
            } else {
                beyond = middle;
            }
        }
        fits
    }

    /// Tokens that fit `pages` pages, whosever they are.
    pub(crate) fn pool_tokens(&self, pages: u64) -> u64 {
        pages * self.page_bytes() / self.stride_bytes().max(1)
    }
}

#[cfg(test)]
mod tests {
    use ribbon_core::KvKind;

    use super::*;

    fn paging(strides: &[u32]) -> Paging {
        let group = |stride: &u32| KvGroup {
            kind: KvKind::Full,
            stride_bytes: *stride,
            page_bytes: 4096,
            num_pages: 100,
            slot_tokens: 1000,
            num_slots: 4,
            num_storages: 4,
            max_spans: 3,
        };
        Paging::new(&strides.iter().map(group).collect::<Vec<_>>())
    }

    #[test]
    fn a_token_that_straddles_pages_owns_both() {
        let paging = paging(&[3072]);
        let pages = [0, 1, 2, 3, 4, 5].map(|tokens| paging.pages(0, tokens));
        assert_eq!(pages, [0, 1, 2, 3, 3, 4]);
        assert_eq!(paging.pool_tokens(100), 133);
        assert_eq!(paging.tokens_in(100), 133);
        assert_eq!(paging.tokens_in(1_000_000), 1000);
    }

    #[test]
    fn a_storage_that_begins_in_a_page_owns_it_too() {
        let paging = paging(&[1024]);
        assert_eq!(paging.pages(4, 4), 0);
        assert_eq!(paging.pages(5, 5), 1, "a copy of what precedes");
        assert_eq!((paging.pages(5, 8), paging.pages(5, 9)), (1, 2));
    }

    #[test]
    fn groups_add_up() {
        let paging = paging(&[1024, 4096]);
        assert_eq!(paging.pages(0, 4), 1 + 4);
        assert_eq!(
            (paging.whole_tokens(0, 2), paging.whole_tokens(1, 2)),
            (4, 2)
        );
        assert_eq!(paging.tokens_in(10), 8);
    }
}
