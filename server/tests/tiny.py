"""Tiny random models in Hugging Face layout, and shards over them, for every test of the shard."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers import PreTrainedModel

from ribbon_server.config import DType, InjectedFaults, KvMemory
from ribbon_server.distributed.base import World
from ribbon_server.distributed.single import SINGLE
from ribbon_server.engine.engine import Engine
from ribbon_server.engine.limits import WarmupWish
from ribbon_server.engine.shard import warm_up
from ribbon_server.engine.step import Admission, StepOutcome, StepPlan, Wanted
from ribbon_server.kv.ribbons import OpKind, RibbonOps
from ribbon_server.layers.registry import Kernels, native_kernels
from ribbon_server.models.open import open_model
from ribbon_server.models.registry import families
from ribbon_server.sampling.grammars import Grammar
from ribbon_server.sampling.params import SamplingParams, parameters

EOS = 2


@dataclass(frozen=True)
class TinyModel:
    """A saved model and its transformers twin in float32."""

    folder: Path
    reference: PreTrainedModel

    def logits(self, token_ids: list[int]) -> torch.Tensor:
        """Of the reference, [tokens, vocab]."""
        with torch.inference_mode():
            return self.reference(torch.tensor([token_ids])).logits[0]


def save_tiny(folder: Path, architecture: str = "LlamaForCausalLM", **fields: object) -> TinyModel:
    """Writes a random model of the family's tiny shape; `fields` replace parts of its configuration."""
    tiny = families()[architecture].tiny.fields
    build = getattr(transformers, architecture)
    config = build.config_class(**{**tiny, "eos_token_id": EOS, **fields})
    torch.manual_seed(11)
    model = build(config).eval()
    for parameter in model.parameters():
        # Wide enough that the next token depends on every part, the norms' weights included.
        torch.nn.init.normal_(parameter, 1.0 if parameter.dim() == 1 else 0.0, 0.2)
    model.tie_weights()
    names = model.state_dict()
    if config.tie_word_embeddings:
        names.pop("lm_head.weight")
    save_file({name: tensor.contiguous().clone() for name, tensor in names.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**config.to_dict(), "architectures": [architecture]}))
    return TinyModel(folder, model)


def write_byte_tokenizer(folder: Path, first: int, last: int) -> None:
    """A tokenizer.json whose tokens from `first` to `last` are the bytes from 0 on, behind the end token."""
    added = [{"id": EOS, "content": "<end>", "special": True}]
    vocab = {f"<0x{token - first:02X}>": token for token in range(first, last + 1)}
    decoder = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}]}
    tokenizer = {"decoder": decoder, "added_tokens": added, "model": {"vocab": vocab}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def regex(source: str) -> Grammar:
    """A grammar of one regular expression."""
    return Grammar("regex", source, hashlib.sha256(source.encode()).digest())


def make_engine(
    folder: Path,
    *,
    dtype: DType | None = DType.FLOAT32,
    kernels: Kernels | None = None,
    concurrent: int = 8,
    total: int = 256,
    kv_bytes: int = 64 * 2**20,
    faults: InjectedFaults | None = None,
    world: World = SINGLE,
) -> Engine:
    """A warm engine over the model in `folder`, or over a rank's share of it."""
    model = open_model(folder, dtype, kernels or native_kernels(), world=world)
    wish = WarmupWish(max_batch_prefill_tokens=64, max_total_tokens=total, max_concurrent_requests=concurrent)
    return warm_up(model, wish, KvMemory(num_bytes=kv_bytes), faults or InjectedFaults()).engine


class Driver:
    """A router in miniature: admits, grows, feeds and closes sequences of one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.step_id = 0

    def step(self, work: dict[int, int] | None = None, **parts: object) -> StepOutcome:
        """Runs one plan; `work` maps slot to count, and samples where the run reaches the last known token."""
        return self.engine.step(self.plan(work or {}, **parts))

    def plan(self, work, *, admitted=(), ops=(), wanted=None) -> StepPlan:
        """The next plan."""
        self.step_id += 1
        slots = np.array(list(work), np.uint32)
        counts = np.array(list(work.values()), np.uint32)
        return StepPlan(
            self.step_id,
            list(admitted),
            ribbon_ops(ops, len(self.engine.ribbons.groups)),
            slots,
            counts,
            self._wanted(slots, counts, wanted, admitted),
        )

    def _wanted(self, slots, counts, wanted, admitted) -> np.ndarray:
        if wanted is not None:
            return np.array(wanted, np.uint8)
        known = {admission.slot: len(admission.token_ids) for admission in admitted}
        sequences = self.engine.sequences
        left = [
            known[slot] if slot in known else int(sequences.state.known[slot] - sequences.length[slot])
            for slot in slots.tolist()
        ]
        return np.where(counts >= np.array(left, np.int64), Wanted.SAMPLE, Wanted.NONE).astype(np.uint8)

    def open(
        self,
        slot,
        tokens: list[int],
        *,
        room=64,
        prompt: int | None = None,
        stops=(),
        bias=None,
        grammar=None,
        **params,
    ):
        """Admission and operations that seat a sequence, not run yet."""
        bias = bias or {}
        sampling = SamplingParams(
            parameters(**params),
            np.array(stops, np.uint32),
            np.array(list(bias), np.uint32),
            np.array(list(bias.values()), np.float32),
            grammar,
        )
        admission = Admission(slot, slot, np.array(tokens, np.uint32), prompt or len(tokens), sampling)
        return {
            "admitted": [admission],
            "ops": [(OpKind.OPEN, slot, slot, 0), (OpKind.GROW, slot, 0, len(tokens) + room)],
        }

    def seat(self, slot: int, tokens: list[int], **params) -> None:
        """Seats a sequence without feeding it."""
        outcome = self.step({}, **self.open(slot, tokens, **params))
        assert outcome.failure == ""

    def close(self, *slots: int) -> None:
        """Gives slots and storages back."""
        outcome = self.step({}, ops=[(OpKind.CLOSE, slot, 0, 0) for slot in slots])
        assert outcome.failure == ""

    def generate(self, slot: int, tokens: list[int], count: int, *, chunk: int = 10_000, **params) -> list[int]:
        """One sequence alone: its next `count` tokens, the prompt fed in chunks."""
        self.seat(slot, tokens, room=count, **params)
        made: list[int] = []
        while len(made) < count:
            left = int(self.engine.sequences.state.known[slot] - self.engine.sequences.length[slot])
            outcome = self.step({slot: min(chunk, left)})
            assert outcome.failure == "", outcome.failure
            if outcome.status[0] in (2, 3):
                made.append(int(outcome.token_id[0]))
        self.close(slot)
        return made


def ribbon_ops(ops, num_groups: int = 1) -> RibbonOps:
    """Columns of (kind, slot, storage, tokens) rows, which go to every group, and (…, group) rows, which go to theirs."""
    rows = []
    for op in ops:
        rows += [op] if len(op) == 5 else [(*op, group) for group in range(num_groups)]
    table = np.array(rows, np.int64).reshape(-1, 5)
    slot, storage, tokens = (np.ascontiguousarray(table[:, column], np.uint32) for column in (1, 2, 3))
    return RibbonOps(table[:, 0].astype(np.uint8), table[:, 4].astype(np.uint8), slot, storage, tokens)
