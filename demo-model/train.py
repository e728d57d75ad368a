"""Trains the demo model: copying first, then all skills, long rows last.

Run it as `python train.py`; run it again to go on from the last checkpoint. Two processes with one
thread each share every step (on two cores they beat two threads). Same options, same weights.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections import deque
from itertools import islice
from pathlib import Path
from random import Random

import batches
import torch
import torch.distributed as dist
import torch.nn.functional as F
from checkpoint import read_checkpoint, write_checkpoint
from corpus import Mix, texts
from curriculum import Curriculum
from export import export
from measure import measure, measured_skills
from model import DemoModel, Shape
from optimizer import Optimizer, Rates
from processes import Share
from skills import Skill
from skills.look_up import look_up
from tokenizer import train_tokenizer
from tokenizers import Tokenizer
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from tqdm import tqdm

HERE = Path(__file__).parent
TOKENIZER_TEXTS = 20_000


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=Path, default=HERE / ".checkpoints")
    parser.add_argument("--weights", type=Path, default=HERE / "weights")
    parser.add_argument("--steps", type=int, default=4800, help="all steps, the long last phase included")
    parser.add_argument("--long-steps", type=int, default=100, help="last steps, with rows of 4,096")
    parser.add_argument("--decay-share", type=float, default=0.6, help="last share of steps, with a falling rate")
    parser.add_argument("--measure-every", type=int, default=200)
    parser.add_argument("--matrix-rate", type=float, default=6e-3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


class Trainer:
    """One process's part of a run: the same model everywhere, different rows."""

    def __init__(self, args: argparse.Namespace, share: Share) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(args.seed)
        self.args, self.share = args, share
        self.checkpoint = args.checkpoints / "last.safetensors"
        self.shape = Shape()
        self.tokenizer = Tokenizer.from_file(str(args.checkpoints / "tokenizer.json"))
        self.model = DemoModel(self.shape)
        self.compiled = torch.compile(self.model, dynamic=False)
        self.optimizer = Optimizer(self.model, Rates(matrices=args.matrix_rate), share)
        self.curriculum = Curriculum(self.shape.vocab_size)
        self.step = self.tokens = 0
        self.seconds = 0.0
        self.losses: deque[float] = deque(maxlen=50)

    def run(self) -> None:
        """Steps to the end, with a measurement and a checkpoint now and then."""
        self.resume()
        bar = tqdm(total=self.args.steps, initial=self.step, disable=self.share.rank > 0, mininterval=10)
        while self.step < self.args.steps:
            started = time.monotonic()
            self.losses.append(self.train_step())
            self.step += 1
            if self.step % self.args.measure_every == 0 or self.step == self.args.steps:
                self.take_stock()
            self.seconds += time.monotonic() - started
            bar.update()
            bar.set_postfix(
                loss=f"{sum(self.losses) / len(self.losses):.3f}", ids=self.curriculum.copy_ids, refresh=False
            )

    def train_step(self) -> float:
        """One update of all processes; returns the loss."""
        rng = Random(f"{self.args.seed} {self.share.rank} {self.step}")
        plan = batches.plan(self.curriculum, self.step, self.args.steps - self.args.long_steps)
        rows = batches.draw(rng, plan, self.curriculum, self.tokenizer)
        ids, wanted = torch.from_numpy(rows.ids), torch.from_numpy(rows.wanted)[:, 1:].flatten()
        self.tokens += ids[:, 1:].numel() * self.share.world_size
        forward = self.compiled if plan.length < self.shape.max_positions else self.model
        states = forward(ids[:, :-1].contiguous()).flatten(0, 1)[wanted]
        loss = F.cross_entropy(self.model.logits(states), ids[:, 1:].flatten()[wanted])
        loss.backward()
        value = self.average_gradients(loss.detach())
        self.optimizer.step(self.rate_scale())
        if plan.kind == "copy" and self.curriculum.copying:
            self.curriculum.note_copy_loss(value)
        return value

    def average_gradients(self, loss: Tensor) -> float:
        """Averages gradients and the loss over processes, in one message."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        message = torch.cat([g.flatten() for g in gradients] + [loss.view(1)])
        self.share.sum_over_all(message).div_(self.share.world_size)
        sizes = [g.numel() for g in gradients]
        for gradient, part in zip(gradients, message[:-1].split(sizes), strict=True):
            gradient.copy_(part.view_as(gradient))
        return message[-1].item()

    def rate_scale(self) -> float:
        """Warm-up over 60 steps, then level, then a straight line down to a twentieth."""
        left = (self.args.steps - self.step) / (self.args.steps * self.args.decay_share)
        return min(1.0, (self.step + 1) / 60, 0.05 + 0.95 * left)

    def take_stock(self) -> None:
        """Measures every skill, tells the curriculum, saves."""
        self.model.eval()
        farthest = self.curriculum.max_distance
        here = Skill("distance", lambda rng: look_up(rng, farthest), 0.0, None)
        skills = [*measured_skills(), here]
        parts = torch.tensor([measure(self.model, self.tokenizer, skill, 64, self.share) for skill in skills])
        totals = self.share.sum_over_all(parts).tolist()
        accuracies = dict(zip([skill.name for skill in skills], totals, strict=True))
        self.curriculum.note_accuracies(accuracies, accuracies["distance"])
        if self.share.rank == 0:
            self.log(accuracies, farthest)
            self.save()

    def log(self, accuracies: dict[str, float], farthest: int) -> None:
        """Adds one line to the log of the run."""
        loss = sum(self.losses) / len(self.losses)
        head = {"step": self.step, "tokens": self.tokens, "seconds": round(self.seconds), "loss": round(loss, 4)}
        percent = {name: round(100 * value) for name, value in accuracies.items()}
        with (self.args.checkpoints / "log.jsonl").open("a") as log:
            log.write(json.dumps(head | {"copy_ids": self.curriculum.copy_ids, "farthest": farthest} | percent) + "\n")

    def save(self) -> None:
        """Writes a checkpoint, and the model in its shipping form."""
        tensors = {f"model.{name}": p.detach() for name, p in self.model.named_parameters()}
        state = {"step": self.step, "tokens": self.tokens, "seconds": self.seconds, "curriculum": vars(self.curriculum)}
        write_checkpoint(self.checkpoint, tensors | self.optimizer.state(), state)
        export(self.model, self.tokenizer, self.args.weights)

    def resume(self) -> None:
        """Goes on from the last checkpoint, if there is one."""
        if not self.checkpoint.exists():
            return
        tensors, state = read_checkpoint(self.checkpoint)
        self.optimizer.restore({name: t for name, t in tensors.items() if not name.startswith("model.")})
        model = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
        self.model.load_state_dict(model)
        self.curriculum = Curriculum(**state["curriculum"])
        self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]


def make_tokenizer(args: argparse.Namespace) -> None:
    """Trains the tokenizer on the first texts of the corpus, once."""
    path = args.checkpoints / "tokenizer.json"
    args.checkpoints.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        corpus = islice(texts(Random(args.seed), Mix()), TOKENIZER_TEXTS)
        train_tokenizer(corpus, Shape().vocab_size).save(str(path))


def work(rank: int, args: argparse.Namespace, meeting_point: str) -> None:
    """The body of one process."""
    if args.processes > 1:
        dist.init_process_group("gloo", init_method=meeting_point, rank=rank, world_size=args.processes)
    Trainer(args, Share(rank, args.processes)).run()
    if args.processes > 1:
        dist.destroy_process_group()


def main() -> None:
    """Prepares the tokenizer, then trains in as many processes as asked for."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # a plain exit ends the other processes too
    args = options()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    make_tokenizer(args)
    with tempfile.TemporaryDirectory() as folder:
        meeting_point = f"file://{folder}/meeting"
        spawn(work, (args, meeting_point), nprocs=args.processes, daemon=True)


if __name__ == "__main__":
    main()
