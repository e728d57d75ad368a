"""Picks the attention layer for a shape: the native kernel where it is built for it, else the reference."""

import logging

from ribbon_server.layers.attention.base import AttentionLayer, AttentionShape
from ribbon_server.layers.attention.cpu import NativeAttention, is_built_for
from ribbon_server.layers.attention.reference import ReferenceAttention
from ribbon_server.telemetry import log


class AttentionChooser:
    """Builds attention layers; says once for each size of heads that the slow way is taken."""

    def __init__(self) -> None:
        """Nothing has been said."""
        self._told: set[int] = set()

    def __call__(self, shape: AttentionShape) -> AttentionLayer:
        """The layer for `shape`."""
        if is_built_for(shape):
            return NativeAttention(shape)
        if shape.head_dim not in self._told:
            self._told.add(shape.head_dim)
            log(
                logging.WARNING,
                f"head_dim {shape.head_dim} has no native kernel; attention runs in plain torch, slowly",
            )
        return ReferenceAttention(shape)
