//! The tokens of a sequence as one row, though prompt and generated ones are kept apart. Knows no sequence.

/// Prompt, then generated tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct History<'a> {
    prompt: &'a [u32],
    generated: &'a [u32],
}

impl<'a> History<'a> {
    pub(crate) fn new(prompt: &'a [u32], generated: &'a [u32]) -> Self {
        Self { prompt, generated }
    }

    pub(crate) fn len(&self) -> u32 {
        (self.prompt.len() + self.generated.len()) as u32
    }

    pub(crate) fn get(&self, index: u32) -> Option<u32> {
        let index = index as usize;
        let generated = || self.generated.get(index - self.prompt.len());
        self.prompt.get(index).or_else(generated).copied()
    }

    /// What lies from `at` on in each part.
    fn rest(&self, at: u32) -> (&'a [u32], &'a [u32]) {
        let at = at as usize;
        let prompt = self.prompt.get(at..).unwrap_or_default();
        let skipped = at.saturating_sub(self.prompt.len());
        (prompt, self.generated.get(skipped..).unwrap_or_default())
    }

    /// How many tokens from `at` on are the same as `others`. Costs a comparison of memory.
    pub(crate) fn in_common(&self, at: u32, others: &[u32]) -> u32 {
        let (prompt, generated) = self.rest(at);
        let first = same(prompt, others);
        if first < prompt.len() {
            return first as u32;
        }
        let others = others.get(first..).unwrap_or_default();
        (first + same(generated, others)) as u32
    }

    /// How many tokens from `at` on are the same as those of another history.
    pub(crate) fn in_common_with(&self, at: u32, other: &History<'_>) -> u32 {
        let (prompt, generated) = other.rest(at);
        let first = self.in_common(at, prompt);
        if (first as usize) < prompt.len() {
            return first;
        }
        first + self.in_common(at + first, generated)
    }

    /// Appends tokens [from, to) to `target`.
    pub(crate) fn copy(&self, from: u32, to: u32, target: &mut Vec<u32>) {
        let count = to.saturating_sub(from) as usize;
        let (prompt, generated) = self.rest(from);
        let first = count.min(prompt.len());
        let second = (count - first).min(generated.len());
        target.extend_from_slice(prompt.get(..first).unwrap_or_default());
        target.extend_from_slice(generated.get(..second).unwrap_or_default());
    }
}

/// Tokens compared at once: blocks compile to vector code, single ones do not.
const BLOCK: usize = 64;

fn same(left: &[u32], right: &[u32]) -> usize {
    let blocks = left.chunks(BLOCK).zip(right.chunks(BLOCK));
    let equal = blocks
        .take_while(|(one, other)| one == other && one.len() == BLOCK)
        .count()
        * BLOCK;
    let rest = left.iter().zip(right).skip(equal);
    equal + rest.take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_parts_are_one_row() {
        let prompt: Vec<u32> = (0..150).collect();
        let generated: Vec<u32> = (150..300).collect();
        let whole: Vec<u32> = (0..300).collect();
        let history = History::new(&prompt, &generated);
        assert_eq!(
            (history.len(), history.get(149), history.get(150)),
            (300, Some(149), Some(150))
        );
        assert_eq!((history.get(299), history.get(300)), (Some(299), None));
        for at in [0, 1, 63, 64, 149, 150, 151, 299, 300] {
            assert_eq!(history.in_common(at, &whole[at as usize..]), 300 - at);
            let other = History::new(&whole[..70], &whole[70..]);
            assert_eq!(history.in_common_with(at, &other), 300 - at);
            let mut copied = Vec::new();
            history.copy(at, 300, &mut copied);
            assert_eq!(copied, whole[at as usize..]);
        }
    }

    #[test]
    fn a_difference_is_found_wherever_it_is() {
        let tokens: Vec<u32> = (0..200).collect();
        for split in [0, 100, 200] {
            let history = History::new(&tokens[..split], &tokens[split..]);
            for place in [0, 1, 63, 64, 65, 100, 128, 199] {
                let mut other = tokens.clone();
                other[place] += 1000;
                assert_eq!(history.in_common(0, &other), place as u32);
            }
            assert_eq!(history.in_common(0, &tokens[..77]), 77);
        }
    }
}
