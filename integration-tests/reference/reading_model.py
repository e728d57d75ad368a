"""A random encoder-decoder with a tokenizer of words, and what transformers says of its tokens.

Knows files and token ids; not HTTP. A run's prompt here ends with the token that the decoder begins with.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from string import ascii_lowercase as LETTERS

import numpy as np
import torch
from margin import Reference, Run
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModelForSeq2SeqLM, T5Config, T5ForConditionalGeneration

START_ID, END_ID, UNKNOWN_ID = 0, 1, 2
SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>")
WORDS = [f"{first}{second}o" for first in LETTERS[:20] for second in LETTERS[:20]]
SPACE = "▁"  # how the pieces write what stands before a word


def make_reading_model(directory: Path) -> Path:
    """Two encoder layers and three decoder layers, gated, in float32."""
    tokenizer = build_tokenizer()
    tokenizer.save(str(directory / "tokenizer.json"))
    torch.manual_seed(4)
    config = T5Config(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=48,
        d_kv=16,
        d_ff=96,
        num_layers=2,
        num_decoder_layers=3,
        num_heads=4,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=60,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        pad_token_id=START_ID,
        eos_token_id=END_ID,
        decoder_start_token_id=START_ID,
    )
    model = T5ForConditionalGeneration(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.dim() == 1 else 0.0, 0.2)
    model.generation_config.eos_token_id = END_ID
    model.generation_config.decoder_start_token_id = START_ID
    model.save_pretrained(directory)
    return directory


def build_tokenizer() -> Tokenizer:
    """Unigram pieces with a mark before each word, and the end token behind every text."""
    pieces = [*SPECIAL_TOKENS, SPACE, *(SPACE + word for word in WORDS), *LETTERS]
    unigram = models.Unigram([(piece, -1.0 - number / 1000) for number, piece in enumerate(pieces)], UNKNOWN_ID, False)
    tokenizer = Tokenizer(unigram)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END_ID)])
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    return tokenizer


class WordPrompts:
    """Texts of an exact number of tokens, the end token included, the same for the same seed."""

    def __init__(self, model: Path, seed: int) -> None:
        self._tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self._random = random.Random(seed)

    def ids(self, text: str) -> list[int]:
        """As a server sees the text."""
        return self._tokenizer.encode(text).ids

    def text(self, tokens: int) -> str:
        """A new text of `tokens` tokens, at least 2."""
        text = " ".join(self._random.choices(WORDS, k=tokens - 1))
        assert len(self.ids(text)) == tokens, f"{len(self.ids(text))} tokens, wanted {tokens}"
        return text

    def decode(self, ids: Sequence[int]) -> str:
        """As a client sees an answer."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)


def from_start(run: Run) -> Run:
    """With the token that the decoder begins with behind the prompt."""
    return replace(run, prompt=[*run.prompt, START_ID])


class ReadingReference(Reference):
    """The encoder over the prompt, the decoder over all of the answer at once, without a cache."""

    def __init__(self, directory: Path) -> None:
        self._model = AutoModelForSeq2SeqLM.from_pretrained(directory, dtype=torch.float32).eval()

    @torch.inference_mode()
    def logits(self, prompt: Sequence[int], generated: Sequence[int]) -> NDArray[np.float32]:
        """Raw logits [len(generated), vocabulary] at the positions where our tokens were picked."""
        *read, start = prompt
        said = torch.tensor([[start, *generated[:-1]]])
        logits: NDArray[np.float32] = (
            self._model(torch.tensor([read]), decoder_input_ids=said, use_cache=False).logits[0].numpy()
        )
        return logits
