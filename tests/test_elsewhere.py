"""The commands in a repository of somebody else: a model, a conftest.py, and no file of ours or of settings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import write_checkpoint

from stagebench.gate.runner.fresh_process import pytest_arguments

ROOT = Path(__file__).parents[1]
OWN = """
import functools
from transformers.models.llava.modeling_llava import LlavaModel

TIMES, plain = 1, LlavaModel.get_image_features

@functools.wraps(plain)
def get_image_features(*args, **more):
    return [plain(*args, **more) for _ in range(TIMES)][-1]

LlavaModel.get_image_features = get_image_features
"""
MODEL = "hf:./checkpoint"
ENCODE, PREPROCESS = (f"benchmarks/test_stages.py::test_stage[{MODEL}-{stage}]" for stage in ("encode", "preprocess"))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory, git):
    """One commit of such a repository."""
    root = tmp_path_factory.mktemp("elsewhere")
    write_checkpoint("llava", root / "checkpoint")
    for name, text in {"conftest.py": "import own\n", "own.py": OWN, ".gitignore": "__pycache__/\nout/\n"}.items():
        (root / name).write_text(text)
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "first")
    return root


def call(root, command, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "200"}
    asked = ("--", f"--stage-model={MODEL}", "--stage-new-tokens=3", "--stage-device=cpu")
    line = [sys.executable, "-m", "stagebench", command, *arguments, "--select", "encode or preprocess", *asked]
    return subprocess.run(line, cwd=root, env=environment, capture_output=True, text=True, check=False)


def test_the_gate_names_the_stage_of_anybodys_model_that_does_more_work(elsewhere):
    own = elsewhere / "own.py"
    own.write_text(OWN.replace("= 1,", "= 2,"))
    (elsewhere / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")  # of the head alone, and ignored
    (elsewhere / ".git" / "info" / "exclude").write_text("pytest.ini\n")
    done = call(elsewhere, "gate", "--base", "HEAD", "--counters-only", "--json", "-", "--out", "out/gate")
    verdicts = {v["benchmark"]: v["verdict"] for v in json.loads(done.stdout)["verdicts"]}
    assert (done.returncode, verdicts[ENCODE], verdicts[PREPROCESS]) == (1, "regression", "pass"), done.stderr


@pytest.mark.parametrize("checkout", ["with benchmarks", "without"])
def test_a_benchmark_is_collected_by_its_name_wherever_it_is(tmp_path, checkout):
    if checkout == "with benchmarks":
        (tmp_path / "benchmarks").mkdir()
    name = "stagebench.benchmarks.test_stages::test_stage[hf:./checkpoint-encode]"
    expected = (ENCODE,) if checkout == "with benchmarks" else ("--pyargs", name)
    collected = pytest_arguments(tmp_path, [ENCODE], (), "", None, 1)
    assert collected == (*expected, "--stage-rounds=1", "--stage-order-seed=1")
