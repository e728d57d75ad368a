//! Page accounting: which slot shows what, which storage owns which pages, what is free. The counts are the shard's own, as
//! soon as a plan is sent. Knows tokens and pages; not requests, and not what the tokens are.

mod seats;
mod sums;
mod windows;

use std::collections::BTreeSet;

use ribbon_core::{GroupOp, KvGroup, RibbonOp, Slot, Storage};

pub use self::sums::PageUsage;
use self::sums::Sums;
use crate::{paging::Paging, prefix_tree::Span};

/// Where a storage stands between a new one and a given-back one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// Owns nothing.
    #[default]
    Free,
    /// A slot writes it.
    Live,
    /// Kept for its tokens; no slot writes it.
    Cached,
}

/// The physical pages behind one ribbon.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extent {
    pub(crate) state: State,
    /// First token it owned when it was new.
    pub(crate) start: u32,
    /// By group: the first token it owns still. A window that moves on leaves it behind, past `end` where that was cut.
    pub(crate) fronts: Vec<u32>,
    /// Token after the last that is fed or named in a plan.
    pub(crate) end: u32,
    /// While live: how far it may soon grow.
    pub(crate) goal: u32,
    /// Slots that rely on its tokens without owning them, and up to which one.
    pub(crate) claims: Vec<(Slot, u32)>,
}

impl Extent {
    /// Token up to which it must stay.
    pub(crate) fn claimed(&self) -> u32 {
        self.claims.iter().map(|(_, end)| *end).max().unwrap_or(0)
    }
}

/// One slot's view of the memory.
#[derive(Clone, Debug)]
pub(crate) struct Ribbon {
    /// The storage it writes.
    pub(crate) own: Storage,
    /// What it shows before that, oldest first.
    pub(crate) spans: Vec<Span>,
    /// By group: the first token it shows still.
    fronts: Vec<u32>,
    /// By group: tokens it may hold before it must grow again.
    granted: Vec<u32>,
    /// Tokens that are in the KV for sure: windows move on behind them alone.
    fed: u32,
    /// Storages on which it has a claim.
    claims: Vec<Storage>,
}

/// The KV memory of one generation of shards.
#[derive(Debug)]
pub(crate) struct Ribbons {
    paging: Paging,
    /// By slot number.
    slots: Vec<Option<Ribbon>>,
    /// By storage number.
    storages: Vec<Extent>,
    free_slots: Vec<Slot>,
    free_storages: BTreeSet<Storage>,
    /// Closed by the plan that is being made: free for the plans after it, since admissions come before operations.
    closed: Vec<Slot>,
    pool: u64,
    sums: Sums,
}

impl Ribbons {
    /// An empty memory of which at most `max_slots` slots are used at once. `fed_ahead`: tokens that plans may carry before the
    /// outcome of the first is in.
    pub(crate) fn new(groups: &[KvGroup], max_slots: u32, fed_ahead: u32) -> Self {
        let least = |number: fn(&KvGroup) -> u32| groups.iter().map(number).min().unwrap_or(0);
        let slots = least(|group| group.num_slots)
            .saturating_sub(1)
            .min(max_slots);
        let storages = least(|group| group.num_storages).max(1);
        Self {
            paging: Paging::new(groups, fed_ahead),
            slots: vec![None; slots as usize + 1],
            storages: vec![Extent::default(); storages as usize],
            free_slots: (1..=slots).rev().map(Slot).collect(),
            free_storages: (1..storages).map(Storage).collect(),
            closed: Vec::new(),
            pool: groups
                .iter()
                .map(|group| group.num_pages)
                .min()
                .unwrap_or(0),
            sums: Sums::default(),
        }
    }

    pub(crate) fn paging(&self) -> &Paging {
        &self.paging
    }

    /// Tokens that fit one sequence which has the pool for itself.
    pub(crate) fn longest(&self) -> u64 {
        self.paging.tokens_in(self.pool)
    }

    /// The shard's pool became smaller or larger. What is owned stays.
    pub(crate) fn set_pool(&mut self, pages: u64) {
        self.pool = pages;
    }

    /// Pages nobody owns.
    pub(crate) fn free_pages(&self) -> u64 {
        self.pool.saturating_sub(self.sums.used())
    }

    /// Pages owned above what the pool has now.
    pub(crate) fn excess_pages(&self) -> u64 {
        self.sums.used().saturating_sub(self.pool)
    }

    /// Pages that live sequences do not have and will not soon want; those kept for their prefix alone count.
    pub(crate) fn uncommitted_pages(&self) -> u64 {
        let taken = self.sums.live + self.sums.shared + self.sums.awaited;
        self.pool.saturating_sub(taken)
    }

    pub(crate) fn free_slots(&self) -> usize {
        self.free_slots.len()
    }

    pub(crate) fn has_free_storage(&self) -> bool {
        !self.free_storages.is_empty()
    }

    pub(crate) fn ribbon(&self, slot: Slot) -> Option<&Ribbon> {
        self.slots.get(slot.0 as usize)?.as_ref()
    }

    pub(crate) fn extent(&self, storage: Storage) -> Option<&Extent> {
        let extent = self.storages.get(storage.0 as usize)?;
        (extent.state != State::Free).then_some(extent)
    }

    /// What the slot's own storage holds.
    pub(crate) fn own(&self, slot: Slot) -> Option<&Extent> {
        self.extent(self.ribbon(slot)?.own)
    }

    /// Pages that a claim up to `end` on a cached storage takes from those that can be evicted.
    pub(crate) fn claim_takes(&self, span: Span) -> u64 {
        match self.extent(span.storage) {
            Some(extent) if extent.state == State::Cached => {
                let claimed = extent.claimed();
                let pages = |end| self.claimed_pages(extent, end);
                pages(span.end.max(claimed)) - pages(claimed)
            }
            _ => 0,
        }
    }

    /// Pages of a storage that others show of it when they show it up to `claimed`.
    pub(crate) fn claimed_pages(&self, extent: &Extent, claimed: u32) -> u64 {
        let shown = claimed.min(extent.end);
        self.paging.claimed_pages(&extent.fronts, shown)
    }

    /// Pages that feeding the slot up to `tokens` adds.
    pub(crate) fn growth(&self, slot: Slot, tokens: u32) -> u64 {
        self.own(slot).map_or(0, |extent| {
            let pages = |end| self.paging.pages(&extent.fronts, end);
            pages(tokens.max(extent.end)) - pages(extent.end)
        })
    }

    /// A plan feeds the slot up to `tokens`; later it may want to go up to `goal`. The caller has made room.
    pub(crate) fn feed(&mut self, slot: Slot, tokens: u32, goal: u32, ops: &mut Vec<GroupOp>) {
        let Some(ribbon) = self.slots.get_mut(slot.0 as usize).and_then(Option::as_mut) else {
            return;
        };
        for (group, granted) in self.paging.groups().zip(&mut ribbon.granted) {
            if *granted < tokens {
                *granted = self.paging.whole_tokens(group, tokens);
                let op = RibbonOp::Grow {
                    slot,
                    end: *granted,
                };
                ops.push(GroupOp { group, op });
            }
        }
        let own = ribbon.own;
        self.change(own, |extent| {
            extent.end = extent.end.max(tokens);
            extent.goal = extent.goal.max(goal);
        });
    }

    /// Gives up a slot with the plan that is being made. Keeps its storage, cut to the `fed` tokens, if it is told to.
    pub(crate) fn close(&mut self, slot: Slot, keep: Option<u32>, ops: &mut Vec<GroupOp>) {
        let Some(ribbon) = self.slots.get_mut(slot.0 as usize).and_then(Option::take) else {
            return;
        };
        self.closed.push(slot);
        self.sums.slots_used -= 1;
        for storage in &ribbon.claims {
            self.change(*storage, |extent| {
                extent.claims.retain(|(reader, _)| *reader != slot);
            });
        }
        self.each_group(
            ops,
            RibbonOp::Close {
                slot,
                keep: keep.is_some(),
            },
        );
        if let Some(end) = keep {
            self.change(ribbon.own, |extent| {
                extent.state = State::Cached;
                extent.goal = 0;
            });
            self.truncate(ribbon.own, end, ops);
        } else {
            self.free(ribbon.own);
        }
    }

    /// A storage gives back what lies behind `end`, which is behind its start. Where a window has left more behind, all that is
    /// left goes.
    pub(crate) fn truncate(&mut self, storage: Storage, end: u32, ops: &mut Vec<GroupOp>) {
        self.change(storage, |extent| extent.end = extent.end.min(end));
        let Some(extent) = self.extent(storage) else {
            return;
        };
        ops.extend(
            self.paging
                .groups()
                .zip(&extent.fronts)
                .map(|(group, front)| {
                    let end = end.max(*front);
                    let op = RibbonOp::Truncate { storage, end };
                    GroupOp { group, op }
                }),
        );
    }

    /// A cached storage that nobody shows gives back everything.
    pub(crate) fn drop_cached(&mut self, storage: Storage, ops: &mut Vec<GroupOp>) {
        self.free(storage);
        self.each_group(ops, RibbonOp::Drop { storage });
    }

    fn free(&mut self, storage: Storage) {
        self.change(storage, |extent| *extent = Extent::default());
        self.free_storages.insert(storage);
    }

    fn each_group(&self, ops: &mut Vec<GroupOp>, op: RibbonOp) {
        ops.extend(self.paging.groups().map(|group| GroupOp { group, op }));
    }

    /// Changes a storage and accounts for it.
    fn change(&mut self, storage: Storage, change: impl FnOnce(&mut Extent)) {
        let Some(extent) = self.storages.get_mut(storage.0 as usize) else {
            return;
        };
        self.sums.take(&self.paging, extent);
        change(extent);
        self.sums.add(&self.paging, extent);
    }

    /// The plan that carries the closes is on its way: the slots may be used by the next one.
    pub(crate) fn release_closed(&mut self) {
        self.free_slots.append(&mut self.closed);
    }

    pub(crate) fn usage(&self) -> PageUsage {
        self.sums
            .usage(&self.paging, self.pool, self.slots.len() as u32 - 1)
    }

    /// Live ribbons with their slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &Ribbon)> {
        let numbered = self.slots.iter().enumerate();
        numbered.filter_map(|(slot, ribbon)| Some((Slot(slot as u32), ribbon.as_ref()?)))
    }

    /// Storages that own something.
    pub(crate) fn storages(&self) -> impl Iterator<Item = (Storage, &Extent)> {
        let numbered = (0..).map(Storage).zip(&self.storages);
        numbered.filter(|(_, extent)| extent.state != State::Free)
    }

    /// Slots without a ribbon, and those that the plan being made closes.
    pub(crate) fn free_lists(&self) -> (&[Slot], &[Slot]) {
        (&self.free_slots, &self.closed)
    }

    /// The sums, counted anew.
    pub(crate) fn recount(&self) -> PageUsage {
        let mut sums = Sums::default();
        for extent in &self.storages {
            sums.add(&self.paging, extent);
        }
        sums.slots_used = self.slots.iter().flatten().count() as u32;
        sums.usage(&self.paging, self.pool, self.slots.len() as u32 - 1)
    }

    /// Storages without an owner.
    pub(crate) fn num_free_storages(&self) -> usize {
        self.free_storages.len()
    }

    /// Tests of the invariant checker only: forgets to give one page back.
    #[cfg(test)]
    pub(crate) fn leak_a_page(&mut self) {
        self.sums.live += 1;
    }

    /// Tests of the invariant checker only: hands a used slot out again.
    #[cfg(test)]
    pub(crate) fn free_twice(&mut self, slot: Slot) {
        self.free_slots.push(slot);
    }
}
