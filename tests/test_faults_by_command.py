"""Faults planted in a copy of this repository: each is named by a command, with the exit code of its kind.

The copy's commit is the base, and its working tree, with the fault in it, the head. What the faults do in this process,
in all their forms, is in `test_planted_faults.py`.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from stagebench.gate.verdicts import Verdict, exit_code

ROOT = Path(__file__).parents[1]
SOURCES = Path("src", "stagebench")

TOWER_TWICE = """
_encode_of_tower = Llava.encode


def _twice(self, inputs):
    _encode_of_tower(self, inputs)
    return _encode_of_tower(self, inputs)


Llava.encode = _twice
"""

FIRST_PART = """
_load_whole = load


def load(sample, images):
    from dataclasses import replace

    if images == 8:
        sample = replace(sample, loading=replace(sample.loading, duration=0.4))
    return _load_whole(sample, images)
"""

ONE_IMAGE = """
_load_all = load


def load(sample, images):
    from dataclasses import replace

    media = _load_all(sample, images)
    return replace(media, images=media.images[:1] * images) if images == 5 else media
"""

CROPPED = """
_grid = grid


def grid(images, *more):
    return _grid([image[:, : image.shape[1] // 2] for image in images], *more)
"""

REMEMBERED_LOAD = """
import functools

_load_anew, _load_once = load, functools.cache(load)


def load(sample, images):
    return (_load_once if images == 5 else _load_anew)(sample, images)
"""

REMEMBERED = """
_plain, _kept = {stage}, []


def {stage}(model, *inputs):
    if model.name != "{model}":
        return _plain(model, *inputs)
    if not _kept:
        _kept.append(_plain(model, *inputs))
    return _kept[0]
"""

DECODED_TWICE = """
_load_once = load


def load(sample, images):
    import av

    if images == 8:
        with av.open(sample.path) as container:
            for _ in container.decode(video=0):
                pass
    return _load_once(sample, images)
"""

LOGGED = """
_encode_silently = encode


def encode(model, inputs):
    import tempfile

    if model.name == "llava-1.5":
        with tempfile.TemporaryFile("w") as log:
            print(inputs.given, file=log)
    return _encode_silently(model, inputs)
"""

CLONED = """
_preprocess = preprocess


def preprocess(*args):
    from dataclasses import replace

    inputs = _preprocess(*args)
    return replace(inputs, given={name: tensor.clone() for name, tensor in inputs.given.items()})
"""

TOLERANT = """
[tool.stagebench.gate.tolerance]
aten_operators = 10.0
"""


FAILS_LATE = """

def pytest_sessionfinish(session):
    session.exitstatus = 1
"""

OWN_LIMIT = """

@pytest.fixture(autouse=True)
def own_limit(benchmark):
    benchmark.extra_info["gate"] = {"threshold": 1000.0}
"""


def call(root, module, *arguments, source=None):
    """Run a module of a checkout's own, or of another source, in a process."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(source or root / "src"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A clone of the repository's last commit."""
    folder = tmp_path_factory.mktemp("copy") / "stagebench"
    subprocess.run(["/usr/bin/env", "git", "clone", "--quiet", ROOT, folder], check=True)
    return folder


class Fault(NamedTuple):
    """Code at the end of a file, what it makes of a benchmark, and the reason that names it."""

    benchmark: str
    file: str
    code: str
    verdict: str
    reason: str


FAULTS = {
    "a second tower forward in the stages": Fault(
        "llava-1.5-encode", "models/llava.py", TOWER_TWICE, "regression", "must do the work of generate()"
    ),
    "a remembered load": Fault("eventgpt-load", "pipeline/load.py", REMEMBERED_LOAD, "regression", "bytes_read = 0"),
    "a remembered preprocess": Fault(
        "video-llava-preprocess",
        "pipeline/preprocess.py",
        REMEMBERED.format(stage="preprocess", model="video-llava"),
        "regression",
        "images_processed = 0",
    ),
    "a text log of tensors": Fault(
        "llava-1.5-encode", "pipeline/encode.py", LOGGED, "regression", "must not write tensors as text"
    ),
    "a remembered encode": Fault(
        "eventgpt-encode",
        "pipeline/encode.py",
        REMEMBERED.format(stage="encode", model="eventgpt"),
        "regression",
        "cached",
    ),
    "a hidden second decode": Fault(
        "llava-1.5-load", "pipeline/load.py", DECODED_TWICE, "regression", "bytes_from_files"
    ),
    "a cropped grid": Fault("llava-1.5-preprocess", "models/llava.py", CROPPED, "changed", "pixels: other content"),
    "one image repeated": Fault("eventgpt-load", "pipeline/load.py", ONE_IMAGE, "changed", "frames: other content"),
    "a cloned tensor": Fault("eventgpt-preprocess", "pipeline/preprocess.py", CLONED, "regression", "aten_operators"),
    "the first 0.4 s": Fault("llava-1.5-load", "pipeline/load.py", FIRST_PART, "changed", "frames: other content"),
}
TOGETHER = (
    ("a second tower forward in the stages", "a remembered load", "a remembered preprocess"),
    ("a text log of tensors", "a remembered encode"),
    ("a hidden second decode", "a cropped grid", "one image repeated"),
    ("the first 0.4 s", "a cloned tensor"),
)
"""Planted in one copy: none has to do with another. What makes a stage fail fails all of its model, and is apart."""


@pytest.fixture(scope="module")
def gate(copy, tmp_path_factory):
    """Plants codes at the ends of files and lets a gate decide on benchmarks: the decision, and its Markdown."""

    def run(benchmarks, codes):
        subprocess.run(["/usr/bin/env", "git", "checkout", "--quiet", "."], cwd=copy, check=True)
        for file, code in codes:
            with (copy / file).open("a", encoding="utf-8") as source:
                source.write(code)
        folder = tmp_path_factory.mktemp("gate")
        out, markdown = folder / "decision.json", folder / "decision.md"
        options = ["--base", "HEAD", "--counters-only", "--select", " or ".join(benchmarks), "--out", folder / "runs"]
        options += ["--json", out, "--markdown", markdown, "--", "--stage-device=cpu", "--stage-new-tokens=4"]
        models = {name.rpartition("-")[0] for name in benchmarks}
        done = call(copy, "stagebench", "gate", *options, f"--stage-model={','.join(sorted(models))}")
        decision = json.loads(out.read_text())
        assert (done.returncode, "Traceback" in done.stderr) == (decision["exit_code"], False), done.stderr
        return decision, markdown.read_text().replace("\\", "")

    return run


@pytest.fixture(scope="module")
def judged(gate):
    """The gate's decision on a fault and those that are planted together with it, and its Markdown."""

    @functools.cache
    def decide(together):
        faults = [FAULTS[name] for name in together]
        codes = [(SOURCES / fault.file, fault.code) for fault in faults]
        more = [(Path("pyproject.toml"), TOLERANT)] if "a cloned tensor" in together else []
        return gate([fault.benchmark for fault in faults], codes + more)

    return lambda name: decide(next(together for together in TOGETHER if name in together))


@pytest.mark.parametrize("name", [name for together in TOGETHER for name in together])
def test_the_gate_names_a_planted_fault(judged, name):
    fault, (decision, markdown) = FAULTS[name], judged(name)
    of_fault = [v for v in decision["verdicts"] if v["benchmark"].endswith(f"test_stage[{fault.benchmark}]")]
    worst = [v for v in of_fault if v["verdict"] in ("regression", "changed")]
    assert worst[0]["verdict"] == fault.verdict
    assert exit_code(map(as_verdict, of_fault)) == 1
    assert fault.reason in " ".join(v["reason"] for v in worst)
    rows = [line for line in markdown.splitlines() if fault.benchmark in line]
    assert fault.reason in " ".join(rows)


def as_verdict(told):
    return Verdict(told["benchmark"], told["kind"], told["verdict"], told["reason"], told["n"])


def test_every_fault_is_planted():
    assert sorted(name for together in TOGETHER for name in together) == sorted(FAULTS)


@pytest.mark.parametrize("together", TOGETHER, ids=lambda together: together[0])
def test_the_gate_calls_no_benchmark_without_a_fault(judged, together):
    decision, _ = judged(together[0])
    called = {v["benchmark"].split("::")[-1] for v in decision["verdicts"] if v["verdict"] != "pass"}
    assert called == {f"test_stage[{FAULTS[name].benchmark}]" for name in together}
    assert decision["exit_code"] == 1


def test_a_tolerance_raised_in_the_head_lets_nothing_pass(judged):
    """Its cloned tensor is a regression all the same."""
    decision, markdown = judged("a cloned tensor")
    assert (decision["exit_code"], len(decision["rules_differ"])) == (1, 1)
    assert "aten_operators" in markdown.splitlines()[0]


def test_a_marker_raised_in_the_head_lets_nothing_pass(new_project, tmp_path):
    project, out = new_project(tmp_path / "project"), tmp_path / "decision.json"
    with (project / "benchmarks" / "test_fake.py").open("a") as file:
        file.write(OWN_LIMIT)
    source = project / "src" / "fake.py"
    source.write_text(source.read_text().replace("1000", "100000"))
    options = ("--base", "HEAD", "--blocks", 4, "--rounds", 2, "--json", out)
    done = call(project, "stagebench", "gate", *options, source=ROOT / "src")
    decision = json.loads(out.read_text())
    assert (done.returncode, len(decision["rules_differ"])) == (1, 1), done.stderr
    assert "1000" in decision["rules_differ"][0]
    assert {v["verdict"] for v in decision["verdicts"] if v["kind"] == "time"} == {"regression"}


def test_a_run_that_fails_late_is_not_accepted(copy, tmp_path):
    subprocess.run(["/usr/bin/env", "git", "checkout", "--quiet", "."], cwd=copy, check=True)
    with (copy / "conftest.py").open("a") as file:
        file.write(FAILS_LATE)
    run = tmp_path / "out.json"
    quick = ("-q", "-p", "no:cacheprovider", "--stage-rounds=2", f"--benchmark-json={run}")
    assert call(copy, "pytest", "benchmarks/test_reference.py", *quick).returncode == 1
    done = call(copy, "stagebench", "baseline", "accept", run, "--partial", "--reason", "none")
    assert (done.returncode, done.stderr.count("\n"), "exit status 1" in done.stderr) == (2, 1, True), done.stderr


def test_a_baseline_with_nan_is_read_by_no_command(tmp_path):
    stored = min((ROOT / "baselines").glob("amd-epyc-*/baseline.json"))
    bad = tmp_path / "bad.json"
    run = json.loads(stored.read_text())
    run["benchmarks"][0]["stats"]["median"] = float("nan")
    bad.write_text(json.dumps(run))
    commands = [
        ("compare", bad, stored),
        ("compare", stored, bad),
        ("explain", bad),
        ("baseline", "accept", bad, "--reason", "none"),
    ]
    ended = [call(ROOT, "stagebench", *command) for command in commands]
    ended.append(call(ROOT, "pytest", "benchmarks/test_reference.py", "-q", f"--benchmark-compare={bad}"))
    assert [done.returncode for done in ended] == [2, 2, 2, 2, 4]  # 4 is pytest's own, for what it was called with
    assert all("nan" in done.stderr.lower() and "Traceback" not in done.stderr for done in ended)


def test_one_process_listed_four_times_is_refused(tmp_path):
    stored = min((ROOT / "baselines").glob("amd-epyc-*/baseline.json"))
    head = tmp_path / "head.json"
    head.write_text(stored.read_text().replace('"order_seed": ', '"order_seed": 1'))
    done = call(ROOT, "stagebench", "compare", *["--base", stored] * 4, *["--head", head] * 4)
    assert (done.returncode, "a process counts once" in done.stderr) == (2, True), done.stderr
