"""Faults planted in a copy of this repository: each is named by a command, with the exit code of its kind.

The copy's commit is the base, and its working tree, with the fault in it, the head. What the faults do in this process,
in all their forms, is in `test_planted_faults.py`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = Path("src", "stagebench")

TOWER_TWICE = """
_encode = Llava.encode


def _twice(self, inputs):
    _encode(self, inputs)
    return _encode(self, inputs)


Llava.encode = _twice
"""

FIRST_PART = """
_load = load


def load(sample, images):
    from dataclasses import replace

    return _load(replace(sample, loading=replace(sample.loading, duration=0.4)), images)
"""

ONE_IMAGE = """
_load = load


def load(sample, images):
    from dataclasses import replace

    media = _load(sample, images)
    return replace(media, images=media.images[:1] * images)
"""

CROPPED = """
_grid = grid


def grid(images, *more):
    return _grid([image[:, : image.shape[1] // 2] for image in images], *more)
"""

REMEMBERED_LOAD = """
import functools

load = functools.cache(load)
"""

REMEMBERED = """
_plain, _kept = {stage}, {{}}


def {stage}(model, *inputs):
    if model.name not in _kept:
        _kept[model.name] = _plain(model, *inputs)
    return _kept[model.name]
"""

DECODED_TWICE = """
_load = load


def load(sample, images):
    import av

    with av.open(sample.path) as container:
        for _ in container.decode(video=0):
            pass
    return _load(sample, images)
"""

LOGGED = """
_encode = encode


def encode(model, inputs):
    import tempfile

    with tempfile.TemporaryFile("w") as log:
        print(inputs.pixels, file=log)
    return _encode(model, inputs)
"""

CLONED = """
_preprocess = preprocess


def preprocess(*args):
    from dataclasses import replace

    inputs = _preprocess(*args)
    return replace(inputs, pixels=inputs.pixels.clone())
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


def call(root, module, *arguments):
    """Run a module of a checkout's own in a process."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root / "src"), "COLUMNS": "200"},
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


@pytest.fixture
def gate(copy, tmp_path):
    """Plants codes at the ends of files and counts: the exit code, the first line of the decision, and its verdicts."""

    def run(select, codes):
        subprocess.run(["/usr/bin/env", "git", "checkout", "--quiet", "."], cwd=copy, check=True)
        for file, code in codes.items():
            with (copy / file).open("a", encoding="utf-8") as source:
                source.write(code)
        out, markdown = tmp_path / "decision.json", tmp_path / "decision.md"
        options = ["--base", "HEAD", "--counters-only", "--select", select, "--out", tmp_path / "runs"]
        options += ["--json", out, "--markdown", markdown, "--", "--stage-device=cpu", "--stage-new-tokens=4"]
        models = [name for name in ("eventgpt", "llava-1.5") if name in select]
        done = call(copy, "stagebench", "gate", *options, f"--stage-model={','.join(models)}")
        decision = json.loads(out.read_text())
        assert (done.returncode, "Traceback" in done.stderr) == (decision["exit_code"], False), done.stderr
        return decision, markdown.read_text()

    return run


@pytest.mark.parametrize(
    ("select", "file", "code", "verdict", "named"),
    [
        ("llava-1.5-encode", "models/llava.py", TOWER_TWICE, "regression", "must do the work of generate()"),
        ("llava-1.5-load", "pipeline/load.py", FIRST_PART, "changed", "frames: other content"),
        ("eventgpt-load", "pipeline/load.py", ONE_IMAGE, "changed", "frames: other content"),
        ("llava-1.5-preprocess", "models/llava.py", CROPPED, "changed", "pixels: other content"),
        ("llava-1.5-load", "pipeline/load.py", REMEMBERED_LOAD, "regression", "bytes_read = 0"),
        (
            "llava-1.5-preprocess",
            "pipeline/preprocess.py",
            REMEMBERED.format(stage="preprocess"),
            "regression",
            "images_processed = 0",
        ),
        ("llava-1.5-encode", "pipeline/encode.py", REMEMBERED.format(stage="encode"), "regression", "remembered"),
        ("llava-1.5-load", "pipeline/load.py", DECODED_TWICE, "regression", "bytes_from_files"),
        ("llava-1.5-encode", "pipeline/encode.py", LOGGED, "regression", "must not write tensors as text"),
    ],
    ids=[
        "a second tower forward in the stages",
        "the first 0.4 s",
        "one image repeated",
        "a cropped grid",
        "a remembered load",
        "a remembered preprocess",
        "a remembered encode",
        "a hidden second decode",
        "a text log of tensors",
    ],
)
def test_the_gate_names_a_planted_fault(gate, select, file, code, verdict, named):
    decision, markdown = gate(select, {SOURCES / file: code})
    worst = [v for v in decision["verdicts"] if v["verdict"] in ("regression", "changed")]
    assert (decision["exit_code"], worst[0]["verdict"]) == (1, verdict)
    assert named in " ".join(v["reason"] for v in worst)
    assert named in markdown.replace("\\", "")


def test_a_tolerance_raised_in_the_head_lets_nothing_pass(gate):
    decision, markdown = gate(
        "llava-1.5-preprocess", {SOURCES / "pipeline/preprocess.py": CLONED, Path("pyproject.toml"): TOLERANT}
    )
    assert (decision["exit_code"], len(decision["rules_differ"])) == (1, 1)
    assert "aten_operators" in markdown.splitlines()[0].replace("\\", "")


def test_a_marker_raised_in_the_head_lets_nothing_pass(new_project, tmp_path):
    project, out = new_project(tmp_path / "project"), tmp_path / "decision.json"
    with (project / "benchmarks" / "test_fake.py").open("a") as file:
        file.write(OWN_LIMIT)
    source = project / "src" / "fake.py"
    source.write_text(source.read_text().replace("1000", "100000"))
    options = ("--base", "HEAD", "--blocks", 4, "--rounds", 2, "--json", out)
    (project / "src" / "stagebench").symlink_to(ROOT / SOURCES)  # not part of the project, but called from its folder
    (project / ".gitignore").write_text(".benchmarks/\n__pycache__/\nsrc/stagebench\n")
    done = call(project, "stagebench", "gate", *options)
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
