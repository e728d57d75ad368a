//! The device's memory over the fake driver: a bench that the tests share.

use std::sync::Arc;
use std::time::Duration;

use super::driver::Driver;
use super::fake_driver::{Device, FakeDriver};
use super::{Geometry, Memory};
use crate::region::tests::{Model, POOL, SLOTS, SPANS, STORAGES, TOKENS};
use crate::region::{Layout, Operation, PagePool, Region};

mod devices;
mod promises;
mod random;

const PAGE: u64 = 4096;
/// Long enough for any machine; reached only when something is wrong.
const DEADLINE: Duration = Duration::from_mins(1);

fn fake(change: impl FnOnce(&mut Device)) -> Arc<FakeDriver> {
    let mut device = Device {
        granularity: PAGE,
        ..Device::SIMULATED
    };
    change(&mut device);
    Arc::new(FakeDriver::new(device).unwrap())
}

/// A region over a fake device, and both ends of it.
struct Bench {
    model: Model,
    memory: Arc<Memory>,
    driver: Arc<FakeDriver>,
    tail_bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Options {
    stride_bytes: u32,
    num_bands: u64,
    tail_pages: u64,
    copy_below_pages: u64,
    ahead_pages: u64,
}

const PLAIN: Options = Options {
    stride_bytes: 3072,
    num_bands: 1,
    tail_pages: 0,
    copy_below_pages: 0,
    ahead_pages: 0,
};

fn layout(stride_bytes: u32) -> Layout {
    let layout = Layout {
        num_slots: SLOTS,
        num_storages: STORAGES,
        slot_tokens: TOKENS,
        stride_bytes,
        page_bytes: PAGE,
        max_spans: SPANS,
    };
    layout.checked().unwrap()
}

fn geometry(layout: &Layout, options: Options) -> Geometry {
    Geometry {
        num_slots: u64::from(SLOTS),
        slot_pages: layout.slot_bytes() / PAGE,
        num_pages: POOL,
        page_bytes: PAGE,
        num_bands: options.num_bands,
        tail_pages: options.tail_pages,
        copy_below_pages: options.copy_below_pages,
        ahead_pages: options.ahead_pages,
    }
}

impl Bench {
    fn new(options: Options, driver: Arc<FakeDriver>) -> Self {
        let layout = layout(options.stride_bytes);
        let geometry = geometry(&layout, options);
        let memory =
            Arc::new(Memory::new(Arc::clone(&driver) as Arc<dyn Driver>, geometry).unwrap());
        let band_bytes = geometry.band_pages() * PAGE;
        let bands = (0..options.num_bands)
            .map(|band| band * band_bytes)
            .collect();
        let pool = Arc::new(PagePool::new(POOL));
        let region = Region::new(layout, Box::new(Arc::clone(&memory)), pool).unwrap();
        Self {
            model: Model::over(region, bands),
            memory,
            driver,
            tail_bytes: options.tail_pages * PAGE,
        }
    }

    fn plain() -> Self {
        Self::new(PLAIN, fake(|_| {}))
    }

    fn all(&mut self, operations: &[Operation]) {
        for operation in operations {
            self.model.apply(*operation).unwrap();
            self.model.check();
        }
        assert_eq!(self.driver.violations(), Vec::<String>::new());
    }

    /// Launches a kernel that reads everything the open slots show, and as far behind as tiles reach.
    fn launch(&self) {
        let region = &self.model.region;
        let (layout, book) = (region.layout(), region.book());
        let band_bytes = u64::from(SLOTS) * layout.slot_bytes();
        let mut ranges = Vec::new();
        for slot in 1..SLOTS {
            let shown = book.shown_tokens(slot).unwrap_or(0);
            let Ok(open) = book.slot(slot) else {
                continue;
            };
            // A step feeds each of its slots a token of its own, behind whatever it shares.
            if shown <= open.begin || !open.settled || shown <= open.shared_end() {
                continue;
            }
            let begin = layout.page_floor(open.begin) * PAGE;
            let end = (layout.page_ceil(shown) * PAGE + self.tail_bytes).min(layout.slot_bytes());
            let address = region.address() as u64 + layout.range_start(slot) + begin;
            let bands = 0..self.memory.geometry().num_bands;
            ranges.extend(bands.map(|band| (address + band * band_bytes, end - begin)));
        }
        self.driver.launch(7, ranges);
        self.memory.fence(7).unwrap();
    }

    fn prefetch(&self, slot: u32, begin: u32, end: u32) {
        let layout = self.model.region.layout();
        let (first, last) = (layout.page_floor(begin), layout.page_ceil(end.min(TOKENS)));
        if last > first {
            let at = layout.range_start(slot) + first * PAGE;
            self.memory.prefetch(at, (last - first) * PAGE);
        }
    }

    /// The mapping thread has nothing left to do.
    fn settle(&self) {
        while self.driver.num_kernels() > 0 {
            self.driver.end_one_kernel();
        }
        assert!(self.memory.settle(DEADLINE), "the mapping thread hangs");
    }

    fn statistic(&self, name: &str) -> u64 {
        let rows = self.memory.statistics();
        rows.iter().find(|row| row.0 == name).unwrap().1
    }

    /// Everything that the driver handed out has come back, and no rule was broken.
    fn finish(self) {
        let driver = Arc::clone(&self.driver);
        drop(self);
        assert_eq!(driver.violations(), Vec::<String>::new());
        assert_eq!(driver.alive(), [0, 0, 0, 0]);
    }
}
