"""What transformers renders for every template and conversation here; run it to write `expected.json` anew."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any
from unittest import mock

from jinja2.exceptions import TemplateError
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

HERE = Path(__file__).resolve().parent
NOW = datetime.datetime(2026, 3, 5, 14, 7)  # transformers asks for the local time


class Clock(datetime.datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
        assert tz is None
        return NOW


def read(name: str) -> Any:
    """A JSON file beside this one."""
    return json.loads((HERE / name).read_text(encoding="utf-8"))


def joined(message: dict[str, Any]) -> dict[str, Any]:
    """The message with its text parts as one text, as servers have it for templates that read no parts."""
    content = message["content"]
    if isinstance(content, list):
        content = "".join(part["text"] for part in content)
    return {**message, "content": content}


def apply(tokenizer: PreTrainedTokenizerFast, conversation: dict[str, Any], messages: list[dict[str, Any]]) -> str:
    """The prompt."""
    continued = conversation.get("continue_final_message", False)
    rendered = tokenizer.apply_chat_template(
        messages,
        tools=read("tools.json") if conversation.get("tools") else None,
        documents=conversation.get("documents"),
        add_generation_prompt=conversation.get("add_generation_prompt", not continued),
        continue_final_message=continued,
        tokenize=False,
        **conversation.get("variables", {}),
    )
    assert isinstance(rendered, str)
    return rendered


def shows_parts(conversation: dict[str, Any], rendered: str) -> bool:
    """Whether the texts of the parts are in the prompt, and not as a list that somebody printed."""
    contents = [message["content"] for message in conversation["messages"] if isinstance(message.get("content"), list)]
    texts = [part["text"].strip() for content in contents for part in content]
    return all(text in rendered and f"{text}'" not in rendered and f'{text}"' not in rendered for text in texts)


def render(tokenizer: PreTrainedTokenizerFast, conversation: dict[str, Any]) -> Any:
    """The prompt, or why there is none: the template's own words, or nothing where it failed."""
    messages = conversation["messages"]
    has_parts = any(isinstance(message.get("content"), list) for message in messages)
    joined_parts = {**conversation, "messages": [joined(message) if has_parts else message for message in messages]}
    try:
        rendered = apply(tokenizer, conversation, messages)
    except (TemplateError, TypeError, ValueError) as error:
        if has_parts:
            return render(tokenizer, joined_parts)
        return {"raised": str(error)} if type(error) is TemplateError else {"failed": type(error).__name__}
    return rendered if shows_parts(conversation, rendered) else render(tokenizer, joined_parts)


def expected() -> dict[str, dict[str, Any]]:
    """Template → conversation → what becomes of it."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token="<s>", eos_token="</s>")
    conversations = read("conversations.json")
    everything = {}
    with mock.patch.object(chat_template_utils, "datetime", Clock):
        for path in sorted(HERE.glob("*.jinja")):
            tokenizer.chat_template = path.read_text(encoding="utf-8")
            everything[path.stem] = {one["name"]: render(tokenizer, one) for one in conversations}
    return everything


if __name__ == "__main__":
    written = json.dumps(expected(), ensure_ascii=False, indent=1) + "\n"
    (HERE / "expected.json").write_text(written, encoding="utf-8")
