"""A twin of aten::_flash_attention_forward in float32 for tests on a CPU: the same arguments, the same refusals, no kernel."""

import torch
from torch import Tensor

INT32_END = 2**31


class FlashTwin:
    """Counts its calls; `wrong` makes it see one key too few, as a changed operator might."""

    def __init__(self, *, wrong: bool = False) -> None:
        self.calls: list[tuple[int, int, bool]] = []  # rows, longest run, causal
        self.wrong = wrong

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cum_seq_q: Tensor,
        cum_seq_k: Tensor,
        max_q: int,
        max_k: int,
        dropout_p: float,
        is_causal: bool,
        return_debug_mask: bool,
        *,
        scale: float,
        window_size_left: int | None,
        window_size_right: int | None,
        seqused_k: Tensor,
    ) -> tuple[Tensor, ...]:
        rows = len(cum_seq_q) - 1
        assert (dropout_p, return_debug_mask) == (0.0, False)
        assert query.dtype == key.dtype == value.dtype
        for index, length in ((cum_seq_q, rows + 1), (cum_seq_k, rows + 1), (seqused_k, rows)):
            assert index.dtype == torch.int32
            assert index.shape == (length,)
            assert index.is_contiguous()
        assert query.dim() == key.dim() == 3
        assert key.shape == value.shape
        assert key.shape[0] < INT32_END
        assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
        assert max_q == int(cum_seq_q.diff().max())
        assert max_k == int(seqused_k.max())
        self.calls.append((rows, max_q, is_causal))
        right = 0 if is_causal and max_q > 1 else window_size_right
        results = [
            self._row(query[a:b], key[k : k + n], value[k : k + n], scale, (window_size_left, right))
            for a, b, k, n in zip(
                cum_seq_q[:-1].tolist(),
                cum_seq_q[1:].tolist(),
                cum_seq_k[:-1].tolist(),
                seqused_k.tolist(),
                strict=True,
            )
        ]
        return torch.cat(results).to(query.dtype), *(torch.empty(0),) * 4

    def _row(self, query: Tensor, key: Tensor, value: Tensor, scale: float, window: tuple) -> Tensor:
        group = query.shape[1] // key.shape[1]
        keys, values = (part.float().repeat_interleave(group, 1) for part in (key, value))
        scores = torch.einsum("qhd,thd->hqt", query.float(), keys) * scale
        own = torch.arange(len(key) - len(query), len(key))[:, None] - int(self.wrong and len(key) > 1)
        at = torch.arange(len(key))
        left, right = window
        if right is not None and right >= 0:
            scores.masked_fill_(at > own + right, float("-inf"))
        if left is not None and left >= 0:
            scores.masked_fill_(at < own - left, float("-inf"))
        return torch.einsum("hqt,thd->qhd", scores.softmax(-1), values)
