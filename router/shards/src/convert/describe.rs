//! What a shard says of itself, checked.

use std::time::Duration;

use ribbon_core::{KvGroup, KvKind, PromptRuns, ShardDescription};

use crate::{ShardError, client::Place, error::DESCRIPTION, wire};

/// One number of a byte is left for "none" on the shard's side.
const MAX_GROUPS: usize = 255;
/// The ability of a shard that runs transformers' own model code.
const BRIDGE: &str = "bridge";
/// The ability to pool final states.
const POOLED: &str = "pooled";
/// The ability to score the tokens of prompts.
const PROMPT_LOGPROBS: &str = "prompt_logprobs";

/// Checks, before the shard is warmed up, that this router can drive it.
pub(crate) fn check(
    shard: &wire::DescribeResponse,
    generation: u64,
    announced: Place,
) -> Result<(), ShardError> {
    if shard.generation != generation {
        let reason = format!(
            "it belongs to generation {}, not {generation}",
            shard.generation
        );
        return Err(ShardError::malformed(DESCRIPTION, reason));
    }
    let said = Place {
        rank: shard.rank,
        world_size: shard.world_size,
    };
    if said != announced {
        return Err(ShardError::Place { said, announced });
    }
    prompt_runs(shard).map(|_| ())
}

fn prompt_runs(shard: &wire::DescribeResponse) -> Result<PromptRuns, ShardError> {
    match (shard.prompt_runs(), shard.start_token_id) {
        (wire::PromptRuns::Causal, _) => Ok(PromptRuns::Causal),
        (wire::PromptRuns::Whole, None) => Err(missing("start_token_id")),
        (wire::PromptRuns::Whole, Some(token)) if token >= shard.vocab_size => {
            let size = shard.vocab_size;
            let reason = format!("`start_token_id` is {token}; the vocabulary has {size} tokens");
            Err(ShardError::malformed(DESCRIPTION, reason))
        }
        (wire::PromptRuns::Whole, Some(start_token)) => Ok(PromptRuns::Whole { start_token }),
        (wire::PromptRuns::Unspecified, _) => Err(missing("prompt_runs")),
    }
}

/// The description of a warm shard.
pub(crate) fn description(warm: wire::WarmupResponse) -> Result<ShardDescription, ShardError> {
    let shard = warm.description.ok_or_else(|| missing("description"))?;
    let groups: Result<Vec<KvGroup>, ShardError> = shard.kv_groups.iter().map(kv_group).collect();
    let kv_groups = groups?;
    check_groups(&kv_groups)?;
    let prompt_runs = prompt_runs(&shard)?;
    let positive = [
        ("vocab_size", shard.vocab_size),
        ("max_batch_prefill_tokens", warm.max_batch_prefill_tokens),
        ("max_total_tokens", warm.max_total_tokens),
    ];
    if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
        return Err(missing(name));
    }
    if warm.prompt_token_ns == 0 {
        return Err(missing("prompt_token_ns"));
    }
    let has = |name: &str| shard.abilities.iter().any(|ability| ability == name);
    Ok(ShardDescription {
        runs_bridge: has(BRIDGE),
        can_pool: has(POOLED),
        can_score_prompts: has(PROMPT_LOGPROBS),
        architecture: shard.architecture,
        dtype: shard.dtype,
        device: shard.device,
        vocab_size: shard.vocab_size,
        max_positions: shard.max_positions,
        eos_token_ids: shard.eos_token_ids,
        prompt_runs,
        kv_groups,
        max_batch_prefill_tokens: warm.max_batch_prefill_tokens,
        max_total_tokens: warm.max_total_tokens,
        num_shards: shard.world_size,
        slowest_step: Duration::from_nanos(warm.slowest_step_ns),
        prompt_token: Duration::from_nanos(warm.prompt_token_ns),
        revision: Some(shard.revision).filter(|revision| !revision.is_empty()),
    })
}

/// What a group of shards is, of what each of them said: the same, but for how fast they are.
pub(crate) fn together(
    shards: impl IntoIterator<Item = ShardDescription>,
) -> Result<ShardDescription, ShardError> {
    let mut shards = shards.into_iter();
    let mut group = shards.next().ok_or(ShardError::NoShards)?;
    for (other, rank) in shards.zip(1..) {
        group.slowest_step = group.slowest_step.max(other.slowest_step);
        group.prompt_token = group.prompt_token.max(other.prompt_token);
        let alike = ShardDescription {
            slowest_step: group.slowest_step,
            prompt_token: group.prompt_token,
            ..other
        };
        if alike != group {
            // What they found of the machine while they warmed up may be alike the next time.
            let reason = format!("ranks 0 and {rank} differ: {group:?}, {alike:?}");
            return Err(ShardError::malformed("description of a group", reason));
        }
    }
    Ok(group)
}

/// Groups have ids of a byte, every slot and storage is in each of them, and they draw on one pool of pages.
fn check_groups(groups: &[KvGroup]) -> Result<(), ShardError> {
    let first = groups.first().ok_or_else(|| missing("kv_groups"))?;
    if groups.len() > MAX_GROUPS {
        let several = format!("{} KV groups (at most {MAX_GROUPS})", groups.len());
        return Err(ShardError::Unsupported(several));
    }
    let alike = |group: &KvGroup| KvGroup {
        kind: first.kind,
        stride_bytes: first.stride_bytes,
        ..group.clone()
    };
    match groups.iter().find(|group| alike(group) != *first) {
        None => Ok(()),
        Some(other) => Err(ShardError::malformed(
            "description",
            format!("`kv_groups` differ in more than kind and stride: {first:?}, {other:?}"),
        )),
    }
}

fn kv_kind(group: &wire::KvGroup) -> Result<KvKind, ShardError> {
    match (group.kind(), group.window) {
        (wire::KvKind::Full, _) => Ok(KvKind::Full),
        (wire::KvKind::Window, 0) => Err(missing("kv_groups.window")),
        (wire::KvKind::Window, window) => Ok(KvKind::Window(window)),
        (wire::KvKind::Unspecified, _) => Err(missing("kv_groups.kind")),
    }
}

fn kv_group(group: &wire::KvGroup) -> Result<KvGroup, ShardError> {
    let kind = kv_kind(group)?;
    let positive = [
        ("kv_groups.stride_bytes", u64::from(group.stride_bytes)),
        ("kv_groups.page_bytes", u64::from(group.page_bytes)),
        ("kv_groups.num_pages", group.num_pages),
        ("kv_groups.slot_tokens", u64::from(group.slot_tokens)),
        (
            "kv_groups.num_slots beyond the reserved one",
            u64::from(group.num_slots.saturating_sub(1)),
        ),
    ];
    if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
        return Err(missing(name));
    }
    if group.num_storages < group.num_slots {
        let reason = format!(
            "{} storages for {} slots",
            group.num_storages, group.num_slots
        );
        return Err(ShardError::malformed(DESCRIPTION, reason));
    }
    Ok(KvGroup {
        kind,
        stride_bytes: group.stride_bytes,
        page_bytes: group.page_bytes,
        num_pages: group.num_pages,
        slot_tokens: group.slot_tokens,
        num_slots: group.num_slots,
        num_storages: group.num_storages,
        max_spans: group.max_spans,
    })
}

fn missing(name: &str) -> ShardError {
    ShardError::malformed(DESCRIPTION, format!("`{name}` is missing"))
}
