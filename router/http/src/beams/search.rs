//! Runs a search: a token along every beam, then the next round. Knows the engine's rounds; ranks nothing itself.

use std::sync::Arc;

use futures_util::{FutureExt, StreamExt, future::try_join_all};
use ribbon_core::{
    Engine, Line, Sampling, Search, SequenceRequest, StreamError, TokenEvent, TokenStream,
};
use tokio::task::JoinSet;

use super::{
    Beams,
    found::{Found, Searching, events, streams},
    frontier::{Beam, Bounds, Frontier, Listed},
};
use crate::{error::ApiError, writing::Writing};

/// One prompt's search before it begins.
pub(crate) struct Start {
    pub(crate) request: SequenceRequest,
    /// Where stop strings are looked for.
    pub(crate) writing: Option<Writing>,
}

/// Takes the searches of a request, one for each prompt. Gives `keep` streams for each, best first, which have nothing until
/// the search is over. It gets on whether they are read or not, and is cancelled once all of them are dropped.
///
/// # Errors
/// The engine takes none, or a shard does not list so many tokens.
pub(crate) fn begin(
    engine: &dyn Engine,
    (rules, keep): (Beams, u32),
    starts: Vec<Start>,
) -> Result<Vec<TokenStream>, ApiError> {
    let group = starts.iter().map(|start| listing(rules, &start.request));
    let group: Vec<SequenceRequest> = group.collect::<Result<_, _>>()?;
    let searches = engine.search(group.clone())?;
    let beginnings = searches.into_iter().zip(group.into_iter().zip(starts));
    let found = |(search, (request, start)): (Box<dyn Search>, (SequenceRequest, Start))| {
        let shown = start.request.sampling.top_tokens as usize;
        let run = Run {
            search,
            request,
            keep: keep as usize,
            shown,
        };
        streams(owned(run.run(rules, start.writing)), keep)
    };
    Ok(beginnings.flat_map(found).collect())
}

/// A slow reader must not hold up what holds slots: the search has a task, which ends with whoever waits for it.
fn owned(run: impl Future<Output = Found> + Send + 'static) -> Searching {
    let mut task = JoinSet::new();
    task.spawn(run);
    let outcome = async move {
        let failed = || Err(StreamError::Generation("the search failed".to_owned()));
        let joined = task.join_next().await;
        joined.and_then(Result::ok).unwrap_or_else(failed)
    };
    outcome.boxed().shared()
}

/// The request with what its rounds have to list.
fn listing(rules: Beams, request: &SequenceRequest) -> Result<SequenceRequest, ApiError> {
    let listed = rules.listed(request.stop_token_ids.len())?;
    let sampling = Sampling {
        top_tokens: request.sampling.top_tokens.max(listed),
        ..(*request.sampling).clone()
    };
    Ok(SequenceRequest {
        sampling: Arc::new(sampling),
        ..request.clone()
    })
}

/// A search under way.
struct Run {
    search: Box<dyn Search>,
    request: SequenceRequest,
    keep: usize,
    /// Likeliest tokens that the client wants to see beside each.
    shown: usize,
}

impl Run {
    async fn run(mut self, rules: Beams, writing: Option<Writing>) -> Found {
        let bounds = Bounds {
            stop_token_ids: self.request.stop_token_ids.clone(),
            max_tokens: self.request.max_new_tokens,
        };
        let mut frontier = Frontier::new(rules, bounds, writing);
        let mut first = None;
        while !frontier.is_over() {
            let answers = self.round(frontier.live()).await?;
            let listed: Vec<Listed> = answers.iter().map(listed).collect();
            first = first.or_else(|| answers.into_iter().next());
            frontier.advance(&listed);
        }
        let mut ended = frontier.into_ended();
        match first {
            Some(first) if ended.len() >= self.keep => {
                ended.truncate(self.keep);
                Ok(events(&first, &ended, self.shown))
            }
            _ => Err(StreamError::FewSequences {
                found: ended.len(),
                wanted: self.keep,
            }),
        }
    }

    /// The next token of every beam. Where one fails, the others are dropped.
    async fn round(&mut self, beams: &[Beam]) -> Result<Vec<TokenEvent>, StreamError> {
        let line = |beam: &Beam| Line {
            request: SequenceRequest {
                max_new_tokens: beam.tokens.len() as u32 + 1,
                ..self.request.clone()
            },
            generated: beam.tokens.iter().map(|token| token.id).collect(),
        };
        let streams = self.search.round(beams.iter().map(line).collect());
        try_join_all(streams.into_iter().map(only_event)).await
    }
}

async fn only_event(mut stream: TokenStream) -> Result<TokenEvent, StreamError> {
    let nothing = || Err(StreamError::Generation("a beam got no token".to_owned()));
    stream.next().await.unwrap_or_else(nothing)
}

fn listed(event: &TokenEvent) -> Listed {
    let token = event.token.as_ref();
    token.map_or_else(Listed::default, |token| token.top.as_slice().into())
}
