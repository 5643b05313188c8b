"""The properties of forward kernels, in Triton's interpreter."""

import pytest

from tests.differential.properties import all_properties

pytestmark = pytest.mark.interpreter


@pytest.mark.parametrize("holds", all_properties(), ids=lambda f: f.__name__)
def test_property(holds):
    holds()
