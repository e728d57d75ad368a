//! Which page sets stand behind storages, which are idle, and what each place of the slots shows. Pure bookkeeping: no
//! driver call. A *set* is one page in every band; a *place* is a page of a slot, counted from slot 0.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::Geometry;
use crate::region::Access;

/// Number of a page set.
pub type SetId = u32;
/// Page of a slot's range: slot · slot_pages + page.
pub type Place = u64;

/// What the page tables hold at a place.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    /// The set mapped there.
    pub set: SetId,
    /// How.
    pub access: Access,
    /// An open slot shows it, so steps launched later may touch it.
    live: bool,
    /// The last fence when it became live.
    since: u64,
    /// Fence behind everything that touched the place before.
    quiet: u64,
}

/// A wish: this set at this place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Where.
    pub place: Place,
    /// What.
    pub set: SetId,
    /// How.
    pub access: Access,
}

/// How a growth got its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Its storage had it already.
    Own,
    /// It was idle and mapped there already.
    Inherited,
    /// It was idle and mapped elsewhere.
    Stolen,
    /// It was idle and mapped nowhere.
    Fresh,
}

/// A set taken for a place, not yet noted as its storage's.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// For which place.
    pub place: Place,
    /// Which.
    pub set: SetId,
    /// From where.
    pub source: Source,
}

#[derive(Clone, Copy, Debug, Default)]
struct Set {
    /// Key in `idle` while nobody owns it.
    idle: Option<u64>,
    /// The one place where it is mapped for writing.
    writer: Option<Place>,
    /// Mapped by the thread for a growth to come.
    ahead: bool,
}

/// The bookkeeping of one region on a device.
#[derive(Debug)]
pub struct Table {
    geometry: Geometry,
    sets: Vec<Set>,
    /// Oldest first.
    idle: BTreeMap<u64, SetId>,
    /// Physical page (storage · slot_pages + page) to set.
    behind: BTreeMap<u64, SetId>,
    shown: BTreeMap<Place, Shown>,
    /// Private copies of shared pages, and whose copies they are.
    copies: BTreeMap<Place, SetId>,
    /// Storage that each slot writes.
    owns: HashMap<u64, u64>,
    /// Slot that writes each storage.
    writers: HashMap<u64, u64>,
    stamp: u64,
    latest: u64,
}

impl Table {
    /// Every set idle, nothing mapped.
    pub fn new(geometry: Geometry) -> Self {
        let mut table = Self {
            geometry,
            sets: vec![Set::default(); geometry.num_sets() as usize],
            idle: BTreeMap::new(),
            behind: BTreeMap::new(),
            shown: BTreeMap::new(),
            copies: BTreeMap::new(),
            owns: HashMap::new(),
            writers: HashMap::new(),
            stamp: 0,
            latest: 0,
        };
        for set in 0..geometry.num_pages as SetId {
            table.make_idle(set);
        }
        table
    }

    /// A fence was recorded: steps launched so far are before it.
    pub fn note_fence(&mut self, number: u64) {
        self.latest = self.latest.max(number);
    }

    /// The slot of these places writes the storage from now on.
    pub fn seat(&mut self, slot: u64, storage: u64) {
        if let Some(before) = self.owns.insert(slot, storage) {
            self.writers.remove(&before);
        }
        self.writers.insert(storage, slot);
    }

    /// The slot is closed: it writes no storage.
    pub fn unseat(&mut self, slot: u64) {
        if let Some(storage) = self.owns.remove(&slot) {
            self.writers.remove(&storage);
        }
    }

    /// Physical page behind a place of an open slot's own.
    pub fn physical(&self, place: Place) -> Option<u64> {
        let pages = self.geometry.slot_pages;
        let storage = self.owns.get(&(place / pages))?;
        Some(storage * pages + place % pages)
    }

    /// Place at which the writer of a physical page shows it.
    pub fn home(&self, physical: u64) -> Option<Place> {
        let pages = self.geometry.slot_pages;
        let slot = self.writers.get(&(physical / pages))?;
        Some(slot * pages + physical % pages)
    }

    /// The set behind a physical page.
    pub fn behind(&self, physical: u64) -> Option<SetId> {
        self.behind.get(&physical).copied()
    }

    /// All physical pages of a range that have memory.
    pub fn filled(&self, physical: Range<u64>) -> Vec<(u64, SetId)> {
        let found = self.behind.range(physical);
        found.map(|(page, set)| (*page, *set)).collect()
    }

    /// Sets behind storages.
    pub fn num_owned(&self) -> u64 {
        self.behind.len() as u64
    }

    /// Sets that may be given away.
    pub fn num_idle(&self) -> u64 {
        self.idle.len() as u64
    }

    /// Idle sets that are mapped for writing somewhere.
    pub fn num_parked(&self) -> u64 {
        let sets = self.idle.values().filter_map(|set| self.set(*set));
        sets.filter(|set| set.writer.is_some()).count() as u64
    }

    /// Everything mapped.
    pub fn mapped(&self) -> Vec<Place> {
        self.shown.keys().copied().collect()
    }

    fn set(&self, set: SetId) -> Option<&Set> {
        self.sets.get(set as usize)
    }

    fn make_idle(&mut self, number: SetId) {
        self.stamp += 1;
        if let Some(set) = self.sets.get_mut(number as usize) {
            set.ahead = false;
            set.idle = Some(self.stamp);
            self.idle.insert(self.stamp, number);
        }
    }

    fn take(&mut self, number: SetId) {
        if let Some(set) = self.sets.get_mut(number as usize) {
            set.ahead = false;
            if let Some(stamp) = set.idle.take() {
                self.idle.remove(&stamp);
            }
        }
    }

    /// Takes a set for each place: the storage's own, then what is parked there, then the longest idle ones. `None` if there
    /// are not enough; nothing is taken then.
    pub fn claim(&mut self, places: Range<Place>) -> Option<Vec<Claim>> {
        let (mut claims, mut missing) = (Vec::new(), Vec::new());
        for place in places {
            match self.ready(place) {
                Some(claim) => {
                    self.take(claim.set);
                    claims.push(claim);
                }
                None => missing.push(place),
            }
        }
        if missing.len() > self.idle.len() {
            self.unclaim(&claims);
            return None;
        }
        let oldest: Vec<SetId> = self.idle.values().take(missing.len()).copied().collect();
        for (place, set) in missing.into_iter().zip(oldest) {
            let mapped = self.set(set).is_some_and(|set| set.writer.is_some());
            let source = if mapped {
                Source::Stolen
            } else {
                Source::Fresh
            };
            self.take(set);
            claims.push(Claim { place, set, source });
        }
        claims.sort_by_key(|claim| claim.place);
        Some(claims)
    }

    fn ready(&self, place: Place) -> Option<Claim> {
        let own = self.physical(place).and_then(|page| self.behind(page));
        let claim = |set, source| Some(Claim { place, set, source });
        if let Some(set) = own {
            return claim(set, Source::Own);
        }
        let set = self.parked(place)?;
        claim(set, Source::Inherited)
    }

    /// The idle set that is mapped for writing at a place.
    fn parked(&self, place: Place) -> Option<SetId> {
        let shown = self.shown.get(&place)?;
        let idle = self.set(shown.set)?.idle.is_some();
        (idle && shown.access == Access::ReadWrite).then_some(shown.set)
    }

    /// Gives claimed sets back.
    pub fn unclaim(&mut self, claims: &[Claim]) {
        for claim in claims {
            if claim.source != Source::Own {
                self.make_idle(claim.set);
            }
        }
    }

    /// The claimed sets are the storage's from now on.
    pub fn settle(&mut self, claims: &[Claim]) {
        for claim in claims {
            if let Some(physical) = self.physical(claim.place) {
                self.behind.insert(physical, claim.set);
            }
        }
    }

    /// The claimed sets are private copies of shared ones.
    pub fn settle_copies(&mut self, claims: &[Claim], originals: &[SetId]) {
        for (claim, original) in claims.iter().zip(originals) {
            self.copies.insert(claim.place, *original);
            self.make_live(claim.place);
        }
    }

    /// Up to `count` private copies and the originals that may be shown in their place.
    pub fn reclaimable(&self, count: usize) -> Vec<Edit> {
        let copies = self.copies.iter().take(count);
        let edit = |(place, set): (&Place, &SetId)| Edit {
            place: *place,
            set: *set,
            access: Access::ReadOnly,
        };
        copies.map(edit).collect()
    }

    /// A copy gave way to its original.
    pub fn note_reclaimed(&mut self, edit: Edit, copy: SetId) {
        self.copies.remove(&edit.place);
        self.make_idle(copy);
        self.make_live(edit.place);
    }

    /// A page that may be mapped ahead at a place, and which set; `None` if it is in use or ready, or nothing is idle. Places in
    /// use are left alone: a kernel may be launched while the thread edits.
    pub fn ahead(&self, place: Place) -> Option<Edit> {
        if self.parked(place).is_some() || self.is_live(place) {
            return None;
        }
        let number = *self.idle.values().next()?;
        let set = self.set(number)?;
        // The longest idle one was itself mapped ahead: stealing it would only move the hole.
        let taken = set.ahead || set.writer.is_some_and(|writer| self.is_live(writer));
        (!taken).then_some(Edit {
            place,
            set: number,
            access: Access::ReadWrite,
        })
    }

    fn is_live(&self, place: Place) -> bool {
        self.shown.get(&place).is_some_and(|shown| shown.live)
    }

    /// The set was mapped ahead: it is the last to be stolen.
    pub fn note_ahead(&mut self, number: SetId) {
        self.take(number);
        self.make_idle(number);
        if let Some(set) = self.sets.get_mut(number as usize) {
            set.ahead = true;
        }
    }

    /// Gives the memory of physical pages back to the pool.
    pub fn release(&mut self, physical: Range<u64>) {
        for (page, set) in self.filled(physical.clone()) {
            self.behind.remove(&page);
            self.make_idle(set);
            if let Some(place) = self.set(set).and_then(|set| set.writer) {
                self.make_quiet(place);
            }
        }
        self.cut_tail(physical);
    }

    /// Where released pages were the last of an open slot's, the first of them are its tail now.
    fn cut_tail(&mut self, released: Range<u64>) {
        let pages = self.geometry.slot_pages;
        let storage_end = released.start / pages * pages + pages;
        let last = self
            .behind
            .range(released.end..storage_end.max(released.end))
            .next()
            .is_none();
        if let Some(place) = self.home(released.start).filter(|_| last) {
            self.enter_tail(place);
        }
    }

    /// The slots of these places no longer use them; what is mapped there stays.
    pub fn leave(&mut self, places: Range<Place>) {
        let left: Vec<Place> = self.shown.range(places.clone()).map(|row| *row.0).collect();
        for place in left {
            self.make_quiet(place);
        }
        let copies: Vec<Place> = self.copies.range(places).map(|row| *row.0).collect();
        for place in copies {
            self.copies.remove(&place);
            if let Some(shown) = self.shown.get(&place).copied() {
                self.make_idle(shown.set);
            }
        }
    }

    /// The edits among these that the page tables do not show already.
    pub fn missing(&self, wanted: &[Edit]) -> Vec<Edit> {
        let same = |edit: &Edit| {
            let shown = self.shown.get(&edit.place);
            shown.is_some_and(|shown| shown.set == edit.set && shown.access == edit.access)
        };
        wanted.iter().filter(|edit| !same(edit)).copied().collect()
    }

    fn tail_places(&self, end: Place) -> Range<Place> {
        let pages = self.geometry.slot_pages;
        let slot_end = end.saturating_sub(1) / pages * pages + pages;
        end..slot_end.min(end + self.geometry.tail_pages)
    }

    /// Zero pages to be shown behind the end of a slot's pages, as far as nothing is mapped there.
    pub fn tail(&self, end: Place) -> Vec<Edit> {
        let empty = self
            .tail_places(end)
            .filter(|place| !self.shown.contains_key(place));
        let (set, access) = (self.geometry.zero_set(), Access::ReadOnly);
        empty.map(|place| Edit { place, set, access }).collect()
    }

    /// Whatever is mapped behind the end of an open slot's pages is in use, as far as whole tiles are loaded.
    pub fn enter_tail(&mut self, end: Place) {
        for place in self.tail_places(end) {
            self.make_live(place);
        }
    }

    /// Places whose mapping an edit ends: its own, and where its set was writable before.
    pub fn displaced(&self, edit: &Edit) -> Vec<Place> {
        let mut places: Vec<Place> = Vec::new();
        places.extend(self.shown.contains_key(&edit.place).then_some(edit.place));
        if edit.access == Access::ReadWrite {
            let writer = self.set(edit.set).and_then(|set| set.writer);
            places.extend(writer.filter(|place| *place != edit.place));
        }
        places
    }

    /// What is mapped at a place.
    pub fn shown(&self, place: Place) -> Option<Shown> {
        self.shown.get(&place).copied()
    }

    /// Fence that must be reached before the mapping at a place may change.
    pub fn fence_of(&self, place: Place) -> u64 {
        self.shown
            .get(&place)
            .map_or(0, |shown| self.quiet_of(shown))
    }

    fn quiet_of(&self, shown: &Shown) -> u64 {
        // Nothing was launched since it became live: only those before matter.
        if shown.live && self.latest > shown.since {
            self.latest
        } else {
            shown.quiet
        }
    }

    fn make_quiet(&mut self, place: Place) {
        let Some(mut shown) = self.shown(place) else {
            return;
        };
        shown.quiet = self.quiet_of(&shown);
        shown.live = false;
        self.shown.insert(place, shown);
    }

    /// An open slot shows the place.
    pub fn make_live(&mut self, place: Place) {
        let Some(mut shown) = self.shown(place) else {
            return;
        };
        if !shown.live {
            (shown.live, shown.since) = (true, self.latest);
            self.shown.insert(place, shown);
        }
    }

    /// The mapping at a place is gone.
    pub fn note_cleared(&mut self, place: Place) {
        if let Some(shown) = self.shown.remove(&place)
            && let Some(set) = self.sets.get_mut(shown.set as usize)
            && set.writer == Some(place)
        {
            set.writer = None;
        }
    }

    /// The edit is done; nobody uses the place yet. `live` where an open slot did before.
    pub fn note_shown(&mut self, edit: &Edit, live: bool) {
        let shown = Shown {
            set: edit.set,
            access: edit.access,
            live,
            since: self.latest,
            quiet: 0,
        };
        self.shown.insert(edit.place, shown);
        if edit.access == Access::ReadWrite
            && let Some(set) = self.sets.get_mut(edit.set as usize)
        {
            set.writer = Some(edit.place);
        }
    }
}

impl Shown {
    /// Whether an open slot shows it.
    pub fn is_live(&self) -> bool {
        self.live
    }
}
