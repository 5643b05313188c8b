"""What every command does with good and bad input: statuses, messages, never a traceback."""

import subprocess
import sys
import time

import pytest

from attngen.cli.group import COMMANDS

GOOD = """attention tiny {
  param window = 8
  query q : half[B, H, S, D]
  key   k : half[B, H, S, D]
  value v : half[B, H, S, D]
  score = dot(q, k) * rsqrt(D)
  mask  = causal and q_pos - kv_idx < window
}
"""
NAMES = [name for _, commands in COMMANDS for name, _ in commands]


def test_help_lists_every_command_with_examples(attngen):
    result = attngen("--help")
    assert result.status == 0
    assert "Examples:" in result.out
    assert all(f"  {name} " in result.out for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_with_an_example(attngen, name):
    result = attngen(name, "--help")
    assert result.status == 0
    assert f"attngen {name}" in result.out


def test_check_says_what_a_spec_is(attngen, spec):
    result = attngen("check", spec(GOOD))
    assert (result.status, result.err) == (0, "")
    assert "attention tiny(q, k, v) -> out" in result.out


def test_check_goes_on_after_a_wrong_spec(attngen, spec):
    wrong = spec(GOOD.replace("kv_idx", "kv_indx"), "wrong.attn")
    result = attngen("check", wrong, spec(GOOD))
    assert result.status == 2
    assert "wrong.attn:7:" in result.err
    assert "^^^" in result.err
    assert "tiny(q, k, v)" in result.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "missing.attn"], "cannot read missing.attn: No such file"),
        (["check", "examples"], "cannot read examples: Is a directory"),
        (["check", "--set"], "No such option"),
        (["check"], "Missing argument"),
        (["nonsense"], "No such command"),
        (["compile", "examples/flash.attn", "--set", "D"], "expected NAME=value"),
        (["compile", "examples/flash.attn", "--set", "D=1.5"], "expected a whole number"),
        (["compile", "examples/flash.attn", "--set", "D=x"], "expected a number"),
        (
            ["compile", "examples/flash.attn", "--set", "E=1"],
            "no parameter or feature axis named E",
        ),
        (["compile", "examples/flash.attn", "--target", "sm_1"], "unknown target"),
        (["compile", "examples/flash.attn", "--target", "interpreter"], "not a GPU"),
        (["draw", "examples/flash.attn", "-o", "mask.txt"], "cannot draw into"),
        (["regenerate", "--examples", "docs"], "no specs in docs"),
    ],
)
def test_bad_input_is_status_2_with_a_reason(attngen, arguments, message):
    result = attngen(*arguments)
    assert result.status == 2
    assert message in result.err
    assert "Traceback" not in result.err + result.out


def test_a_file_that_is_not_text_is_refused(attngen, tmp_path):
    path = tmp_path / "binary.attn"
    path.write_bytes(b"attention \xff\xfe")
    result = attngen("check", path)
    assert result.status == 2
    assert "not UTF-8 text (byte 10)" in result.err


def test_a_huge_file_is_refused_without_reading_it_all(attngen, tmp_path):
    path = tmp_path / "huge.attn"
    path.write_bytes(b"#" * (3 << 20))
    result = attngen("check", path)
    assert (result.status, "larger than 1 MiB" in result.err) == (2, True)


def test_the_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "attngen", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("attngen 0.")


def test_a_closed_pipe_is_no_traceback():
    command = f"{sys.executable} -m attngen --help | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


def test_check_answers_at_once():
    """The goal is 0.3 s on an idle machine; twice that here, as tests share the processor."""
    command = [sys.executable, "-m", "attngen", "check", "examples/gemma2.attn"]
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.6
