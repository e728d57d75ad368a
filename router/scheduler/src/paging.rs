//! How many pages tokens touch, in each KV group. Pure arithmetic; knows no slots.
//!
//! A storage that owns tokens [front, end) of a group owns the pages ⌊front·stride ÷ page⌋ to ⌈end·stride ÷ page⌉ of its range:
//! its first page carries a copy of what precedes. The front is where the storage begins, or where a window left it. All groups
//! draw from one pool.

use ribbon_core::{KvGroup, KvKind};

/// A windowed group keeps at most so many tokens in front of its window (design §3): a hit may end that far before the newest
/// token.
pub(crate) const WINDOW_MARGIN_TOKENS: u32 = 256;
/// A front moves by no fewer tokens at once: one operation for all of them.
const TRIM_TOKENS: u32 = 64;

/// One KV group's sizes.
#[derive(Clone, Copy, Debug)]
struct Group {
    stride: u64,
    page: u64,
    window: Option<Window>,
}

/// What a windowed group keeps.
#[derive(Clone, Copy, Debug)]
struct Window {
    tokens: u32,
    /// Pages that one sequence owns at most while nobody else shows its front.
    most_pages: u64,
}

impl Group {
    /// `fed_ahead`: tokens that plans may carry before the outcome of the first is in.
    fn new(group: &KvGroup, fed_ahead: u32) -> Self {
        let (stride, page) = (
            u64::from(group.stride_bytes.max(1)),
            u64::from(group.page_bytes.max(1)),
        );
        let window = match group.kind {
            KvKind::Full => None,
            KvKind::Window(tokens) => Some(Window {
                tokens,
                // What is kept may begin inside a page.
                most_pages: ((u64::from(tokens)
                    + u64::from(WINDOW_MARGIN_TOKENS)
                    + u64::from(fed_ahead))
                    * stride)
                    .div_ceil(page)
                    + 1,
            }),
        };
        Self {
            stride,
            page,
            window,
        }
    }

    fn pages(self, front: u32, end: u32) -> u64 {
        let first = u64::from(front) * self.stride / self.page;
        let last = (u64::from(end.max(front)) * self.stride).div_ceil(self.page);
        last.saturating_sub(first)
    }

    /// The most that a sequence owns which feeds tokens [front, end).
    fn most_pages(self, front: u32, end: u32) -> u64 {
        let all = self.pages(front, end);
        self.window.map_or(all, |window| all.min(window.most_pages))
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
    /// `fed_ahead`: tokens that plans may carry before the outcome of the first is in.
    pub(crate) fn new(groups: &[KvGroup], fed_ahead: u32) -> Self {
        let slot_tokens = groups.iter().map(|group| group.slot_tokens).min();
        Self {
            groups: groups
                .iter()
                .map(|group| Group::new(group, fed_ahead))
                .collect(),
            slot_tokens: slot_tokens.unwrap_or_default(),
        }
    }

    /// Indices of the groups, as plans name them.
    pub(crate) fn groups(&self) -> impl Iterator<Item = u8> + use<> {
        0..self.groups.len() as u8
    }

    /// The windows, in tokens, of those groups that have one.
    pub(crate) fn windows(&self) -> impl Iterator<Item = (u8, u32)> {
        let windows = self.groups().zip(&self.groups);
        windows.filter_map(|(index, group)| Some((index, group.window?.tokens)))
    }

    /// Whether a group's front at `front` lies so far behind that it should move, and where to, when a sequence has `fed` tokens.
    pub(crate) fn next_front(window: u32, front: u32, fed: u32) -> Option<u32> {
        let kept = window.saturating_add(WINDOW_MARGIN_TOKENS);
        (fed.saturating_sub(front) > kept).then(|| fed - (kept - TRIM_TOKENS))
    }

    /// Pages of all groups that a storage with tokens [front, end) owns; `fronts` by group.
    pub(crate) fn pages(&self, fronts: &[u32], end: u32) -> u64 {
        let fronts = self.groups.iter().zip(fronts);
        fronts.map(|(group, front)| group.pages(*front, end)).sum()
    }

    /// Pages of that storage that others show when they show it up to `claimed`.
    pub(crate) fn claimed_pages(&self, fronts: &[u32], claimed: u32) -> u64 {
        let fronts = self.groups.iter().zip(fronts);
        let shown = fronts.filter(|(_, front)| claimed > **front);
        shown
            .map(|(group, front)| group.pages(*front, claimed))
            .sum()
    }

    /// Pages of that storage when it has grown from `end` to `goal` and its windows have moved on.
    pub(crate) fn goal_pages(&self, fronts: &[u32], end: u32, goal: u32) -> u64 {
        let fronts = self.groups.iter().zip(fronts);
        let pages = |(group, front): (&Group, &u32)| {
            group.most_pages(*front, goal).max(group.pages(*front, end))
        };
        fronts.map(pages).sum()
    }

    /// The most pages that a sequence owns at once which feeds tokens [start, end).
    pub(crate) fn most_pages(&self, start: u32, end: u32) -> u64 {
        let groups = self.groups.iter();
        groups.map(|group| group.most_pages(start, end)).sum()
    }

    /// Pages that new storages need for a copy of what precedes when they begin at one of `starts` after the other.
    pub(crate) fn copied_pages(&self, starts: &(impl Iterator<Item = u32> + Clone)) -> u64 {
        let most = |group: &Group| starts.clone().map(|start| group.pages(start, start)).max();
        self.groups.iter().filter_map(most).sum()
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

    /// Bytes of the tokens up to `end` that lie behind each group's front.
    pub(crate) fn token_bytes(&self, fronts: &[u32], end: u32) -> u64 {
        let fronts = self.groups.iter().zip(fronts);
        fronts
            .map(|(group, front)| u64::from(end.saturating_sub(*front)) * group.stride)
            .sum()
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
            if self.most_pages(0, middle as u32) <= pages {
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
    use super::*;

    fn paging(groups: &[(KvKind, u32)]) -> Paging {
        let group = |(kind, stride): &(KvKind, u32)| KvGroup {
            kind: *kind,
            stride_bytes: *stride,
            page_bytes: 4096,
            num_pages: 100,
            slot_tokens: 1000,
            num_slots: 4,
            num_storages: 4,
            max_spans: 3,
        };
        Paging::new(&groups.iter().map(group).collect::<Vec<_>>(), 40)
    }

    fn full(strides: &[u32]) -> Paging {
        let groups = strides.iter().map(|stride| (KvKind::Full, *stride));
        paging(&groups.collect::<Vec<_>>())
    }

    #[test]
    fn a_token_that_straddles_pages_owns_both() {
        let paging = full(&[3072]);
        let pages = [0, 1, 2, 3, 4, 5].map(|tokens| paging.pages(&[0], tokens));
        assert_eq!(pages, [0, 1, 2, 3, 3, 4]);
        assert_eq!(paging.pool_tokens(100), 133);
        assert_eq!(paging.tokens_in(100), 133);
        assert_eq!(paging.tokens_in(1_000_000), 1000);
    }

    #[test]
    fn a_storage_that_begins_in_a_page_owns_it_too() {
        let paging = full(&[1024]);
        assert_eq!(paging.pages(&[4], 4), 0);
        assert_eq!(paging.pages(&[5], 5), 1, "a copy of what precedes");
        assert_eq!((paging.pages(&[5], 8), paging.pages(&[5], 9)), (1, 2));
    }

    #[test]
    fn groups_add_up() {
        let paging = full(&[1024, 4096]);
        assert_eq!(paging.pages(&[0, 0], 4), 1 + 4);
        assert_eq!(
            (paging.whole_tokens(0, 2), paging.whole_tokens(1, 2)),
            (4, 2)
        );
        assert_eq!(paging.tokens_in(10), 8);
    }

    #[test]
    fn a_window_bounds_what_a_sequence_needs_and_not_what_it_has() {
        let paging = paging(&[(KvKind::Full, 1024), (KvKind::Window(4), 4096)]);
        let kept = 4 + 256 + 40;
        assert_eq!(paging.most_pages(0, kept), 75 + 300);
        assert_eq!(paging.most_pages(0, 1000), 250 + u64::from(kept) + 1);
        assert_eq!(paging.pages(&[0, 0], 1000), 250 + 1000);
        assert_eq!(paging.pages(&[0, 900], 1000), 250 + 100);
        assert_eq!(paging.claimed_pages(&[0, 900], 800), 200);
        assert_eq!(
            paging.goal_pages(&[0, 900], 1000, 1000),
            paging.pages(&[0, 900], 1000)
        );
        assert_eq!(paging.token_bytes(&[0, 900], 1000), 1_024_000 + 409_600);
        assert_eq!(paging.tokens_in(200 + 301), 800);
        assert_eq!(paging.windows().collect::<Vec<_>>(), [(1, 4)]);
    }

    #[test]
    fn a_front_moves_in_strides_and_leaves_the_window_and_most_of_its_margin() {
        assert_eq!(Paging::next_front(100, 0, 356), None);
        assert_eq!(Paging::next_front(100, 0, 357), Some(65));
        assert_eq!(Paging::next_front(100, 65, 421), None);
        assert_eq!(Paging::next_front(u32::MAX, 0, u32::MAX), None);
    }
}
