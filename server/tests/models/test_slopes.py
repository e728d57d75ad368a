"""ALiBi's slopes against the numbers of its paper. https://arxiv.org/abs/2108.12409, section 3"""

import pytest
import torch

from ribbon_server.models.assemble_attention import alibi_slopes
from ribbon_server.models.families.mpt import TINY
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.registry import family_of
from ribbon_server.models.spec import Alibi


def test_eight_heads_halve_from_one_half_on() -> None:
    assert alibi_slopes(Alibi(), 8).tolist() == [2.0**-power for power in range(1, 9)]


def test_sixteen_heads_take_steps_of_the_root_of_one_half() -> None:
    expected = torch.tensor([2 ** (-0.5 * step) for step in range(1, 17)])
    torch.testing.assert_close(alibi_slopes(Alibi(), 16), expected)


def test_further_heads_take_every_second_slope_of_the_next_power() -> None:
    assert alibi_slopes(Alibi(), 6)[4:].tolist() == pytest.approx([2**-1, 2**-3])


def test_a_larger_bias_makes_all_slopes_steeper() -> None:
    """transformers' class ignores the field, so parity cannot tell; the models' own code does not."""
    assert alibi_slopes(Alibi(max_bias=16.0), 8).tolist() == [2.0 ** (-2 * power) for power in range(1, 9)]
    config = HfConfig({**TINY.fields, "architectures": ["MPTForCausalLM"], "attn_config": {"alibi_bias_max": 16}})
    assert family_of("MPTForCausalLM").build(config).layers[0].attention.alibi == Alibi(max_bias=16.0)
