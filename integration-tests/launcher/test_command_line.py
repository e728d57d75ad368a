"""Mistakes on the command line and in the environment: exit code 2 and a message that names what is wrong."""

import shutil
import subprocess

import pytest
from launcher_support import BINARIES, REPOSITORY, base_environment

LAUNCHER = BINARIES / "ribbon-launcher"


def run(*arguments, program=LAUNCHER, **environment):
    return subprocess.run(
        [program, *arguments], env=base_environment() | environment, capture_output=True, text=True, timeout=30
    )


@pytest.mark.parametrize(
    ("variable", "value", "flag"),
    [
        ("PORT", "", "--port"),
        ("PORT", "eighty", "--port"),
        ("MAX_TOTAL_TOKENS", "", "--max-total-tokens"),
        ("DTYPE", "", "--dtype"),
        ("MODEL_ID", "", "--model-id"),
        ("JSON_OUTPUT", "1", "--json-output"),
        ("JSON_OUTPUT", "", "--json-output"),
        ("JSON_OUTPUT", "True", "--json-output"),
        ("QUANTIZE", "awq", "--quantize"),
        ("TRUST_REMOTE_CODE", "true", "--trust-remote-code"),
    ],
)
def test_a_bad_variable_is_refused_by_name(variable, value, flag):
    result = run(**{variable: value})
    assert result.returncode == 2
    assert flag in result.stderr + result.stdout
    assert f"variable {variable}" in result.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CUDA_GRAPHS", "1,2,4,8,16,32"),
        ("SHARDED", "false"),
        ("MASTER_PORT", "29500"),
        ("TRUST_REMOTE_CODE", "false"),
        ("USAGE_STATS", "off"),
    ],
)
def test_a_variable_that_asks_for_nothing_is_fine(variable, value):
    result = run("--kv-memory", "much", **{variable: value})
    assert "`--kv-memory` is `much`" in result.stdout, result.stdout + result.stderr


def test_a_refused_secret_is_not_printed():
    for result in (run("--ngrok-authtoken", "s3cret"), run(NGROK_AUTHTOKEN="s3cret")):
        assert result.returncode == 2
        assert "--ngrok-authtoken" in result.stderr
        assert "s3cret" not in result.stdout + result.stderr


def test_a_key_is_not_printed():
    bad = ("--kv-memory", "much")
    for result in (run(*bad, "--api-key", "s3cret"), run(*bad, API_KEY="s3cret")):
        assert "`--kv-memory` is `much`" in result.stdout, result.stdout + result.stderr
        assert "api_key" in result.stdout
        assert "s3cret" not in result.stdout + result.stderr


def test_help_prints_no_value_of_the_environment():
    result = run("--help", MODEL_ID="private/model-name")
    assert result.returncode == 0
    assert "private/model-name" not in result.stdout


def test_the_command_line_wins_over_the_environment():
    result = run("--kv-memory", "much", KV_MEMORY="little")
    assert "`--kv-memory` is `much`" in result.stdout


def test_an_unknown_flag_is_answered_with_the_nearest():
    result = run("--max-total-token", "5")
    assert result.returncode == 2
    assert "--max-total-tokens" in result.stderr


def test_a_log_level_that_is_none_is_refused_by_name():
    result = run(LOG_LEVEL="a=b=c")
    assert result.returncode == 2
    assert "LOG_LEVEL" in result.stderr


def test_a_missing_program_is_named(tmp_path):
    shutil.copy(LAUNCHER, tmp_path)
    result = run(program=tmp_path / "ribbon-launcher", PATH="/nowhere")
    assert result.returncode == 2
    assert "ribbon-server" in result.stdout
    assert "PATH" in result.stdout


def test_a_socket_path_that_cannot_be_used_is_refused():
    result = run("--shard-uds-path", "/nowhere/at/all")
    assert result.returncode == 2
    assert "--shard-uds-path" in result.stdout
    assert "/nowhere/at/all" in result.stdout


def test_the_page_of_flags_is_current():
    result = run("print-flags", MODEL_ID="private/model-name", PORT="99")
    assert result.stdout == (REPOSITORY / "docs" / "reference" / "flags.md").read_text()
