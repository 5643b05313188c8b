"""Layout of generated text: wrapped argument lists, used names, pruning of unused lines."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence

WIDTH = 110
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def words(text: str) -> frozenset[str]:
    """Identifiers that occur in code, comments and strings left out."""
    code = "\n".join(line.split("  #")[0] for line in text.split("\n"))
    return frozenset(_WORD.findall(re.sub(r'"[^"\n]*"', "", code)))


def used(candidates: Iterable[str], text: str) -> list[str]:
    """The candidates that occur in the text, in their own order, each once."""
    found = words(text)
    return [c for c in dict.fromkeys(candidates) if c in found]


def call(head: str, arguments: Sequence[str], tail: str, indent: int = 0) -> str:
    """`head(arguments)tail`, broken after commas so that no line passes the width."""
    line, lines = f"{head}(", []
    for i, argument in enumerate(arguments):
        piece = argument + ("," if i + 1 < len(arguments) else f"){tail}")
        if len(line) + len(piece) + 1 + indent > WIDTH and not line.endswith("("):
            lines.append(line.rstrip())
            line = " " * (len(head) + 1)
        line += piece + " "
    lines.append(line.rstrip() if arguments else f"{head}(){tail}")
    return ("\n" + " " * indent).join(lines)


def prune(body: str, results: Iterable[str] = ()) -> str:
    """Drop assignments nobody reads and branches left empty, until nothing changes.

    body: statements indented by four, as the inside of a function; every call in it is pure except
    stores, which are expression statements and stay.
    """
    wanted = set(results)
    while True:
        tree = ast.parse("def body():\n" + body)
        dead = _dead(tree, wanted)
        if not dead:
            return body
        lines = body.split("\n")
        drop = {i for first, last in dead for i in range(first - 2, last - 1)}
        body = "\n".join(line for i, line in enumerate(lines) if i not in drop)


def sunk(
    early: Sequence[str], late: Sequence[str], between: Iterable[str]
) -> tuple[list[str], list[str]]:
    """Assignments of `early` that neither `between` nor each other read, put where `late` does.

    What is loaded where it is needed is not kept in registers before.
    """
    stay, moved = list(early), list(late)
    for line in reversed(early):
        name = line.partition(" = ")[0]
        others = {
            w for x in (*stay, *between) if x != line for w in words(x.partition(" = ")[2] or x)
        }
        first = next((i for i, x in enumerate(moved) if name in words(x)), None)
        if not name.isidentifier() or name in others or first is None:
            continue
        while moved[first].startswith(" "):  # not inside of a branch
            first -= 1
        stay.remove(line)
        moved.insert(first, line)
    return stay, moved


def without_flag(body: str, flag: str) -> str:
    """The body with a constexpr flag known to be true: its branches taken, its other arms gone."""
    out: list[str] = []
    lines = body.split("\n")
    i = 0
    while i < len(lines):
        line = lines[i]
        if line.strip().split("  #")[0] == f"if {flag}:":
            depth = len(line) - len(line.lstrip())
            i = _branch(lines, i + 1, depth, out)
            continue
        out.append(re.sub(rf" if {flag} else \w+", "", line))
        i += 1
    return "\n".join(out)


def at_run_time(body: str, flag: str, name: str) -> str | None:
    """The body with a constexpr flag as a number of the call: its one branch stays a branch.

    Choices between two values take the first, which must be right in both cases. None where that
    is not enough: several branches, another arm, or names of the branch that are read after it.
    """
    lone = re.sub(rf" if {flag} else \w+", "", body)
    tree = ast.parse("def body():\n" + lone)
    branches = [n for n in ast.walk(tree) if isinstance(n, ast.If) and _is(n.test, flag)]
    if len(branches) != 1 or branches[0].orelse:
        return None
    start, stop = branches[0].lineno, branches[0].end_lineno or branches[0].lineno
    names = [n for n in ast.walk(tree) if isinstance(n, ast.Name)]
    stored = [n for n in names if isinstance(n.ctx, ast.Store)]
    made = {n.id for n in stored if start <= n.lineno <= stop}
    made -= {n.id for n in stored if n.lineno < start}
    if any(n.id in made for n in names if n.lineno > stop):
        return None
    return re.sub(rf"\b{flag}\b", name, lone)


def _is(e: ast.expr, name: str) -> bool:
    return isinstance(e, ast.Name) and e.id == name


def _branch(lines: list[str], i: int, depth: int, out: list[str]) -> int:
    """Copy an if-body one level out, skip its else; returns the line after both."""
    while i < len(lines) and len(lines[i]) - len(lines[i].lstrip()) > depth:
        out.append(lines[i][4:])
        i += 1
    if i < len(lines) and lines[i] == " " * depth + "else:":
        i += 1
        while i < len(lines) and len(lines[i]) - len(lines[i].lstrip()) > depth:
            i += 1
    return i


def _dead(tree: ast.Module, wanted: set[str]) -> list[tuple[int, int]]:
    reads: dict[str, int] = {}
    own: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            reads[node.id] = reads.get(node.id, 0) + 1
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            inside = sum(isinstance(x, ast.Name) and x.id == name for x in ast.walk(node.value))
            own[name] = own.get(name, 0) + inside
    dead = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name not in wanted and reads.get(name, 0) == own.get(name, 0):
                dead.append(node)
    gone = {id(n) for n in dead}
    spans = [(n.lineno, n.end_lineno or n.lineno) for n in dead]
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and all(id(n) in gone for n in (*node.body, *node.orelse)):
            spans.append((node.lineno, node.end_lineno or node.lineno))
    return spans
