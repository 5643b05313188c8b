"""The benchmark against peers, without a GPU: its formulas are the specs', its tables are right."""

import json
import multiprocessing
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "bench"))

import peers  # noqa: E402
from rivals import clocks, report, workers  # noqa: E402
from rivals.clocks import Cell, LostContextError  # noqa: E402
from rivals.formulas import dense, intervals, mask_mod  # noqa: E402
from rivals.rows import Row, all_rows, inputs  # noqa: E402
from rivals.systems import systems  # noqa: E402
from rivals.truth import Truth, WrongResultError  # noqa: E402

import attngen  # noqa: E402

KINDS = {row.kind: row for row in reversed(all_rows())}  # the first row of a kind
SHAPES = {(row.kind, row.value_width): row for row in reversed(all_rows())}
OURS = ("attngen Triton", "attngen CuTe", "CuTe, any order")


@pytest.fixture(params=sorted(SHAPES))
def row(request) -> Row:
    return SHAPES[request.param].tiny()


def test_the_dense_formula_is_the_specs(row):
    values = inputs(row, "cpu", torch.float32)
    exact = attngen.compile(row.spec).reference(**values)
    wide = {n: v.double() if n in row.streams else v for n, v in values.items()}
    head = {n: wide[n][0, 1] for n in row.streams}
    if "g" in wide:
        head["g"] = wide["g"][0, 1].double()
    mine = dense(row, {**wide, **head}, 0, 1)
    assert torch.allclose(mine, exact[0, 1], atol=1e-6)


def test_intervals_and_areas_are_those_of_the_mask(row):
    row = replace(row, length=1100, batch=2)  # longer than a window and a document
    values = inputs(row, "cpu", torch.float32)
    mask = mask_mod(row, values)
    b, h = torch.tensor(1), torch.tensor(1)
    i, j = torch.arange(row.length)[:, None], torch.arange(row.length)[None, :]
    kept = mask(b, h, i, j) if mask else torch.ones(row.length, row.length, dtype=torch.bool)
    ends = intervals(row, values)
    ends = ends[min(1, len(ends) - 1), :, row.length :, None]  # the second batch
    inside = j < ends[0]
    if len(ends) == 3:
        inside = inside | ((j >= ends[1]) & (j < ends[2]))
    assert torch.equal(inside.expand_as(kept), kept.expand_as(inside))
    heads = range(row.heads) if row.kind == "head_windows" else [0]
    areas = [int(mask(b, torch.tensor(x), i, j).sum()) if mask else 1100**2 for x in heads]
    assert row.kept == sum(areas) // len(areas)


def test_a_wrong_result_is_not_timed():
    row = KINDS["causal"].tiny()
    values = inputs(row, "cpu", torch.bfloat16)
    seed = torch.randn(1, 2, 80, 32)
    truth = Truth(row, values, seed)
    good = truth.result[None, None].repeat(1, 2, 1, 1)
    assert truth.result_error(good) == 0
    with pytest.raises(WrongResultError, match="relative error"):
        truth.result_error(good * 1.02)
    with pytest.raises(WrongResultError, match="not finite"):
        truth.result_error(good * float("nan"))
    found = [g[None, None].repeat(1, 2, 1, 1) for g in truth.gradients]
    assert truth.gradient_error(found) == 0
    with pytest.raises(WrongResultError, match="dk"):
        truth.gradient_error([found[0], -found[1], found[2]])


def test_every_system_says_why_it_has_no_number():
    for system in systems():
        assert isinstance(system.missing(), str)
        for row in all_rows():
            assert isinstance(system.skips(row), str)
    names = [s.name for s in systems() if s.ours]
    assert tuple(names) == OURS


def results() -> list[report.Result]:
    row = KINDS["causal"]
    cells = {
        "attngen Triton": Cell(forward=2.0, backward=3.0, first=1.0),
        "attngen CuTe": Cell(forward=1.0, first=2.0, note="backward: not built"),
        "FA4": Cell(forward=1.5, backward=2.7, first=3.0, set_up=0.4),
        "cudnn.flex": Cell(note="no scores, no sinks"),
    }
    return [report.as_json(row, cells)]


def test_ratios_are_to_the_fastest_peer():
    found = results()[0]
    assert report.ratio(found, "forward", OURS) == (1.5, "attngen CuTe", "FA4")
    value, best, _ = report.ratio(found, "backward", OURS)
    assert (round(value, 3), best) == (0.9, "attngen Triton")
    alone = report.as_json(KINDS["causal"], {"FA4": Cell(forward=1.0)})
    assert report.ratio(alone, "forward", OURS) is None


def test_the_report_marks_goals_and_names_reasons():
    names = ["attngen Triton", "attngen CuTe", "FA4", "cudnn.flex"]
    text = report.markdown(results(), names, OURS, "# head")
    assert "**1.50** | 1.12" in text
    assert "| 0.90 | 1.03" in text
    assert "cudnn.flex: no scores, no sinks" in text
    assert "attngen CuTe: backward: not built" in text


def test_runs_are_merged_into_one_report(tmp_path):
    parts = []
    for number in range(2):
        part = tmp_path / f"{number}.json"
        report.save(part, f"# run {number}", results())
        parts.append(str(part))
    out = tmp_path / "all.md"
    command = [sys.executable, "bench/peers.py", "--merge", *parts, "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    text = out.read_text()
    assert "# run 0" in text
    assert "# run 1" in text
    assert text.count("| causal d128 S2048 |") == 2 + 2 + 2 * 3  # forward, backward, details
    assert out.with_suffix(".png").stat().st_size > 0
    assert json.loads((tmp_path / "0.json").read_text())["results"][0]["row"]


def failing(*_args):
    raise RuntimeError("an illegal memory access was encountered")


def test_a_failure_costs_a_cell_and_a_lost_context_is_told_from_it(monkeypatch):
    cell = Cell()
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    clocks._guarded(cell, failing)
    assert "illegal" in cell.note
    monkeypatch.setattr(torch.cuda, "synchronize", failing)
    with pytest.raises(LostContextError, match="illegal"):
        clocks._guarded(Cell(), lambda: None)


def test_a_row_that_fails_says_so_and_the_others_go_on(monkeypatch, tmp_path, capsys):
    """Without a GPU every row fails in its own process, the first where it asks for tensors."""
    rows = list(KINDS.values())[:3]
    monkeypatch.setattr(peers, "all_rows", lambda: rows)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    kept = tmp_path / "kept.json"
    options = SimpleNamespace(rows="", seconds=9e9, rounds=1, forward=True, json=kept, processes=2)
    results = peers.run(options, ["FA4"], "# head")
    assert [r["row"] for r in results] == [r.name for r in rows]
    assert all("not measured" in r["cells"]["all"]["note"] for r in results)
    assert report.load(kept) == ("# head", results)
    assert "not measured" in report.markdown(results, ["FA4"], OURS, "")
    options.seconds = 0
    assert not peers.run(options, ["FA4"], "# head")[2:]
    assert "the time is used up" in capsys.readouterr().err


def test_a_process_that_ends_without_a_word_is_named():
    here, there = multiprocessing.Pipe()
    there.close()
    assert "its process ended" in workers._answer(here)["all"].note
