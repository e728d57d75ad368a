//! Drives the scheduler with a simulated shard, clock and clients: random arrivals, lengths, cancels, failed steps, losses.
//! After every step the invariants hold, and every client gets exactly its tokens.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::expect_used,
    reason = "a test"
)]

#[path = "simulation/clients.rs"]
mod clients;
#[path = "simulation/model.rs"]
mod model;
#[path = "simulation/shard.rs"]
mod shard;
#[path = "simulation/world.rs"]
mod world;

use world::{Chances, World};

const TROUBLE: Chances = Chances {
    cancel: 20,
    poison: 8,
    failed_step: 4,
    loss: 2,
    hang: 1,
    long_outage: 50,
};
const NOTHING: Chances = Chances {
    cancel: 0,
    poison: 0,
    failed_step: 0,
    loss: 0,
    hang: 0,
    long_outage: 0,
};
const PEACE: Chances = Chances {
    cancel: 20,
    poison: 0,
    failed_step: 0,
    loss: 0,
    hang: 0,
    long_outage: 0,
};

#[test]
fn everything_holds_through_twenty_thousand_steps_of_trouble() {
    let (mut given_up, mut timed_out) = (0, 0);
    for (seed, depth) in [(1, 2), (2, 2), (3, 1), (4, 3)] {
        let mut world = World::new(seed, depth, TROUBLE);
        world.run(20_000);
        world.drain();
        let tally = &world.clients.tally;
        eprintln!(
            "seed {seed}, depth {depth}: {tally:?}, {} losses",
            world.losses
        );
        assert!(tally.finished > 1_000 && tally.cancelled > 100, "{tally:?}");
        assert!(world.losses > 25 && world.failed_steps > 25);
        given_up += tally.given_up;
        timed_out += tally.timed_out;
    }
    assert!(
        given_up > 10 && timed_out > 0,
        "poison and long outages did happen"
    );
}

#[test]
fn in_peace_nobody_fails_and_nobody_starves() {
    let mut world = World::new(5, 2, PEACE);
    world.run(20_000);
    world.drain();
    let tally = &world.clients.tally;
    eprintln!("in peace: {tally:?}");
    assert_eq!((tally.given_up, tally.timed_out, world.losses), (0, 0, 0));
    assert!(tally.longest_wait_steps < 600, "starved: {tally:?}");
}

#[test]
fn of_32_streams_with_one_that_kills_the_shard_31_complete() {
    for poison in [model::KILLS_SHARDS, model::FAILS_STEPS] {
        for place in [0, 13, 31] {
            let mut world = World::with_shard(place, 2, NOTHING, 256, 4_000);
            for client in 0..32 {
                world.submit(&clients::plain(
                    client,
                    if client == place { poison } else { 10 },
                ));
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

#[test]
fn tiny_budgets_and_pools_still_serve_everyone() {
    for (budget, pages) in [(1, 400), (7, 400), (64, 61)] {
        let mut world = World::with_shard(9, 2, PEACE, budget, pages);
        world.run(2_000);
        world.drain();
        let tally = &world.clients.tally;
        eprintln!("budget {budget}, {pages} pages: {tally:?}");
        assert!(tally.finished > 10);
    }
}

/// `cargo test -p ribbon-scheduler --release --test simulation -- --ignored`
#[test]
#[ignore = "minutes"]
fn everything_holds_through_a_million_steps() {
    for seed in 100..200 {
        let mut world = World::new(seed, 1 + (seed as usize % 3), TROUBLE);
        world.run(10_000);
        world.drain();
    }
}
