"""Brute force: the dense mask decides whether ranges, limits and tests are sound, and how tight."""

import bisect
import functools

import numpy as np

from attngen.passes.bounds import analyse_formula
from attngen.passes.counts import disjoint, tile_loops
from attngen.passes.mask_formula import mask_formula
from tests.laws.bounds_reader import attention, dense


class Strict:
    """An array that refuses reads outside it."""

    def __init__(self, data):
        self.data = data

    def __getitem__(self, index):
        index = index if isinstance(index, tuple) else (index,)
        for i, n in zip(index, self.data.shape, strict=False):
            if not 0 <= i < n:
                raise IndexError(f"read at {index} of {self.data.shape}")
        found = self.data[index]
        return Strict(found) if found.ndim else found.item()

    def __len__(self):
        return len(self.data)


HELPERS = {
    "first_ge": bisect.bisect_left,
    "run_start": lambda x, i: bisect.bisect_left(x, x[i]),
    "run_end": lambda x, i: bisect.bisect_right(x, x[i]),
    "tile_min": lambda x, a, b: min(x[i] for i in range(a, b)),
    "tile_max": lambda x, a, b: max(x[i] for i in range(a, b)),
    "__builtins__": {"min": min, "max": max, "abs": abs},
}


@functools.lru_cache(100_000)
def _code(text):
    return compile(text, text, "eval")


def run(expression, env):
    """The printed text is what runs: this checks `explain` too."""
    return eval(_code(str(expression)), HELPERS, env)


class Analysed:
    """One mask, analysed once."""

    def __init__(self, text, sorted_inputs=(), bits=(), same_length=True, floats=()):
        self.text, self.same_length = text, same_length
        spec = attention(text, sorted_inputs, bits, same_length, floats)
        self.plan = analyse_formula(mask_formula(spec), same_length=same_length)


def values(ranges, env):
    return [(run(r.lo, env), run(r.hi, env)) for r in ranges]


def mask_code(direction, env, cols):
    """The mask of one row as the kernel computes it: clause by clause, limits, then leftovers."""
    line = np.zeros(cols, bool)
    for c in direction.clauses:
        if run(c.guard, env):
            for y in range(run(c.lo, env), run(c.hi, env)):
                line[y] |= bool(run(c.rest, _element(env | {direction.loop: y})))
    return line


def _element(env):
    """Conditions that stay whole are spelled with the names of the language."""
    return env | {"q_idx": env["q"], "kv_idx": env["k"]}


def check(analysed, inputs, m, n, block_q, block_k):
    """Raise AssertionError or IndexError on any unsound answer; count tiles per direction."""
    plan = analysed.plan
    kept = dense(analysed.text, inputs, m, n)
    base = {x: Strict(v) if isinstance(v, np.ndarray) else v for x, v in inputs.items()}
    base |= {"q_len": m, "kv_len": n}
    if any(run(p, base) < 1 for p in plan.needs):
        return None  # the launcher refuses
    if run(plan.never_empty, base):
        assert kept.any(axis=1).all(), "a row is empty"
    cases = (
        (plan.forward, kept, (block_q, block_k)),
        (plan.transposed, kept.T, (block_k, block_q)),
    )
    for direction, view, _ in cases:
        check_rows(direction, view, base)
    return {d.loop: check_tiles(plan, d, view, base, sizes) for d, view, sizes in cases}


def check_tiles(plan, direction, view, base, sizes):
    """Each tile visited once, none missing, none wrongly full; the tile test likewise."""
    (rows, cols), (step, width) = view.shape, sizes
    loop, fixed = direction.loop, {"k": "q", "q": "k"}[direction.loop]
    seen = dict.fromkeys(("visited", "tested", "kept", "full", "full_tested", "truly_full"), 0)
    for x0 in range(0, rows, step):
        x1 = min(x0 + step, rows)
        env = base | {fixed + "0": x0, fixed + "1": x1}
        spans = values(direction.outer, env), values(direction.full, env)
        loops = tile_loops(*spans, width)
        order = [t for first, end, _ in loops for t in range(first, end)]
        visited = set(order)
        unmasked = {t for first, end, masked in loops if not masked for t in range(first, end)}
        tiles = range(-(-cols // width))
        assert order == sorted(visited) and visited <= set(tiles), (loop, order)
        for t in tiles:
            y0, y1 = t * width, min(t * width + width, cols)
            part = view[x0:x1, y0:y1]
            some, every = part.any(), part.all()
            whole = every and y1 - y0 == width
            ends = env | {loop + "0": y0, loop + "1": y1}
            may, must = bool(run(plan.may, ends)), bool(run(plan.must, ends))
            assert not some or t in visited, f"{loop}: tile {x0},{y0} is skipped"
            assert not some or may, f"{loop}: tile {x0},{y0} fails the test"
            assert whole or t not in unmasked, f"{loop}: tile {x0},{y0} is not full"
            assert every or not must, f"{loop}: tile {x0},{y0} is not full (test)"
            seen["kept"] += some
            seen["truly_full"] += whole
            seen["visited"] += t in visited
            seen["tested"] += t in visited and may
            seen["full"] += t in unmasked
            seen["full_tested"] += t in unmasked or (must and whole)
    return seen


def check_rows(direction, view, base):
    """Row limits hold every kept element, exactly without leftovers; the mask code is the mask."""
    (rows, cols), loop = view.shape, direction.loop
    fixed = {"k": "q", "q": "k"}[loop]
    for x in range(rows) if rows * cols < 20_000 else range(0, rows, 37):
        line = np.zeros(cols, bool)
        env = base | {fixed: x}
        for lo, hi in disjoint(values(direction.row, env)):
            assert 0 <= lo < hi <= cols, (loop, x, lo, hi)
            line[lo:hi] = True
        assert not (view[x] & ~line).any(), f"{loop}: line {x} loses elements"
        assert not direction.exact or (line == view[x]).all(), f"{loop}: line {x} is not exact"
        if rows * cols < 2500:
            assert (mask_code(direction, env, cols) == view[x]).all(), (
                f"{loop}: line {x}, mask code"
            )
