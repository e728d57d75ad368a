"""The curriculum follows measured accuracies; the optimizer state survives a restart."""

from pathlib import Path

import torch
from checkpoint import read_checkpoint, write_checkpoint
from curriculum import DISTANCES, Curriculum
from model import DemoModel, Shape, causal_attention
from optimizer import Optimizer, Rates, orthogonalize
from processes import Share
from skills import SKILLS


def test_copying_grows_its_vocabulary_until_it_is_done() -> None:
    curriculum = Curriculum(vocab_size=100)
    for _ in range(30):
        curriculum.note_copy_loss(0.1)
    assert (curriculum.copy_ids, curriculum.copying) == (100, True)
    for _ in range(15):
        curriculum.note_copy_loss(0.1)
    assert not curriculum.copying


def test_distance_grows_only_when_passed() -> None:
    curriculum = Curriculum(vocab_size=100)
    curriculum.note_accuracies({}, at_distance=0.5)
    assert curriculum.max_distance == DISTANCES[0]
    curriculum.note_accuracies({}, at_distance=0.95)
    assert curriculum.max_distance == DISTANCES[1]


def test_a_learned_skill_gets_less_than_one_that_is_not() -> None:
    curriculum = Curriculum(vocab_size=100, accuracies={SKILLS[0].name: 1.0})
    weights = curriculum.mix(longest=100).weights
    assert weights[0] < SKILLS[0].weight
    assert weights[1] == SKILLS[1].weight


def test_attention_matches_torch() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 4, 9, 8), torch.randn(2, 2, 9, 8), torch.randn(2, 2, 9, 8)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(causal_attention(query, key, value), expected)


def test_orthogonalized_matrices_have_singular_values_near_one() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(2, 32, 64)).float())
    assert values.min() > 0.4
    assert values.max() < 1.4


def test_a_restored_optimizer_takes_the_same_step() -> None:
    torch.manual_seed(0)
    shape = Shape(vocab_size=32, hidden_size=32, num_layers=1, head_dim=8, mlp_size=48, max_positions=16)
    first, second = DemoModel(shape), DemoModel(shape)
    optimizer, restored = (Optimizer(model, Rates(), Share()) for model in (first, second))
    advance(first, optimizer)
    second.load_state_dict(first.state_dict())
    restored.restore(optimizer.state())
    advance(first, optimizer)
    advance(second, restored)
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def advance(model: DemoModel, optimizer: Optimizer) -> None:
    ids = torch.arange(12).view(1, 12)
    torch.nn.functional.cross_entropy(model.logits(model(ids)[0]), ids[0]).backward()
    optimizer.step(1.0)


def test_a_checkpoint_gives_back_tensors_and_state(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    write_checkpoint(path, {"x": torch.arange(3)}, {"step": 7})
    tensors, state = read_checkpoint(path)
    assert tensors["x"].tolist() == [0, 1, 2]
    assert state == {"step": 7}
    assert [file.name for file in tmp_path.iterdir()] == ["last.safetensors"]
