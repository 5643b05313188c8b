import subprocess
import sys
from pathlib import Path

import pytest

from attngen.core.diagnostics import SpecError
from attngen.core.source import Source
from attngen.syntax import ast, parse

OPEN = "attention a {\n  query q : half[S, D]\n"


def expression(text):
    spec = parse(Source("<text>", f"{OPEN}  x = {text}\n}}"))
    return spec.items[-1].value


def shape(e):
    match e:
        case ast.Binary(op=op, a=a, b=b):
            return f"({shape(a)} {op} {shape(b)})"
        case ast.Unary(op=op, x=x):
            return f"({op} {shape(x)})"
        case ast.Number(value=value):
            return repr(value)
        case ast.Name(text=text):
            return text
    raise TypeError(e)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a + b * c", "(a + (b * c))"),
        ("a - b - c", "((a - b) - c)"),
        ("-a ** b", "(- (a ** b))"),
        ("a ** -b ** c", "(a ** (- (b ** c)))"),
        ("a / b // c % d", "(((a / b) // c) % d)"),
        ("not a < b and c", "((not (a < b)) and c)"),
        ("a or b and c", "(a or (b and c))"),
        ("(a < b) == c", "((a < b) == c)"),
        ("1 + .5 + 2. + 1e3", "(((1 + 0.5) + 2.0) + 1000.0)"),
    ],
)
def test_precedence(text, expected):
    assert shape(expression(text)) == expected


def test_spans_cover_what_was_written():
    e = expression("f(a, sink = b) * (c)")
    assert e.span.text == "f(a, sink = b) * (c)"
    assert e.a.span.text == "f(a, sink = b)"


def test_byte_order_mark_and_windows_line_ends_change_nothing():
    plain = OPEN + "  x = q_idx + 1  # note\n}\n"
    marked = parse(Source("<text>", "\ufeff" + plain.replace("\n", "\r\n")))
    assert [type(i) for i in marked.items] == [type(i) for i in parse(Source("", plain)).items]
    with pytest.raises(SpecError) as error:
        parse(Source("<text>", "\ufeffattention {"))
    assert "1:11" in error.value.render()


def code(text):
    with pytest.raises(SpecError) as error:
        parse(Source("<text>", text))
    return error.value.diagnostics[0].code


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "E006"),
        ("x" * 10_000_000, "E004"),
        (OPEN + "x = " + "(" * 10_000 + "1" + ")" * 10_000 + "}", "E005"),
        (OPEN + "x = " + "(" * 10_000, "E011"),
        (OPEN + "x = " + "-" * 10_000 + "1}", "E005"),
        (OPEN + "x = " + "not " * 10_000 + "a}", "E005"),
        (OPEN + "x = " + "f(" * 10_000 + "1" + ")" * 10_000 + "}", "E005"),
        (OPEN + "x = 1" + " + 1" * 10_000 + "}", "E005"),
        (OPEN + "x = 1" + " ** 1" * 10_000 + "}", "E005"),
        (OPEN + "x = " + "9" * 400 + "}", "E007"),
        (OPEN + "x = 1e400}", "E007"),
        (OPEN + "x = 1\0}", "E003"),
        (OPEN + "x = \N{CYRILLIC SMALL LETTER A}}", "E002"),
        (OPEN + "key = 3}", "E010"),
        (OPEN + "None = 3}", "E013"),
    ],
)
def test_hostile_texts(text, expected):
    assert code(text) == expected


@pytest.mark.parametrize("word", ["tl", "torch", "triton", "float", "print", "tensor"])
def test_names_of_generated_code_are_fine(word):
    assert parse(Source("<text>", f"{OPEN}  {word} = q_idx\n}}")).items[-1].names[0].text == word


def test_importing_the_parser_does_not_import_lark():
    program = "import sys, attngen.frontend; sys.exit('lark' in sys.modules)"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0
