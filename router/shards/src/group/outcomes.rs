//! The outcomes of all shards of a group. Those of the first one count; the others only have to go on.

use std::{future::Future, pin::Pin};

use futures_core::Stream;
use futures_util::{
    StreamExt,
    future::try_join_all,
    stream::{self, SelectAll},
};
use tonic::{Status, Streaming};

use crate::{ShardError, wire};

/// Ends with an error, whoever it is that ends.
type Follower = Pin<Box<dyn Stream<Item = ShardError> + Send>>;

/// Streams that all shards have answered.
pub(super) struct Outcomes {
    /// The rank that samples.
    first: Streaming<wire::StepOutcome>,
    others: SelectAll<Follower>,
}

impl Outcomes {
    /// Waits until every shard has answered; they are ordered by rank.
    pub(super) async fn of<Answer>(answers: Vec<Answer>) -> Result<Self, ShardError>
    where
        Answer: Future<Output = Result<Streaming<wire::StepOutcome>, ShardError>>,
    {
        let mut streams = try_join_all(answers).await?.into_iter();
        let first = streams.next().ok_or(ShardError::NoShards)?;
        Ok(Self {
            first,
            others: stream::select_all(streams.map(follower)),
        })
    }

    /// The next outcome of the rank that samples. Loses nothing when dropped before it is done.
    pub(super) async fn next(&mut self) -> Result<wire::StepOutcome, ShardError> {
        tokio::select! {
            biased;
            outcome = self.first.next() => outcome.ok_or(ShardError::StreamEnded)?.map_err(failed),
            Some(error) = self.others.next() => Err(error),
        }
    }
}

/// What the outcomes say is known from the first shard; they are read so that the shard can go on.
fn follower(outcomes: Streaming<wire::StepOutcome>) -> Follower {
    let errors = outcomes.filter_map(async |outcome| outcome.err().map(failed));
    Box::pin(errors.chain(stream::iter([ShardError::StreamEnded])))
}

fn failed(status: Status) -> ShardError {
    ShardError::Call {
        call: "Run",
        status: Box::new(status),
    }
}
