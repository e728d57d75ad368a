//! Page accounting: which slot is free, which pages a ribbon owns and may still need. Knows tokens and bytes; not requests.
//!
//! Storage s owns the pages ⌈end·stride ÷ page⌉ of its own range, which starts on a page; a token may straddle two pages.
//! Admission reserves a sequence's worst case, so growing never fails. Storage number = slot number: nothing is shared or
//! kept yet, and a slot that shows its own storage needs no extra mapping.

use ribbon_core::{KvGroup, RibbonOp, Slot, Storage};

/// One slot's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ribbon {
    /// Tokens fed or named in plans.
    pub(crate) tokens: u32,
    /// Pages from the plan that grew into them.
    pub(crate) owned: u64,
    /// Pages it may come to own.
    pub(crate) reserved: u64,
}

/// Sums over the live ribbons, for metrics and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageUsage {
    /// Pages of the pool.
    pub pool: u64,
    /// Pages that live ribbons own.
    pub owned: u64,
    /// Pages that live ribbons may come to own.
    pub reserved: u64,
    /// Tokens fed or named in plans.
    pub tokens: u64,
    /// Slots that may be used at once.
    pub slots: u32,
    /// Slots that are used.
    pub slots_used: u32,
    /// Bytes of a page.
    pub page_bytes: u64,
    /// Bytes of a token.
    pub stride_bytes: u64,
}

impl PageUsage {
    /// Share of the owned bytes that hold no token; 0 where nothing is owned.
    pub fn waste_ratio(&self) -> f64 {
        if self.owned == 0 {
            return 0.0;
        }
        1.0 - (self.tokens * self.stride_bytes) as f64 / (self.owned * self.page_bytes) as f64
    }
}

/// The KV memory of one generation of shards.
#[derive(Debug)]
pub(crate) struct Ribbons {
    stride: u64,
    page: u64,
    slot_tokens: u32,
    free_slots: Vec<Slot>,
    /// By slot number.
    live: Vec<Option<Ribbon>>,
    /// Closed by the plan that is being made: free for the plans after it.
    closed: Vec<Slot>,
    usage: PageUsage,
}

impl Ribbons {
    /// An empty memory of which at most `max_slots` slots are used at once.
    pub(crate) fn new(group: &KvGroup, max_slots: u32) -> Self {
        let slots = group.num_slots.saturating_sub(1).min(max_slots);
        let page = u64::from(group.page_bytes.max(1));
        let stride = u64::from(group.stride_bytes.max(1));
        Self {
            stride,
            page,
            slot_tokens: group.slot_tokens,
            free_slots: (1..=slots).rev().map(Slot).collect(),
            live: vec![None; slots as usize + 1],
            closed: Vec::new(),
            usage: PageUsage {
                pool: group.num_pages,
                slots,
                page_bytes: page,
                stride_bytes: stride,
                ..PageUsage::default()
            },
        }
    }

    /// Pages that `tokens` tokens of one storage touch.
    pub(crate) fn pages(&self, tokens: u32) -> u64 {
        (u64::from(tokens) * self.stride).div_ceil(self.page)
    }

    /// Tokens that fit the whole pool.
    pub(crate) fn pool_tokens(&self) -> u64 {
        self.usage.pool * self.page / self.stride
    }

    /// Tokens that fit one sequence which has the pool for itself.
    pub(crate) fn longest(&self) -> u64 {
        self.pool_tokens().min(u64::from(self.slot_tokens))
    }

    /// The shard's pool became smaller or larger. What is reserved stays.
    pub(crate) fn set_pool(&mut self, pages: u64) {
        self.usage.pool = pages;
    }

    /// Pages nobody has reserved.
    pub(crate) fn free_pages(&self) -> u64 {
        self.usage.pool.saturating_sub(self.usage.reserved)
    }

    pub(crate) fn free_slots(&self) -> usize {
        self.free_slots.len()
    }

    /// Takes a slot and reserves what `worst_case` tokens need; `None` when there is not enough of either.
    pub(crate) fn open(&mut self, worst_case: u32) -> Option<(Slot, RibbonOp)> {
        let reserved = self.pages(worst_case);
        if reserved > self.free_pages() {
            return None;
        }
        let slot = self.free_slots.pop()?;
        if let Some(place) = self.live.get_mut(slot.0 as usize) {
            *place = Some(Ribbon {
                tokens: 0,
                owned: 0,
                reserved,
            });
        }
        self.usage.reserved += reserved;
        self.usage.slots_used += 1;
        Some((
            slot,
            RibbonOp::Open {
                slot,
                storage: Storage(slot.0),
                tokens: 0,
            },
        ))
    }

    /// A plan feeds the slot up to `tokens`. Says what the shard must map first, if anything: all whole tokens of the new
    /// pages, so that the next growth is due exactly when a token enters a page that is not owned.
    pub(crate) fn feed(&mut self, slot: Slot, tokens: u32) -> Option<RibbonOp> {
        let pages = self.pages(tokens);
        let ribbon = self.live.get_mut(slot.0 as usize)?.as_mut()?;
        self.usage.tokens += u64::from(tokens.saturating_sub(ribbon.tokens));
        ribbon.tokens = ribbon.tokens.max(tokens);
        if pages <= ribbon.owned {
            return None;
        }
        self.usage.owned += pages - ribbon.owned;
        ribbon.owned = pages;
        let whole = (pages * self.page / self.stride).min(u64::from(self.slot_tokens));
        Some(RibbonOp::Grow {
            slot,
            end: (whole as u32).max(tokens),
        })
    }

    /// Gives up a slot and its pages with the plan that is being made.
    pub(crate) fn close(&mut self, slot: Slot) -> RibbonOp {
        self.closed.push(slot);
        RibbonOp::Close { slot, keep: false }
    }

    /// The plan that carries the closes is on its way: what they freed may be used by the next one.
    pub(crate) fn release_closed(&mut self) {
        for slot in std::mem::take(&mut self.closed) {
            let Some(ribbon) = self.live.get_mut(slot.0 as usize).and_then(Option::take) else {
                continue;
            };
            self.usage.owned -= ribbon.owned;
            self.usage.reserved -= ribbon.reserved;
            self.usage.tokens -= u64::from(ribbon.tokens);
            self.usage.slots_used -= 1;
            self.free_slots.push(slot);
        }
    }

    pub(crate) fn usage(&self) -> PageUsage {
        self.usage
    }

    /// Live ribbons with their slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &Ribbon)> {
        let numbered = self.live.iter().enumerate();
        numbered.filter_map(|(slot, ribbon)| Some((Slot(slot as u32), ribbon.as_ref()?)))
    }

    /// Slots without a ribbon.
    pub(crate) fn free_list(&self) -> &[Slot] {
        &self.free_slots
    }

    /// Tests of the invariant checker only: forgets to give one page back.
    #[cfg(test)]
    pub(crate) fn leak_a_page(&mut self) {
        self.usage.owned += 1;
    }

    /// Tests of the invariant checker only: hands a used slot out again.
    #[cfg(test)]
    pub(crate) fn free_twice(&mut self, slot: Slot) {
        self.free_slots.push(slot);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ribbon_core::KvKind;

    use super::*;

    fn group(stride_bytes: u32, num_pages: u64) -> KvGroup {
        KvGroup {
            kind: KvKind::Full,
            stride_bytes,
            page_bytes: 4096,
            num_pages,
            slot_tokens: 1000,
            num_slots: 4,
            num_storages: 4,
            max_spans: 3,
        }
    }

    #[test]
    fn a_token_that_straddles_pages_owns_both() {
        let ribbons = Ribbons::new(&group(3072, 100), 8);
        let pages: Vec<u64> = [0, 1, 2, 3, 4, 5]
            .map(|tokens| ribbons.pages(tokens))
            .to_vec();
        assert_eq!(pages, [0, 1, 2, 3, 3, 4]);
        assert_eq!(ribbons.pool_tokens(), 133);
        assert_eq!(ribbons.longest(), 133);
    }

    #[test]
    fn growth_is_asked_for_only_when_a_page_is_entered() {
        let mut ribbons = Ribbons::new(&group(1024, 100), 8);
        let (slot, _) = ribbons.open(20).unwrap();
        assert_eq!(ribbons.feed(slot, 3), Some(RibbonOp::Grow { slot, end: 4 }));
        assert_eq!(ribbons.feed(slot, 4), None);
        assert_eq!(ribbons.feed(slot, 5), Some(RibbonOp::Grow { slot, end: 8 }));
        assert_eq!(ribbons.usage().owned, 2);
        assert!((ribbons.usage().waste_ratio() - 0.375).abs() < 1e-9);
    }

    #[test]
    fn the_worst_case_is_reserved_and_comes_back_after_the_closing_plan() {
        let mut ribbons = Ribbons::new(&group(4096, 10), 8);
        let (slot, _) = ribbons.open(8).unwrap();
        assert!(ribbons.open(3).is_none());
        assert_eq!(ribbons.close(slot), RibbonOp::Close { slot, keep: false });
        assert!(ribbons.open(3).is_none(), "not in the plan that closes");
        ribbons.release_closed();
        assert!(ribbons.open(10).is_some());
        assert_eq!(ribbons.usage().reserved, 10);
    }

    #[test]
    fn slots_are_bounded_by_the_shard_and_by_the_batch() {
        assert_eq!(Ribbons::new(&group(64, 10), 8).free_slots(), 3);
        assert_eq!(Ribbons::new(&group(64, 10), 2).free_slots(), 2);
    }

    proptest! {
        /// However a ribbon grows, the shard maps exactly the pages the router counts, and never above the reservation.
        #[test]
        fn router_and_shard_count_the_same_pages(
            stride in 1u32..300,
            steps in prop::collection::vec(1u32..40, 1..20),
        ) {
            let stride = stride * 64;
            let mut ribbons = Ribbons::new(&group(stride, 1_000_000), 8);
            let total: u32 = steps.iter().sum();
            let (slot, _) = ribbons.open(total).unwrap();
            let (mut end, mut mapped) = (0, 0);
            for count in steps {
                end += count;
                if let Some(RibbonOp::Grow { end: grown, .. }) = ribbons.feed(slot, end) {
                    mapped = grown;
                }
                prop_assert!(mapped >= end);
                prop_assert_eq!(ribbons.pages(mapped), ribbons.usage().owned);
                prop_assert!(ribbons.usage().owned <= ribbons.usage().reserved);
            }
        }
    }
}
