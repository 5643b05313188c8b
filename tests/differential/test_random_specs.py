"""Random specs through Triton's interpreter against the formula; the seed is the whole case."""

import re

import pytest

from attngen.fuzz import attempt
from attngen.reference.generate import FEATURES, random_spec
from tests.differential.harness import device

pytestmark = pytest.mark.interpreter

FIXED = range(1000, 1060)
MORE = range(2000, 2300)


def hold(seed: int) -> None:
    outcome = attempt(random_spec(seed), device())
    assert outcome.kind != "failed", f"attngen fuzz --seed {seed}\n{outcome.message}"


@pytest.mark.parametrize("seed", FIXED)
def test_random_spec(seed):
    hold(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", MORE)
def test_more_random_specs(seed):
    hold(seed)


def test_the_fixed_seeds_cover_every_feature():
    seen = frozenset().union(*(random_spec(seed).features for seed in FIXED))
    assert seen == FEATURES, sorted(FEATURES - seen)


def test_the_command_replays_a_seed():
    from attngen.fuzz import Failure, Outcome

    wrong = Outcome("failed", "because")
    failure = Failure(7, wrong, random_spec(7), wrong)
    assert re.fullmatch(r"attngen fuzz --seed 7", failure.command)
