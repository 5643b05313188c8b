"""Files and functions stay small; `pytest -s` on this file prints the table."""

import ast
import statistics
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FILE_CAP, FUNCTION_CAP, FUNCTION_MEDIAN = 400, 50, 8


def sources() -> list[Path]:
    return sorted((ROOT / "attngen").rglob("*.py"))


def function_lengths(path: Path) -> dict[str, int]:
    """Lines of each function without its docstring and decorators."""
    lengths = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documented = ast.get_docstring(node) is not None
            start = node.body[0].end_lineno if documented else node.body[0].lineno - 1
            lengths[f"{path.relative_to(ROOT)}:{node.name}"] = node.end_lineno - start
    return lengths


def test_no_file_is_longer_than_the_cap():
    lines = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in sources()}
    for name, count in sorted(lines.items(), key=lambda item: -item[1]):
        print(f"{count:5} {name}")
    assert lines
    assert {n: c for n, c in lines.items() if c > FILE_CAP} == {}


def test_no_function_is_longer_than_the_cap():
    lengths = {name: n for path in sources() for name, n in function_lengths(path).items()}
    for name, count in sorted(lengths.items(), key=lambda item: -item[1])[:20]:
        print(f"{count:5} {name}")
    assert {name: n for name, n in lengths.items() if n > FUNCTION_CAP} == {}


def test_the_usual_function_is_a_few_lines():
    lengths = [n for path in sources() for n in function_lengths(path).values()]
    assert statistics.median(lengths) <= FUNCTION_MEDIAN
