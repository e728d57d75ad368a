//! Who may close, cut and drop what others show.

use super::*;

#[test]
fn a_donor_may_close_before_those_who_show_it() {
    let mut model = Model::new(3072);
    all(
        &mut model,
        &[
            Operation::Open {
                slot: 1,
                storage: 1,
                tokens: 0,
            },
            Operation::Grow { slot: 1, end: 40 },
            Operation::Open {
                slot: 2,
                storage: 2,
                tokens: 0,
            },
            Operation::Share {
                slot: 2,
                storage: 1,
                end: 33,
            },
            Operation::Close {
                slot: 1,
                keep: true,
            },
            Operation::Truncate {
                storage: 1,
                end: 33,
            },
            Operation::Grow { slot: 2, end: 45 },
        ],
    );
    assert!(model.apply(Operation::Drop { storage: 1 }).is_err());
    assert!(
        model
            .apply(Operation::Truncate {
                storage: 1,
                end: 30
            })
            .is_err()
    );
    all(
        &mut model,
        &[
            Operation::Close {
                slot: 2,
                keep: false,
            },
            Operation::Drop { storage: 1 },
        ],
    );
    assert_eq!(model.region.pages_used(), 0);
}

#[test]
fn a_chain_maps_the_later_owner_of_a_common_page() {
    let mut model = Model::new(3072);
    all(
        &mut model,
        &[
            Operation::Open {
                slot: 1,
                storage: 1,
                tokens: 0,
            },
            Operation::Grow { slot: 1, end: 21 },
            Operation::Open {
                slot: 2,
                storage: 2,
                tokens: 0,
            },
            Operation::Share {
                slot: 2,
                storage: 1,
                end: 21,
            },
            Operation::Grow { slot: 2, end: 34 },
            Operation::Open {
                slot: 3,
                storage: 3,
                tokens: 0,
            },
            Operation::Share {
                slot: 3,
                storage: 1,
                end: 21,
            },
            Operation::Share {
                slot: 3,
                storage: 2,
                end: 34,
            },
            Operation::Grow { slot: 3, end: 50 },
            Operation::Close {
                slot: 1,
                keep: true,
            },
            Operation::Close {
                slot: 2,
                keep: true,
            },
        ],
    );
    // The cached storage in the middle goes on where it was cut, behind its own prefix.
    all(
        &mut model,
        &[
            Operation::Close {
                slot: 3,
                keep: true,
            },
            Operation::Open {
                slot: 4,
                storage: 2,
                tokens: 30,
            },
            Operation::Share {
                slot: 4,
                storage: 1,
                end: 21,
            },
            Operation::Grow { slot: 4, end: 44 },
        ],
    );
    let shared = model.region.book().slot(4).unwrap().shared_end();
    assert_eq!(
        (shared, model.region.book().shown_tokens(4).unwrap()),
        (21, 44)
    );
}

/// The page of the cut stays, and the reader's whole pages with it; what the writer writes next would show in them.
#[test]
fn a_writer_is_not_cut_back_into_a_page_that_another_slot_shows() {
    let mut model = Model::new(192);
    let open = |slot| Operation::Open {
        slot,
        storage: slot,
        tokens: 0,
    };
    all(
        &mut model,
        &[
            open(1),
            Operation::Grow { slot: 1, end: 36 },
            open(2),
            Operation::Share {
                slot: 2,
                storage: 1,
                end: 22,
            },
        ],
    );
    let cut = |end| Operation::Truncate { storage: 1, end };
    assert!(model.apply(cut(21)).is_err());
    all(&mut model, &[cut(22), Operation::Grow { slot: 1, end: 30 }]);
}

/// The owner of a token that a follower only has a copy of may go; who follows the follower does not ask its storage's next user.
#[test]
fn what_was_copied_from_an_owner_that_is_gone_is_not_asked_of_its_successor() {
    let mut model = Model::new(64);
    let open = |slot, storage| Operation::Open {
        slot,
        storage,
        tokens: 0,
    };
    model.apply(open(4, 4)).unwrap();
    model.apply(Operation::Grow { slot: 4, end: 16 }).unwrap();
    model.follow(2, 3, 4, 1).unwrap();
    model.apply(Operation::Grow { slot: 2, end: 24 }).unwrap();
    model.follow(3, 1, 2, 2).unwrap();
    let close = Operation::Close {
        slot: 2,
        keep: false,
    };
    model.apply(close).unwrap();
    model.apply(open(2, 3)).unwrap();
    model.apply(Operation::Grow { slot: 2, end: 2 }).unwrap();
    model.follow(1, 2, 3, 2).unwrap();
    assert_eq!(model.region.book().shown_tokens(1).unwrap(), 1);
    model.check();
}
