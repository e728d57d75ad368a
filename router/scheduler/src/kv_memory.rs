//! The KV memory as the planner sees it: seats with their known prefix, growth, and eviction of what is kept for its prefix
//! alone. Knows tokens and pages; not requests, queue or steps.

mod eviction;
mod snapshot;

use std::collections::BTreeSet;

use foldhash::HashMap;
use ribbon_core::{GroupOp, KvGroup, Slot, Storage};

use crate::{
    history::History,
    prefix_tree::{Domain, Hit, PrefixTree, Span, Writer},
    ribbons::{PageUsage, Ribbons, State},
};

/// A sequence that wants a seat.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) domain: &'a Domain,
    /// All known tokens.
    pub(crate) history: History<'a>,
    /// Tokens for which there must be pages: the known ones and some more.
    pub(crate) ahead: u32,
    /// It may show what others have computed.
    pub(crate) may_hit: bool,
    /// What it computes goes into the tree, which holds on to the storages before it on the way.
    pub(crate) may_share: bool,
    /// Nobody else holds a seat: what can be evicted is all its own.
    pub(crate) is_alone: bool,
}

/// A seat was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seated {
    pub(crate) slot: Slot,
    /// Tokens it does not have to compute.
    pub(crate) cached: u32,
}

/// How a wish can be met.
#[derive(Debug)]
struct Offer {
    hit: Hit,
    /// The hit's last storage is wholly shown and nobody writes it: the sequence goes on writing it.
    adopts: Option<Storage>,
}

impl Offer {
    /// First token of the storage that will be written.
    fn start(&self, ribbons: &Ribbons) -> u32 {
        let adopted = self.adopts.and_then(|storage| ribbons.extent(storage));
        adopted.map_or(self.hit.end(), |extent| extent.start)
    }

    /// What the slot shows before its own storage.
    fn shown(&self, start: u32) -> Vec<Span> {
        let mut begin = 0;
        let mut shown = Vec::new();
        for span in &self.hit.spans {
            let end = span.end.min(start);
            if begin < end && Some(span.storage) != self.adopts {
                shown.push(Span { end, ..*span });
            }
            begin = end;
        }
        shown
    }
}

/// The memory of one generation of shards, and what is known of its tokens.
#[derive(Debug)]
pub(crate) struct KvMemory {
    ribbons: Ribbons,
    tree: PrefixTree,
    writers: HashMap<Slot, Writer>,
    /// Cached storages, the one used longest ago first.
    by_age: BTreeSet<(u64, Storage)>,
    /// When each storage was last used; by storage number.
    ages: Vec<u64>,
    clock: u64,
    max_spans: usize,
    evictions: u64,
}

impl KvMemory {
    /// See [`Ribbons::new`].
    pub(crate) fn new(groups: &[KvGroup], max_slots: u32, fed_ahead: u32) -> Self {
        let max_spans = groups.iter().map(|group| group.max_spans).min();
        Self {
            ribbons: Ribbons::new(groups, max_slots, fed_ahead),
            tree: PrefixTree::default(),
            writers: HashMap::default(),
            by_age: BTreeSet::new(),
            ages: Vec::new(),
            clock: 0,
            max_spans: max_spans.unwrap_or_default() as usize,
            evictions: 0,
        }
    }

    pub(crate) fn ribbons(&self) -> &Ribbons {
        &self.ribbons
    }

    #[cfg(test)]
    pub(crate) fn ribbons_mut(&mut self) -> &mut Ribbons {
        &mut self.ribbons
    }

    pub(crate) fn set_pool(&mut self, pages: u64) {
        self.ribbons.set_pool(pages);
    }

    pub(crate) fn usage(&self) -> PageUsage {
        self.ribbons.usage()
    }

    /// Storages that were evicted or cut for their pages.
    pub(crate) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Known tokens of a history that need not be computed.
    pub(crate) fn cached_tokens(&self, domain: &Domain, history: History<'_>) -> u32 {
        self.offer(domain, history).hit.end()
    }

    fn offer(&self, domain: &Domain, history: History<'_>) -> Offer {
        let most = history.len().saturating_sub(1);
        let mut hit = self.tree.look_up(domain, history, most);
        hit.spans.truncate(self.ribbons.servable(&hit.spans));
        let mut adopts = self.adoptable(&hit);
        // The adopted one is the slot's own, not a span.
        let spans = hit.spans.len() - usize::from(adopts.is_some());
        if spans > self.max_spans {
            let first = hit.spans.get(..self.max_spans).unwrap_or_default();
            hit.spans.truncate(self.ribbons.servable(first));
            adopts = None;
        }
        Offer { hit, adopts }
    }

    /// The last storage of the hit, if it is wholly shown and has no writer.
    fn adoptable(&self, hit: &Hit) -> Option<Storage> {
        let last = hit.spans.last()?;
        let extent = self.ribbons.extent(last.storage)?;
        let is_whole = extent.state == State::Cached && extent.end == last.end;
        (is_whole && self.ribbons.goes_on(extent)).then_some(last.storage)
    }

    /// Whether a seat and pages are there beside `reserve` pages; nothing changes.
    pub(crate) fn fits(&self, wish: &Wish<'_>, reserve: u64) -> bool {
        self.ribbons.free_slots() > 0 && self.acceptable(wish, reserve).is_some()
    }

    fn acceptable(&self, wish: &Wish<'_>, reserve: u64) -> Option<Offer> {
        let nothing = || Offer {
            hit: Hit::default(),
            adopts: None,
        };
        let offer = if wish.may_hit {
            self.offer(wish.domain, wish.history)
        } else {
            nothing()
        };
        if self.has_room(&offer, wish.ahead, reserve) {
            return Some(offer);
        }
        // Shown prefixes take pages too: alone, a sequence that fits the pool must fit it without them.
        Some(nothing()).filter(|offer| wish.is_alone && self.has_room(offer, wish.ahead, 0))
    }

    fn has_room(&self, offer: &Offer, ahead: u32, reserve: u64) -> bool {
        let start = offer.start(&self.ribbons);
        let claims = offer
            .hit
            .spans
            .iter()
            .filter(|span| Some(span.storage) != offer.adopts);
        let claimed: u64 = claims.map(|span| self.ribbons.claim_takes(*span)).sum();
        let paging = self.ribbons.paging();
        let adopted = offer
            .adopts
            .and_then(|storage| self.ribbons.extent(storage));
        let own = match adopted {
            Some(extent) => paging.goal_pages(&extent.fronts, extent.end, ahead.max(extent.end)),
            None => paging.most_pages(start, ahead.max(start)),
        };
        // What others show of an adopted storage is taken already.
        let shared = adopted.map_or(0, |extent| {
            self.ribbons.claimed_pages(extent, extent.claimed())
        });
        claimed + own + reserve <= self.ribbons.uncommitted_pages() + shared
            && self.has_storage(offer)
    }

    /// Whether there is a storage to write to, or one that can be given up for it.
    fn has_storage(&self, offer: &Offer) -> bool {
        let is_kept = |storage| offer.hit.spans.iter().any(|span| span.storage == storage);
        let can_go = |storage| {
            !is_kept(storage) && self.least_end(storage).is_some_and(|(least, _)| least == 0)
        };
        offer.adopts.is_some()
            || self.ribbons.has_free_storage()
            || self.by_age.iter().any(|(_, storage)| can_go(*storage))
    }

    /// Seats a sequence with the longest prefix that is known. `None`: there is no seat, or not enough pages.
    pub(crate) fn open(&mut self, wish: &Wish<'_>, ops: &mut Vec<GroupOp>) -> Option<Seated> {
        if self.ribbons.free_slots() == 0 {
            return None;
        }
        let offer = self.acceptable(wish, 0)?;
        let start = offer.start(&self.ribbons);
        // Whatever else is evicted now, the hit must stay.
        self.use_now(&offer.hit);
        let slot = match offer.adopts {
            Some(storage) => {
                self.forget_age(storage);
                self.ribbons
                    .open_cached(storage, &offer.shown(start), wish.ahead, ops)
            }
            None => self.open_new(&offer, wish.ahead, ops),
        }?;
        if wish.may_share {
            let storage = self.ribbons.ribbon(slot)?.own;
            let writer = self.tree.writer(wish.domain, &offer.hit, storage, start);
            if writer.has_node() {
                let way = self.tree.way_to(storage, start);
                self.ribbons.claim(slot, &way);
            }
            self.writers.insert(slot, writer);
        }
        Some(Seated {
            slot,
            cached: offer.hit.end(),
        })
    }

    fn open_new(&mut self, offer: &Offer, goal: u32, ops: &mut Vec<GroupOp>) -> Option<Slot> {
        let kept: Vec<Storage> = offer.hit.spans.iter().map(|span| span.storage).collect();
        if !self.ribbons.has_free_storage() && !self.evict(u64::MAX, &kept, ops) {
            return None;
        }
        // One span after the other begins a copy of its last page.
        let ends = offer.hit.spans.iter().map(|span| span.end);
        let needed = self.ribbons.paging().copied_pages(&ends);
        if !self.make_room(needed, &kept, ops) {
            return None;
        }
        self.ribbons.open_new(&offer.hit.spans, goal, ops)
    }

    /// A plan feeds the slot up to `tokens`; soon it may want `goal`.
    ///
    /// # Errors
    /// The pages that are missing, though all that can be was evicted; the slot has as many tokens as before.
    pub(crate) fn feed(
        &mut self,
        slot: Slot,
        tokens: u32,
        goal: u32,
        ops: &mut Vec<GroupOp>,
    ) -> Result<(), u64> {
        self.ribbons.trim(slot, ops);
        let needed = self.ribbons.growth(slot, tokens);
        if !self.make_room(needed, &[], ops) {
            return Err(needed - self.ribbons.free_pages());
        }
        self.ribbons.feed(slot, tokens, goal, ops);
        Ok(())
    }

    /// The outcome of what the slot fed up to `fed` is in: others may show it from now on.
    pub(crate) fn computed(&mut self, slot: Slot, history: History<'_>, fed: u32) {
        self.ribbons.computed(slot, fed);
        if let Some(writer) = self.writers.get_mut(&slot) {
            let claims = self.tree.extend(writer, history, fed);
            self.ribbons.claim(slot, &claims);
        }
    }

    /// Gives up a slot; its `fed` tokens stay for their prefix.
    pub(crate) fn close(&mut self, slot: Slot, fed: u32, ops: &mut Vec<GroupOp>) {
        let Some(own) = self.ribbons.ribbon(slot).map(|ribbon| ribbon.own) else {
            return;
        };
        let writer = self.writers.remove(&slot);
        let is_kept = writer.is_some_and(|writer| writer.has_node());
        self.ribbons.close(slot, is_kept.then_some(fed), ops);
        if is_kept {
            self.clock += 1;
            self.set_age(own, self.clock);
        }
    }

    /// See [`Ribbons::release_closed`].
    pub(crate) fn release_closed(&mut self) {
        self.ribbons.release_closed();
    }

    /// Nobody will ask for these tokens again.
    pub(crate) fn forget_domain(&mut self, domain: &Domain, ops: &mut Vec<GroupOp>) {
        for storage in self.tree.storages_of(domain) {
            let is_cached = self
                .ribbons
                .extent(storage)
                .is_some_and(|extent| extent.state == State::Cached);
            if is_cached && self.least_end(storage).is_some_and(|(least, _)| least == 0) {
                self.give_up(storage, 0, ops);
            }
        }
    }

    /// Gives back what the pool has no room for any more. Says how many pages are still missing.
    pub(crate) fn shrink_to_pool(&mut self, ops: &mut Vec<GroupOp>) -> u64 {
        while self.ribbons.excess_pages() > 0 {
            if !self.evict(self.ribbons.excess_pages(), &[], ops) {
                break;
            }
        }
        self.ribbons.excess_pages()
    }

    /// Tokens that fit the pool, whosever they are.
    pub(crate) fn pool_tokens(&self) -> u64 {
        self.ribbons.paging().pool_tokens(self.usage().pool)
    }

    /// The tree has tokens of storages alone that hold them, and every cached storage can be found and evicted some day.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (storage, extent) in self.ribbons.storages() {
            let node = self.tree.extent(storage);
            let fits = node.is_none_or(|(from, end)| extent.start <= from && end <= extent.end);
            let is_found =
                extent.state == State::Live || node.is_some_and(|(_, end)| end == extent.end);
            if !fits || !is_found || self.tree.children_end(storage) > extent.end {
                return Err(format!(
                    "storage {}: {extent:?}, but the tree has {node:?}",
                    storage.0
                ));
            }
        }
        let cached = self
            .ribbons
            .storages()
            .filter(|(_, extent)| extent.state == State::Cached)
            .count();
        if cached != self.by_age.len() {
            return Err(format!(
                "{cached} storages are cached, {} have an age",
                self.by_age.len()
            ));
        }
        let nodes = self
            .ribbons
            .storages()
            .filter(|(storage, _)| self.tree.extent(*storage).is_some())
            .count();
        if nodes != self.tree.len() {
            return Err(format!(
                "{} nodes in the tree, {nodes} of them have a storage",
                self.tree.len()
            ));
        }
        Ok(())
    }

    /// The storages of a hit were used.
    fn use_now(&mut self, hit: &Hit) {
        self.clock += 1;
        for span in &hit.spans {
            let is_cached = |storage| {
                self.ribbons
                    .extent(storage)
                    .is_some_and(|extent| extent.state == State::Cached)
            };
            if is_cached(span.storage) {
                self.set_age(span.storage, self.clock);
            }
        }
    }

    fn set_age(&mut self, storage: Storage, age: u64) {
        self.forget_age(storage);
        let index = storage.0 as usize;
        if self.ages.len() <= index {
            self.ages.resize(index + 1, 0);
        }
        if let Some(place) = self.ages.get_mut(index) {
            *place = age;
        }
        self.by_age.insert((age, storage));
    }

    fn forget_age(&mut self, storage: Storage) {
        if let Some(age) = self.ages.get(storage.0 as usize) {
            self.by_age.remove(&(*age, storage));
        }
    }
}
