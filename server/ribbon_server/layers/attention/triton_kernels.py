"""Triton kernels of attention over ribbons: rope with KV store, and ragged attention. Pointers and strides alone; strides count elements."""

import triton
import triton.language as tl


@triton.jit
def rope_store_kernel(
    qkv,
    cos,
    sin,
    query,
    kv,
    slots,
    positions,
    slot_stride,
    token_stride,
    num_heads: tl.constexpr,
    num_kv_heads: tl.constexpr,
    head_dim: tl.constexpr,
    half: tl.constexpr,
    block_heads: tl.constexpr,
    block_dim: tl.constexpr,
):
    """One program a token and block of heads. qkv [tokens, heads + 2 * kv_heads, head_dim]; cos, sin float32 [tokens, half]."""
    token = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * block_heads + tl.arange(0, block_heads)
    dims = tl.arange(0, block_dim)
    total: tl.constexpr = num_heads + 2 * num_kv_heads
    inside = (heads < total)[:, None] & (dims < head_dim)[None, :]
    row = qkv + token * total * head_dim + heads[:, None] * head_dim
    x = tl.load(row + dims[None, :], mask=inside, other=0.0).to(tl.float32)
    # Each element of the first half turns with the one `half` behind it, and the other way round.
    is_first = dims < half
    turned = dims < 2 * half
    partner = tl.where(is_first, dims + half, dims - half)
    other = tl.load(row + partner[None, :], mask=inside & turned[None, :], other=0.0).to(tl.float32)
    angle = tl.where(is_first, dims, dims - half)
    c = tl.load(cos + token * half + angle, mask=turned, other=1.0)
    s = tl.load(sin + token * half + angle, mask=turned, other=0.0)
    rotated = x * c[None, :] + tl.where(is_first, -1.0, 1.0)[None, :] * other * s[None, :]
    result = tl.where((heads < num_heads + num_kv_heads)[:, None], rotated, x)
    to_query = inside & (heads < num_heads)[:, None]
    at_query = query + token * num_heads * head_dim + heads[:, None] * head_dim + dims[None, :]
    tl.store(at_query, result.to(query.dtype.element_ty), mask=to_query)
    slot = tl.load(slots + token)
    position = tl.load(positions + token)
    place = kv + slot * slot_stride + position * token_stride
    at_kv = place + (heads - num_heads)[:, None] * head_dim + dims[None, :]
    tl.store(at_kv, result.to(kv.dtype.element_ty), mask=inside & (heads >= num_heads)[:, None])


@triton.jit
def ragged_attention_kernel(
    query,
    kv,
    output,
    sinks,
    slopes,
    tiles,
    starts,
    slots,
    lengths,
    slot_stride,
    token_stride,
    scale,
    softcap,
    window,
    num_heads: tl.constexpr,
    num_kv_heads: tl.constexpr,
    head_dim: tl.constexpr,
    group: tl.constexpr,
    block_tokens: tl.constexpr,
    block_group: tl.constexpr,
    block_keys: tl.constexpr,
    block_dim: tl.constexpr,
    has_softcap: tl.constexpr,
    has_sinks: tl.constexpr,
    has_slopes: tl.constexpr,
    has_window: tl.constexpr,
    widen: tl.constexpr,
):
    """One program a tile of a run and kv head; its rows are (token of the tile, query head of the group).

    query, output [tokens, heads, head_dim]; kv [slots, slot tokens, 2, kv_heads, head_dim]; tiles int32 [tiles, 2] of row and
    first token inside the run; starts, slots, lengths int32 as in RunGroup; sinks, slopes float32 [heads].
    widen multiplies in float32 whatever the type: the interpreter's products know no bfloat16.
    """
    tile = tl.program_id(0)
    kv_head = tl.program_id(1)
    row = tl.load(tiles + 2 * tile)
    first = tl.load(tiles + 2 * tile + 1)
    begin = tl.load(starts + row)
    run = tl.load(starts + row + 1) - begin
    length = tl.load(lengths + row)
    slot = tl.load(slots + row).to(tl.int64)

    m = tl.arange(0, block_tokens * block_group)
    token = first + m // block_group
    member = m % block_group
    head = kv_head * group + member
    dims = tl.arange(0, block_dim)
    is_row = (token < run) & (member < group)
    is_dim = dims < head_dim
    at_query = (begin + token).to(tl.int64)[:, None] * (num_heads * head_dim) + head[:, None] * head_dim + dims[None, :]
    in_query = is_row[:, None] & is_dim[None, :]
    q = tl.load(query + at_query, mask=in_query, other=0.0)
    if widen:
        q = q.to(tl.float32)

    last = length - run + token  # the last key that each row sees: its own
    stop = tl.minimum(length, length - run + first + block_tokens)
    start = 0
    if has_window:
        start = tl.maximum(0, length - run + first - window + 1) // block_keys * block_keys
    slope = tl.zeros([block_tokens * block_group], tl.float32)
    if has_slopes:
        slope = tl.load(slopes + head, mask=is_row, other=0.0)
    highest = tl.full([block_tokens * block_group], float("-inf"), tl.float32)
    total = tl.zeros([block_tokens * block_group], tl.float32)
    if has_sinks:
        # A sink takes part in the softmax and gives no value.
        highest = tl.load(sinks + head, mask=is_row, other=0.0)
        total = total + 1.0
    acc = tl.zeros([block_tokens * block_group, block_dim], tl.float32)
    keys_of_head = kv + slot * slot_stride + kv_head * head_dim
    values_of_head = keys_of_head + num_kv_heads * head_dim
    for key_block in range(start, stop, block_keys):
        key = key_block + tl.arange(0, block_keys)
        at_key = key.to(tl.int64)[:, None] * token_stride + dims[None, :]
        in_key = (key < stop)[:, None] & is_dim[None, :]
        k = tl.load(keys_of_head + at_key, mask=in_key, other=0.0).to(q.dtype)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        if has_softcap:
            scores = softcap * (2.0 * tl.sigmoid(2.0 * scores / softcap) - 1.0)  # tanh
        if has_slopes:
            scores = scores + slope[:, None] * (key[None, :] - last[:, None]).to(tl.float32)
        seen = (key[None, :] <= last[:, None]) & (key < stop)[None, :]
        if has_window:
            seen = seen & (key[None, :] > last[:, None] - window)
        scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)  # rows that have seen nothing yet
        weights = tl.exp(scores - base[:, None])
        shrink = tl.exp(highest - base)
        total = total * shrink + tl.sum(weights, 1)
        v = tl.load(values_of_head + at_key, mask=in_key, other=0.0).to(q.dtype)
        acc = acc * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        highest = higher
    result = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(output + at_query, result.to(output.dtype.element_ty), mask=in_query)
