//! The device's memory over the fake driver: the memfd's property test with kernels in flight, and one test for each promise.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::bench::bench_map;
use super::driver::Driver;
use super::fake_driver::{Device, FakeDriver};
use super::{Geometry, Memory};
use crate::region::tests::{Model, POOL, SLOTS, SPANS, STORAGES, TOKENS, operation};
use crate::region::{Access, Layout, Operation, PagePool, Region};

const PAGE: u64 = 4096;
/// Long enough for any machine; reached only when something is wrong.
const DEADLINE: Duration = Duration::from_secs(60);

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
}

const PLAIN: Options = Options {
    stride_bytes: 3072,
    num_bands: 1,
    tail_pages: 0,
    copy_below_pages: 0,
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
            let settled = book.slot(slot).is_ok_and(|open| open.settled);
            if shown == 0 || !settled {
                continue;
            }
            let end = (layout.page_ceil(shown) * PAGE + self.tail_bytes).min(layout.slot_bytes());
            let address = region.address() as u64 + layout.range_start(slot);
            let bands = 0..self.memory.geometry().num_bands;
            ranges.extend(bands.map(|band| (address + band * band_bytes, end)));
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

#[derive(Clone, Debug)]
enum Event {
    Do(Operation),
    Launch,
    EndKernel,
    Prefetch(u32, u32, u32),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => operation().prop_map(Event::Do),
        2 => Just(Event::Launch),
        1 => Just(Event::EndKernel),
        1 => (1..SLOTS, 0..TOKENS, 0..TOKENS).prop_map(|(slot, begin, more)| Event::Prefetch(slot, begin, begin + more)),
    ]
}

fn options() -> impl Strategy<Value = Options> {
    let stride = prop::sample::select(vec![64u32, 192, 3072, 4096, 5056, 12_288]);
    (
        stride,
        1..4_u64,
        0..3_u64,
        prop::sample::select(vec![0_u64, 2, 1000]),
    )
        .prop_map(
            |(stride_bytes, num_bands, tail_pages, copy_below_pages)| Options {
                stride_bytes,
                num_bands,
                tail_pages,
                copy_below_pages,
            },
        )
}

/// Returns whether the driver failed.
fn play(bench: &mut Bench, event: Event) -> bool {
    match event {
        Event::Do(operation) => {
            let refused = bench.model.apply(operation);
            return refused.is_err_and(|error| error.is_fatal());
        }
        Event::Launch => bench.launch(),
        Event::EndKernel => bench.driver.end_one_kernel(),
        Event::Prefetch(slot, begin, end) => bench.prefetch(slot, begin, end),
    }
    false
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// As the memfd: what was written is shown and counted. And no rule of the driver is broken, whatever runs meanwhile.
    #[test]
    fn a_device_behaves_like_plain_memory(
        options in options(),
        read_only in any::<bool>(),
        events in prop::collection::vec(event(), 1..120),
    ) {
        let mut bench = Bench::new(options, fake(|device| device.read_only = read_only));
        for event in events {
            prop_assert!(!play(&mut bench, event), "the driver failed");
            bench.model.check();
            prop_assert_eq!(bench.driver.violations(), Vec::<String>::new());
        }
        bench.model.reset();
        prop_assert_eq!(bench.model.region.resident_bytes().unwrap(), 0);
        bench.finish();
    }

    /// A driver that fails now and then loses no page and leaves no wrong byte; after a reset all is well.
    #[test]
    fn a_failing_driver_loses_nothing(
        options in options(),
        events in prop::collection::vec((event(), 0..30_u64), 1..120),
    ) {
        let mut bench = Bench::new(options, fake(|_| {}));
        for (event, failing) in events {
            bench.driver.fail_in((failing < 6).then_some(failing));
            if play(&mut bench, event) {
                bench.driver.fail_in(None);
                bench.model.reset();
            }
            bench.model.check();
            prop_assert_eq!(bench.driver.violations(), Vec::<String>::new());
        }
        bench.driver.fail_in(None);
        bench.model.reset();
        bench.settle();
        prop_assert_eq!(bench.statistic("idle_pages"), POOL);
        bench.finish();
    }
}

const fn open(slot: u32, storage: u32) -> Operation {
    Operation::Open {
        slot,
        storage,
        tokens: 0,
    }
}

const fn grow(slot: u32, end: u32) -> Operation {
    Operation::Grow { slot, end }
}

const fn share(slot: u32, storage: u32, end: u32) -> Operation {
    Operation::Share { slot, storage, end }
}

const fn close(slot: u32, keep: bool) -> Operation {
    Operation::Close { slot, keep }
}

#[test]
fn the_next_request_inherits_pages_without_a_driver_call() {
    let mut bench = Bench::plain();
    bench.all(&[open(1, 1), grow(1, 40), close(1, false)]);
    let calls = |bench: &Bench| {
        ["map_calls", "unmap_calls", "set_access_calls"].map(|name| bench.statistic(name))
    };
    let before = calls(&bench);
    assert_eq!(bench.statistic("parked_pages"), 30);
    bench.all(&[open(1, 2), grow(1, 40)]);
    assert_eq!(calls(&bench), before);
    assert_eq!(bench.statistic("inherited_pages"), 30);
    assert_eq!(bench.statistic("parked_pages"), 0);
    bench.finish();
}

#[test]
fn another_slot_takes_parked_pages_only_behind_the_fence() {
    let mut bench = Bench::new(
        Options {
            stride_bytes: 12_288,
            ..PLAIN
        },
        fake(|_| {}),
    );
    bench.all(&[open(1, 1), grow(1, 50)]);
    bench.launch();
    bench.all(&[close(1, false), open(2, 2)]);
    assert_eq!(bench.driver.num_kernels(), 1);
    assert_eq!(bench.statistic("fence_waits"), 0);
    bench.all(&[grow(2, 1)]);
    // All 150 pages were the first slot's, so three were stolen, once its kernel had ended.
    assert_eq!(bench.driver.num_kernels(), 0);
    assert_eq!(
        (
            bench.statistic("stolen_pages"),
            bench.statistic("fence_waits")
        ),
        (3, 1)
    );
    bench.finish();
}

#[test]
fn growth_into_new_pages_never_waits_for_running_kernels() {
    let mut bench = Bench::plain();
    bench.all(&[open(1, 1), grow(1, 10)]);
    bench.launch();
    bench.all(&[grow(1, 40), open(2, 2), share(2, 1, 9), grow(2, 30)]);
    assert_eq!(
        (bench.driver.num_kernels(), bench.statistic("fence_waits")),
        (1, 0)
    );
    bench.finish();
}

#[test]
fn a_run_of_pages_gets_access_in_one_call_a_band() {
    let mut bench = Bench::new(
        Options {
            num_bands: 3,
            ..PLAIN
        },
        fake(|_| {}),
    );
    let before = bench.statistic("set_access_calls");
    bench.all(&[open(1, 1), grow(1, 40)]);
    assert_eq!(bench.statistic("set_access_calls") - before, 3);
    // Slot 0's page, and 30 in each band.
    assert_eq!(bench.statistic("map_calls"), 3 * 31);
    bench.finish();
}

#[test]
fn pages_mapped_ahead_make_no_growth_late() {
    let mut bench = Bench::plain();
    bench.all(&[open(1, 1), grow(1, 10)]);
    assert_eq!(bench.statistic("late_waits"), 1);
    bench.prefetch(1, 10, 40);
    bench.settle();
    assert_eq!(bench.statistic("prefetched_pages"), 22);
    bench.all(&[grow(1, 40)]);
    assert_eq!(bench.statistic("late_waits"), 1);
    assert_eq!(bench.statistic("inherited_pages"), 22);
    bench.finish();
}

#[test]
fn what_lies_behind_a_ribbon_reads_as_finite_numbers() {
    let mut bench = Bench::new(
        Options {
            tail_pages: 2,
            ..PLAIN
        },
        fake(|_| {}),
    );
    bench.all(&[open(1, 1), grow(1, 8)]);
    bench.launch();
    let layout = *bench.model.region.layout();
    let behind = bench.model.region.address() as u64 + layout.slot_bytes() + 6 * PAGE;
    let mut seen = [1; 2 * PAGE as usize];
    bench.driver.push().unwrap();
    bench.driver.read(behind, &mut seen).unwrap();
    assert!(seen.iter().all(|byte| *byte == 0));
    assert!(
        bench.driver.write(behind, &[1]).is_err(),
        "the zero page is read-only"
    );
    assert!(bench.driver.read(behind + 2 * PAGE, &mut [0]).is_err());
    bench.driver.pop();
    bench.finish();
}

#[test]
fn shared_pages_are_read_only() {
    let mut bench = Bench::plain();
    bench.all(&[
        open(1, 1),
        grow(1, 40),
        open(2, 2),
        share(2, 1, 33),
        grow(2, 45),
    ]);
    let layout = *bench.model.region.layout();
    let second = bench.model.region.address() as u64 + layout.range_start(2);
    let own = second + layout.page_floor(33) * PAGE;
    bench.driver.push().unwrap();
    assert!(bench.driver.write(second, &[1]).is_err());
    bench.driver.write(own, &[1]).unwrap();
    bench.driver.pop();
}

#[test]
fn short_prefixes_are_copied_until_pages_run_out() {
    let options = Options {
        stride_bytes: 4096,
        copy_below_pages: 20,
        ..PLAIN
    };
    let mut bench = Bench::new(options, fake(|_| {}));
    bench.all(&[
        open(1, 1),
        grow(1, 40),
        open(2, 2),
        share(2, 1, 19),
        grow(2, 20),
    ]);
    assert_eq!(bench.statistic("copied_pages"), 19);
    bench.all(&[open(3, 3), share(3, 1, 20), grow(3, 21)]);
    assert_eq!(bench.statistic("copied_pages"), 19);
    bench.launch();
    // 150 pages: 42 are owned, 19 copies; the pool promises 108, so the copies give way.
    bench.all(&[grow(2, 60), grow(3, 60), open(4, 4), grow(4, 29)]);
    assert_eq!(bench.statistic("idle_pages"), 0);
    bench.finish();
}

#[test]
fn a_device_that_aliases_wrongly_shares_nothing() {
    let mut bench = Bench::new(PLAIN, fake(|device| device.aliasing = false));
    assert!(!bench.memory.aliasing());
    bench.all(&[open(1, 1), grow(1, 40), open(2, 2)]);
    let refused = bench.model.apply(share(2, 1, 33)).unwrap_err();
    assert!(refused.to_string().contains("two addresses"), "{refused}");
    bench.all(&[grow(2, 45), close(1, true), close(2, false)]);
    bench.finish();

    let geometry = geometry(
        &layout(3072),
        Options {
            tail_pages: 1,
            ..PLAIN
        },
    );
    let refused = Memory::new(fake(|device| device.aliasing = false), geometry)
        .err()
        .unwrap();
    assert!(refused.to_string().contains("tail_tokens"), "{refused}");
}

#[test]
fn sizes_that_a_device_cannot_have_are_named() {
    let good = geometry(&layout(3072), PLAIN);
    let refusal = |geometry: Geometry, device: Arc<FakeDriver>| {
        let message = Memory::new(Arc::clone(&device) as Arc<dyn Driver>, geometry)
            .err()
            .unwrap()
            .to_string();
        assert_eq!(
            (device.violations(), device.alive()),
            (Vec::new(), [0, 0, 0, 0])
        );
        message
    };
    let odd = Geometry {
        page_bytes: PAGE + 64,
        ..good
    };
    assert!(
        refusal(odd, fake(|_| {})).contains("page_bytes is 4160; it must be a positive multiple")
    );
    let none = Geometry {
        num_bands: 0,
        ..good
    };
    assert!(refusal(none, fake(|_| {})).contains("num_bands"));
    let huge = Geometry {
        slot_pages: 1 << 60,
        ..good
    };
    assert!(refusal(huge, fake(|_| {})).contains("address space"));
    let poor = fake(|device| device.total_bytes = 100 * PAGE);
    let message = refusal(good, poor);
    assert!(
        message.contains("page 100 of 151") && message.contains("--kv-memory"),
        "{message}"
    );
}

#[test]
fn every_call_is_measured_and_all_memory_comes_back() {
    let driver = fake(|_| {});
    let rows = bench_map(&(Arc::clone(&driver) as Arc<dyn Driver>), 2 * PAGE, 8).unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row.0).collect();
    let expected = "create map set_access_run set_access zero_page copy_page alias_map alias_set_access_run alias_unmap unmap release";
    assert_eq!(names.join(" "), expected);
    assert!(rows.iter().all(|row| row.1 > 0.0));
    for calls in 0..30 {
        driver.fail_in(Some(calls));
        let _ = bench_map(&(Arc::clone(&driver) as Arc<dyn Driver>), PAGE, 8);
    }
    assert_eq!(
        (driver.violations(), driver.alive()),
        (Vec::new(), [0, 0, 0, 0])
    );
    let refused = bench_map(&(driver as Arc<dyn Driver>), PAGE + 1, 8).unwrap_err();
    assert!(refused.to_string().contains("page_bytes is 4097"));
}

#[test]
fn a_machine_without_the_driver_is_told_what_is_missing() {
    // With a driver, no machine has so many devices.
    let refused = super::library::Library::open(u32::MAX)
        .err()
        .unwrap()
        .to_string();
    let named = refused.contains("libcuda.so.1") || refused.contains("device is 4294967295");
    assert!(named || refused.contains("cuInit"), "{refused}");
}

/// The fake driver must see what the real one would punish.
#[test]
fn the_fake_driver_refuses_what_breaks_a_rule() {
    let driver = fake(|_| {});
    assert!(driver.create(PAGE).is_err(), "no context");
    driver.push().unwrap();
    let (range, page) = (
        driver.reserve(4 * PAGE, PAGE).unwrap(),
        driver.create(2 * PAGE).unwrap(),
    );
    assert!(driver.create(PAGE + 1).is_err(), "granularity");
    assert!(driver.map(range + 64, 2 * PAGE, page).is_err(), "alignment");
    assert!(driver.map(range, PAGE, page).is_err(), "part of a handle");
    assert!(
        driver.map(range + 3 * PAGE, 2 * PAGE, page).is_err(),
        "outside"
    );
    driver.map(range, 2 * PAGE, page).unwrap();
    assert!(
        driver.map(range + PAGE, 2 * PAGE, page).is_err(),
        "mapped already"
    );
    assert!(driver.zero(range, PAGE, 0).is_err(), "no access");
    assert!(
        driver.set_access(range, PAGE, Access::ReadWrite).is_err(),
        "part of a mapping"
    );
    assert!(
        driver
            .set_access(range, 4 * PAGE, Access::ReadWrite)
            .is_err(),
        "unmapped"
    );
    driver
        .set_access(range, 2 * PAGE, Access::ReadOnly)
        .unwrap();
    assert!(driver.zero(range, PAGE, 0).is_err(), "read-only");
    driver.launch(3, vec![(range + PAGE, 8)]);
    assert!(driver.unmap(range, 2 * PAGE).is_err(), "a kernel runs");
    let event = driver.create_event().unwrap();
    driver.record(event, 4).unwrap();
    assert!(driver.is_done(event).unwrap(), "another stream");
    driver.record(event, 3).unwrap();
    assert!(!driver.is_done(event).unwrap());
    driver.wait(event).unwrap();
    assert!(driver.unmap(range, PAGE).is_err(), "part of a mapping");
    assert!(driver.release(page).is_err(), "still mapped");
    assert!(driver.free(range, 4 * PAGE).is_err(), "still mapped");
    driver.unmap(range, 2 * PAGE).unwrap();
    driver.release(page).unwrap();
    assert!(driver.map(range, 2 * PAGE, page).is_err(), "released");
    driver.free(range, 4 * PAGE).unwrap();
    driver.pop();
    assert_eq!(driver.violations().len(), 15);
}
