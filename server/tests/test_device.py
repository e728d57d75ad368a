"""Which device is taken, and what is said where there is none."""

import numpy as np
import pytest
import torch

from ribbon_server.device import CPU, choose_device, choose_rank_device, upload
from ribbon_server.distributed.sharding import Rank
from ribbon_server.errors import BadSetting


@pytest.fixture
def cuda_devices(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)
    return request.param


@pytest.mark.parametrize(
    ("cuda_devices", "wanted", "chosen"),
    [
        (0, None, "cpu"),
        (0, "cpu", "cpu"),
        (2, None, "cuda:0"),
        (2, "cpu", "cpu"),
        (2, "cuda", "cuda:0"),
        (2, "cuda:1", "cuda:1"),
    ],
    indirect=["cuda_devices"],
)
def test_the_device_is_the_one_that_is_named_or_cuda_where_there_is_one(cuda_devices, wanted, chosen) -> None:  # noqa: ARG001
    assert choose_device(wanted) == torch.device(chosen)


@pytest.mark.parametrize(
    ("cuda_devices", "wanted", "said"),
    [
        (0, "cuda", "torch sees 0 CUDA devices"),
        (2, "cuda:2", "torch sees 2 CUDA devices"),
        (2, "gpu", "must be cpu, cuda or cuda:N"),
        (2, "cuda:", "must be cpu, cuda or cuda:N"),
        (2, "cuda:x", "must be cpu, cuda or cuda:N"),
        (2, "", "must be cpu, cuda or cuda:N"),
    ],
    indirect=["cuda_devices"],
)
def test_a_device_that_is_not_there_is_refused_by_name(cuda_devices, wanted, said) -> None:  # noqa: ARG001
    with pytest.raises(BadSetting, match=said) as error:
        choose_device(wanted)
    assert "`--device`" in str(error.value)


@pytest.mark.parametrize(
    ("cuda_devices", "wanted", "chosen"),
    [(0, None, "cpu"), (1, "cpu", "cpu"), (2, None, "cuda:1"), (3, "cuda", "cuda:1")],
    indirect=["cuda_devices"],
)
def test_a_rank_has_the_device_of_its_number(cuda_devices, wanted, chosen) -> None:  # noqa: ARG001
    assert choose_rank_device(wanted, Rank(1, 2)) == torch.device(chosen)


@pytest.mark.parametrize(
    ("cuda_devices", "wanted", "said"),
    [
        (1, None, "2 ranks need a device each, torch sees 1; lower `--num-shard` or `--pipeline-parallel-size`"),
        (2, "cuda:1", "`--device` is 'cuda:1'; 2 ranks have a device each"),
    ],
    indirect=["cuda_devices"],
)
def test_two_ranks_on_one_device_are_refused(cuda_devices, wanted, said) -> None:  # noqa: ARG001
    with pytest.raises(BadSetting, match=said):
        choose_rank_device(wanted, Rank(0, 2))


def test_one_rank_takes_the_device_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_rank_device("cuda:1", Rank(0, 1)) == torch.device("cuda:1")


def test_an_upload_to_the_cpu_keeps_shape_and_values() -> None:
    values = np.arange(12).reshape(3, 4)[:, ::2]
    assert upload(values, CPU).tolist() == values.tolist()
