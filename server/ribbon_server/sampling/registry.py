"""The logits processors in the order they run."""

from typing import Any

from ribbon_server.sampling.processors.base import Processor
from ribbon_server.sampling.processors.count import Count
from ribbon_server.sampling.processors.frequency import Frequency
from ribbon_server.sampling.processors.grammar import GrammarMask
from ribbon_server.sampling.processors.logit_bias import LogitBias
from ribbon_server.sampling.processors.min_tokens import MinTokens
from ribbon_server.sampling.processors.presence import Presence
from ribbon_server.sampling.processors.repetition import Repetition
from ribbon_server.sampling.processors.watermark import Watermark

PROCESSORS: tuple[Processor[Any], ...] = tuple(
    sorted(
        (Watermark(), Repetition(), Frequency(), Presence(), Count(), LogitBias(), GrammarMask(), MinTokens()),
        key=lambda processor: processor.ORDER,
    )
)
