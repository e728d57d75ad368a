"""Attention over ribbons: what a step's kernels are given, and the kernels."""
