"""Attention in chunks of positions: against transformers, with what lies in front of a chunk given up on the way."""

import numpy as np
import pytest
import torch
from models.test_parity import TOLERANCE
from models.test_windows import feed
from tiny import Driver, TinyModel, make_engine, save_tiny

from ribbon_server.errors import ModelNotSupported
from ribbon_server.layers.attention.base import AttentionShape
from ribbon_server.layers.attention.device_choice import DeviceAttentionChooser
from ribbon_server.layers.registry import REFERENCE

PROMPT = np.random.default_rng(7).integers(3, 160, 60).tolist()
CHUNK = 24


@pytest.fixture(scope="module")
def chunked(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return save_tiny(tmp_path_factory.mktemp("chunked"), "Llama4ForCausalLM")


@pytest.mark.parametrize("kernels", [None, REFERENCE], ids=["native", "reference"])
@pytest.mark.parametrize("run", [1, 7, 60])
def test_every_run_length_gives_the_logits_of_transformers(chunked: TinyModel, run: int, kernels) -> None:
    logits = feed(Driver(make_engine(chunked.folder, kernels=kernels)), PROMPT, run)
    expected = chunked.logits(PROMPT)[[min(end, len(PROMPT)) - 1 for end in range(run, len(PROMPT) + run, run)]]
    assert float(expected.std()) > 0.5  # logits that say something
    torch.testing.assert_close(logits, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_group_keeps_one_chunk_and_the_other_everything(chunked: TinyModel) -> None:
    groups = make_engine(chunked.folder).ribbons.groups
    assert [(len(group.layout.layers), group.layout.window) for group in groups] == [(2, CHUNK), (1, None)]


@pytest.mark.parametrize(("fields", "what"), [({"chunk": 8}, "chunks of positions"), ({"vectors": 1}, "latent")])
def test_a_device_refuses_what_it_has_no_kernel_for(fields: dict[str, int], what: str) -> None:
    chooser = DeviceAttentionChooser(torch.device("cpu"), operator=lambda *_: None)
    with pytest.raises(ModelNotSupported, match=f"{what}.* has no kernel for a device yet"):
        chooser(AttentionShape(4, 2, 16, 0.25, 0, 0, **fields))
