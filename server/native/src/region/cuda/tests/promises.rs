//! One test for each promise of the device's memory.

use super::*;

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
fn pages_cut_off_within_reach_of_a_tile_wait_for_kernels() {
    let options = Options {
        stride_bytes: 4096,
        tail_pages: 1,
        ..PLAIN
    };
    let mut bench = Bench::new(options, fake(|_| {}));
    bench.all(&[open(1, 1), grow(1, 60)]);
    bench.all(&[Operation::Truncate {
        storage: 1,
        end: 50,
    }]);
    bench.launch();
    // 90 pages are fresh, the 10 cut off are parked, one of them where the kernel may read.
    bench.all(&[open(2, 2), grow(2, 60), open(3, 3), grow(3, 40)]);
    assert_eq!(bench.statistic("stolen_pages"), 10);
    assert_eq!(bench.statistic("fence_waits"), 1);
    bench.launch();
    bench.finish();
}

#[test]
fn copies_that_a_window_has_passed_are_idle_again() {
    let options = Options {
        stride_bytes: 4096,
        copy_below_pages: 20,
        ..PLAIN
    };
    let mut bench = Bench::new(options, fake(|_| {}));
    bench.all(&[open(1, 1), grow(1, 40), open(2, 2), share(2, 1, 19)]);
    bench.all(&[grow(2, 60)]);
    assert_eq!(bench.statistic("idle_pages"), POOL - 81 - 19);
    bench.all(&[Operation::TrimFront { slot: 2, begin: 19 }]);
    assert_eq!(bench.statistic("idle_pages"), POOL - 81);
    bench.finish();
}

#[test]
fn a_growth_has_the_next_pages_mapped_ahead() {
    let options = Options {
        stride_bytes: 4096,
        ahead_pages: 2,
        ..PLAIN
    };
    let mut bench = Bench::new(options, fake(|_| {}));
    bench.all(&[open(1, 1), grow(1, 10)]);
    bench.settle();
    for end in 11..=TOKENS {
        bench.all(&[grow(1, end)]);
        bench.settle();
    }
    // The slot's last page has none behind it.
    assert_eq!(bench.statistic("prefetched_pages"), 50);
    assert_eq!(bench.statistic("late_waits"), 1);
    bench.finish();
}
