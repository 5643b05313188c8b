"""Flags known when a kernel runs, not when it is compiled; lines moved to where they are used."""

from attngen.backend.triton.text import at_run_time, sunk

STEP = """    s = dot(q, k)
    if PARTIAL:
        keep = k_idx <= q_idx
        s = where(keep, s, -1.0)
    m_safe = guard(m) if PARTIAL else m
    return s - m_safe"""


def test_the_branch_stays_and_the_safe_choice_is_taken():
    assert at_run_time(STEP, "PARTIAL", "partial") == STEP.replace(
        "if PARTIAL:", "if partial:"
    ).replace(" if PARTIAL else m", "")


def test_what_a_branch_alone_cannot_say():
    twice = STEP + "\n    if PARTIAL:\n        s = 0"
    other = STEP.replace("    m_safe", "    else:\n        s = s + 1\n    m_safe")
    outside = STEP.replace("return s", "return keep")
    for body in (twice, other, outside):
        assert at_run_time(body, "PARTIAL", "partial") is None
    known = outside.replace("    s = dot", "    keep = 0\n    s = dot")
    assert at_run_time(known, "PARTIAL", "partial") is not None


def test_an_assignment_goes_where_it_is_used_but_not_past_what_reads_it_before():
    early = ["lse = load(a)", "delta = load(b)", "term = -delta", "limit = load(c)"]
    late = ["s = dot(k, q)", "p = exp2(s - lse)", "if PARTIAL:", "    p = where(keep, p, term)"]
    stay, moved = sunk(early, late, ["keep = x < limit"])
    assert stay == ["limit = load(c)"]  # the mask reads it
    assert moved == [
        "s = dot(k, q)",
        "lse = load(a)",
        "p = exp2(s - lse)",
        "delta = load(b)",
        "term = -delta",
        "if PARTIAL:",
        "    p = where(keep, p, term)",
    ]
    assert sunk(["unused = load(a)"], late, []) == (["unused = load(a)"], late)
