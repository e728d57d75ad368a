"""Writes docs/reference/models.md from the registry of families. Run: python server/models_doc.py > docs/reference/models.md"""

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import transformers

sys.path.insert(0, str(Path(__file__).parent))

from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.registry import Family, families
from ribbon_server.models.spec import Attention, Dense, FeedForward, Latent, LayerSpec, ModelSpec, NormKind, Residual

HEAD = """# Models

Generated from the registry by `make docs`; do not edit. A row is a file of `server/ribbon_server/models/families/`; adding one is
[docs/adding-a-model.md](../adding-a-model.md). Features are those of the tiny configurations that `make parity` compares with the
reference: transformers' class where it ships one, else eager code of our own, written from the paper, under
`server/tests/reference/`.

Attention on the CPU runs in the native kernel, whatever the table names (softcaps, ALiBi, sinks, windows, chunks of positions, latent
attention), where heads have a multiple of 16 numbers, at most 576; in plain torch (right, and slow) elsewhere. On a CUDA device it runs
in flash attention or Triton, but for latent attention and chunks of positions, which a device refuses. Experts, plain
feed-forward parts, layer norms and norms of heads run in plain torch on every device. Models whose layers differ in their window do not
run on a device yet. Latent attention keeps one vector a token and layer, the latent beside the shared key, and attends over it as it is.

Where an encoder reads the prompt, it does so in one step: such a prompt is never cut, whatever `--max-batch-prefill-tokens` says (a longer one
has a step of its own), and no prefix of it is shared. A sequence's ribbon holds the keys and values of the encoder's result, then those of the
answer (docs/decisions/0003-encoder-decoder.md). Penalties look at the answer alone; prompt tokens have no probabilities
(`decoder_input_details`, and `echo` with `logprobs`, are refused). Distances have no limit: a sequence, prompt and answer together, has
twice `n_positions` tokens, 2048 where config.json says nothing. Both attentions of such a model to its own tokens run in plain torch, that to the
prompt in the native kernel; on a CUDA device it is refused.

Weights are float32, bfloat16 or float16; MXFP4 weights are decoded to bfloat16 as they are read, so they take four times their size.

A model is dealt out to N shards (`--num-shard`) where N divides the query heads, the feed-forward columns and the experts, and
divides the key-value heads or is a multiple of them. `make parity` compares every row on two shards, and on four where the heads of
its tiny configuration allow it. A model is cut into P stages (`--pipeline-parallel-size`) where it has at least P layers; it is compared at
two. An encoder-decoder is dealt out but not cut. Several shards were compared on the CPU only so far.

A causal model that has no row here runs by `transformers`' own code, where that ships its class: its layers attend over ribbons through
our kernels, in the same batches, on one shard, and slower than a family's. The shard's abilities name `bridge` then. It is checked at
the start against its own attention, and refused with the reason where it keeps something else than keys and values (state-space layers,
encoder-decoders, shared or own caches), needs remote code, is quantized, masks in another way than causally or by a window, or has rotary
positions that change with the longest sequence of a batch.

| family | architectures (older names) | features | reference |
| --- | --- | --- | --- |
"""


def specs(family: Family) -> list[ModelSpec]:
    """Of every tiny configuration, with transformers' defaults where it has them."""
    config_class = getattr(getattr(transformers, family.architecture, None), "config_class", None)
    built = []
    for variant in ({}, *family.tiny.variants.values()):
        fields = {**family.tiny.fields, **variant}
        whole = fields if config_class is None else config_class(**fields).to_dict()
        built.append(family.build(HfConfig({**whole, "architectures": [family.architecture]})))
    return built


def features(spec: ModelSpec) -> Iterator[str]:
    """Words for what a spec sets."""
    if spec.encoder is not None:
        yield "encoder"
    if spec.relative_bias is not None:
        yield "relative bias"
    if spec.embedding.positions is not None:
        yield "learned positions"
    for layer in dict.fromkeys(spec.layers):
        yield from layer_features(layer)
    if spec.head.softcap is not None:
        yield "logit softcap"
    if spec.tied_embeddings:
        yield "tied embeddings"


def layer_features(layer: LayerSpec) -> Iterator[str]:
    """Norms, how the parts meet the stream, then the parts."""
    norm = layer.attention_norm or layer.attention_output_norm
    if norm is not None:
        yield "RMS norm" if norm.kind is NormKind.RMS else "layer norm"
    if layer.residual is not Residual.SEQUENTIAL:
        yield "parallel parts" if layer.residual is Residual.PARALLEL else "norm after sum"
    if layer.attention_output_norm is not None:
        yield "norms behind parts" if layer.attention_norm is None else "norms before and behind parts"
    if layer.residual_multiplier != 1.0:
        yield "residual multiplier"
    yield from attention_features(layer.attention)
    yield from feed_forward_features(layer.feed_forward)


def attention_features(attention: Attention) -> Iterator[str]:
    """Positions, sharing of heads, and what is done to scores."""
    if attention.rope is not None:
        partial = "partial " if attention.rope.dim < attention.turned_dim else ""
        yield f"{partial}{'interleaved ' if attention.rope.interleaved else ''}rope"
        scaling = type(attention.rope.scaling).__name__.removesuffix("Rope").lower()
        if scaling != "unscaled":
            yield f"{scaling} scaling"
    if isinstance(attention, Latent):
        yield from ("latent attention", *(["biases"] if attention.bias else []))
        return
    named = {
        "no positions": attention.rope is None and attention.temperature is not None,
        "grouped heads": attention.num_kv_heads < attention.num_heads,
        "ALiBi": attention.alibi is not None,
        "window": attention.window is not None,
        "chunks of positions": attention.chunk is not None,
        "queries that grow with their position": attention.temperature is not None,
        "norm of heads": attention.qk_norm is not None,
        "softcap": attention.softcap is not None,
        "sinks": attention.sinks,
        "clipped projections": attention.clip is not None,
        "biases": attention.qkv_bias,
    }
    yield from (name for name, is_set in named.items() if is_set)


def feed_forward_features(part: FeedForward) -> Iterator[str]:
    """Its kind and its function."""
    if isinstance(part, Dense):
        yield f"{'gated' if part.gated else 'plain'} {part.activation.value}"
        return
    yield "experts" if part.shared is None else "experts, shared expert"


def title(document: str) -> str:
    """The first words of a module, up to a colon or the end of the sentence."""
    return re.split(r"[:.](?=\s)", document)[0]


def row(module: str, members: list[Family]) -> str:
    """One line of the table."""
    document = import_module(f"ribbon_server.models.families.{module}").__doc__ or ""
    aliases = [family.architecture for family in families().values() if family.module == module and family.alias_of]
    names = ", ".join(f"`{family.architecture}`" for family in members)
    older = f" ({', '.join(f'`{alias}`' for alias in aliases)})" if aliases else ""
    built = [spec for family in members for spec in specs(family)]
    words = ", ".join(dict.fromkeys(word for spec in built for word in features(spec)))
    shipped = all(hasattr(transformers, family.architecture) for family in members)
    reference = "transformers" if shipped else f"`tests/reference/{module}.py`"
    return f"| {title(document)} | {names}{older} | {words} | {reference} |"


def page() -> str:
    """The whole file."""
    modules: dict[str, list[Family]] = {}
    for family in families().values():
        if family.alias_of is None:
            modules.setdefault(family.module, []).append(family)
    return HEAD + "\n".join(row(module, members) for module, members in sorted(modules.items())) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
