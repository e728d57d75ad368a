"""The packed linear layer, the norm and the activation against float64, at every instruction set."""

import numpy as np
import pytest
import torch

from ribbon_server import _native

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Relative to the result: half a unit in the last place of the stored format, and the sums' own error.
RTOL = {"float32": 2e-6, "bfloat16": 2**-8}


@pytest.mark.parametrize(
    ("out", "width"), [(64, 32), (768, 768), (2048, 768), (130, 100), (1, 1), (63, 31), (200, 2048)]
)
@pytest.mark.usefixtures("features")
def test_packed_linear(out: int, width: int) -> None:
    generator = torch.Generator().manual_seed(out)
    weight = torch.randn(out, width, generator=generator).bfloat16()
    linear = _native.PackedLinear(weight.data_ptr(), out, width)
    exact_weight = weight.double().numpy()
    del weight
    for rows in range(1, linear.max_rows + 1) if linear.max_rows else (*range(1, 36), 63, 64, 65, 191, 600):
        x = torch.randn(rows, width, generator=generator).bfloat16()
        output = torch.full((rows, out), float("nan"), dtype=torch.bfloat16)
        linear.forward(x.data_ptr(), output.data_ptr(), rows)
        expected = x.double().numpy() @ exact_weight.T
        np.testing.assert_allclose(output.double().numpy(), expected, rtol=RTOL["bfloat16"], atol=1e-5 * width)


@pytest.mark.usefixtures("features")
def test_packed_linear_refuses_too_many_rows() -> None:
    weight, x = torch.zeros(64, 32, dtype=torch.bfloat16), torch.zeros(9, 32, dtype=torch.bfloat16)
    linear = _native.PackedLinear(weight.data_ptr(), 64, 32)
    if linear.max_rows is not None:
        with pytest.raises(ValueError, match="rows is 9; at most 8"):
            linear.forward(x.data_ptr(), x.data_ptr(), 9)
    else:
        assert "amx_bf16" in _native.cpu_features()
    with pytest.raises(ValueError, match="0 x 32"):
        _native.PackedLinear(weight.data_ptr(), 0, 32)
    with pytest.raises(ValueError, match="weight"):
        _native.PackedLinear(0, 64, 32)


def test_packed_linear_gives_a_row_the_same_numbers_in_every_batch() -> None:
    weight, x = torch.randn(200, 300).bfloat16(), torch.randn(191, 300).bfloat16()
    linear = _native.PackedLinear(weight.data_ptr(), 200, 300)
    whole = linear_of(linear, x) if linear.max_rows is None else None
    alone = torch.cat([linear_of(linear, row[None]) for row in x])
    assert whole is None or torch.equal(whole, alone)
    assert torch.equal(torch.cat([linear_of(linear, some) for some in x.split(8)]), alone)


def linear_of(linear: _native.PackedLinear, x: torch.Tensor) -> torch.Tensor:
    """Its output for rows x [rows, 300]."""
    output = torch.empty(len(x), 200, dtype=x.dtype)
    linear.forward(x.data_ptr(), output.data_ptr(), len(x))
    return output


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "dim"), [(1, 256), (3, 768), (50, 100), (600, 48)])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.usefixtures("features")
def test_rms_norm(dtype: str, rows: int, dim: int, with_residual: bool) -> None:
    x, residual = torch.randn(2, rows, dim).to(DTYPES[dtype])
    weight = torch.randn(dim).to(DTYPES[dtype])
    output = torch.full_like(x, float("nan"))
    total = (x.float() + residual.float()).to(x.dtype) if with_residual else x
    exact = total.double()
    expected = exact * (exact.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight.double()
    _native.rms_norm(
        x=x.data_ptr(),
        residual=residual.data_ptr() if with_residual else 0,
        weight=weight.data_ptr(),
        output=output.data_ptr(),
        rows=rows,
        dim=dim,
        eps=1e-5,
        dtype=dtype,
    )
    np.testing.assert_allclose(output.double().numpy(), expected.numpy(), rtol=RTOL[dtype], atol=1e-6)
    assert not with_residual or torch.equal(residual, total)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "dim"), [(1, 704), (3, 2048), (40, 100)])
@pytest.mark.usefixtures("features")
def test_silu_mul(dtype: str, rows: int, dim: int) -> None:
    gate_up = (torch.randn(rows, 2 * dim) * 8).to(DTYPES[dtype])
    gate_up[0, :3] = torch.tensor([-200.0, 200.0, 0.0])
    output = torch.full((rows, dim), float("nan"), dtype=gate_up.dtype)
    _native.silu_mul(gate_up=gate_up.data_ptr(), output=output.data_ptr(), rows=rows, dim=dim, dtype=dtype)
    gate, up = gate_up.double().chunk(2, dim=-1)
    expected = torch.nn.functional.silu(gate) * up
    np.testing.assert_allclose(output.double().numpy(), expected.numpy(), rtol=RTOL[dtype], atol=1e-6)


def test_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="missing the keyword argument 'dim'"):
        _native.silu_mul(gate_up=0, output=0, rows=1, dtype="float32")
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        _native.silu_mul(gate_up=0, output=0, rows=1, dim=1, dtype="float32", colour=1)
    with pytest.raises(ValueError, match="gate_up"):
        _native.silu_mul(gate_up=0, output=0, rows=1, dim=1, dtype="float32")
    with pytest.raises(ValueError, match="dtype"):
        _native.silu_mul(gate_up=64, output=64, rows=1, dim=1, dtype="int8")
    with pytest.raises(ValueError, match="dim is 0"):
        _native.silu_mul(gate_up=64, output=64, rows=1, dim=0, dtype="float32")
