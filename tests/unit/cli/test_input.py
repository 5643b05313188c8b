"""Settings and sizes: what belongs to a parameter, a feature axis, or a length of the call."""

import click
import pytest

from attngen.cli.console import columns, kibibytes, seconds
from attngen.cli.defaults import axis_sizes
from attngen.cli.input import load_spec, parse_schedule, parse_settings, parse_sizes, with_sizes
from attngen.cli.mistake import InputError

EXAMPLE = "examples/gemma2.attn"
ANY = click.Context(click.Command("any")), click.Option(["--any"])


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def test_axes_that_nobody_set_are_128_and_named():
    spec = load_spec("examples/flash.attn", {"D": 64})
    assert spec.sizes == {"D": 64, "Dv": 128}
    assert spec.assumed == ("Dv",)
    assert spec.describe_sizes() == "D=64, Dv=128 (default)"


def test_settings_reach_parameters():
    spec = load_spec(EXAMPLE, {"window": 16, "D": 32})
    assert spec.params == {"window": 16}
    assert dict(spec.program.params)["window"] == 16


def test_sizes_of_the_call_reach_feature_axes():
    spec = with_sizes(load_spec(EXAMPLE), {"D": 32, "Sq": 8})
    assert (spec.sizes, spec.assumed) == ({"D": 32}, ())


def test_every_axis_gets_a_length():
    lengths = axis_sizes(load_spec(EXAMPLE), {"Sq": 5}, gpu=False)
    assert lengths == {"B": 1, "Sq": 5, "Hq": 2, "D": 128, "Skv": 128, "Hkv": 1}


def test_an_axis_the_spec_does_not_have_is_named():
    with pytest.raises(InputError, match="no axis named Sx"):
        axis_sizes(load_spec(EXAMPLE), {"Sx": 5}, gpu=False)


def test_values_are_read_as_whole_numbers_numbers_and_truth():
    assert parse_settings(*ANY, ["a=1", "b=2.5", "c=true"]) == {"a": 1, "b": 2.5, "c": True}
    assert parse_sizes(*ANY, ["Sq=1,Skv=2", "B=3"]) == {"Sq": 1, "Skv": 2, "B": 3}
    assert parse_schedule(*ANY, "block_q=64,loads=pointer") == {"block_q": 64, "loads": "pointer"}
    assert parse_schedule(*ANY, None) == {}


@pytest.mark.parametrize("text", ["D", "=1", "D=", "1D=1", "D-E=1"])
def test_what_is_not_a_pair_is_refused(text):
    with pytest.raises(InputError, match="NAME=value"):
        parse_settings(*ANY, [text])


@pytest.mark.parametrize("text", ["Sq=-1", "Sq=1.5", "Sq=true"])
def test_what_is_not_a_length_is_refused(text):
    with pytest.raises(InputError, match="whole number"):
        parse_sizes(*ANY, [text])


def test_numbers_are_printed_for_people():
    assert [seconds(1.5), seconds(2.5e-3), seconds(3e-6)] == ["1.5 s", "2.5 ms", "3 us"]
    assert kibibytes(49152) == "48 KiB"


def test_columns_align_without_counting_styles():
    rows = [[click.style("ok", fg="green"), "a"], ["wrong", "b"]]
    assert [click.unstyle(line) for line in columns(rows)] == ["  ok     a", "  wrong  b"]
