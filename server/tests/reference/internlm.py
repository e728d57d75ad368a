"""InternLM 2, https://arxiv.org/abs/2403.17297 (section 2.2: wqkv holds for each key head its queries, its key, its value), and 3,
whose published code is Llama's block with separate switches for biases; both without dynamic scaling within their context."""

from eager import EagerModel, GatedUnit, LlamaLike, RootMeanSquare, attend, turn
from torch import Tensor, nn


class Attention2(nn.Module):
    """Queries, key and value of a group lie together."""

    def __init__(self, fields: dict) -> None:
        super().__init__()
        hidden, self.heads, self.kv_heads = (
            fields[name] for name in ("hidden_size", "num_attention_heads", "num_key_value_heads")
        )
        self.base, self.dim = fields["rope_theta"], hidden // self.heads
        self.wqkv = nn.Linear(hidden, (self.heads + 2 * self.kv_heads) * self.dim, bias=fields["bias"])
        self.wo = nn.Linear(hidden, hidden, bias=fields["bias"])

    def forward(self, x: Tensor) -> Tensor:
        groups = self.wqkv(x).view(len(x), self.kv_heads, -1, self.dim)
        query = groups[:, :, :-2].reshape(len(x), self.heads, self.dim)
        return self.wo(attend(turn(query, self.base), turn(groups[:, :, -2], self.base), groups[:, :, -1]))


class Layer2(nn.Module):
    """Pre-norm."""

    def __init__(self, fields: dict) -> None:
        super().__init__()
        hidden, eps = fields["hidden_size"], fields["rms_norm_eps"]
        self.attention = Attention2(fields)
        self.feed_forward = GatedUnit(hidden, fields["intermediate_size"], ("w1", "w3", "w2"))
        self.attention_norm = RootMeanSquare(hidden, eps)
        self.ffn_norm = RootMeanSquare(hidden, eps)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.ffn_norm(x))


class InternLM2ForCausalLM(EagerModel):
    """The whole model."""

    def __init__(self, fields: dict) -> None:
        super().__init__(fields)
        vocab, hidden = fields["vocab_size"], fields["hidden_size"]
        self.model = nn.Module()
        self.model.tok_embeddings = nn.Embedding(vocab, hidden)
        self.model.layers = nn.ModuleList(Layer2(fields) for _ in range(fields["num_hidden_layers"]))
        self.model.norm = RootMeanSquare(hidden, fields["rms_norm_eps"])
        self.output = nn.Linear(hidden, vocab, bias=False)

    def logits(self, token_ids: Tensor) -> Tensor:
        x = self.model.tok_embeddings(token_ids)
        for layer in self.model.layers:
            x = layer(x)
        return self.output(self.model.norm(x))


class Attention3(nn.Module):
    """Four projections; the one behind has a switch of its own."""

    def __init__(self, fields: dict) -> None:
        super().__init__()
        self.base, self.dim = fields["rope_theta"], fields["head_dim"]
        heads, kv_heads = fields["num_attention_heads"], fields["num_key_value_heads"]
        widths = {"q_proj": heads * self.dim, "k_proj": kv_heads * self.dim, "v_proj": kv_heads * self.dim}
        for name, width in widths.items():
            self.add_module(name, nn.Linear(fields["hidden_size"], width, bias=fields["qkv_bias"]))
        self.o_proj = nn.Linear(heads * self.dim, fields["hidden_size"], bias=fields["bias"])

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (part(x).view(len(x), -1, self.dim) for part in (self.q_proj, self.k_proj, self.v_proj))
        return self.o_proj(attend(turn(query, self.base), turn(key, self.base), value))


class InternLM3ForCausalLM(LlamaLike):
    """The whole model."""

    attention = Attention3
