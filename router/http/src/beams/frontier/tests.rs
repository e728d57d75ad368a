//! Scores, and when a search is over. Whole searches are compared with transformers in `integration-tests/http/test_beams.py`.

use super::*;

const STOP: u32 = 2;

fn frontier(width: u32, length_penalty: f64, early_stopping: EarlyStopping) -> Frontier {
    let rules = Beams {
        width,
        length_penalty,
        early_stopping,
    };
    let bounds = Bounds {
        stop_token_ids: Arc::from([STOP]),
        max_tokens: 10,
    };
    Frontier::new(rules, bounds, None)
}

fn listed(rows: &[&[(u32, f32)]]) -> Vec<Listed> {
    rows.iter().map(|row| Arc::from(*row)).collect()
}

fn ids(tokens: &[Picked]) -> Vec<u32> {
    tokens.iter().map(|token| token.id).collect()
}

fn live(frontier: &Frontier) -> Vec<Vec<u32>> {
    frontier
        .live()
        .iter()
        .map(|beam| ids(&beam.tokens))
        .collect()
}

fn ended(frontier: &Frontier) -> Vec<Vec<u32>> {
    frontier
        .ended
        .iter()
        .map(|ended| ids(&ended.tokens))
        .collect()
}

#[test]
fn only_an_end_among_the_first_counts_and_enough_go_on_behind_it() {
    let mut frontier = frontier(2, 1.0, EarlyStopping::Estimate);
    frontier.advance(&listed(&[&[(STOP, -0.1), (5, -1.0), (6, -1.5), (7, -1.7)]]));
    assert_eq!(ended(&frontier), [[STOP]]);
    assert_eq!(live(&frontier), [[5], [6]]);
    frontier.advance(&listed(&[
        &[(8, -0.1), (STOP, -3.0)],
        &[(9, -0.1), (STOP, -0.2)],
    ]));
    assert_eq!(live(&frontier), [[5, 8], [6, 9]]);
    assert_eq!(
        ended(&frontier),
        [[STOP]],
        "third is not among the first two"
    );
}

#[test]
fn the_length_penalty_decides_between_short_and_long() {
    for (length_penalty, best) in [(0.0, vec![STOP]), (2.0, vec![5, STOP])] {
        let mut frontier = frontier(2, length_penalty, EarlyStopping::Estimate);
        frontier.advance(&listed(&[&[(STOP, -0.5), (5, -0.9), (6, -3.0)]]));
        frontier.advance(&listed(&[
            &[(STOP, -0.2), (7, -2.0)],
            &[(STOP, -0.2), (7, -2.0)],
        ]));
        assert_eq!(ended(&frontier)[0], best);
    }
}

/// Two texts of score −0.5 a token are found, and the best beam has −1.2 behind two tokens.
fn halfway(early_stopping: EarlyStopping, length_penalty: f64) -> Frontier {
    let mut frontier = frontier(2, length_penalty, early_stopping);
    frontier.advance(&listed(&[&[(STOP, -0.5), (5, -0.6), (6, -0.7)]]));
    frontier.advance(&listed(&[
        &[(STOP, -0.4), (8, -0.6), (9, -0.7)],
        &[(10, -4.0)],
    ]));
    frontier
}

#[test]
fn a_search_is_over_by_the_rule_for_early_stopping() {
    let found = [vec![STOP], vec![5, STOP]];
    for (early_stopping, length_penalty, is_over) in [
        (EarlyStopping::Estimate, 1.0, true),
        (EarlyStopping::Full, 1.0, true),
        (EarlyStopping::Never, 1.0, false),
        (EarlyStopping::Never, 0.0, true),
    ] {
        let frontier = halfway(early_stopping, length_penalty);
        assert_eq!(ended(&frontier), found);
        assert_eq!(live(&frontier), [[5, 8], [5, 9]]);
        let rule = (early_stopping, length_penalty);
        assert_eq!(frontier.is_over(), is_over, "{rule:?}");
    }
}

#[test]
fn a_better_beam_keeps_the_search_going_unless_enough_is_found() {
    for (early_stopping, is_over) in [
        (EarlyStopping::Estimate, false),
        (EarlyStopping::Full, true),
    ] {
        let mut frontier = frontier(1, 1.0, early_stopping);
        frontier.advance(&listed(&[&[(STOP, -1.0), (5, -1.1)]]));
        frontier.advance(&listed(&[&[(6, -0.1), (7, -5.0)]]));
        assert_eq!(frontier.is_over(), is_over, "-0.6 a token against -1");
    }
}

#[test]
fn where_nothing_goes_on_whatever_ended_counts() {
    let mut frontier = frontier(3, 1.0, EarlyStopping::Estimate);
    frontier.advance(&listed(&[&[(5, -0.1), (6, -2.0)]]));
    frontier.advance(&listed(&[&[(STOP, -0.1)], &[(STOP, -0.1)]]));
    assert!(frontier.is_over());
    assert_eq!(ended(&frontier), [[5, STOP], [6, STOP]]);
}

#[test]
fn the_last_allowed_token_ends_a_beam() {
    let mut frontier = frontier(2, 1.0, EarlyStopping::Never);
    frontier.bounds.max_tokens = 2;
    frontier.advance(&listed(&[&[(5, -0.1), (6, -0.2)]]));
    assert!(!frontier.is_over());
    frontier.advance(&listed(&[
        &[(7, -0.1), (8, -0.3)],
        &[(9, -0.1), (STOP, -0.2)],
    ]));
    assert!(frontier.is_over());
    let ends: Vec<End> = frontier.ended.iter().map(|ended| ended.end).collect();
    assert_eq!(ended(&frontier), [[5, 7], [6, 9]]);
    assert_eq!(ends, [End::Length; 2]);
}

#[test]
fn no_more_is_kept_than_can_be_among_the_best() {
    let mut last = frontier(2, 1.0, EarlyStopping::Never);
    last.bounds.max_tokens = 1;
    let late = last.follow(&listed(&[&[(5, -0.1), (6, -0.2), (7, -0.3), (8, -0.4)]]));
    assert!(late.is_empty(), "all are of one length");
    assert_eq!(ended(&last), [[5], [6]]);

    let mut stopping = frontier(1, 1.0, EarlyStopping::Never);
    stopping.bounds.stop_token_ids = Arc::from([STOP, 3, 4, 5]);
    let late = stopping.follow(&listed(&[&[(STOP, -0.1), (3, -0.2), (4, -0.3), (5, -0.4)]]));
    assert_eq!(late.len(), 1);
    assert_eq!(ids(&late[0].tokens), [3]);
}
