//! The memfd's property test over a device, with kernels in flight, pages mapped ahead and a driver that fails.

use proptest::prelude::*;

use super::*;
use crate::region::tests::{Act, act};

#[derive(Clone, Debug)]
enum Event {
    Do(Act),
    Launch,
    EndKernel,
    Prefetch(u32, u32, u32),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => act().prop_map(Event::Do),
        2 => Just(Event::Launch),
        1 => Just(Event::EndKernel),
        1 => (1..SLOTS, 0..TOKENS, 0..TOKENS).prop_map(|(slot, begin, more)| Event::Prefetch(slot, begin, begin + more)),
    ]
}

fn options() -> impl Strategy<Value = Options> {
    let stride = prop::sample::select(vec![64u32, 192, 3072, 4096, 5056, 12_288]);
    let copied = prop::sample::select(vec![0_u64, 2, 1000]);
    (stride, 1..4_u64, 0..3_u64, copied, 0..3_u64).prop_map(
        |(stride_bytes, num_bands, tail_pages, copy_below_pages, ahead_pages)| Options {
            stride_bytes,
            num_bands,
            tail_pages,
            copy_below_pages,
            ahead_pages,
        },
    )
}

/// Returns whether the driver failed.
fn play(bench: &mut Bench, event: Event) -> bool {
    match event {
        Event::Do(act) => {
            let refused = bench.model.act(act);
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
