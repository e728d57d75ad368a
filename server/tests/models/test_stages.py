"""What each stage of a pipeline holds of a model and of a token, and what cannot be cut into stages."""

import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from parity.rank_threads import on_ranks
from safetensors.torch import load_file, save_file
from tiny import TinyModel, save_tiny

from ribbon_server.device import CPU
from ribbon_server.distributed.sharding import ALONE, Place, Rank, place_of, stage_layers
from ribbon_server.errors import BadSetting, ModelNotSupported, WeightsMismatch
from ribbon_server.layers.registry import REFERENCE
from ribbon_server.models.assemble_attention import group_layouts, group_places
from ribbon_server.models.checkpoint import SafetensorsCheckpoint
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.loader import load_weights
from ribbon_server.models.open import open_model
from ribbon_server.models.registry import families, family_of
from ribbon_server.models.stages import check_stages

LIKE = torch.empty(0)


def load(folder: Path, place: Place) -> dict[str, torch.Tensor]:
    checkpoint = SafetensorsCheckpoint(folder)
    family = family_of(checkpoint.config.architecture)
    return load_weights(family.build(checkpoint.config), family.names, checkpoint, torch.float32, CPU, place)


def num_bytes(weights: dict[str, torch.Tensor]) -> int:
    return sum(weight.nbytes for weight in weights.values())


def test_the_last_stage_has_the_first_ranks() -> None:
    places = [place_of(Rank(index, 6), 3) for index in range(6)]
    assert [(place.stage.index, place.tensor.index) for place in places] == [
        (2, 0),
        (2, 1),
        (1, 0),
        (1, 1),
        (0, 0),
        (0, 1),
    ]
    assert {(place.stage.world_size, place.tensor.world_size) for place in places} == {(3, 2)}
    for world_size, num_stages in ((6, 4), (1, 2), (2, 0)):
        with pytest.raises(BadSetting, match=f"is {num_stages}; it has to divide the number of ranks, {world_size}$"):
            place_of(Rank(0, world_size), num_stages)


@pytest.mark.parametrize(
    ("num_layers", "sizes"), [(6, [2, 2, 2]), (7, [3, 2, 2]), (8, [3, 3, 2]), (3, [1, 1, 1]), (6, [2, 1, 2, 1])]
)
def test_every_layer_is_in_one_stage(num_layers: int, sizes: list[int]) -> None:
    stages = [stage_layers(num_layers, Rank(index, len(sizes))) for index in range(len(sizes))]
    assert [len(stage) for stage in stages] == sizes
    assert [layer for stage in stages for layer in stage] == list(range(num_layers))


@pytest.mark.parametrize("is_tied", [False, True])
def test_a_stage_holds_its_layers_and_its_end(tmp_path: Path, *, is_tied: bool) -> None:
    model = save_tiny(tmp_path, num_hidden_layers=3, tie_word_embeddings=is_tied)
    whole = load(model.folder, Place(ALONE, ALONE))
    stages = [load(model.folder, Place(Rank(index, 3), ALONE)) for index in range(3)]
    outer = [{name for name in stage if not name.startswith("layers.")} for stage in stages]
    assert outer == [{"embedding"}, set(), {"final_norm", "embedding" if is_tied else "head"}]
    for index, stage in enumerate(stages):
        layers = {name: whole[name] for name in whole if name.startswith(f"layers.{index}.")}
        assert layers
        assert set(stage) - outer[index] == set(layers)
        assert all(torch.equal(stage[name], whole[name]) for name in stage)
    copied = whole["embedding"].nbytes if is_tied else 0
    assert sum(map(num_bytes, stages)) == num_bytes(whole) + copied
    assert max(map(num_bytes, stages)) < 0.7 * num_bytes(whole)


def test_a_rank_of_a_stage_holds_its_part_of_it(tiny_untied: TinyModel) -> None:
    whole = load(tiny_untied.folder, Place(Rank(1, 2), ALONE))
    halves = [load(tiny_untied.folder, Place(Rank(1, 2), Rank(index, 2))) for index in range(2)]
    for name in ("head", "layers.2.output"):
        assert torch.equal(torch.cat([half[name] for half in halves], dim=0 if name == "head" else 1), whole[name])


def test_ranks_of_a_model_count_what_they_hold(tiny_untied: TinyModel) -> None:
    """What the process loads is what the stage asks for, and no more."""
    whole = open_model(tiny_untied.folder, None, REFERENCE).decoder.num_parameters
    opened = on_ranks(2, lambda world: open_model(tiny_untied.folder, None, REFERENCE, world=world), num_stages=2)
    held = [model.decoder.num_parameters for model in opened]
    assert sum(held) == whole
    assert max(held) < 0.7 * whole


@pytest.mark.parametrize("stage", [Rank(0, 2), Rank(1, 2)])
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model.layers.0.mlp.up_proj.weight": None}, "lacks model.layers.0.mlp.up_proj.weight"),
        ({"lm_head.weight": None}, "lacks lm_head.weight"),
        ({"model.layers.9.extra": torch.zeros(1)}, "does not use, model.layers.9.extra"),
    ],
)
def test_every_stage_checks_the_whole_checkpoint(
    tiny_untied: TinyModel, tmp_path: Path, stage: Rank, changed: dict[str, torch.Tensor | None], said: str
) -> None:
    tensors = {**load_file(tiny_untied.folder / "model.safetensors"), **changed}
    shutil.copy(tiny_untied.folder / "config.json", tmp_path)
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsMismatch, match=said):
        load(tmp_path, Place(stage, ALONE))


def windowed_spec(num_layers: int):
    """Two windowed layers, then a full one, and so on."""
    config = {**families()["Gemma3ForCausalLM"].tiny.fields, "num_hidden_layers": num_layers}
    kinds = ["full_attention" if index % 3 == 2 else "sliding_attention" for index in range(num_layers)]
    fields = {**config, "layer_types": kinds, "architectures": ["Gemma3ForCausalLM"]}
    return families()["Gemma3ForCausalLM"].build(HfConfig(fields))


@pytest.mark.parametrize(("num_layers", "num_stages"), [(7, 2), (7, 3), (4, 4)])
def test_a_token_takes_the_same_pages_in_every_stage(num_layers: int, num_stages: int) -> None:
    """Also where a pattern of windows is cut in its middle, and where a stage has no layer of a group."""
    attentions = [layer.attention for layer in windowed_spec(num_layers).layers]
    whole = group_layouts(attentions, LIKE)
    seen = [0] * len(whole)
    stages = [Rank(index, num_stages) for index in range(num_stages)]
    layouts = [group_layouts(attentions, LIKE, stage) for stage in stages]
    assert (
        len({tuple((each.stride_bytes, each.page_set_bytes, each.window) for each in found) for found in layouts}) == 1
    )
    assert [each.window for each in layouts[0]] == [each.window for each in whole]
    for stage, found in zip(stages, layouts, strict=True):
        own = [attentions[index] for index in stage_layers(num_layers, stage)]
        for attention, place in zip(own, group_places(own, found), strict=True):
            assert place.layout.window == attention.reach
            assert place.layout.layers[place.index].elements == 2 * attention.num_kv_heads * attention.head_dim
            seen[place.group] += 1
        for each in found:
            ends = (*each.layer_offsets, each.stride_bytes)
            assert all(before < after for before, after in pairwise(ends))
    assert seen == [len(layout.layers) for layout in whole]
    widest = [max(len(found[group].layers) for found in layouts) for group in range(len(whole))]
    strides = [layout.stride_bytes for layout in layouts[0]]
    assert strides == [of.stride_bytes * most // len(of.layers) for of, most in zip(whole, widest, strict=True)]


def test_what_cannot_be_cut_into_stages_is_refused(tiny_untied: TinyModel) -> None:
    spec = windowed_spec(4)
    check_stages(spec, 4)
    with pytest.raises(ModelNotSupported, match="this model has 4 layers, `--pipeline-parallel-size` is 5"):
        check_stages(spec, 5)
    fields = {**families()["T5ForConditionalGeneration"].tiny.fields, "architectures": ["T5ForConditionalGeneration"]}
    reader = families()["T5ForConditionalGeneration"].build(HfConfig(fields))
    check_stages(reader, 1)
    with pytest.raises(ModelNotSupported, match="an encoder-decoder is not cut into stages"):
        check_stages(reader, 2)
    world = SimpleNamespace(rank=Rank(0, 4), stage=Rank(3, 4), tensor=SimpleNamespace(rank=ALONE))
    with pytest.raises(ModelNotSupported, match="use at most one stage a layer"):
        open_model(tiny_untied.folder, None, REFERENCE, world=world)
