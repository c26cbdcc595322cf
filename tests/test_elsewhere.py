"""The commands in a repository of somebody else: a model, a conftest.py, and no file of ours or of settings."""

import json
import os
from contextlib import chdir
from pathlib import Path
from unittest.mock import patch

import pytest
from click.testing import CliRunner

from stagebench.cli import main
from stagebench.core.results import read_results
from stagebench.gate.runner.fresh_process import pytest_arguments

OWN = """
from transformers import LlavaForConditionalGeneration
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

TIMES = 1

class Projector(LlavaMultiModalProjector):
    def forward(self, features):
        return [super(Projector, self).forward(features) for _ in range(TIMES)][-1]

class Mine(LlavaForConditionalGeneration):
    def __init__(self, config):
        super().__init__(config)
        self.model.multi_modal_projector = Projector(config)
        self.post_init()
"""
CONFTEST = """
from stagebench import Registration, register_model

shapes = {"text_config": {"model_type": "llama", "vocab_size": 32064}, "vision_config": {"image_size": 224}}
prompt = {"patch_size": 32, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
register_model(Registration(
    name="mine", network="own:Mine", config=shapes, processor=prompt, tokens={"image_token": "<image>"}, image="<image>"
))
"""
ENCODE, PREPROCESS = (f"benchmarks/test_stages.py::test_stage[mine-{stage}]" for stage in ("encode", "preprocess"))


@pytest.fixture
def elsewhere(tmp_path, git):
    """One commit of such a repository."""
    for name, text in {
        "conftest.py": CONFTEST,
        "own.py": OWN,
        ".gitignore": "__pycache__/\nout/\npytest.ini\n",
    }.items():
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    return tmp_path


def call(root, *command):
    source = {"PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    with chdir(root), patch.dict(os.environ, source):
        return CliRunner().invoke(main, [*command, "--stage-device=cpu", "--stage-new-tokens=3"])


def test_the_gate_names_the_stage_of_an_own_model_that_does_more_work(elsewhere):
    assert len(CONFTEST.strip().splitlines()) <= 10
    (elsewhere / "own.py").write_text(OWN.replace("TIMES = 1", "TIMES = 2"))
    (elsewhere / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")  # in neither copy, but above both
    asked = ("--counters-only", "--select", "encode or preprocess", "--json", "-", "--out", "out")
    done = call(elsewhere, "gate", "--base", "HEAD", *asked, "--", "--stage-model=mine")
    assert done.exit_code == 1, done.output
    verdicts = {v["benchmark"]: v["verdict"] for v in json.loads(done.stdout)["verdicts"]}
    assert verdicts == {ENCODE: "regression", PREPROCESS: "pass"}


def test_a_folder_without_benchmarks_records_those_of_the_package(tmp_path):
    done = call(tmp_path, "bench", "out", "--processes=1", "--rounds=1", "--select=test_ceiling", "--")
    assert done.exit_code == 0, done.output
    names = [benchmark["fullname"] for benchmark in read_results(tmp_path / "out" / "results.json")["benchmarks"]]
    assert names == [
        "benchmarks/test_ceilings.py::test_ceiling[bandwidth]",
        "benchmarks/test_ceilings.py::test_ceiling[flops]",
        "benchmarks/test_reference.py::test_reference",
    ]


@pytest.mark.parametrize("checkout", ["with benchmarks", "without"])
def test_a_benchmark_is_collected_by_its_name_wherever_it_is(tmp_path, checkout):
    if checkout == "with benchmarks":
        (tmp_path / "benchmarks").mkdir()
    name = "stagebench.benchmarks.test_stages::test_stage[mine-encode]"
    expected = (ENCODE,) if checkout == "with benchmarks" else ("--pyargs", name)
    collected = pytest_arguments(tmp_path, [ENCODE], (), "", None, 1)
    assert collected == (*expected, "--stage-rounds=1", "--stage-order-seed=1")
