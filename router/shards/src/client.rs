//! One connection to one shard: connect, describe, warm up, and the stream of steps. Every wait has a deadline.

use std::{fmt, future::Future, time::Duration};

use ribbon_core::ShardDescription;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Response, Status, Streaming,
    transport::{Channel, Endpoint},
};

use crate::{
    ShardError, ShardSettings, convert,
    wire::{self, shard_client::ShardClient},
};

const CONNECT: Duration = Duration::from_secs(10);
const DESCRIBE: Duration = Duration::from_secs(30);
/// Loading is over by then, but the largest step of a large model on a small machine takes its time.
const WARMUP: Duration = Duration::from_mins(10);
/// gRPC's default of 4 MiB is a few long prompts.
const MAX_MESSAGE_BYTES: usize = 256 << 20;
/// Plans that wait for the socket; the pipeline is two deep, so more than that means that nobody reads.
const PLANS: usize = 16;
/// Flow-control window: a plan or an outcome never waits for one.
const WINDOW_BYTES: u32 = 16 << 20;

/// Which shard of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Counts from 0.
    pub rank: u32,
    /// Shards that hold the model together.
    pub world_size: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rank, world_size } = self;
        write!(formatter, "{rank} of {world_size} shards")
    }
}

/// A warm shard.
#[derive(Debug)]
pub(crate) struct Warm {
    pub(crate) description: ShardDescription,
    client: ShardClient<Channel>,
}

/// Connects to the shard of `generation` at `uri` and warms it up. All shards of a group have to be warmed at the same time.
pub(crate) async fn warm(
    uri: String,
    generation: u64,
    place: Place,
    settings: ShardSettings,
) -> Result<Warm, ShardError> {
    let mut client = connect(uri).await?;
    let shard = call(
        "Describe",
        DESCRIBE,
        client.describe(wire::DescribeRequest {}),
    )
    .await?;
    convert::check(&shard, generation, place)?;
    let request = wire::WarmupRequest {
        max_batch_prefill_tokens: settings.max_batch_prefill_tokens.unwrap_or(0),
        max_total_tokens: settings.max_total_tokens.unwrap_or(0),
        max_concurrent_requests: settings.max_concurrent_requests,
    };
    let warm = call("Warmup", WARMUP, client.warmup(request)).await?;
    Ok(Warm {
        description: convert::description(warm)?,
        client,
    })
}

async fn connect(uri: String) -> Result<ShardClient<Channel>, ShardError> {
    if !uri.starts_with("unix://") {
        return Err(ShardError::Address(uri));
    }
    let endpoint =
        Endpoint::from_shared(uri.clone()).map_err(|_| ShardError::Address(uri.clone()))?;
    let endpoint = endpoint
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES);
    let connecting = timeout(CONNECT, endpoint.connect()).await;
    let late = |_| ShardError::Deadline {
        call: "connect",
        limit: CONNECT,
    };
    let channel = connecting
        .map_err(late)?
        .map_err(|source| ShardError::Connect { uri, source })?;
    Ok(ShardClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES))
}

async fn call<T>(
    call: &'static str,
    limit: Duration,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, ShardError> {
    match timeout(limit, answer).await {
        Err(_) => Err(ShardError::Deadline { call, limit }),
        Ok(Err(status)) => Err(ShardError::Call {
            call,
            status: Box::new(status),
        }),
        Ok(Ok(response)) => Ok(response.into_inner()),
    }
}

impl Warm {
    /// Opens the stream of steps: where plans go, and the answer that brings the outcomes. A shard may hold the answer back
    /// until its first outcome, so it must not be waited for before the first plan; the scheduler's step deadline bounds it.
    pub(crate) fn run(
        mut self,
    ) -> (
        mpsc::Sender<wire::StepPlan>,
        impl Future<Output = Result<Streaming<wire::StepOutcome>, ShardError>> + Send,
    ) {
        let (plans, stream) = mpsc::channel(PLANS);
        let answer = async move {
            let answer = self.client.run(ReceiverStream::new(stream)).await;
            let failed = |status| ShardError::Call {
                call: "Run",
                status: Box::new(status),
            };
            answer.map(Response::into_inner).map_err(failed)
        };
        (plans, answer)
    }
}
