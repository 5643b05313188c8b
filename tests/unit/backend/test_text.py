"""A flag known when a kernel is compiled becomes one that is known when it runs."""

from attngen.backend.triton.text import at_run_time

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
