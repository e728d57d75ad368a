//! Gives back pages of what is kept for its prefix alone: the storage used longest ago first, leaves before what they hang on.

use ribbon_core::{GroupOp, Storage};

use super::KvMemory;

/// An eviction gives back at least so many pages, where there are as many: one operation does for several growths.
const LEAST_EVICTION: u64 = 16;

impl KvMemory {
    pub(super) fn make_room(
        &mut self,
        pages: u64,
        kept: &[Storage],
        ops: &mut Vec<GroupOp>,
    ) -> bool {
        while self.ribbons.free_pages() < pages {
            let missing = pages - self.ribbons.free_pages();
            if !self.evict(missing.max(LEAST_EVICTION), kept, ops) {
                return false;
            }
        }
        true
    }

    /// Gives back up to `pages` pages (`u64::MAX`: a whole storage) of the storage that was used longest ago, leaves first.
    pub(super) fn evict(&mut self, pages: u64, kept: &[Storage], ops: &mut Vec<GroupOp>) -> bool {
        let whole = pages == u64::MAX;
        let candidates = self.by_age.iter().map(|(_, storage)| *storage);
        let mut possible = candidates.filter(|storage| !kept.contains(storage));
        let found = possible.find_map(|storage| {
            let (least, gain) = self.least_end(storage)?;
            let suits = if whole {
                least == 0
            } else {
                gain > 0 || least == 0
            };
            suits.then_some((storage, least))
        });
        let Some((storage, least)) = found else {
            return false;
        };
        let end = if whole {
            0
        } else {
            self.cut_for(storage, least, pages)
        };
        self.give_up(storage, end, ops);
        self.evictions += 1;
        true
    }

    /// The token to which a cached storage can be cut, 0 for all of it, and the pages that gives back.
    pub(super) fn least_end(&self, storage: Storage) -> Option<(u32, u64)> {
        let extent = self.ribbons.extent(storage)?;
        let (from, _) = self.tree.extent(storage)?;
        let needed = extent.claimed().max(self.tree.children_end(storage));
        let pages = |end| self.ribbons.paging().pages(&extent.fronts, end);
        Some(if needed <= from && extent.claims.is_empty() {
            (0, pages(extent.end))
        } else {
            let least = needed.max(from + 1);
            (least, pages(extent.end).saturating_sub(pages(least)))
        })
    }

    /// Where to cut a storage that can be cut to `least` so that `pages` pages come back.
    fn cut_for(&self, storage: Storage, least: u32, pages: u64) -> u32 {
        let (Some(extent), Some((from, _))) =
            (self.ribbons.extent(storage), self.tree.extent(storage))
        else {
            return least;
        };
        let paging = self.ribbons.paging();
        let owned = paging.pages(&extent.fronts, extent.end);
        let (mut low, mut high) = (least.max(from), extent.end);
        if owned.saturating_sub(paging.pages(&extent.fronts, low.max(extent.start))) <= pages {
            return least;
        }
        while high - low > 1 {
            let middle = u32::midpoint(low, high);
            if owned - paging.pages(&extent.fronts, middle) >= pages {
                low = middle;
            } else {
                high = middle;
            }
        }
        if low <= from { least } else { low }
    }

    /// Cuts a cached storage; 0 drops it.
    pub(super) fn give_up(&mut self, storage: Storage, end: u32, ops: &mut Vec<GroupOp>) {
        self.tree.cut(storage, end);
        if end == 0 {
            self.forget_age(storage);
            self.ribbons.drop_cached(storage, ops);
        } else {
            self.ribbons.truncate(storage, end, ops);
        }
    }
}
