"""Parts for references of our own, where transformers ships no class: plain tensors, one whole sequence, nothing cached.

Written from the papers, before and apart from the specs; shares no code with ribbon_server.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


class EagerModel(nn.Module):
    """What the parity harness wants of a model: a call, and a checkpoint with real names."""

    def __init__(self, fields: dict[str, object]) -> None:
        """Keeps the configuration's fields."""
        super().__init__()
        self.fields = fields

    def logits(self, token_ids: Tensor) -> Tensor:
        """token_ids [tokens] to [tokens, vocab]."""
        raise NotImplementedError

    def forward(self, token_ids: Tensor, **_options: object) -> SimpleNamespace:
        """As transformers' models are called, with one sequence."""
        return SimpleNamespace(logits=self.logits(token_ids[0])[None])

    def save_pretrained(self, folder: Path) -> None:
        """config.json and model.safetensors."""
        config = {**self.fields, "architectures": [type(self).__name__]}
        (folder / "config.json").write_text(json.dumps(config))
        save_file(
            {name: tensor.contiguous() for name, tensor in self.state_dict().items()}, folder / "model.safetensors"
        )


class RootMeanSquare(nn.Module):
    """https://arxiv.org/abs/1910.07467, equation 4."""

    def __init__(self, dim: int, eps: float) -> None:
        """A gain for each of `dim` numbers."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim]."""
        return x / (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt() * self.weight


def turn(x: Tensor, base: float) -> Tensor:
    """x [tokens, heads, dim]: the pair (i, i + dim / 2) as one complex number, times e^(i · position · base^(-2i/dim)).
    https://arxiv.org/abs/2104.09864, section 3.4.2"""
    half = x.shape[-1] // 2
    speeds = base ** -(torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(len(x), dtype=torch.float64)[:, None] * speeds
    numbers = torch.complex(x[..., :half].double(), x[..., half:].double())
    turned = numbers * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.cat((turned.real, turned.imag), dim=-1).float()


def attend(query: Tensor, key: Tensor, value: Tensor, slopes: list[float] | None = None) -> Tensor:
    """Causal attention head by head: query [tokens, heads, dim], key and value [tokens, kv heads, dim] to [tokens, heads · dim].

    slopes: a head's penalty for each token of distance, https://arxiv.org/abs/2108.12409.
    """
    tokens, heads, dim = query.shape
    results = []
    distance = torch.arange(tokens)[:, None] - torch.arange(tokens)
    for head in range(heads):
        kv_head = head * key.shape[1] // heads
        scores = query[:, head] @ key[:, kv_head].T / dim**0.5
        if slopes is not None:
            scores = scores - slopes[head] * distance
        weights = scores.masked_fill(distance < 0, float("-inf")).softmax(-1)
        results.append(weights @ value[:, kv_head])
    return torch.cat(results, dim=-1)


def alibi_slopes(heads: int) -> list[float]:
    """The sequence of https://arxiv.org/abs/2108.12409, section 3: for n heads, a power of two, it starts at 2^(-8/n) and has that
    ratio; for others, the sequence of the next lower power, then every second number of the next higher one's."""
    lower = 1
    while lower * 2 <= heads:
        lower *= 2
    first = [2.0 ** (-8.0 * (index + 1) / lower) for index in range(lower)]
    finer = [2.0 ** (-8.0 * (index + 1) / (2 * lower)) for index in range(2 * lower)]
    return first + finer[0::2][: heads - lower]


class GatedUnit(nn.Module):
    """down(silu(gate(x)) · up(x)), https://arxiv.org/abs/2002.05202, under the names that a family gives the three."""

    def __init__(self, hidden: int, inner: int, names: tuple[str, str, str], *, bias: bool = False) -> None:
        """names: of gate, up and down."""
        super().__init__()
        self.names = names
        for name, (width, result) in zip(names, ((hidden, inner), (hidden, inner), (inner, hidden)), strict=True):
            self.add_module(name, nn.Linear(width, result, bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        """[tokens, hidden]."""
        gate, up, down = (self.get_submodule(name) for name in self.names)
        gated = gate(x)
        return down(gated * torch.sigmoid(gated) * up(x))


LLAMA_UNIT = ("gate_proj", "up_proj", "down_proj")


class LlamaLayer(nn.Module):
    """Pre-norm, https://arxiv.org/abs/2302.13971, under Llama's names around an attention of the family's own."""

    def __init__(self, attention: nn.Module, fields: dict) -> None:
        """fields: `bias` is that of the gated unit."""
        super().__init__()
        hidden, eps = fields["hidden_size"], fields["rms_norm_eps"]
        self.self_attn = attention
        self.mlp = GatedUnit(hidden, fields["intermediate_size"], LLAMA_UNIT, bias=fields.get("bias", False))
        self.input_layernorm = RootMeanSquare(hidden, eps)
        self.post_attention_layernorm = RootMeanSquare(hidden, eps)

    def forward(self, x: Tensor) -> Tensor:
        """[tokens, hidden]."""
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class LlamaLike(EagerModel):
    """A whole model of such layers; a family says its attention, and its head where that is another."""

    attention: type[nn.Module]

    def __init__(self, fields: dict) -> None:
        """As many layers as the configuration says."""
        super().__init__(fields)
        vocab, hidden = fields["vocab_size"], fields["hidden_size"]
        layers = (LlamaLayer(self.attention(fields), fields) for _ in range(fields["num_hidden_layers"]))
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(vocab, hidden)
        self.model.layers = nn.ModuleList(layers)
        self.model.norm = RootMeanSquare(hidden, fields["rms_norm_eps"])
        self.lm_head = nn.Linear(hidden, vocab, bias=False)

    def logits(self, token_ids: Tensor) -> Tensor:
        """See EagerModel."""
        x = self.model.embed_tokens(token_ids)
        for layer in self.model.layers:
            x = layer(x)
        return self.head(self.model.norm(x))

    def head(self, normed: Tensor) -> Tensor:
        """normed [tokens, hidden] to [tokens, vocab]."""
        return self.lm_head(normed)
