"""Picks next tokens. Knows logits and per-sequence parameters; not text, not slots' memory."""
