"""What a plan says, as text without names: equal for plans that differ in spelling only."""

from attngen.passes.online import online
from attngen.passes.online_key import Keys
from tests.laws.online_formulas import (
    S0,
    H,
    attention,
    dot,
    exp,
    k,
    load,
    log,
    logsumexp,
    op,
    q,
    r,
    softmax,
    top,
    total,
    v,
    w,
)
from tests.laws.online_specs import SPECS, parallax, parallax_weights


def signature(plan):
    keys = Keys()
    lines = [f"class {keys(c.score)} {c.low} {c.high} {c.stage}" for c in plan.classes]
    for a in plan.accumulators:
        row = None if a.row is None else keys(a.row)
        lines.append(f"sum {a.weights} {keys(a.scalar)} {row} {a.stage}")
    lines += [f"top {keys(t.score)} {t.count} {t.stage}" for t in plan.tops]
    lines += [f"{name} = {keys(e)}" for name, e in plan.outputs]
    return "\n".join([*lines, f"moments {len(plan.moments)}", f"guarded {plan.guarded}"])


def all_signatures():
    plans = [online(attention(*spec()[:2])) for spec in SPECS]
    return "\n\n".join(signature(plan) + str(plan) for plan in plans)


P, U = softmax(S0), dot(r, k)


def _soft():
    return {"out": total(P * v)}


def _by_hand():
    e = exp(S0 - top(S0)[0])
    return {"out": total(e * v) / total(e)}


def _by_hand_divided():
    e = exp(S0 - top(S0)[0])
    return {"out": total(e / total(e) * v)}


def _by_logsumexp():
    return {"out": total(exp(S0 - logsumexp(S0)) * v)}


def _turned():
    return {"out": total(v * softmax(dot(k, q) * S0.e.a.value))}


def _shifted():
    return {"out": total(softmax(S0 - top(S0)[0]) * v)}


def _parallax():
    return parallax()[0]


def _parallax_weights():
    return parallax_weights()[0]


def _probe():
    lam = load("lam", H)
    return {"out": total(P * v) - lam * total(P * U * v)}


def _probe_one_sum():
    return {"out": total(P * (1 - load("lam", H) * U) * v)}


def _entropy():
    return {"out": -total(P * log(P))}


def _entropy_open():
    return {"out": logsumexp(S0) - total(P * S0)}


def _scaled():
    return {"out": total(softmax(dot(0.5 * q, k) + 2 * U) * (v + w))}


def _scaled_outside():
    return {"out": total(softmax(op("mul", U, 2) + 0.5 * dot(k, q)) * (w + v))}


WAYS = [
    (_soft, _by_hand),
    (_parallax, _parallax_weights),
    (_probe, _probe_one_sum),
    (_scaled, _scaled_outside),
]
SPELLINGS = [_by_hand, _by_hand_divided, _by_logsumexp, _turned, _shifted]
ENTROPIES = [_entropy, _entropy_open]
