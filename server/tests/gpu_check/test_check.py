"""The GPU check without a GPU: its table and records, and every stage's code on CPU tensors in tiny sizes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from layers.flash_twin import FlashTwin

FOLDER = Path(__file__).parents[3] / "benchmarks" / "gpu"
sys.path.insert(0, str(FOLDER))

import check  # noqa: E402
from region_views import RegionSize, layer_views, open_region  # noqa: E402
from settings import CannotRun, Settings, results_folder  # noqa: E402
from stages import bands, mapping, ranks  # noqa: E402

NO_DEVICE = not torch.cuda.is_available()


@pytest.fixture
def settings() -> Settings:
    return Settings(torch.device("cpu"), tiny=True, operator=FlashTwin())


def run(name: str, settings: Settings) -> dict:
    record = check.run_with(name, settings)
    assert record["status"] == "ran", record
    json.dumps(record)
    return record["figures"]


def test_every_stage_has_a_module_and_ends_within_eight_minutes() -> None:
    for name, stage in check.STAGES.items():
        assert (FOLDER / "stages" / f"{name}.py").exists()
        assert stage.seconds <= 480
    assert list(check.STAGES)[:2] == ["selftest", "correctness"]


def test_the_selftest_stage_passes_the_twin_and_our_kernels(settings) -> None:
    figures = run("selftest", settings)
    assert figures["summary"] == {"flash_passed": True, "triton_passed": True}
    assert "far slots" in figures["flash"]


def test_the_selftest_stage_fails_an_operator_that_is_off(settings) -> None:
    wrong = Settings(settings.device, tiny=True, operator=FlashTwin(wrong=True))
    assert not run("selftest", wrong)["summary"]["flash_passed"]


def test_the_correctness_stage_agrees_with_transformers(settings) -> None:
    figures = run("correctness", settings)
    assert figures["summary"]["passed"], figures
    assert figures["summary"]["attention"] == ["FlashAttention"]


def test_the_ranks_stage_makes_every_call(settings) -> None:
    figures = run("ranks", settings)
    assert figures["one_rank"]
    assert ("left_out" in figures) == (torch.cuda.device_count() < ranks.RANKS)


@pytest.mark.slow
@pytest.mark.parametrize("num_stages", [1, 2])
def test_two_ranks_of_the_ranks_stage_are_one_model(num_stages: int) -> None:
    assert ranks.two_ranks(Settings(torch.device("cpu"), operator=FlashTwin()), num_stages) >= ranks.EQUAL_TOKENS


def test_the_bands_stage_compares_layouts_that_hold_the_same_numbers(settings) -> None:
    figures = run("bands", settings)
    layouts = {"plain", "band of 8", "band of 4", "band of 1"}
    assert set(figures["rows"][0]["times_plain"]) == {*layouts, "region, band of 8", "region, band of 4"}
    assert set(figures["rows"][1]["times_plain"]) == layouts
    assert figures["summary"]["cases"] == 2


def test_no_two_layers_of_a_layout_overlap() -> None:
    case = bands.Case(2, 3, 1, 8, bands.AttentionShape(4, 2, 16, 1.0, 0, 0))
    for size in (0, 8, 4, 1):
        buffer = torch.zeros(case.elements)
        for view in bands.band_views(case, buffer, size) if size else bands.plain_views(case, buffer):
            assert view.shape == (2, 3, 2, 2, 16)
            view += 1
        assert torch.equal(buffer, torch.ones_like(buffer))  # every element in exactly one layer


def test_layers_of_a_region_lie_in_its_pages_and_overlap_nowhere(settings) -> None:
    size = RegionSize(rows=2, tokens=40, layers=4, layers_per_band=2, num_kv_heads=2, head_dim=16)
    region = open_region(settings, size)
    views = layer_views(settings, region, size)
    for number, view in enumerate(views):
        view.fill_(number + 1)
    assert [float(view.mean()) for view in views] == [1.0, 2.0, 3.0, 4.0]
    assert (
        views[2][1, 3].data_ptr() == region.address + region.band_bytes + 2 * region.slot_bytes + 3 * size.stride_bytes
    )


def test_the_verdict_is_the_stop_rule() -> None:
    rows = [{"times_plain": {"plain": 1.0, "band of 8": 1.08, "band of 4": 1.04}} for _ in range(3)]
    assert bands.verdict(rows)["best"] == "band of 4"
    assert bands.verdict(rows)["within_stop_rule"]
    slow = [{"times_plain": {"plain": 1.0, "band of 4": 1.06}}]
    assert not bands.verdict(slow)["within_stop_rule"]


def test_the_roofline_stage_counts_weights_and_keys(settings) -> None:
    figures = run("roofline", settings)
    hidden, heads, kv_heads, dim, intermediate, vocab, layers = 64, 4, 2, 16, 96, 200, 2
    matrices = hidden * dim * (2 * heads + 2 * kv_heads) + 3 * hidden * intermediate
    assert figures["weight_bytes"] == 2 * (layers * (matrices + 2 * hidden) + hidden + hidden * vocab)
    assert [row["batch"] for row in figures["rows"]] == [1, 4]
    assert all(row["step_ms"] > 0 for row in figures["rows"])


def test_the_mapping_and_prefix_stages_run_over_a_simulated_region(settings) -> None:
    assert {"2 MiB", "16 MiB", "64 MiB"} < set(run("mapping", settings)["summary"])
    figures = run("prefix", settings)
    assert all(row["map_us"] > 0 and row["copy_us"] > 0 for row in figures["us_by_tokens"].values())


def test_costs_are_given_for_each_mebibyte() -> None:
    calls = ("map", "set_access_run", "alias_map", "alias_set_access_run", "unmap", "copy_page")
    cost = {call: 1000.0 * (index + 1) for index, call in enumerate(calls)}
    assert mapping.us_per_mib(cost, size=2, num_pages=4) == {
        "map_us_per_mib": 0.75,
        "alias_us_per_mib": 2.0,
        "unmap_us_per_mib": 2.5,
        "copy_us_per_mib": 3.0,
    }


def test_a_stage_that_cannot_run_says_why_and_one_that_breaks_too(settings, monkeypatch) -> None:
    def refuse(_settings: Settings) -> dict:
        raise CannotRun("no such thing here")

    def fail(_settings: Settings) -> dict:
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr(bands, "run", refuse)
    record = check.run_with("bands", settings)
    assert (record["status"], record["reason"]) == ("cannot run", "no such thing here")
    monkeypatch.setattr(bands, "run", fail)
    record = check.run_with("bands", settings)
    assert (record["status"], record["reason"]) == ("failed", "RuntimeError: an illegal memory access")


def test_no_stage_needs_what_a_bare_machine_lacks() -> None:
    program = """
import importlib, sys
for name in ("grpc", "google.protobuf", "prometheus_client", "opentelemetry", "llguidance", "pytest"):
    sys.modules[name] = None  # importing it fails
import check
for name in check.STAGES:
    importlib.import_module(f"stages.{name}")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=FOLDER, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_results_go_to_out_where_it_is_set(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    assert results_folder() == tmp_path / "out"
    monkeypatch.delenv("OUT")
    assert results_folder().name == "results"


@pytest.mark.skipif(not NO_DEVICE, reason="there is a device")
def test_the_command_ends_with_one_json_object_and_a_file_for_each_stage(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / "check.py"), "--stage", "bands"],
        env={"OUT": str(tmp_path), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == check.NOTHING_RAN, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])["gpu_check"]
    assert {name: found["status"] for name, found in last.items()} == {"bands": "cannot run"}
    assert "torch sees 0 CUDA devices" in last["bands"]["reason"]
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["gpu-bands.json"]
