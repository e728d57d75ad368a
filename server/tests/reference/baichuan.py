"""Baichuan 1 and 2, https://arxiv.org/abs/2309.10305: W_pack holds queries, keys and values; 7B turns its heads, 13B has ALiBi;
of version 2, the head's rows have unit length (section 2.3, NormHead)."""

import torch
from eager import LlamaLike, alibi_slopes, attend, turn
from torch import Tensor, nn


class Attention(nn.Module):
    """Rotary where the configuration has max_position_embeddings, else ALiBi."""

    def __init__(self, fields: dict) -> None:
        super().__init__()
        hidden, self.heads = fields["hidden_size"], fields["num_attention_heads"]
        self.is_rotary = "max_position_embeddings" in fields
        self.W_pack = nn.Linear(hidden, 3 * hidden, bias=False)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        packed = self.W_pack(x).view(len(x), 3, self.heads, -1)
        query, key, value = packed[:, 0], packed[:, 1], packed[:, 2]
        if self.is_rotary:
            return self.o_proj(attend(turn(query, 10000.0), turn(key, 10000.0), value))
        return self.o_proj(attend(query, key, value, alibi_slopes(self.heads)))


class BaichuanForCausalLM(LlamaLike):
    """The whole model."""

    attention = Attention

    def head(self, normed: Tensor) -> Tensor:
        weight = self.lm_head.weight
        if "z_loss_weight" in self.fields:
            weight = weight / torch.linalg.vector_norm(weight, dim=1, keepdim=True)
        return normed @ weight.T
