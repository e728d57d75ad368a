//! One sequence's text as its tokens come: detokenized, and watched for stop strings. Knows no engine and no answer format.

use std::sync::Arc;

use ribbon_core::SequenceRequest;
use ribbon_text::{Detokenizer, Places, StopMatcher, Tokenizer};

use crate::running::Origin;

/// The text so far, as far as what comes depends on it.
#[derive(Clone)]
pub(crate) struct Writing {
    detokenizer: Detokenizer,
    stops: StopMatcher,
    min_tokens: u32,
    decoded: String,
    piece: String,
    places: Places,
    place: usize,
}

impl Writing {
    /// The text of a sequence that gives tokens for `request`.
    pub(crate) fn new(
        tokenizer: &Arc<Tokenizer>,
        request: &SequenceRequest,
        origin: &Origin,
    ) -> Self {
        let before: &[u32] = if origin.answers_apart {
            &[]
        } else {
            &request.prompt
        };
        Self {
            detokenizer: Detokenizer::new(tokenizer.clone(), before)
                .showing(origin.rules.marker_tokens(tokenizer)),
            stops: StopMatcher::new(origin.stops.clone(), origin.dialect.stop_text()),
            min_tokens: request.min_tokens,
            decoded: String::new(),
            piece: String::new(),
            places: Places::default(),
            place: 0,
        }
    }

    /// The same, where there are stop strings to look for.
    pub(crate) fn watching(
        tokenizer: &Arc<Tokenizer>,
        request: &SequenceRequest,
        origin: &Origin,
    ) -> Option<Self> {
        (!origin.stops.is_empty()).then(|| Self::new(tokenizer, request, origin))
    }

    /// Text that the last token completed, special tokens left out.
    pub(crate) fn piece(&self) -> &str {
        &self.piece
    }

    /// Characters before the last token's text, in what was decoded: stop strings count, and what is held back for them.
    pub(crate) fn place(&self) -> usize {
        self.place
    }

    /// Whether the last token ends inside a character.
    pub(crate) fn is_amid_character(&self) -> bool {
        self.detokenizer.pending() > 0
    }

    /// Puts the text of the `number`th token, counted from 1, into [`Writing::piece`]. True when a stop string is complete.
    pub(crate) fn write(&mut self, id: u32, number: u32, is_last: bool) -> bool {
        let pending = self.detokenizer.pending();
        self.decoded.clear();
        self.piece.clear();
        self.detokenizer.push(id, &mut self.decoded);
        if is_last {
            self.detokenizer.finish(&mut self.decoded);
        }
        self.place = self.places.next(pending, &self.decoded);
        if number < self.min_tokens {
            self.piece.push_str(&self.decoded);
            return false;
        }
        let stopped = self.stops.push(&self.decoded, &mut self.piece);
        if is_last && !stopped {
            self.stops.finish(&mut self.piece);
        }
        stopped
    }
}
