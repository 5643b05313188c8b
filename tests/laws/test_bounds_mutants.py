"""A test of the tests: seeded bugs in the mask pass must break a law of `bounds_check`."""

import dataclasses

import numpy as np
import pytest

from attngen.ir import index_build
from attngen.ir.index import TRUE, Le, of
from attngen.passes import bounds, extremes, isolate, mask_formula, ranges, tile_test
from attngen.passes.clauses import Expansion
from attngen.passes.facts import Facts
from tests.laws import bounds_check
from tests.laws.bounds_corpus import BITS, MASKS, SORTED, data


def _without(field):
    """full_range that forgets a part of the clause."""
    real = ranges.full_range
    return lambda solved, box, facts: real(dataclasses.replace(solved, **{field: ()}), box, facts)


def _one_less(real):
    def linear(p, v, facts):
        bound = real(p, v, facts)
        return bound and dataclasses.replace(bound, at=bound.at - (bound.side == "hi"))

    return linear


def _ends_swapped(self, p):
    return self.interval(p)[1]


def _always_sorted(self, element):
    lo, hi = self.interval(element.index[-1])
    return of(extremes._at(element, lo)), of(extremes._at(element, hi))


def _corners(lo, hi, n):
    return index_build.modulo(lo, n), index_build.modulo(hi, n)


def _first_only(self, kind, *args):
    return args[-1]


def _floor_loops(outer, full, width):
    """Full tiles rounded outwards."""
    real = [(a, b, False) for a, b in ((lo // width, -(-hi // width)) for lo, hi in full) if a < b]
    return real or bounds_check_loops(outer, full, width)


def _loose_negation(f):
    return index_build.le(-f.poly, 0) if isinstance(f, Le) else index_build.negate(f)


def _touch_always(found, facts):
    return (0, 1) if len(found) > 1 else None


bounds_check_loops = bounds_check.tile_loops
MUTANTS = {
    "full ignores leftovers": (bounds, "full_range", _without("leftovers"), "full tensor"),
    "full ignores guards": (bounds, "full_range", _without("guards"), "longformer"),
    "upper bounds are one short": (isolate, "_linear", _one_less(isolate._linear), "causal"),
    "floor for ceil": (isolate, "ceil_div", index_build.floor_div, "steep"),
    "least is greatest": (extremes.Extremes, "least", _ends_swapped, "window"),
    "every row is sorted": (extremes.Extremes, "_element", _always_sorted, "per-row limit"),
    "residues at the corners": (extremes, "_residue", _corners, "dilated window"),
    "min and max keep one argument": (Facts, "extreme", _first_only, "window, two sides"),
    "ranges past the cap are lost": (bounds, "_capped", lambda r, facts: r[:3], "five ranges"),
    "ranges are joined though apart": (ranges, "_touching", _touch_always, "not window"),
    "guards are not checked": (ranges, "le", lambda a, b: TRUE, "longformer"),
    "must asks for some element": (tile_test, "_test", lambda f, o, some: TRUE, "causal"),
    "not p <= 0 is -p <= 0": (mask_formula, "negate", _loose_negation, "not window"),
    "everything is proved": (Facts, "nonneg", lambda self, p: True, "window"),
    "full tiles rounded outwards": (bounds_check, "tile_loops", _floor_loops, "causal"),
    "clauses meet like sets": (Expansion, "_meet", lambda self, a, b: a, "window"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_seeded_bug_is_caught(name, monkeypatch):
    place, attribute, bug, mask = MUTANTS[name]
    assert not _broken(mask), "the check fails without the bug"
    monkeypatch.setattr(place, attribute, bug)
    assert _broken(mask)


def _broken(mask):
    rng = np.random.default_rng(7)
    try:
        analysed = bounds_check.Analysed(MASKS[mask], SORTED, BITS)
        for _ in range(6):
            n = int(rng.integers(40, 120))
            for tile in (8, 16):
                bounds_check.check(analysed, data(rng, n), n, n, tile, tile)
    except (AssertionError, IndexError):
        return True
    return False
