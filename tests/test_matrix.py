"""`stagebench matrix`: its plans, its decisions on given times, and a real one that is killed and repeated."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from stagebench.analysis.report import document
from stagebench.cli import main
from stagebench.core.errors import GateError
from stagebench.gate.limits import Rules
from stagebench.gate.matrix_report import compare, processes_for, tables
from stagebench.gate.runner import recording
from stagebench.gate.runner.fresh_process import FailedError, Variant
from stagebench.gate.runner.matrix import STATE, Cell, Matrix, order, read_plan
from stagebench.gate.runner.recording import Recording

GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "upgrades.md"


@pytest.fixture
def plan_of(tmp_path):
    """Writes a plan, and returns its path."""

    def write(text):
        path = tmp_path / "plan.toml"
        path.write_text(text)
        return path

    return write


def test_the_plan_of_the_guide_has_the_cells_that_it_tells_of(plan_of):
    text = GUIDE.read_text()
    cells = read_plan(plan_of(re.search(r"```toml\n(models.*?)```", text, flags=re.DOTALL)[1]))
    assert f"{len(cells)} cells" in text
    assert cells[0] == Cell("llava-1.5", "transformers==5.17.*", "", "eager")


def test_cells_are_the_product_of_the_lists_with_the_reference_first(plan_of):
    cells = read_plan(plan_of('models = ["a", "b"]\nversions = ["installed", "x==1 with y"]\n[reference]\nmodel = "b"'))
    named = [(cell.model, cell.requirements) for cell in cells]
    assert named == [("b", []), ("a", []), ("a", ["x==1", "y"]), ("b", ["x==1", "y"])]


def test_an_engine_that_is_not_transformers_has_one_cell_for_all_backends(plan_of):
    text = 'models = ["hf:a"]\nengines = ["transformers", "vllm"]\nbackends = ["eager", "compiled"]'
    assert [(cell.engine, cell.backend) for cell in read_plan(plan_of(text))] == [
        ("transformers", "eager"),
        ("transformers", "compiled"),
        ("vllm", ""),
    ]


BAD_PLANS = {
    "model = ['a']": "may have models, versions, engines, backends and reference, got model",
    "models = []": "models must be a list of texts, at least one and each once, got []",
    "models = 'eventgpt'": "models must be a list of texts, at least one and each once, got 'eventgpt'",
    "models = ['eventgpt', '']": "models must be a list of texts, at least one and each once, got ['eventgpt', '']",
    "versions = ['a', 'a']": "versions must be a list of texts, at least one and each once, got ['a', 'a']",
    "models = ['eventgpt', 'gpt-5']": "got gpt-5",
    "models = ['eventgpt']\nengines = ['transformers', 'sglang']": "engines must be among transformers, vllm, openai, "
    "got sglang",
    "models = ['eventgpt']\nbackends = ['eager', 'fast']": "must be among eager, graph, compiled, fused, got fast",
    "backends = ['eager', 'graph']": "must name the models that engines and backends run, got none",
    "models = ['eventgpt']": "must have two cells, one of them the reference , got 1",
    "": "must have two cells, one of them the reference , got 1",
    "versions = ['installed', 'tiny==1.0']\nreference = 'installed'": "reference must be a table of model, version, "
    "engine, backend, got 'installed'",
    "versions = ['installed', 'tiny==1.0']\n[reference]\nversion = 'tiny'": "the reference {'version': 'tiny'}, got 2",
    "versions = ['installed', 'tiny==7']": "a version must be one that pip finds, got tiny==7",
    "versions = ['installed', 'tiny=7']": "pip must find tiny=7, got ",
    "versions = [": "must be TOML, got: ",
}


@pytest.mark.parametrize("text", BAD_PLANS)
def test_a_bad_plan_is_one_line(text, plan_of, shelf, uses_tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(uses_tiny)
    done = CliRunner().invoke(main, ["matrix", str(plan_of(text)), "--out", str(tmp_path / "out")])
    assert (done.exit_code, done.output.count("\n"), BAD_PLANS[text] in done.output) == (2, 1, True), done.output
    assert not (tmp_path / "out").exists()


def test_a_plan_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(GateError, match=r"^a plan must be a file of TOML, got none at .*plan.toml$"):
        read_plan(tmp_path / "plan.toml")


@pytest.mark.parametrize(
    ("cell", "name", "label"),
    [
        (("eventgpt", "", "", ""), "test_stages.py::test_stage[eventgpt-encode]", "encode"),
        (("eventgpt", "", "", "graph"), "test_stages.py::test_stage[eventgpt-graph-encode]", "encode"),
        (("eventgpt", "", "transformers", "eager"), "test_whole.py::test_e2e[eventgpt]", "e2e"),
        (("hf:a-b", "", "vllm", ""), "test_engine.py::test_engine[hf:a-b-vllm-e2e]", "e2e"),
        (("eventgpt", "", "", ""), "test_preprocess.py::test_preprocess[eventgpt-pil]", "preprocess[pil]"),
        (("eventgpt", "", "", "graph"), "test_scale.py::test_images[images1-eventgpt-graph-x]", "images[images1-x]"),
        (("", "x==1", "", ""), "test_own.py::test_stage[a]", "stage[a]"),
        (("", "x==1", "", ""), "test_own.py::test_own", "own"),
    ],
)
def test_a_benchmark_is_named_by_its_stage_whatever_the_model_and_its_backend(cell, name, label):
    assert Cell(*cell).label(name) == label


def test_each_round_has_all_cells_and_two_rounds_are_each_others_reverse():
    drawn = [order(number, 6) for number in range(1, 21)]
    assert [sorted(each) for each in drawn] == [[*range(6)]] * 20
    assert drawn[1::2] == [each[::-1] for each in drawn[::2]]
    assert len({*map(tuple, drawn[::2])}) > 5


def test_too_few_processes_for_so_many_cells_are_refused():
    cells = [Cell(str(i), "", "", "") for i in range(9)]
    assert processes_for(cells, Rules(), None) == 12
    assert processes_for([*cells] * 10, Rules(), None) == 14
    with pytest.raises(GateError, match=r"^--processes must be at least 10 to decide on 9 cells, got 9$"):
        processes_for(cells, Rules(), 9)


CELLS = [Cell(model, "", "", "") for model in ("base", "same", "slow", "noisy", "other", "broken")]
MACHINE = {"dtype": "float32", "device": "abacus", "profile": "tiny"}
SLOWER = {"slow": 1.3, "other": 0.5}


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Measures `CELLS` by given times, and returns the matrix and the processes that ran; a process may be a kill."""
    draw, ran = np.random.default_rng(0), []

    def fake(planned):
        [process] = planned
        number = int(process.kept.stem)
        [model] = [each.partition("=")[2] for each in process.arguments if each.startswith("--stage-model=")]
        if model == "broken" and number == 2:
            raise FailedError("timing process 2", 1, [], b"E RuntimeError: no such kernel")
        ran.append((number, model))
        seconds = SLOWER.get(model, 1.0) * np.exp(draw.normal(0, 0.5 if model == "noisy" else 0.01))
        work = {"frames": 4 if model == "other" else 8}
        names = {f"test_stages.py::test_stage[{model}-load]": work, "test_reference.py::test_reference": {}}
        stats = {"median": float(seconds), "data": [float(seconds)]}
        params = {"stage_plain_model": model}
        benchmarks = [
            {"fullname": name, "stats": stats, "params": params, "extra_info": {"stage": "load", "work": work}}
            for name, work in names.items()
        ]
        own = {"schema": 1, "failed": 0, "exit_status": 0, "regressed": []}
        return [{"stagebench": own, "machine_info": MACHINE, "benchmarks": benchmarks}]

    monkeypatch.setattr(recording, "measure", fake)

    def measure(steps=None, cells=CELLS):
        matrix = Matrix.resumed(tmp_path / "out", cells)
        recordings = [
            Recording(
                tmp_path / "out" / f"{i:02}",
                Variant("", tmp_path, Path(sys.executable)),
                recording.plan_of(tmp_path, 2, "", cell.arguments),
            )
            for i, cell in enumerate(cells)
        ]
        for step, _ in enumerate(matrix.measure(recordings, 12, None, lambda line: None)):
            if step == steps:
                break
        return matrix, ran

    return measure


def test_each_cell_is_slower_faster_not_slower_or_undecided(measured):
    rows, differing = compare(measured()[0], Rules())
    assert {row.cell.model: (row.stage, row.decision) for row in rows} == {
        "base": ("load", "reference"),
        "same": ("load", "not slower"),
        "slow": ("load", "slower"),
        "noisy": ("load", "undecided"),
        "other": ("load", "faster"),
    }
    slow = next(row for row in rows if row.cell.model == "slow")
    assert slow.interval[0] <= slow.ratio == pytest.approx(1.3, rel=0.03)
    assert differing == []  # other models do other work


def test_other_work_of_the_same_model_is_not_called_faster(measured):
    matrix, _ = measured()
    versions = [Cell("", cell.model, "", "") for cell in CELLS]
    named = [
        {number: json.loads(json.dumps(run).replace(f"[{cell.model}-load]", "[load]")) for number, run in runs.items()}
        for cell, runs in zip(CELLS, matrix.runs, strict=True)
    ]
    rows, differing = compare(Matrix(matrix.folder, versions, matrix.failed, named), Rules())
    other = next(row for row in rows if row.cell.version == "other")
    assert (other.decision, "8 before, 4 now" in other.why) == ("other work", True)
    assert other.ratio == pytest.approx(0.5, rel=0.05)
    assert {cell.version for cell, _ in differing} == {"other"}


def test_a_cell_that_fails_is_named_with_its_reason_and_the_rest_goes_on(measured):
    matrix, ran = measured()
    shown = tables(matrix, *compare(matrix, Rules()))
    assert shown["not measured"].grid()[2] == [["broken", matrix.failed["broken"]]]
    assert matrix.failed["broken"].endswith("RuntimeError: no such kernel")
    assert [number for number, model in ran if model == "slow"] == [*range(13)]


def test_what_is_undecided_is_grey_and_says_so(measured):
    matrix, _ = measured()
    table = tables(matrix, *compare(matrix, Rules()))["load"]
    grey = [row for row, style in zip(table.grid()[2], table.styles, strict=True) if style == "bright_black"]
    assert [(row[0], "undecided" in row) for row in grey] == [("noisy", True)]
    page = document.to_html("all", {"load": [table]})
    assert re.findall(r'<tr class="undecided">\s*<th[^>]*>(\w+)', page) == ["noisy"]


def test_a_matrix_that_stops_anywhere_goes_on_and_measures_nothing_twice(measured):
    for steps in range(1, 40, 3):
        _, ran = measured(steps)
    matrix, ran = measured()
    assert len(ran) == len({*ran}) == 5 * 13 + 2
    assert [*matrix.failed] == ["broken"]


def test_a_reference_that_fails_is_an_error_that_the_next_matrix_tries_again(measured, tmp_path):
    for _ in range(2):
        with pytest.raises(GateError, match=r"^the reference, broken, must run: .* no such kernel"):
            measured(cells=CELLS[::-1])
    assert json.loads((tmp_path / "out" / STATE).read_text())["failed"] == {}


def test_another_matrix_in_the_same_folder_is_refused(measured):
    measured(3)
    with pytest.raises(GateError, match=r"matrix.json must be of the same matrix, .*, got "):
        measured(3, CELLS[:3])


def test_a_matrix_that_is_killed_goes_on_and_its_report_names_what_could_not_be_run(
    write_wheel, shelf, uses_tiny, plan_of, tmp_path, monkeypatch
):
    write_wheel(shelf, "tiny", "1.2", "raise ImportError('a broken release')")
    versions = ["tiny==1.0", "tiny==1.1", "tiny==1.2", "tiny==1.0 with tiny==1.1"]
    plan, out, told = plan_of(f"versions = {versions}"), tmp_path / "out", tmp_path / "told.json"
    monkeypatch.chdir(uses_tiny)
    line = ["matrix", str(plan), "--out", str(out), "--budget", "1ms", "--json", str(told)]
    first = subprocess.Popen([sys.executable, "-m", "stagebench", *line], stderr=subprocess.PIPE)
    until = time.monotonic() + 60
    while not (before := written(out)) and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert len(before) == 1
    done = CliRunner().invoke(main, line)
    assert done.exit_code == 2, done.output
    after = written(out)
    assert {path: after[path] for path in before} == before
    assert [*after] == ["00/00.json", "00/01.json", "01/00.json", "01/01.json"]
    report = json.loads(told.read_text())
    reasons = report["not_measured"]
    assert "ImportError: a broken release" in reasons["tiny==1.2"]
    assert "can't make an environment" in reasons["tiny==1.0 with tiny==1.1"]
    assert {(row["cell"]["version"], row["decision"]) for row in report["rows"]} == {
        ("tiny==1.0", "reference"),
        ("tiny==1.1", "undecided"),
    }
    for name in ("report.md", "report.html"):
        assert "a broken release" in (out / name).read_text()
    assert "8 before, 9 now" in done.stdout


def written(out):
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in sorted(out.glob("*/[0-9]*.json"))}
