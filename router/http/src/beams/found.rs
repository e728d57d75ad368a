//! What a search found, as streams of tokens: whoever reads one sees all of its tokens once the search is over.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use ribbon_core::{StreamError, Token, TokenEvent, TokenStream, Tokens};

use super::frontier::{Ended, Picked};

/// The events of each sequence, best first.
pub(super) type Found = Result<Arc<[VecDeque<TokenEvent>]>, StreamError>;

/// A search that stops when nobody holds it.
pub(super) type Searching = Shared<BoxFuture<'static, Found>>;

/// Streams of the first `keep` sequences.
pub(super) fn streams(searching: Searching, keep: u32) -> impl Iterator<Item = TokenStream> {
    (0..keep as usize).map(move |place| -> TokenStream {
        Box::pin(FoundStream {
            searching: Some(searching.clone()),
            place,
            events: VecDeque::new(),
        })
    })
}

/// The sequences as an engine would give them, where `first` was the first event; `shown` top tokens beside each token.
pub(super) fn events(
    first: &TokenEvent,
    ended: &[Ended],
    shown: usize,
) -> Arc<[VecDeque<TokenEvent>]> {
    let sequence = |ended: &Ended| {
        let last = ended.tokens.len().saturating_sub(1);
        let event = |(place, picked): (usize, &Picked)| TokenEvent {
            token: Some(token(picked, shown)),
            finish: ended.end.finish().filter(|_| place == last),
            prompt: first.prompt.clone().filter(|_| place == 0),
            ..first.clone()
        };
        ended.tokens.iter().enumerate().map(event).collect()
    };
    ended.iter().map(sequence).collect()
}

fn token(picked: &Picked, shown: usize) -> Token {
    Token {
        id: picked.id,
        logprob: picked.logprob,
        top: picked.listed.iter().take(shown).copied().collect(),
    }
}

struct FoundStream {
    /// Gone once it is over.
    searching: Option<Searching>,
    place: usize,
    events: VecDeque<TokenEvent>,
}

impl Stream for FoundStream {
    type Item = Result<TokenEvent, StreamError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(searching) = &mut self.searching {
            let found = ready!(searching.poll_unpin(cx));
            self.searching = None;
            match found {
                Ok(found) => self.events = found.get(self.place).cloned().unwrap_or_default(),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        Poll::Ready(self.events.pop_front().map(Ok))
    }
}

impl Tokens for FoundStream {
    fn enough(self: Pin<&mut Self>) {}
}
