"""What launcher and shard both read is read alike: the shard's side of `launcher/kv_memory_spellings.json`."""

import json
from pathlib import Path

import pytest

from ribbon_server.config import parse_kv_memory
from ribbon_server.errors import BadSetting

SPELLINGS = json.loads((Path(__file__).parents[2] / "launcher" / "kv_memory_spellings.json").read_text())


@pytest.mark.parametrize("text", SPELLINGS["good"])
def test_the_shard_reads_what_the_launcher_lets_pass(text):
    parse_kv_memory(text)


@pytest.mark.parametrize("text", SPELLINGS["bad"])
def test_the_shard_refuses_what_the_launcher_refuses(text):
    with pytest.raises(BadSetting, match="--kv-memory"):
        parse_kv_memory(text)
