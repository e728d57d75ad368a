"""From logits on a device to the next token of every row: processors, filters, noise and argmax there, then one copy to the host.

Gives the native sampler's tokens. Nothing before the copy waits for the device.
"""

import numpy as np
import torch
from torch import Tensor

from ribbon_server.sampling import device_filters
from ribbon_server.sampling.device_random import gumbel_rows
from ribbon_server.sampling.sampler import Fault, Picks, process, top_room
from ribbon_server.sampling.state import SamplingRows
from ribbon_server.sampling.top_tokens import top_tokens

# In the order of the contract; each with the value that switches it off.
FILTERS = (
    ("top_k", 0, device_filters.top_k),
    ("top_p", 1, device_filters.top_p),
    ("min_p", 0, device_filters.min_p),
    ("typical_p", 1, device_filters.typical),
)


def pick_on_device(logits: Tensor, rows: SamplingRows) -> Picks:
    """Picks each row's next token; logits float32 [rows, vocab] are changed in place. `rows.device` is theirs.

    A row whose logits are not finite, or that no token is left to, fails alone.
    """
    is_finite = torch.isfinite(logits.amax(dim=1))  # NaN and +inf survive a maximum
    logits.masked_fill_(~is_finite[:, None], 0.0)
    process(logits, rows)
    fault = _faults(is_finite, logits.amax(dim=1))
    scores = _filtered(logits, rows)
    tokens = _noisy(scores, rows).argmax(dim=1)  # the first of equals
    log_total = scores.logsumexp(dim=1)
    logprobs = scores.gather(1, tokens[:, None])[:, 0] - log_total
    num_top, max_top = top_room(rows)
    columns = [tokens.int(), logprobs.view(torch.int32), fault]
    tops = _top_columns(scores, log_total, rows, num_top, max_top) if num_top.any() else []
    table = torch.stack(columns + tops, dim=1).cpu().numpy()  # the step's one wait
    return _unpacked(table, max_top)


def _faults(is_finite: Tensor, highest: Tensor) -> Tensor:
    """Of each row, int32 [rows] of Fault; `highest` is what is left after the processors."""
    fault = torch.where(torch.isfinite(highest), int(Fault.NONE), int(Fault.NOT_FINITE))
    fault = torch.where(highest == float("-inf"), int(Fault.NO_TOKEN), fault)
    return torch.where(is_finite, fault, int(Fault.NOT_FINITE)).int()


def _filtered(logits: Tensor, rows: SamplingRows) -> Tensor:
    """Scores: logits by temperature, -inf where a filter cuts. Greedy rows stay as they are."""
    sampled = rows.params["greedy"] == 0
    if not sampled.any():
        return logits
    scores = logits / rows.column(np.where(sampled, rows.params["temperature"], 1.0))
    for name, off, keep in FILTERS:
        values = rows.params[name]
        index = np.flatnonzero(sampled & (values != off))
        if not index.size:
            continue
        at = rows.tensor(index)
        value = rows.tensor(values[index].astype(np.int64 if name == "top_k" else np.float32))
        scores.index_copy_(0, at, keep(scores.index_select(0, at), value))
    return scores


def _noisy(scores: Tensor, rows: SamplingRows) -> Tensor:
    """Scores plus the noise of the rows that sample."""
    index = np.flatnonzero(rows.params["greedy"] == 0)
    if not index.size:
        return scores
    seed = rows.tensor(rows.params["seed"][index].view(np.int64))
    position = rows.tensor(rows.known[index].astype(np.int64))
    choice = rows.tensor(rows.params["choice"][index].astype(np.int64))
    at = rows.tensor(index)
    return scores.index_copy(0, at, _add_noise(scores.index_select(0, at), seed, position, choice))


def _add_noise(scores: Tensor, seed: Tensor, position: Tensor, choice: Tensor) -> Tensor:
    """In one launch on CUDA."""
    if not scores.is_cuda:
        return scores + gumbel_rows(seed, position, choice, scores.shape[1])
    from ribbon_server.sampling.triton_noise import add_gumbel  # here, since Triton is not installed everywhere

    return add_gumbel(scores, seed, position, choice)


def _top_columns(
    scores: Tensor, log_total: Tensor, rows: SamplingRows, num_top: np.ndarray, max_top: int
) -> list[Tensor]:
    """How many top tokens each row has, their ids, their logprobs: int32 columns, floats by their bits. Ties go by id."""
    top = top_tokens(scores, log_total, rows.tensor(num_top.astype(np.int64)), max_top)
    return [top.count, *top.token_id.unbind(1), *top.logprob.view(torch.int32).unbind(1)]


def _unpacked(table: np.ndarray, max_top: int) -> Picks:
    """table int32 [rows, 3 + 1 + 2 * listed], without the last parts where nobody wants top tokens."""
    num_rows = len(table)
    listed = (table.shape[1] - 4) // 2 if table.shape[1] > 3 else 0
    top_id, top_logprob = np.zeros((num_rows, max_top), np.uint32), np.zeros((num_rows, max_top), np.float32)
    top_id[:, :listed] = table[:, 4 : 4 + listed]
    top_logprob[:, :listed] = np.ascontiguousarray(table[:, 4 + listed : 4 + 2 * listed]).view(np.float32)
    return Picks(
        token_id=table[:, 0].astype(np.uint32),
        logprob=np.ascontiguousarray(table[:, 1]).view(np.float32),
        top_count=table[:, 3].astype(np.uint32) if listed else np.zeros(num_rows, np.uint32),
        top_token_id=top_id,
        top_logprob=top_logprob,
        fault=table[:, 2].astype(np.uint8),
    )
