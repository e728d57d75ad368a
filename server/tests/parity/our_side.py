"""Our side of parity, in a process in which transformers' models cannot be imported. Prints one JSON object: case to check to
what was measured.

Run: python our_side.py FOLDER KEY …
"""

import json
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS.parent), str(Path(__file__).parent)]


class NoTransformersModels(MetaPathFinder):
    """Refuses the import of any model code but ours."""

    def find_spec(self, fullname: str, _path: Sequence[str] | None, _target: object = None) -> None:
        """See MetaPathFinder."""
        if fullname.startswith("transformers.models"):
            raise ImportError(f"{fullname} is blocked: our side runs without it")


sys.meta_path.insert(0, NoTransformersModels())

import torch  # noqa: E402
from cases import cases  # noqa: E402
from checks import CHECKS, Expected  # noqa: E402

torch.set_num_threads(1)


def measure(check: Callable[[Expected], str], expected: Expected) -> dict[str, str]:
    """One field of the table: what was measured, or why it failed."""
    try:
        return {"passed": check(expected)}
    except Exception as error:  # noqa: BLE001 - whatever goes wrong is the row's failure
        return {"failed": f"{type(error).__name__}: {error}"}


@torch.inference_mode()
def main(folder: Path, keys: list[str]) -> None:
    """Runs every check of every case."""
    report = {}
    for case in cases():
        if case.key in keys:
            expected = Expected.read(folder / case.key)
            report[case.key] = {name: measure(check, expected) for name, check in CHECKS.items()}
    assert not [name for name in sys.modules if name.startswith("transformers.models")]
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
