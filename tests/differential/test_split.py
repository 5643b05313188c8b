"""The split form: keys in several parts, merged by the law of the accumulators."""

import pytest

from tests.differential.example_cases import short
from tests.differential.harness import Case, example, kernel
from tests.differential.split_cases import split_cases

pytestmark = pytest.mark.interpreter
SLOW = ("knn",)  # the interpreter sorts 520 rows one by one: on a GPU only


@pytest.mark.parametrize(
    "case", [c for c in split_cases(1100, 520) if c.name not in SLOW], ids=short
)
def test_parts_give_what_the_whole_gives(case: Case):
    assert not case.problems()
    assert "_merge[" in kernel(example(case.name), **case.options).source
