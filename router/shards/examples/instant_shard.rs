//! A shard without a model, to measure the router with: it speaks the real wire, answers every plan at once, and says the same
//! few tokens over and over. Knows no weights, no memory and no sequence.
//!
//! `instant_shard SOCKET TOKEN_ID...`, as `make bench-router` starts it.

use std::{error::Error, pin::Pin};

use futures_core::Stream;
use futures_util::StreamExt;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, Streaming, transport::Server};
use wire::{
    RowStatus, Wanted,
    shard_server::{Shard, ShardServer},
};

/// Generated from the same proto as the router's side.
mod wire {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::pedantic,
        clippy::indexing_slicing
    )]
    include!(concat!(env!("OUT_DIR"), "/server/ribbon.shard.v1.rs"));
}

/// As the real shard has it.
const MAX_MESSAGE_BYTES: usize = 256 << 20;
/// Tokens of a step, where the router leaves it to the shard.
const BUDGET: u32 = 4096;
/// The bundled model's vocabulary, end token and context: the router brings its tokenizer.
const VOCAB_SIZE: u32 = 2048;
const EOS: u32 = 2;
const POSITIONS: u32 = 4096;

type Outcomes = Pin<Box<dyn Stream<Item = Result<wire::StepOutcome, Status>> + Send>>;

struct InstantShard {
    /// What it says, in turns.
    tokens: Vec<u32>,
}

/// Without memory, before the warm-up.
fn description() -> wire::DescribeResponse {
    wire::DescribeResponse {
        architecture: "Instant".to_owned(),
        dtype: "float32".to_owned(),
        device: "none".to_owned(),
        vocab_size: VOCAB_SIZE,
        max_positions: POSITIONS,
        eos_token_ids: vec![EOS],
        prompt_runs: wire::PromptRuns::Causal.into(),
        world_size: 1,
        generation: 1,
        ..Default::default()
    }
}

/// Pages of 64 tokens, half a million tokens in all.
fn memory(sequences: u32) -> wire::KvGroup {
    wire::KvGroup {
        kind: wire::KvKind::Full.into(),
        stride_bytes: 1 << 10,
        page_bytes: 64 << 10,
        num_pages: 8192,
        slot_tokens: POSITIONS,
        num_slots: sequences + 1,
        num_storages: 4 * (sequences + 1),
        num_layers: 1,
        dtype: "float32".to_owned(),
        max_spans: 64,
        ..Default::default()
    }
}

/// What was asked for, or the default where nothing was.
fn or(asked: u32, default: u32) -> u32 {
    if asked == 0 { default } else { asked }
}

/// A column of four bytes a row.
fn column(values: impl Iterator<Item = u32>) -> Vec<u8> {
    values.flat_map(u32::to_le_bytes).collect()
}

/// Every run is fed, and goes on with the next token where one is wanted.
fn outcome(tokens: &[u32], plan: wire::StepPlan) -> wire::StepOutcome {
    let work = plan.work.unwrap_or_default();
    let rows = work.wanted.len();
    let status = |wanted: &u8| {
        let samples = i32::from(*wanted) & Wanted::Sample as i32 != 0;
        (if samples {
            RowStatus::Sampled
        } else {
            RowStatus::Fed
        }) as u8
    };
    let said = tokens
        .iter()
        .cycle()
        .skip(plan.step_id as usize % tokens.len());
    wire::StepOutcome {
        step_id: plan.step_id,
        slot: work.slot,
        status: work.wanted.iter().map(status).collect(),
        token_id: column(said.copied().take(rows)),
        logprob: column((0..rows).map(|_| (-1.0_f32).to_bits())),
        top_count: vec![0; rows],
        ..Default::default()
    }
}

#[tonic::async_trait]
impl Shard for InstantShard {
    type RunStream = Outcomes;

    async fn describe(
        &self,
        _: Request<wire::DescribeRequest>,
    ) -> Result<Response<wire::DescribeResponse>, Status> {
        Ok(Response::new(description()))
    }

    async fn warmup(
        &self,
        request: Request<wire::WarmupRequest>,
    ) -> Result<Response<wire::WarmupResponse>, Status> {
        let asked = request.into_inner();
        let warm = wire::DescribeResponse {
            kv_groups: vec![memory(asked.max_concurrent_requests)],
            ..description()
        };
        Ok(Response::new(wire::WarmupResponse {
            description: Some(warm),
            max_batch_prefill_tokens: or(asked.max_batch_prefill_tokens, BUDGET),
            max_total_tokens: or(asked.max_total_tokens, POSITIONS),
            prompt_token_ns: 1,
            ..Default::default()
        }))
    }

    async fn run(
        &self,
        plans: Request<Streaming<wire::StepPlan>>,
    ) -> Result<Response<Outcomes>, Status> {
        let tokens = self.tokens.clone();
        let outcomes = plans
            .into_inner()
            .map(move |plan| Ok(outcome(&tokens, plan?)));
        Ok(Response::new(Box::pin(outcomes)))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let socket = words
        .next()
        .ok_or("usage: instant_shard SOCKET TOKEN_ID...")?;
    let tokens = words
        .map(|word| word.parse())
        .collect::<Result<Vec<u32>, _>>()?;
    if tokens.is_empty() {
        return Err("it has nothing to say: give token ids".into());
    }
    let shard = ShardServer::new(InstantShard { tokens })
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let connections = UnixListenerStream::new(UnixListener::bind(socket)?);
    Server::builder()
        .add_service(shard)
        .serve_with_incoming(connections)
        .await?;
    Ok(())
}
