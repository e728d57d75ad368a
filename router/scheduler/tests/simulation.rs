//! Drives the scheduler with a simulated shard, clock and clients: random arrivals with prefixes in
//! common, groups, deadlines, cancels, failed steps, losses, pages that run out.
//! After every step the invariants hold, and every client gets exactly its tokens.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::expect_used,
    reason = "a test"
)]

#[path = "simulation/clients.rs"]
mod clients;
#[path = "simulation/groups.rs"]
mod groups;
#[path = "simulation/memory.rs"]
mod memory;
#[path = "simulation/model.rs"]
mod model;
#[path = "simulation/shard.rs"]
mod shard;
#[path = "simulation/world.rs"]
mod world;

use ribbon_core::{
    KvKind::{self, Full, Window},
    PromptRuns,
};
use world::{Chances, Setup, World};

const PEACE: Chances = Chances {
    arrival: 120,
    cancel: 20,
    hurried: 0,
    giant: 0,
    no_pages: 0,
    resize: 0,
    poison: 0,
    failed_step: 0,
    loss: 0,
    hang: 0,
    long_outage: 0,
};
const TROUBLE: Chances = Chances {
    hurried: 50,
    no_pages: 4,
    resize: 4,
    poison: 8,
    failed_step: 4,
    loss: 2,
    hang: 1,
    long_outage: 50,
    ..PEACE
};
const NOTHING: Chances = Chances {
    arrival: 0,
    cancel: 0,
    ..PEACE
};

/// Runs a world to its end and says what happened.
fn live(setup: Setup, steps: u64) -> World {
    let mut world = World::new(setup);
    world.run(steps);
    world.drain();
    let totals = world.usage().totals;
    eprintln!(
        "{setup:?}: {:?}, {totals:?}, {} losses, {} failed and {} short steps, pages agreed {} times",
        world.clients.tally, world.losses, world.failed_steps, world.short_steps, world.compared
    );
    world
}

#[test]
fn everything_holds_through_a_hundred_thousand_steps_of_trouble() {
    let (mut given_up, mut timed_out, mut expired, mut preempted) = (0, 0, 0, 0);
    for (seed, pipeline_depth, pages, prefix_caching) in [
        (1, 2, 1_000, true),
        (2, 2, 400, true),
        (3, 1, 400, true),
        (4, 3, 300, true),
        (5, 2, 400, false),
    ] {
        let setup = Setup {
            seed,
            pipeline_depth,
            pages,
            prefix_caching,
            chances: TROUBLE,
            ..Setup::default()
        };
        let world = live(setup, 20_000);
        let (tally, totals) = (&world.clients.tally, world.usage().totals);
        assert!(tally.finished > 1_000 && tally.cancelled > 100, "{tally:?}");
        assert!(tally.read > 10, "prompts without answers: {tally:?}");
        assert!(world.losses > 25 && world.failed_steps > 25 && world.short_steps > 25);
        assert!(totals.hit_tokens > 1_000, "{totals:?}");
        assert!(totals.evictions > 25 || !prefix_caching, "{totals:?}");
        preempted += totals.preemptions;
        assert!(world.compared > 10_000);
        given_up += tally.given_up;
        timed_out += tally.timed_out;
        expired += tally.expired;
    }
    assert!(
        given_up > 10 && timed_out > 0 && expired > 10,
        "poison, long outages and haste did happen"
    );
    assert!(preempted > 25, "pages did run out: {preempted}");
}

/// Groups of layers, and pages for little more than the longest sequence.
const GROUPS: [(&[KvKind], u64); 3] = [
    (&[Window(40)], 600),
    (&[Full, Window(40)], 1_500),
    (&[Window(8), Full, Window(100)], 1_900),
];

/// A world of long sequences whose memory is short.
fn windowed(seed: u64, (kinds, pages): (&'static [KvKind], u64)) -> Setup {
    Setup {
        seed,
        pages,
        kinds,
        longest: 1024,
        pipeline_depth: 1 + seed as usize % 2,
        budget: 128,
        chances: Chances {
            giant: 100,
            ..TROUBLE
        },
        ..Setup::default()
    }
}

#[test]
fn windows_move_on_through_trouble_and_nobody_misses_what_they_leave() {
    let (mut finished, mut trims, mut compared) = (0, 0, 0);
    let (mut hits, mut evictions, mut preemptions) = (0, 0, 0);
    for (seed, groups) in (30..).zip(GROUPS) {
        let world = live(windowed(seed, groups), 3_000);
        let totals = world.usage().totals;
        finished += world.clients.tally.finished;
        trims += world.trims;
        compared += world.compared;
        hits += totals.hit_tokens;
        evictions += totals.evictions;
        preemptions += totals.preemptions;
    }
    assert!(finished > 150 && compared > 3_000);
    assert!(trims > 150, "windows did move on: {trims} times");
    assert!(hits > 1_000 && evictions > 100, "{hits}, {evictions}");
    assert!(preemptions > 0, "pages did run out");
}

#[test]
fn in_peace_nobody_fails_and_nobody_starves() {
    let setup = Setup {
        seed: 5,
        pages: 400,
        chances: PEACE,
        ..Setup::default()
    };
    let world = live(setup, 20_000);
    let tally = &world.clients.tally;
    assert_eq!((tally.given_up, tally.timed_out, world.losses), (0, 0, 0));
    assert!(tally.longest_wait_steps < 1_000, "starved: {tally:?}");
}

#[test]
fn the_longest_requests_get_their_memory_though_short_ones_never_stop_coming() {
    let setup = Setup {
        seed: 12,
        pages: 260,
        chances: Chances {
            arrival: 150,
            giant: 40,
            ..PEACE
        },
        ..Setup::default()
    };
    let world = live(setup, 20_000);
    let tally = &world.clients.tally;
    assert!(tally.giants > 100 && tally.finished > 1_500, "{tally:?}");
    assert!(tally.longest_giant_wait_steps < 2_000, "starved: {tally:?}");
}

#[test]
fn a_thousand_allocation_failures_fail_nobody() {
    let setup = Setup {
        seed: 6,
        pages: 300,
        chances: Chances {
            no_pages: 100,
            ..PEACE
        },
        ..Setup::default()
    };
    let world = live(setup, 40_000);
    let tally = &world.clients.tally;
    assert!(
        world.short_steps > 1_000,
        "{} short steps",
        world.short_steps
    );
    assert_eq!((tally.given_up, tally.timed_out, world.losses), (0, 0, 0));
}

#[test]
fn of_32_streams_with_one_that_kills_the_shard_31_complete() {
    for poison in [model::KILLS_SHARDS, model::FAILS_STEPS] {
        for place in [0, 13, 31] {
            let mut world = World::new(Setup {
                seed: place,
                chances: NOTHING,
                budget: 256,
                pages: 4_000,
                ..Setup::default()
            });
            for client in 0..32 {
                let first = if client == place { poison } else { 10 };
                world.submit(&[clients::plain(client, first)]);
            }
            world.drain();
            let tally = &world.clients.tally;
            eprintln!(
                "poison {poison} at {place}: {} losses, {} failed steps, {} steps",
                world.losses, world.failed_steps, world.step
            );
            assert_eq!((tally.finished, tally.given_up), (31, 1), "{tally:?}");
            assert_eq!(
                world.losses + world.failed_steps,
                3,
                "all, then four, then one"
            );
            assert!(world.step < 200, "{} steps", world.step);
        }
    }
}

/// A world of prompts that are not cut, of which many are longer than a step.
fn whole(seed: u64, pages: u64, chances: Chances) -> Setup {
    Setup {
        seed,
        pages,
        chances,
        budget: 48,
        pipeline_depth: 1 + seed as usize % 2,
        prompt_runs: PromptRuns::Whole { start_token: 1 },
        ..Setup::default()
    }
}

#[test]
fn prompts_are_never_cut_through_trouble_and_nobody_misses_a_token() {
    let (mut losses, mut preempted) = (0, 0);
    for (seed, pages) in [(40, 1_000), (41, 300), (42, 400)] {
        let world = live(whole(seed, pages, TROUBLE), 3_000);
        let (tally, totals) = (&world.clients.tally, world.usage().totals);
        assert!(tally.finished > 150 && world.compared > 1_500, "{tally:?}");
        assert_eq!(
            (totals.hit_tokens, totals.evictions),
            (0, 0),
            "nothing is kept"
        );
        losses += world.losses + world.failed_steps + world.short_steps;
        preempted += totals.preemptions;
    }
    assert!(losses > 25 && preempted > 0, "{losses}, {preempted}");
}

#[test]
fn long_whole_prompts_starve_neither_each_other_nor_the_decodes() {
    let giants = Chances {
        giant: 150,
        ..PEACE
    };
    let world = live(whole(43, 400, giants), 8_000);
    let tally = &world.clients.tally;
    assert_eq!((tally.given_up, tally.timed_out, world.losses), (0, 0, 0));
    assert!(tally.giants > 50 && tally.finished > 400, "{tally:?}");
    assert!(tally.longest_wait_steps < 1_000, "starved: {tally:?}");
    assert!(tally.longest_giant_wait_steps < 2_000, "starved: {tally:?}");
}

#[test]
fn tiny_budgets_and_pools_still_serve_everyone() {
    for (budget, pages) in [(1, 400), (7, 400), (64, 200)] {
        let setup = Setup {
            seed: 9,
            chances: PEACE,
            budget,
            pages,
            ..Setup::default()
        };
        let world = live(setup, 2_000);
        assert!(world.clients.tally.finished > 10);
    }
}

/// `cargo test -p ribbon-scheduler --release --test simulation -- --ignored`
#[test]
#[ignore = "minutes"]
fn everything_holds_through_a_million_steps() {
    for seed in 100..200 {
        let setup = Setup {
            seed,
            pipeline_depth: 1 + (seed as usize % 3),
            pages: 250 + seed % 7 * 150,
            prefix_caching: seed % 5 != 0,
            chances: TROUBLE,
            ..Setup::default()
        };
        live(setup, 10_000);
    }
}

/// The same with windows.
#[test]
#[ignore = "minutes"]
fn windows_move_on_through_a_hundred_thousand_steps() {
    for (seed, groups) in (200..230).zip(GROUPS.into_iter().cycle()) {
        live(windowed(seed, groups), 3_500);
    }
}
