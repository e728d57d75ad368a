//! Prompts that are certainly too long, told by their beginnings: tokenizing them whole would keep a worker for seconds.

use ribbon_text::{EncodeError, SpecialTokens, Tokenizer};

/// A beginning of so many bytes for every token allowed shows most texts that are too long.
const BYTES_PER_TOKEN: usize = 8;
/// Each beginning is so many times the one before, so all together cost little more than the last.
const GROWTH: usize = 4;

/// Whether a beginning of `text` has clearly more than `limit` tokens. `false` leaves it open.
///
/// # Errors
/// The tokenizer refuses the text.
pub(crate) fn exceeds(tokenizer: &Tokenizer, text: &str, limit: u32) -> Result<bool, EncodeError> {
    let limit = limit as usize;
    // The cut may split a word into more tokens than it has as a whole.
    let certain = limit + limit / 8 + 64;
    let mut bytes = certain * BYTES_PER_TOKEN;
    while bytes <= text.len() / 2 {
        let beginning = text.get(..text.floor_char_boundary(bytes));
        let tokens = tokenizer.encode(beginning.unwrap_or_default(), SpecialTokens::Skip)?;
        if tokens.len() > certain {
            return Ok(true);
        }
        bytes *= GROWTH;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::tokenizer;

    #[test]
    fn only_what_is_certainly_too_long_is_told() {
        let tokenizer = tokenizer();
        let exceeds = |text: &str, limit| exceeds(&tokenizer, text, limit).unwrap();
        assert!(exceeds(&"a b é ".repeat(100_000), 200));
        assert!(!exceeds(&"a b é ".repeat(100_000), 4_000_000));
        assert!(!exceeds("a b c", 1), "short texts are tokenized anyway");
        // The first beginning has few tokens for its bytes, a later one has many.
        let late = format!("{}{}", " ".repeat(3_000), "a b ".repeat(100_000));
        assert!(exceeds(&late, 200));
    }
}
