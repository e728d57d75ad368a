"""The counter-based generator: against published vectors, its own bounds, and the native version."""

import numpy as np
import pytest

from ribbon_server import _native
from ribbon_server.sampling.random import gumbel, philox, uniform

# Known answers of the Random123 library, philox4x32-10: (counter, key, result).
KNOWN = [
    ([0, 0, 0, 0], 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, 0xFFFFFFFFFFFFFFFF, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        0x299F31D0A4093822,
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_the_published_answers(counter, key, expected) -> None:
    assert philox(key, np.array([counter], np.uint32))[0].tolist() == expected


def test_uniform_values_lie_inside_the_unit_interval() -> None:
    values = uniform(np.array([0, 1, 511, 512, 2**31, 2**32 - 1], np.uint32))
    assert values.dtype == np.float32
    assert values[0] == values[2] == np.float32(2.0**-24)
    assert values.min() > 0
    assert values.max() < 1


def test_noise_stays_within_its_bounds() -> None:
    extremes = -np.log(-np.log(uniform(np.array([0, 2**32 - 1], np.uint32))))
    assert extremes == pytest.approx([-2.82, 16.64], abs=0.01)


def test_noise_depends_on_seed_position_choice_and_token() -> None:
    tokens = np.arange(64, dtype=np.uint32)
    base = gumbel(1, 2, 3, tokens)
    for other in (
        gumbel(2, 2, 3, tokens),
        gumbel(1, 3, 3, tokens),
        gumbel(1, 2, 4, tokens),
        gumbel(1 << 32 | 1, 2, 3, tokens),
    ):
        assert (base != other).all()
    assert len(np.unique(base)) == 64
    assert gumbel(1, 2, 3, tokens[[40, 3]]).tolist() == base[[40, 3]].tolist()


@pytest.mark.parametrize("seed", [0, 1, 2**63 + 12345, 2**64 - 1])
def test_the_native_noise_is_the_same(seed: int) -> None:
    tokens = np.concatenate((np.arange(40), [2**31 - 1, 31_999, 150_000])).astype(np.uint32)
    output = np.zeros(len(tokens), np.float32)
    _native.gumbel_noise(seed, 17, 5, tokens, output)
    np.testing.assert_allclose(output, gumbel(seed, 17, 5, tokens), rtol=0, atol=2e-6)
