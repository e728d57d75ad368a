"""A byte-level BPE tokenizer of any size with made-up merges, and prompts of an exact number of tokens.

Knows tokenizer files; not models, not servers. Every text round-trips, since all 256 bytes are tokens.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from string import ascii_lowercase as LETTERS

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>")
BEGIN_ID = 1
END_ID = 2
SPACE = "Ġ"  # how byte-level BPE writes the byte of a space

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


def merges() -> Iterator[tuple[str, str]]:
    """Pairs by rank. Words after a space come first, so that ` abc` is always one token once its merges are in."""
    yield from ((SPACE, a) for a in LETTERS)
    yield from ((SPACE + a, b) for a in LETTERS for b in LETTERS)
    yield from ((a, b) for a in LETTERS for b in LETTERS)
    yield from ((SPACE + a + b, c) for a in LETTERS for b in LETTERS for c in LETTERS)
    yield from ((a + b, c) for a in LETTERS for b in LETTERS for c in LETTERS)


def build_tokenizer(vocabulary: int) -> Tokenizer:
    """A tokenizer of exactly `vocabulary` entries that puts `<s>` before a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ranked = list(islice(merges(), vocabulary - len(SPECIAL_TOKENS) - len(alphabet)))
    entries = [*SPECIAL_TOKENS, *alphabet, *(left + right for left, right in ranked)]
    if len(entries) != vocabulary:
        raise ValueError(f"vocabulary is {vocabulary}; made-up merges reach {len(entries)}")
    tokenizer = Tokenizer(models.BPE({entry: token for token, entry in enumerate(entries)}, ranked))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BEGIN_ID)])
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    return tokenizer


def write_tokenizer(directory: Path, vocabulary: int, positions: int) -> None:
    """Writes tokenizer.json and tokenizer_config.json."""
    build_tokenizer(vocabulary).save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "model_max_length": positions,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


class Prompts:
    """Texts of an exact number of tokens for the tokenizer of a model directory, the same for the same seed."""

    def __init__(self, model: Path, seed: int = 0) -> None:
        self._tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self._extra = len(self._tokenizer.encode("").ids)
        vocabulary = sorted(self._tokenizer.get_vocab().items(), key=lambda entry: entry[1])
        words = [
            (entry, token)
            for entry, token in vocabulary
            if entry.startswith(SPACE) and entry[1:].isascii() and entry[1:].isalpha()
        ]
        self._words = [" " + entry[1:] for entry, token in words if self._tokens(" " + entry[1:]) == [token]]
        self._random = random.Random(seed)

    def _tokens(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def ids(self, text: str) -> list[int]:
        """Token ids as a server sees the text, special tokens included."""
        return self._tokenizer.encode(text).ids

    def text(self, tokens: int, prefix: str = "") -> str:
        """A new text of `tokens` tokens in all, what the tokenizer puts around it and `prefix` included."""
        wanted = tokens - self._extra - len(self._tokens(prefix))
        if wanted < 0:
            raise ValueError(f"{tokens} tokens are fewer than the prefix and the special tokens need")
        text = prefix + "".join(self._random.choices(self._words, k=wanted))
        if len(self.ids(text)) != tokens:
            raise AssertionError(f"made a prompt of {len(self.ids(text))} tokens, wanted {tokens}")
        return text
