"""The tokenizer keeps every byte, and the chat template writes what training read."""

from pathlib import Path

import pytest
from corpus import held_out_items, prompt_text
from skills import EVALUATED, Skill
from transformers import AutoTokenizer, PreTrainedTokenizerBase


@pytest.fixture(scope="module")
def tokenizer(weights: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(weights)


@pytest.mark.parametrize(
    "text", ["", "plain words", " two  spaces\n\ttab", "Grüße, 世界 🙂", "1234.5e-6", "\x00\x7f\u2028"]
)
def test_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text


def test_digits_are_tokens_of_their_own(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.tokenize("4821") == ["4", "8", "2", "1"]


@pytest.mark.parametrize("skill", EVALUATED, ids=lambda skill: skill.name)
def test_template_writes_the_training_format(tokenizer: PreTrainedTokenizerBase, skill: Skill) -> None:
    for item in held_out_items(skill, 3):
        messages = [{"role": "system", "content": "Be kind."}]
        messages += [{"role": message.role, "content": message.content} for message in item.messages]
        tools = list(item.tools) or None
        text = tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True, tokenize=False)
        assert text == prompt_text(item, "Be kind.")


def test_template_writes_a_call_and_its_result(tokenizer: PreTrainedTokenizerBase) -> None:
    call = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "rain"},
    ]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == (
        "<|begin|><|user|>Weather?<|end|>"
        '<|assistant|>{"name": "get_weather", "arguments": {"city": "Oslo"}}<|end|><|tool|>rain<|end|>'
    )
