"""The Python examples run as they are."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize("name", ["attention_in_python", "flex_documents"])
def test_example(name, capsys):
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert "largest difference" in capsys.readouterr().out


def test_a_few_steps_of_training(tmp_path, capsys):
    """The whole run takes a minute; it starts, learns, writes letters and a plot."""
    names = runpy.run_path(str(EXAMPLES / "train_tiny.py"))
    losses = [
        names["main"](["--steps", str(n), "--letters", "2", "--plot", str(tmp_path / "loss.png")])
        for n in (1, 12)
    ]
    assert losses[1] < losses[0] - 0.3
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "slopes of the first layer" in capsys.readouterr().out
