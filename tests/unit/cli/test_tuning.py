"""What `tune` tries, without a GPU: the nearest legal schedules, with what was fixed left alone."""

import itertools

import pytest

from attngen.cli import tuning
from attngen.cli.input import load_spec
from attngen.cli.mistake import InputError
from attngen.cli.running import prepare
from attngen.runtime.tune import Measured
from attngen.schedule.space import distance

SIZES = {"B": 1, "H": 1, "Sq": 40, "Skv": 40}


def trial(**options):
    return prepare(load_spec("examples/flash.attn", {"D": 16}), SIZES, "f16", 0, options)


def test_the_default_comes_first_and_then_what_is_like_it():
    given = trial()
    points = tuning.candidates(given, 12)
    assert len(set(points)) == len(points) == 12
    assert points[0] == given.kernel.made(given.kernel.request(**given.tensors)).schedule
    apart = [distance(point, points[0]) for point in points]
    assert apart == sorted(apart)


def test_what_is_fixed_stays():
    points = tuning.candidates(trial(block_q=64, warps=4), 8)
    assert {(p.block_q, p.warps) for p in points} == {(64, 4)}
    assert len({p.block_k for p in points}) > 1


def test_a_search_measures_them_all(monkeypatch):
    given = trial()

    def tune(kernel, tensors, points, done):
        for milliseconds, point in zip(itertools.count(1), points, strict=False):
            done(Measured(point, float(milliseconds)))
        return points[0]

    monkeypatch.setattr(tuning, "tune", tune)
    best, measured = tuning.search_trial(given, 5)
    assert [m.schedule for m in measured] == tuning.candidates(given, 5)
    assert best == measured[0].schedule


def test_no_gpu_is_said(monkeypatch, attngen):
    monkeypatch.setattr(tuning, "gpu_present", lambda: False)
    with pytest.raises(InputError, match="no GPU here"):
        tuning.require_gpu()
    result = attngen("tune", "examples/flash.attn", "--most", "0")
    assert result.status == 2
    assert "--most" in result.err
