"""Stage for the shard's tests: tiny random models on disk, and the OpenMP setting that a busy machine needs."""

import os
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: two OpenMP threads on a busy core are slower than one
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton: without a device its kernels run in the interpreter
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from collections.abc import Iterator  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from tiny import TinyModel, save_tiny  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_untied(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """Grouped heads, head_dim other than hidden / heads, a head of its own."""
    return save_tiny(tmp_path_factory.mktemp("untied"))


@pytest.fixture(scope="session")
def tiny_tied(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """The same with tied embeddings."""
    return save_tiny(tmp_path_factory.mktemp("tied"), tie_word_embeddings=True)


@pytest.fixture
def model_copy(tiny_untied: TinyModel, tmp_path: Path) -> Iterator[Path]:
    """A directory of the tiny model that the test may spoil."""
    for file in tiny_untied.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path
