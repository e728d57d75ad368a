//! Top-k, top-p, min-p and typical: which tokens of a row stay. Each finds its bound by selection, never by sorting the
//! vocabulary, and keeps every token that ties with the last one kept, so that the order of tokens decides nothing.

use super::Token;

/// Cuts the list to the k highest scores and what ties with the k-th.
pub fn top_k(kept: &mut Vec<Token>, k: usize) {
    if k == 0 || k >= kept.len() {
        return;
    }
    let (_, kth, _) = kept.select_nth_unstable_by(k - 1, |a, b| b.score.total_cmp(&a.score));
    let bound = kth.score;
    kept.retain(|token| token.score >= bound);
}

/// Drops the lowest scores as long as what is dropped weighs at most 1 − p.
pub fn top_p(kept: &mut Vec<Token>, p: f32) {
    if p >= 1.0 || kept.len() < 2 {
        return;
    }
    let total: f64 = kept.iter().map(|token| f64::from(token.weight)).sum();
    // Keep the fewest of the highest that weigh at least p: what lies below them then weighs at most 1 − p.
    let bound = lightest_prefix(kept, f64::from(p) * total, |a, b| {
        b.score.total_cmp(&a.score)
    });
    kept.retain(|token| token.score >= bound.score);
}

/// Drops tokens less probable than `min_p` times the most probable.
pub fn min_p(kept: &mut Vec<Token>, min_p: f32, highest: f32) {
    if min_p > 0.0 {
        let bound = highest + min_p.ln();
        kept.retain(|token| token.score >= bound);
    }
}

/// Keeps the fewest tokens, closest to the expected information first, that weigh at least p.
/// Meister et al., "Locally typical sampling", https://arxiv.org/abs/2202.00666
pub fn typical(kept: &mut Vec<Token>, p: f32, highest: f32) {
    if p >= 1.0 || kept.len() < 2 {
        return;
    }
    let total: f64 = kept.iter().map(|token| f64::from(token.weight)).sum();
    let log_total = total.ln();
    let surprise = |token: &Token| log_total - f64::from(token.score - highest);
    let entropy: f64 = kept
        .iter()
        .map(|token| f64::from(token.weight) / total * surprise(token))
        .sum();
    let distance = |token: &Token| (surprise(token) - entropy).abs();
    let bound = lightest_prefix(kept, f64::from(p) * total, |a, b| {
        distance(a).total_cmp(&distance(b))
    });
    let bound = distance(&bound);
    kept.retain(|token| distance(token) <= bound);
}

/// The last token of the shortest prefix, in the given order, that weighs at least `mass`. Expected linear time: halves
/// the list around its median and follows the half that holds the bound.
fn lightest_prefix(
    kept: &mut [Token],
    mass: f64,
    order: impl Fn(&Token, &Token) -> std::cmp::Ordering,
) -> Token {
    let (mut low, mut high, mut before) = (0, kept.len(), 0.0);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        kept[low..high].select_nth_unstable_by(middle - low, &order);
        let weight: f64 = kept[low..middle]
            .iter()
            .map(|token| f64::from(token.weight))
            .sum();
        if before + weight >= mass {
            high = middle;
        } else {
            (before, low) = (before + weight, middle);
        }
    }
    kept[low]
}
