"""Parity of every registered family with its reference: see run.py, which `make parity` runs for the table alone.

`make test` takes one variant of a few families that differ most; the long tests take all of them.
"""

import pytest
from parity.cases import Case, cases
from parity.run import Report, compare

QUICK = (
    "LlamaForCausalLM-llama3-rope",
    "Gemma3ForCausalLM-scaled-rope",
    "GPTJForCausalLM-base",
    "Qwen3ForCausalLM-windows",
    "StableLmForCausalLM-side-by-side",
    "GPTBigCodeForCausalLM-own-heads",
    "DeepseekV3ForCausalLM-base",
    "Llama4ForCausalLM-base",
    "MT5ForConditionalGeneration-base",
)
ALL = cases()
BY_ARCHITECTURE = {
    case.architecture: [other for other in ALL if other.architecture == case.architecture] for case in ALL
}


@pytest.fixture(scope="module")
def quick() -> Report:
    return compare([case for case in ALL if case.key in QUICK])


@pytest.fixture(scope="module")
def everything() -> Report:
    return compare(ALL)


@pytest.mark.parametrize("key", QUICK)
def test_a_few_families_match_their_references(quick: Report, key: str) -> None:
    assert_no_hole(quick, key)


@pytest.mark.slow
@pytest.mark.parametrize("case", ALL, ids=lambda case: case.key)
def test_every_family_matches_its_reference(everything: Report, case: Case) -> None:
    assert_no_hole(everything, case.key)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", BY_ARCHITECTURE)
def test_every_field_that_a_family_sets_matters(everything: Report, architecture: str) -> None:
    assert not everything.unmoved_fields([case.key for case in BY_ARCHITECTURE[architecture]])


def assert_no_hole(report: Report, key: str) -> None:
    assert report.failures([key]) == []
    assert set(report.rows[key]) == {"whole", "chunks", "batch", "shards", "stages", "bfloat16", "names", "fields"}


def test_a_wrong_weight_is_noticed(tmp_path, monkeypatch) -> None:
    """The checks themselves can fail: a model whose weights are not the reference's passes none that compares."""
    from parity import checks, reference_side

    case = next(case for case in ALL if case.key == QUICK[0])
    reference_side.make(case, tmp_path)
    expected = checks.Expected.read(tmp_path)
    original = checks.Expected.stage

    def spoiled(self, *arguments):
        stage = original(self, *arguments)
        stage.decoder.parts.entrance.weight[expected.tokens[3]] += 0.1
        return stage

    for check in (checks.whole, checks.chunks, checks.batch):
        check(expected)
        with monkeypatch.context() as patch:
            patch.setattr(checks.Expected, "stage", spoiled)
            with pytest.raises(AssertionError):
                check(expected)


@pytest.mark.parametrize("missing", ["summed", "partial_linear", "_own_slopes", "look_up"])
def test_a_share_that_is_left_alone_is_noticed(missing: str, tmp_path, monkeypatch) -> None:
    """Without the sum over ranks, with a bias of every rank, with slopes or rows that are another rank's: the check fails."""
    from parity import checks, reference_side

    from ribbon_server.layers.shares import OwnRows
    from ribbon_server.models import assemble_attention, assemble_parts
    from ribbon_server.models.weights import Weights

    spoiled = {
        "summed": (assemble_parts, lambda _: lambda part: part),
        "partial_linear": (Weights, Weights.linear),
        "_own_slopes": (assemble_attention, lambda alibi, heads, _: assemble_attention.alibi_slopes(alibi, heads)),
        "look_up": (OwnRows, lambda own, table, index: table.index_select(0, index % own.count)),
    }
    case = next(case for case in ALL if case.key == "BloomForCausalLM-base")
    reference_side.make(case, tmp_path)
    expected = checks.Expected.read(tmp_path)
    checks.shards(expected)
    where, what = spoiled[missing]
    monkeypatch.setattr(where, missing, what)
    with pytest.raises(AssertionError):
        checks.shards(expected)


def test_keys_are_unique() -> None:
    assert len({case.key for case in ALL}) == len(ALL)
