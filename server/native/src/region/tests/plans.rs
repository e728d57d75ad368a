//! Lists of operations, failing memory and the bound on spans.

use std::io;

use super::super::{Access, Backend, Row};
use super::*;

/// A memfd that refuses to populate.
struct Failing(Memfd);

impl Backend for Failing {
    fn address(&self) -> usize {
        self.0.address()
    }
    fn map(&self, at: u64, from: u64, bytes: u64, access: Access) -> io::Result<()> {
        self.0.map(at, from, bytes, access)
    }
    fn unmap(&self, at: u64, bytes: u64) -> io::Result<()> {
        self.0.unmap(at, bytes)
    }
    fn populate(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::ENOMEM))
    }
    fn copy(&self, from: u64, to: u64, bytes: u64) -> io::Result<()> {
        self.0.copy(from, to, bytes)
    }
    fn release(&self, at: u64, bytes: u64) -> io::Result<()> {
        self.0.release(at, bytes)
    }
    fn resident_bytes(&self) -> io::Result<u64> {
        self.0.resident_bytes()
    }
    fn max_maps(&self) -> usize {
        self.0.max_maps()
    }
}

#[test]
fn a_failed_memory_call_leaves_nothing_but_a_reset() {
    let layout = *region(3072).layout();
    let memory = Memfd::new(layout.range_start(SLOTS), layout.range_start(STORAGES)).unwrap();
    let pool = Arc::new(PagePool::new(POOL));
    let mut region = Region::new(layout, Box::new(Failing(memory)), pool).unwrap();
    let open = Operation::Open {
        slot: 1,
        storage: 1,
        tokens: 0,
    };
    region.apply(open).unwrap();
    let refused = region.apply(Operation::Grow { slot: 1, end: 5 });
    assert!(matches!(refused, Err(RegionError::Kernel { .. })));
    let behind = region.apply(Operation::Close {
        slot: 1,
        keep: false,
    });
    assert!(matches!(behind, Err(RegionError::Broken)));
    region.reset().unwrap();
    region.apply(open).unwrap();
}

fn row(index: usize, kind: u8, slot: u32, storage: u32, tokens: u32) -> Row {
    Row {
        index,
        kind,
        slot,
        storage,
        tokens,
    }
}

#[test]
fn a_refused_row_voids_its_slot_and_spares_the_rest() {
    let mut region = region(4096);
    let rows = [
        row(0, 1, 1, 1, 0),
        row(1, 3, 1, 0, 61),
        row(2, 3, 1, 0, 10),
        row(3, 1, 2, 2, 0),
        row(4, 3, 2, 0, 10),
        row(5, 9, 3, 0, 0),
    ];
    let refused = region.apply_plan(rows.into_iter(), |_, _| ()).unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("operation 1 (grow): token 61")
    );
    let book = region.book();
    assert_eq!(
        [1, 2, 3].map(|slot| book.is_void(slot)),
        [true, false, true]
    );
    assert_eq!(
        (book.shown_tokens(1).unwrap(), region.pages_used()),
        (0, 10)
    );
    let closes = [row(0, 5, 1, 0, 0), row(1, 5, 3, 0, 0), row(2, 1, 1, 1, 0)];
    region.apply_plan(closes.into_iter(), |_, _| ()).unwrap();
    assert_eq!(region.book().shown_tokens(1).unwrap(), 0);
}

#[test]
fn a_void_slot_still_gives_up_its_front() {
    let mut region = region(4096);
    let rows = [
        row(0, 1, 1, 1, 0),
        row(1, 3, 1, 0, 30),
        row(2, 3, 1, 0, 61),
        row(3, 4, 1, 0, 20),
        row(4, 4, 1, 0, 40),
        row(5, 1, 2, 9, 0),
        row(6, 4, 2, 0, 5),
    ];
    let refused = region.apply_plan(rows.into_iter(), |_, _| ()).unwrap_err();
    assert!(refused.to_string().starts_with("operation 2 (grow)"));
    assert_eq!(
        region.pages_used(),
        10,
        "the front up to 20 is gone, no more"
    );
    assert!(region.book().is_void(1) && region.book().is_void(2));
    let close = [row(0, 5, 1, 0, 1), row(1, 6, 0, 1, 25)];
    region.apply_plan(close.into_iter(), |_, _| ()).unwrap();
    assert_eq!(region.pages_used(), 5);
}

#[test]
fn a_slot_shows_no_more_spans_than_there_are_maps_for() {
    let mut model = Model::new(4096);
    let mut operations = Vec::new();
    for storage in 1..=SPANS + 1 {
        let slot = 1;
        operations.push(Operation::Open {
            slot,
            storage,
            tokens: 0,
        });
        operations.extend((1..storage).map(|owner| Operation::Share {
            slot,
            storage: owner,
            end: owner * 5,
        }));
        let end = storage * 5;
        operations.push(Operation::Grow { slot, end });
        operations.push(Operation::Close { slot, keep: true });
    }
    all(&mut model, &operations);
    let (slot, storage, tokens) = (2, SPANS + 2, 0);
    all(
        &mut model,
        &[Operation::Open {
            slot,
            storage,
            tokens,
        }],
    );
    let share = |owner| Operation::Share {
        slot,
        storage: owner,
        end: owner * 5,
    };
    all(&mut model, &(1..=SPANS).map(share).collect::<Vec<_>>());
    let refused = model.apply(share(SPANS + 1)).unwrap_err();
    assert!(refused.to_string().contains("shows 3 spans"));
}

#[test]
fn slots_that_could_need_more_maps_than_there_are_are_refused() {
    let layout = Layout {
        max_spans: 1 << 20,
        ..*region(64).layout()
    };
    let message = layout.check_maps(50_000).unwrap_err().to_string();
    assert!(message.contains("5 slots that show 1048576 spans"));
    assert!(layout.check_maps(1 << 23).is_ok());
}
