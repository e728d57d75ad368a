//! The simulated KV memory: a real region for each group of layers over one pool. Applies operations as a shard does, and finds
//! wherever a group shows something else than the history of the slot.

use std::sync::Arc;

use _native::region::{Layout, PagePool, Region, RegionError, Row};
use ribbon_core::{GroupOp, KvGroup, KvKind, RibbonOp, Slot};

use super::{memory::Memory, model::History};

struct Group {
    region: Region,
    memory: Memory,
    stride: u64,
    /// Tokens that the next one looks back to.
    window: u32,
}

impl Group {
    fn new(group: &KvGroup, pool: &Arc<PagePool>) -> Self {
        let layout = Layout {
            num_slots: group.num_slots,
            num_storages: group.num_storages,
            slot_tokens: group.slot_tokens,
            stride_bytes: group.stride_bytes,
            page_bytes: u64::from(group.page_bytes),
            max_spans: group.max_spans,
        };
        let layout = layout.checked().expect("sizes that can be");
        let memory = Memory::new(&layout);
        Self {
            region: Region::new(layout, Box::new(memory.clone()), pool.clone())
                .expect("arrays never fail"),
            memory,
            stride: u64::from(group.stride_bytes),
            window: match group.kind {
                KvKind::Full => u32::MAX,
                KvKind::Window(tokens) => tokens,
            },
        }
    }

    fn place(&self, slot: Slot, token: u32) -> u64 {
        self.region.layout().range_start(slot.0) + u64::from(token) * self.stride
    }

    fn read(&self, slot: Slot, token: u32) -> u64 {
        self.memory.read(self.place(slot, token), self.stride)
    }
}

pub(crate) struct Groups {
    groups: Vec<Group>,
    pub(crate) pool: Arc<PagePool>,
}

impl Groups {
    pub(crate) fn new(groups: &[KvGroup]) -> Self {
        let pool = Arc::new(PagePool::new(groups[0].num_pages));
        Self {
            groups: groups
                .iter()
                .map(|group| Group::new(group, &pool))
                .collect(),
            pool,
        }
    }

    /// Physical pages behind all slots and storages, which the regions' own account must equal.
    pub(crate) fn pages(&self) -> u64 {
        let pages = |group: &Group| {
            assert_eq!(group.memory.resident(), group.region.pages_used());
            group.region.pages_used()
        };
        self.groups.iter().map(pages).sum()
    }

    /// Applies what a plan gives up in all groups, then the rest of it, one group after the other.
    pub(crate) fn apply(&mut self, ops: &[GroupOp]) -> Result<(), RegionError> {
        let opened = |slot| {
            let opens =
                |op: &GroupOp| matches!(op.op, RibbonOp::Open { slot: other, .. } if other == slot);
            ops.iter().any(opens)
        };
        let gives_up = |op: &GroupOp| match op.op {
            RibbonOp::Close { .. } | RibbonOp::Truncate { .. } | RibbonOp::Drop { .. } => true,
            RibbonOp::TrimFront { slot, .. } => !opened(slot),
            _ => false,
        };
        let is_alone = self.groups.len() == 1;
        let mut result = Ok(());
        for part in [true, false] {
            for (number, group) in self.groups.iter_mut().enumerate() {
                let rows = ops.iter().enumerate().filter(|(_, op)| {
                    let in_part = if is_alone { part } else { gives_up(op) == part };
                    in_part && usize::from(op.group) == number
                });
                let rows: Vec<Row> = rows.map(|(index, op)| row(index, &op.op)).collect();
                result = result.and(group.region.apply_plan(rows.into_iter(), |_, _| {}));
            }
        }
        result
    }

    /// Tokens that the slot may hold now in every group.
    pub(crate) fn shown(&self, slot: Slot) -> u32 {
        let shown = |group: &Group| group.region.book().shown_tokens(slot.0).unwrap_or(0);
        self.groups.iter().map(shown).min().unwrap_or(0)
    }

    pub(crate) fn is_void(&self, slot: Slot) -> bool {
        let mut groups = self.groups.iter();
        groups.any(|group| group.region.book().is_void(slot.0))
    }

    pub(crate) fn write(&self, slot: Slot, token: u32, value: u64) {
        for group in &self.groups {
            let at = group.place(slot, token);
            group.memory.write(at, group.stride, value);
        }
    }

    /// The history up to the last of `fed` tokens, as memory has it. The last token that a window reaches is there too.
    pub(crate) fn last(&self, slot: Slot, fed: u32) -> History {
        let Some(last) = fed.checked_sub(1) else {
            return History::default();
        };
        for group in self.groups.iter().filter(|group| group.window < fed) {
            group.read(slot, fed - group.window);
        }
        let found: Vec<u64> = self
            .groups
            .iter()
            .map(|group| group.read(slot, last))
            .collect();
        assert!(
            found.iter().all(|word| *word == found[0]),
            "groups differ in token {last} of {slot:?}"
        );
        History(found[0])
    }

    /// Everything that a slot shows of its `fed` tokens, as far as windows reach, is what its history says.
    pub(crate) fn check(&self, slot: Slot, tokens: &[u32], fed: u32) {
        let mut history = History::default();
        for (token, id) in (0..fed).zip(tokens) {
            history.push(*id);
            for group in &self.groups {
                if token >= fed.saturating_sub(group.window) {
                    let found = group.read(slot, token);
                    assert_eq!(
                        found, history.0,
                        "token {token} of {slot:?} is somebody else's"
                    );
                }
            }
        }
    }
}

fn row(index: usize, op: &RibbonOp) -> Row {
    let (kind, slot, storage, tokens) = match *op {
        RibbonOp::Open {
            slot,
            storage,
            tokens,
        } => (1, slot.0, storage.0, tokens),
        RibbonOp::Share { slot, storage, end } => (2, slot.0, storage.0, end),
        RibbonOp::Grow { slot, end } => (3, slot.0, 0, end),
        RibbonOp::TrimFront { slot, begin } => (4, slot.0, 0, begin),
        RibbonOp::Close { slot, keep } => (5, slot.0, 0, u32::from(keep)),
        RibbonOp::Truncate { storage, end } => (6, 0, storage.0, end),
        RibbonOp::Drop { storage } => (7, 0, storage.0, 0),
    };
    Row {
        index,
        kind,
        slot,
        storage,
        tokens,
    }
}
