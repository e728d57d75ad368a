"""Every native or packed layer against its reference in plain torch."""

import pytest
import torch

from ribbon_server.layers.activation import fused_silu_mul, native_silu_mul, reference_silu_mul
from ribbon_server.layers.linear import NativeLinear, PackedOneDnnLinear, TorchLinear, packs_with_onednn
from ribbon_server.layers.linear_choice import LinearChooser
from ribbon_server.layers.norm import FusedRmsNorm, NativeRmsNorm, ReferenceRmsNorm

DTYPES = [torch.float32, torch.bfloat16]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def random(*shape: int, dtype: torch.dtype, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("with_delta", [False, True])
def test_rms_norm(dtype: torch.dtype, rows: int, with_delta: bool) -> None:
    weight, delta = random(96, dtype=dtype), random(rows, 96, dtype=dtype, seed=2) if with_delta else None
    results = []
    for kind in (ReferenceRmsNorm, NativeRmsNorm, FusedRmsNorm):
        stream, output = random(rows, 96, dtype=dtype, seed=3), torch.empty(rows, 96, dtype=dtype)
        kind(weight, 1e-5)(stream, delta, output)
        results.append((stream, output))
    (stream, output), *others = results
    for other_stream, other_output in others:
        torch.testing.assert_close(other_stream, stream, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
        torch.testing.assert_close(other_output, output, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert torch.equal(stream, random(rows, 96, dtype=dtype, seed=3)) is not with_delta


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 70])
def test_silu_mul(dtype: torch.dtype, rows: int) -> None:
    gate_up = random(rows, 2 * 72, dtype=dtype) * 4
    expected = torch.empty(rows, 72, dtype=dtype)
    reference_silu_mul(gate_up, expected)
    for silu_mul in (native_silu_mul, fused_silu_mul):
        output = torch.empty(rows, 72, dtype=dtype)
        silu_mul(gate_up, output)
        torch.testing.assert_close(output, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.skipif(not packs_with_onednn(torch.bfloat16), reason="this torch does not pack")
@pytest.mark.parametrize("rows", [1, 3, 8, 9, 64])
@pytest.mark.parametrize("with_bias", [False, True])
def test_packed_linear_layers(rows: int, with_bias: bool) -> None:
    weight, x = random(72, 96, dtype=torch.bfloat16), random(rows, 96, dtype=torch.bfloat16, seed=2)
    bias = random(72, dtype=torch.bfloat16, seed=3) if with_bias else None
    expected = TorchLinear(weight.float(), None if bias is None else bias.float())(x.float())
    packed = PackedOneDnnLinear(weight, bias)
    for layer in (packed, LinearChooser()(weight, bias), NativeLinear(weight, bias)):
        torch.testing.assert_close(layer(x).float(), expected, rtol=2e-2, atol=0.15)


def test_float32_stays_with_torch() -> None:
    assert isinstance(LinearChooser()(torch.zeros(8, 8)), TorchLinear)
