"""Writes philox_golden.json from a plain integer Philox4x32-10 and float64 logarithms. Run only to add vectors."""

import json
import math
import random
from pathlib import Path

MASK = 0xFFFFFFFF


def philox(counter: list[int], key: list[int]) -> list[int]:
    for _ in range(10):
        first, second = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [
            (second >> 32) ^ counter[1] ^ key[0],
            second & MASK,
            (first >> 32) ^ counter[3] ^ key[1],
            first & MASK,
        ]
        key = [(key[0] + 0x9E3779B9) & MASK, (key[1] + 0xBB67AE85) & MASK]
    return counter


def gumbel(word: int) -> float:
    u = ((word >> 9) + 0.5) * 2.0**-23
    return -math.log(-math.log(u))


def vector(seed: int, position: int, choice: int, token: int) -> dict[str, int | float]:
    word = philox([token // 4, position, choice, 0], [seed & MASK, seed >> 32])[token % 4]
    names = {"seed": seed, "position": position, "choice": choice, "token": token}
    return {**names, "word": word, "noise": gumbel(word)}


def main() -> None:
    draw = random.Random(3)
    corners = [(0, 0, 0, 0), (0, 0, 0, 3), (2**64 - 1, 2**32 - 1, 2**32 - 1, 2**32 - 1), (42, 7, 1, 31999)]
    rows = [vector(*corner) for corner in corners]
    rows += [
        vector(draw.getrandbits(64), draw.randrange(1 << 17), draw.randrange(8), draw.randrange(200_000))
        for _ in range(60)
    ]
    # Published with Random123 (Salmon et al., SC 2011).
    known = [([0] * 4, [0] * 2), ([MASK] * 4, [MASK] * 2)]
    known.append(([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0]))
    words = [{"counter": counter, "key": key, "words": philox(counter, key)} for counter, key in known]
    text = json.dumps({"philox": words, "gumbel": rows}, indent=1)
    Path(__file__).with_name("philox_golden.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
