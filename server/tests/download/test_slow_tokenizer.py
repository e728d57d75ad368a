"""Slow tokenizers: tokenizer.json gives their tokens, and none runs code of the repository."""

import json
import re
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import ByteLevelBPETokenizer, Tokenizer

import ribbon_server
from ribbon_server.download.complete import complete
from ribbon_server.errors import BadSetting, ModelNotSupported

TEXTS = ["The quick brown fox jumps.", "two  spaces within", "Ünïcödé 日本語 🙂", "line\nbreak\ttab", "x" * 30, ""]
CORPUS = ["the quick brown fox jumps over the lazy dog", "pack my box with five dozen jugs", "one two three four"] * 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model that has weights and no tokenizer yet."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    (tmp_path / "model.safetensors").touch()
    return tmp_path


def train_sentencepiece(folder: Path) -> sentencepiece.SentencePieceProcessor:
    """A tokenizer.model as Llama 2 has it: BPE with bytes for what it does not know."""
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(CORPUS))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "tokenizer"), vocab_size=330, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", add_dummy_prefix=True, remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def test_sentencepiece_tokens_are_those_of_sentencepiece(folder: Path) -> None:
    theirs = train_sentencepiece(folder)
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    complete(folder)
    ours = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in TEXTS:
        assert ours.encode(text, add_special_tokens=False).ids == theirs.encode(text), text
        assert ours.encode(text).ids == [theirs.bos_id(), *theirs.encode(text)], text


def test_byte_level_tokens_are_those_of_vocabulary_and_merges(folder: Path) -> None:
    theirs = ByteLevelBPETokenizer()
    theirs.train_from_iterator(CORPUS, vocab_size=300, special_tokens=["<|endoftext|>"])
    theirs.save_model(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    complete(folder)
    ours = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in TEXTS:
        assert ours.encode(text).ids == theirs.encode(text).ids, text


def test_a_tokenizer_that_is_code_is_refused_and_its_code_never_run(folder: Path) -> None:
    train_sentencepiece(folder)
    mark = folder / "sprung"
    (folder / "tokenization_own.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n")
    own = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    with pytest.raises(ModelNotSupported, match=r"Python code of the repository.*which is not run"):
        complete(folder)
    assert not mark.exists()
    assert not (folder / "tokenizer.json").exists()


def test_code_for_the_model_is_not_run_for_its_tokenizer(folder: Path) -> None:
    train_sentencepiece(folder)
    mark = folder / "sprung"
    (folder / "configuration_own.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n")
    auto_map = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "configuration_own.OwnModel"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": auto_map}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    complete(folder)
    assert (folder / "tokenizer.json").exists()
    assert not mark.exists()


def test_a_vocabulary_that_is_damaged_is_refused(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(b"no model")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    with pytest.raises(ModelNotSupported, match=r"lacks tokenizer\.json, and it cannot be made"):
        complete(folder)
    assert not (folder / "tokenizer.json").exists()


def test_no_vocabulary_at_all_is_refused(folder: Path) -> None:
    with pytest.raises(BadSetting, match=r"lacks tokenizer\.json, and a vocabulary to make it from"):
        complete(folder)


def test_nothing_here_trusts_remote_code() -> None:
    sources = Path(ribbon_server.__file__).parent.rglob("*.py")
    assert [path.name for path in sources if re.search(r"trust_remote_code\s*=\s*(?!False)", path.read_text())] == []
