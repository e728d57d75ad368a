"""Aquila, https://github.com/FlagAI-Open/FlagAI: published as Llama's block without biases; InternLM 3 without its biases is that."""

from internlm import InternLM3ForCausalLM


class AquilaForCausalLM(InternLM3ForCausalLM):
    """The same sums under the same names."""

    def __init__(self, fields: dict) -> None:
        head_dim = fields["hidden_size"] // fields["num_attention_heads"]
        kv_heads = fields.get("num_key_value_heads", fields["num_attention_heads"])
        own = {
            "head_dim": head_dim,
            "num_key_value_heads": kv_heads,
            "qkv_bias": False,
            "bias": False,
            "rope_theta": 10000.0,
        }
        super().__init__({**own, **fields})
        self.fields = fields  # what is written to config.json
