//! Windows that move on: which front a group still needs, and when it is given up. Knows tokens; not why they are fed.
//!
//! Behind `fed` tokens a window of w reaches back to `fed` − w. A front moves only behind tokens whose outcome is in, so what a
//! failed step takes back is still in front of it; and never past what another slot shows.

use ribbon_core::{GroupOp, RibbonOp, Slot, Storage};

use super::{Extent, Ribbons};
use crate::{paging::Paging, prefix_tree::Span};

impl Ribbons {
    /// By group: the first token that one needs which goes on behind `end` tokens.
    pub(super) fn fronts_before(&self, end: u32) -> Vec<u32> {
        let mut fronts = vec![0; self.paging.groups().count()];
        for (group, window) in self.paging.windows() {
            if let Some(front) = fronts.get_mut(usize::from(group)) {
                *front = end.saturating_sub(window);
            }
        }
        fronts
    }

    /// By group: the first token that one shows which goes on writing a cached storage; see [`Ribbons::goes_on`].
    pub(super) fn fronts_of(&self, storage: Storage) -> Vec<u32> {
        let mut shown = vec![0; self.paging.groups().count()];
        let own = self.extent(storage).map(|extent| extent.fronts.as_slice());
        for (group, _) in self.paging.windows() {
            let group = usize::from(group);
            let own = own.and_then(|fronts| fronts.get(group));
            if let (Some(shown), Some(own)) = (shown.get_mut(group), own) {
                *shown = *own;
            }
        }
        shown
    }

    /// Whether a sequence may write on in a cached storage: its windows reach back to no other one.
    pub(crate) fn goes_on(&self, extent: &Extent) -> bool {
        let mut windows = self.paging.windows();
        extent.start == 0
            || windows.all(|(_, window)| extent.end >= extent.start.saturating_add(window))
    }

    /// How many of a hit's spans can be shown: behind the last one, every window finds its tokens.
    pub(crate) fn servable(&self, spans: &[Span]) -> usize {
        let (mut begin, mut least, mut servable) = (0, 0, 0);
        for (index, span) in spans.iter().enumerate() {
            least = self.least_hit(*span, begin).max(least);
            if span.end >= least {
                servable = index + 1;
            }
            begin = span.end;
        }
        servable
    }

    /// The least token behind which no window misses anything of a span that begins at `begin`.
    fn least_hit(&self, span: Span, begin: u32) -> u32 {
        let Some(extent) = self.extent(span.storage) else {
            return u32::MAX;
        };
        let windows = self.paging.windows();
        let least = windows.map(|(group, window)| {
            let front = extent.fronts.get(usize::from(group)).copied();
            let front = front.unwrap_or_default().min(span.end);
            if front > begin {
                front.saturating_add(window)
            } else {
                0
            }
        });
        least.max().unwrap_or(0)
    }

    /// The slot's first `fed` tokens are in the KV for sure.
    pub(crate) fn computed(&mut self, slot: Slot, fed: u32) {
        if let Some(Some(ribbon)) = self.slots.get_mut(slot.0 as usize) {
            ribbon.fed = fed;
        }
    }

    /// Gives up what no window of the slot will reach again.
    pub(crate) fn trim(&mut self, slot: Slot, ops: &mut Vec<GroupOp>) {
        let windows: Vec<(u8, u32)> = self.paging.windows().collect();
        for (group, window) in windows {
            if let Some(begin) = self.next_front(slot, group, window) {
                self.move_front(slot, group, begin);
                let op = RibbonOp::TrimFront { slot, begin };
                ops.push(GroupOp { group, op });
            }
        }
    }

    fn next_front(&self, slot: Slot, group: u8, window: u32) -> Option<u32> {
        let ribbon = self.ribbon(slot)?;
        let shown = *ribbon.fronts.get(usize::from(group))?;
        let begin = Paging::next_front(window, shown, ribbon.fed)?;
        let extent = self.extent(ribbon.own)?;
        let own = *extent.fronts.get(usize::from(group))?;
        let begin = if begin > own {
            self.readers_begin(ribbon.own, extent, group)
                .map_or(begin, |reader| begin.min(reader.max(own)))
        } else {
            begin
        };
        (begin > shown).then_some(begin)
    }

    /// The first token of a storage that another slot shows in the group.
    fn readers_begin(&self, storage: Storage, extent: &Extent, group: u8) -> Option<u32> {
        let readers = extent.claims.iter().filter_map(|(slot, _)| {
            let ribbon = self.ribbon(*slot)?;
            let front = *ribbon.fronts.get(usize::from(group))?;
            let index = ribbon
                .spans
                .iter()
                .position(|span| span.storage == storage)?;
            let before = index
                .checked_sub(1)
                .and_then(|index| ribbon.spans.get(index));
            let begin = before.map_or(0, |span| span.end).max(front);
            let end = ribbon.spans.get(index)?.end;
            (begin < end).then_some(begin)
        });
        readers.min()
    }

    fn move_front(&mut self, slot: Slot, group: u8, begin: u32) {
        let group = usize::from(group);
        let Some(Some(ribbon)) = self.slots.get_mut(slot.0 as usize) else {
            return;
        };
        if let Some(front) = ribbon.fronts.get_mut(group) {
            *front = begin;
        }
        let own = ribbon.own;
        self.change(own, |extent| {
            if let Some(front) = extent.fronts.get_mut(group) {
                *front = begin.max(*front);
            }
        });
    }
}
