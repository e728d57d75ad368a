//! Seats: a slot gets a storage to write to, behind what it shows of others. Knows which tokens each group still needs.

use ribbon_core::{GroupOp, RibbonOp, Slot, Storage};

use super::{Extent, Ribbon, Ribbons, State};
use crate::prefix_tree::Span;

impl Ribbons {
    /// A free slot, if there is one, whose own number is free as a storage, if possible: then nothing has to be mapped.
    fn take_slot(&mut self, wanted: Option<Storage>) -> Option<Slot> {
        let suits = |slot: &Slot| match wanted {
            Some(storage) => storage.0 == slot.0,
            None => self.free_storages.contains(&Storage(slot.0)),
        };
        let last = self.free_slots.len().checked_sub(1)?;
        let index = self.free_slots.iter().rposition(suits).unwrap_or(last);
        Some(self.free_slots.remove(index))
    }

    /// Seats a new storage behind `spans`, of which it begins a copy of the last page. The caller has made sure of a free slot,
    /// a free storage and the pages.
    pub(crate) fn open_new(
        &mut self,
        spans: &[Span],
        goal: u32,
        ops: &mut Vec<GroupOp>,
    ) -> Option<Slot> {
        let slot = self.take_slot(None)?;
        let own = Storage(slot.0);
        let storage = if self.free_storages.contains(&own) {
            own
        } else {
            *self.free_storages.last()?
        };
        self.free_storages.remove(&storage);
        let start = spans.last().map_or(0, |span| span.end);
        let fronts = self.paging.groups().map(|_| start).collect();
        self.change(storage, |extent| {
            *extent = Extent {
                state: State::Live,
                start,
                fronts,
                end: start,
                goal,
                claims: Vec::new(),
            };
        });
        let fronts = self.fronts_before(start);
        self.seat(slot, storage, (spans, fronts), 0, ops);
        Some(slot)
    }

    /// Seats a cached storage that nobody writes, with all its tokens. `spans` end where it begins.
    pub(crate) fn open_cached(
        &mut self,
        storage: Storage,
        spans: &[Span],
        goal: u32,
        ops: &mut Vec<GroupOp>,
    ) -> Option<Slot> {
        let tokens = self.extent(storage)?.end;
        let slot = self.take_slot(Some(storage))?;
        self.change(storage, |extent| {
            extent.state = State::Live;
            extent.goal = goal;
        });
        let fronts = self.fronts_of(storage);
        self.seat(slot, storage, (spans, fronts), tokens, ops);
        Some(slot)
    }

    /// `shown`: what the slot shows before its own storage, and the first token that each group shows of all that.
    fn seat(
        &mut self,
        slot: Slot,
        storage: Storage,
        shown: (&[Span], Vec<u32>),
        tokens: u32,
        ops: &mut Vec<GroupOp>,
    ) {
        let (spans, fronts) = shown;
        for (group, front) in self.paging.groups().zip(&fronts) {
            let open = RibbonOp::Open {
                slot,
                storage,
                tokens,
            };
            let begin = RibbonOp::TrimFront {
                slot,
                begin: *front,
            };
            let shares = spans.iter().filter(|span| span.end > *front);
            let shares = shares.map(|span| RibbonOp::Share {
                slot,
                storage: span.storage,
                end: span.end,
            });
            let row = |op| GroupOp { group, op };
            ops.push(row(open));
            ops.extend((*front > 0).then_some(row(begin)));
            ops.extend(shares.map(row));
        }
        let fed = spans.last().map_or(tokens, |span| span.end.max(tokens));
        let ribbon = Ribbon {
            own: storage,
            spans: spans.to_vec(),
            granted: vec![fed; fronts.len()],
            fronts,
            fed,
            claims: Vec::new(),
        };
        self.sums.slots_used += 1;
        if let Some(place) = self.slots.get_mut(slot.0 as usize) {
            *place = Some(ribbon);
        }
        self.claim(slot, spans);
    }

    /// The slot relies on these spans until it is closed.
    pub(crate) fn claim(&mut self, slot: Slot, spans: &[Span]) {
        for span in spans {
            self.change(span.storage, |extent| extent.claims.push((slot, span.end)));
            if let Some(ribbon) = self.slots.get_mut(slot.0 as usize).and_then(Option::as_mut) {
                ribbon.claims.push(span.storage);
            }
        }
    }
}
