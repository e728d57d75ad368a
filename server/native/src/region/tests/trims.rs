//! Windows that move on: what a slot gives up, what stays, and what may be shared behind it.

use super::*;

const PAGE: u32 = 4096;

fn open(slot: u32, storage: u32, tokens: u32) -> Operation {
    Operation::Open {
        slot,
        storage,
        tokens,
    }
}

fn grow(slot: u32, end: u32) -> Operation {
    Operation::Grow { slot, end }
}

fn trim(slot: u32, begin: u32) -> Operation {
    Operation::TrimFront { slot, begin }
}

fn share(slot: u32, storage: u32, end: u32) -> Operation {
    Operation::Share { slot, storage, end }
}

fn close(slot: u32, keep: bool) -> Operation {
    Operation::Close { slot, keep }
}

#[test]
fn a_window_that_moves_on_keeps_its_pages_few_and_its_address() {
    let mut model = Model::new(3072);
    all(&mut model, &[open(1, 2, 0)]);
    for end in 1..=TOKENS {
        all(&mut model, &[grow(1, end), trim(1, end.saturating_sub(10))]);
        assert!(model.region.pages_used() <= 9);
    }
    assert_eq!(model.region.book().shown_tokens(1).unwrap(), TOKENS);
    assert!(model.apply(trim(1, TOKENS + 1)).is_err());
    all(&mut model, &[close(1, false)]);
    assert_eq!(model.region.pages_used(), 0);
}

#[test]
fn pages_of_another_storage_stay_when_the_claim_is_given_up() {
    let mut model = Model::new(PAGE);
    all(
        &mut model,
        &[
            open(1, 1, 0),
            grow(1, 20),
            open(2, 2, 0),
            share(2, 1, 16),
            grow(2, 30),
            close(1, true),
            trim(2, 10),
        ],
    );
    assert_eq!(model.region.pages_used(), 20 + 14);
    assert!(model.apply(Operation::Drop { storage: 1 }).is_err());
    all(&mut model, &[trim(2, 16), Operation::Drop { storage: 1 }]);
    assert_eq!(model.region.pages_used(), 14);
    all(&mut model, &[trim(2, 25), grow(2, 31)]);
    assert_eq!(model.region.pages_used(), 6);
    assert_eq!(model.region.book().extra_maps(), 0);
}

#[test]
fn pages_that_a_reader_shows_are_not_trimmed() {
    let mut model = Model::new(PAGE);
    all(
        &mut model,
        &[open(1, 1, 0), grow(1, 20), open(2, 2, 0), share(2, 1, 16)],
    );
    let refused = model.apply(trim(1, 5)).unwrap_err().to_string();
    assert_eq!(refused, "slot 2 shows storage 1 from token 0");
    all(&mut model, &[trim(2, 5), trim(1, 5)]);
    assert!(model.apply(trim(1, 6)).is_err());
    all(&mut model, &[close(2, false), trim(1, 20)]);
    assert_eq!(model.region.pages_used(), 0);
}

#[test]
fn a_window_finds_its_prefix_in_a_storage_that_lost_its_front() {
    let mut model = Model::new(3072);
    all(
        &mut model,
        &[
            open(1, 1, 0),
            grow(1, 50),
            trim(1, 30),
            close(1, true),
            // Another slot begins inside what is left, and shares it.
            open(2, 2, 0),
            trim(2, 33),
            share(2, 1, 47),
            grow(2, 55),
        ],
    );
    assert_eq!(model.region.book().shown_tokens(2).unwrap(), 55);
    assert!(model.apply(share(3, 1, 47)).is_err());
    // The storage itself goes on where it was cut.
    all(&mut model, &[close(2, false), open(3, 1, 45)]);
    assert_eq!(model.region.book().shown_tokens(3).unwrap(), 0);
    assert!(model.apply(grow(3, 50)).is_err());
    all(&mut model, &[trim(3, 35), grow(3, 52)]);
    assert_eq!(model.region.book().shown_tokens(3).unwrap(), 52);
}

#[test]
fn a_slot_without_its_front_grows_only_behind_what_it_shares() {
    let mut model = Model::new(PAGE);
    all(&mut model, &[open(1, 1, 0), trim(1, 8)]);
    assert!(model.apply(grow(1, 12)).is_err());
}
