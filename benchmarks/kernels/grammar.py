"""What grammars cost: a mask with 128 k tokens, and a step of 32 constrained sequences beside one of 32 free ones.

The vocabulary is a byte-level BPE trained on Python and documentation found on this machine (kept in .models/). Steps are
paired: one engine, constrained and free sequences of equal lengths, a step of each in turn.

PYTHONPATH=server:benchmarks .venv/bin/python -m kernels.grammar [--steps 200] [--vocabulary 128000]
"""

import argparse
import hashlib
import json
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from load import report
from load.claims import Claim
from models import CACHE, make_model
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE

from ribbon_server import _native
from ribbon_server.config import DType, InjectedFaults, KvMemory
from ribbon_server.engine.engine import Engine
from ribbon_server.engine.limits import WarmupWish
from ribbon_server.engine.shard import warm_up
from ribbon_server.engine.step import Admission, StepPlan
from ribbon_server.kv.ribbons import OpKind, RibbonOps
from ribbon_server.layers.registry import native_kernels
from ribbon_server.models.open import open_model
from ribbon_server.sampling.grammars import Grammar
from ribbon_server.sampling.params import SamplingParams, parameters

END = "<end>"
TRAINING_BYTES = 80 << 20
ROWS, PROMPT_TOKENS = 32, 64

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "email": {"type": "string", "format": "email"},
        "tags": {"type": "array", "items": {"enum": ["admin", "staff", "guest", "blocked"]}, "maxItems": 8},
        "address": {
            "type": "object",
            "properties": {"street": {"type": "string"}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
            "required": ["street", "zip"],
            "additionalProperties": False,
        },
        "score": {"type": "number"},
    },
    "required": ["name", "age", "email", "address"],
    "additionalProperties": False,
}
PERSONS = {"type": "array", "items": {"$ref": "#/$defs/person"}, "$defs": {"person": PERSON}}
ANN = {
    "name": "Ann-Kathrin Müller",
    "age": 41,
    "email": "ann.k@example.org",
    "tags": ["staff", "admin"],
    "address": {"street": "12 Long Meadow Lane, behind the old mill", "zip": "04109"},
    "score": 17.25,
}
TREE = {
    "$ref": "#/$defs/n",
    "$defs": {
        "n": {
            "type": "object",
            "properties": {"v": {"type": "string"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/n"}}},
            "required": ["v"],
            "additionalProperties": False,
        }
    },
}
CASES: dict[str, tuple[object, object]] = {
    "person": (PERSON, ANN),
    "list of persons": (PERSONS, [ANN, {**ANN, "name": "Bo", "tags": []}] * 2),
    "any object": (
        {"type": "object"},
        {"a": [1, 2.5, None, True], "text": 'It was a dark and stormy night; "hm"', "b": {"c": {}}},
    ),
    "tree": (TREE, {"v": "root of all", "kids": [{"v": "left", "kids": []}, {"v": "right"}]}),
    "400 names": ({"enum": [f"product-{number:05d}" for number in range(400)]}, "product-00321"),
}


def texts() -> Iterator[str]:
    """Text files of the Python installation and its packages, the same order each time."""
    room = TRAINING_BYTES
    folders = [Path(sysconfig.get_paths()[name]) for name in ("purelib", "stdlib")]
    for path in (
        path
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.suffix in {".py", ".md", ".txt", ".rst"}
    ):
        if not path.is_file() or path.stat().st_size > 1 << 20:
            continue
        text = path.read_text(encoding="utf-8", errors="ignore")
        room -= len(text)
        if room < 0:
            return
        yield text


def trained(vocabulary: int) -> Path:
    """tokenizer.json of a vocabulary of this size."""
    target = CACHE / f"bpe-{vocabulary}" / "tokenizer.json"
    if not target.exists():
        tokenizer = Tokenizer(BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[END], initial_alphabet=alphabet)
        tokenizer.train_from_iterator(texts(), trainer)
        target.parent.mkdir(parents=True, exist_ok=True)
        tokenizer.save(str(target))
    return target


def schema_grammar(schema: object) -> Grammar:
    """The grammar as the router writes it."""
    options = {"whitespace_flexible": True, "whitespace_pattern": r"[ ]|\r?\n[ \t]{0,40}"}
    source = json.dumps({**schema, "x-guidance": options})  # type: ignore[dict-item]
    return Grammar("json_schema", source, hashlib.sha256(source.encode()).digest())


def mask_ns(grammars: _native.Grammars, tokens: list[int], grammar: Grammar) -> list[int]:
    """Nanoseconds of each mask along a document."""
    slot = np.array([1], np.uint32)
    history = np.zeros((2, len(tokens) + 1), np.int32)
    history[1, 1:] = tokens
    grammars.open(1, np.zeros(1, np.uint32), **vars(grammar))
    times = []
    for known in range(1, len(tokens) + 2):
        grammars.begin(slot, np.array([1]), np.array([known]), history)
        grammars.finish()
        fault = grammars.fault(1)
        assert fault is None, fault
        times.append(grammars.fill_ns(1))
    return times


def mask_figures(vocabulary: int, passes: int = 5) -> dict[str, dict[str, float]]:
    """Microseconds of a mask, for the first document of each grammar and for later ones."""
    path = trained(vocabulary)
    tokenizer = Tokenizer.from_file(str(path))
    size = tokenizer.get_vocab_size()
    end = tokenizer.token_to_id(END)
    grammars = _native.Grammars(tokenizer_json=str(path), vocab_size=size, end_tokens=[end], num_slots=2)
    first: list[int] = []
    later: list[int] = []
    for schema, document in CASES.values():
        tokens = tokenizer.encode(json.dumps(document, ensure_ascii=False)).ids
        grammar = schema_grammar(schema)
        mask_ns(grammars, [], grammar)  # compiled
        first += mask_ns(grammars, tokens, grammar)
        for _ in range(passes):
            later += mask_ns(grammars, tokens, grammar)
    return {"vocabulary": {"tokens": size}, "first": spread(first), "later": spread(later)}


def spread(times_ns: list[int]) -> dict[str, float]:
    """Microseconds."""
    quantiles = np.percentile(np.array(times_ns) / 1e3, [50, 90, 99, 100])
    names = ("p50_us", "p90_us", "p99_us", "max_us")
    return {"masks": len(times_ns), **dict(zip(names, quantiles.round(1).tolist(), strict=True))}


class Steps:
    """One engine of the 120 M model with constrained sequences in the first slots and free ones in the next."""

    def __init__(self, steps: int) -> None:
        folder = make_model("120m")
        room = PROMPT_TOKENS + steps + 16
        wish = WarmupWish(
            max_batch_prefill_tokens=2 * ROWS * PROMPT_TOKENS, max_total_tokens=room, max_concurrent_requests=2 * ROWS
        )
        model = open_model(folder, DType.BFLOAT16, native_kernels())
        self.engine: Engine = warm_up(model, wish, KvMemory(num_bytes=2 << 30), InjectedFaults()).engine
        self.step_id = 0
        self.constrained = np.arange(1, ROWS + 1, dtype=np.uint32)
        self.free = self.constrained + np.uint32(ROWS)
        self._seat(room)

    def _seat(self, room: int) -> None:
        # Texts without end, so that all rows live: strings of letters and spaces in an array.
        words = schema_grammar(
            {"type": "array", "items": {"type": "string", "pattern": "^[a-z ]{0,200}$"}, "minItems": 10_000}
        )
        for slots, grammar in ((self.constrained, words), (self.free, None)):
            admissions = [self._admission(int(slot), grammar) for slot in slots]
            ops = [
                row for slot in slots.tolist() for row in ((OpKind.OPEN, slot, slot, 0), (OpKind.GROW, slot, 0, room))
            ]
            self._run(slots, PROMPT_TOKENS, admissions, ops)

    def _admission(self, slot: int, grammar: Grammar | None) -> Admission:
        record = parameters(greedy=0, temperature=1.0, seed=slot)
        params = SamplingParams(record, np.array([2], np.uint32), grammar=grammar)
        tokens = np.random.default_rng(slot).integers(300, 30_000, PROMPT_TOKENS).astype(np.uint32)
        return Admission(slot, slot, tokens, PROMPT_TOKENS, params)

    def _run(self, slots: np.ndarray, count: int, admissions: list[Admission], ops: list[tuple[int, ...]]) -> float:
        self.step_id += 1
        table = np.array(ops, np.int64).reshape(-1, 4)
        kind, slot, storage, tokens = (table[:, column] for column in range(4))
        columns = RibbonOps(
            kind.astype(np.uint8),
            np.zeros(len(table), np.uint8),
            *(part.astype(np.uint32) for part in (slot, storage, tokens)),
        )
        plan = StepPlan(
            self.step_id,
            admissions,
            columns,
            slots,
            np.full(len(slots), count, np.uint32),
            np.ones(len(slots), np.uint8),
        )
        begin = time.perf_counter_ns()
        outcome = self.engine.step(plan)
        took = time.perf_counter_ns() - begin
        assert not outcome.failure, outcome.failure
        assert not outcome.errors, outcome.errors
        return took / 1e6

    def decode(self, slots: np.ndarray) -> float:
        """Milliseconds of one decode step."""
        return self._run(slots, 1, [], [])


def step_figures(steps: int) -> dict[str, float]:
    """Medians and 99th percentiles of paired steps, in milliseconds."""
    engine = Steps(steps)
    pairs = []
    for index in range(steps):
        first, second = (engine.constrained, engine.free) if index % 2 else (engine.free, engine.constrained)
        times = (engine.decode(first), engine.decode(second))
        pairs.append(times if index % 2 else times[::-1])
    table = np.array(pairs[3:])  # the first ones warm caches up
    constrained, free = np.median(table, axis=0)
    return {
        "pairs": len(table),
        "constrained_ms": round(float(constrained), 3),
        "free_ms": round(float(free), 3),
        "ratio": round(float(constrained / free), 4),
        "constrained_p99_ms": round(float(np.percentile(table[:, 0], 99)), 3),
        "free_p99_ms": round(float(np.percentile(table[:, 1], 99)), 3),
    }


def tables(record: report.Record) -> str:
    """Masks, then steps."""
    masks = [[name, *record["masks"][name].values()] for name in ("first", "later")]
    steps = [[name, value] for name, value in record["steps"].items()]
    headings = ["masks of a text", *record["masks"]["first"]]
    return "\n\n".join([report.table(headings, masks), report.table(["steps", "value"], steps)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabulary", type=int, default=128_000)
    parser.add_argument("--steps", type=int, default=210)
    options = parser.parse_args()
    record = {"name": "grammar", "machine": report.machine()}
    record |= {"masks": mask_figures(options.vocabulary), "steps": step_figures(options.steps)}
    claims = [
        Claim("mask p50, µs", record["masks"]["later"]["p50_us"]),
        Claim("constrained step ÷ free step", record["steps"]["ratio"]),
    ]
    report.finish(record, tables(record), save_it=False, claims=claims)


if __name__ == "__main__":
    main()
