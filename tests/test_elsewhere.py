"""The commands in a folder without benchmarks."""

from contextlib import chdir
from pathlib import Path

import pytest
from click.testing import CliRunner

from stagebench.cli import main
from stagebench.core.results import read_results
from stagebench.gate.runner.fresh_process import pytest_arguments

ENCODE = "benchmarks/test_stages.py::test_stage[mine-encode]"


def test_a_folder_without_benchmarks_records_those_of_the_package(tmp_path):
    source = {"PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    few = ("--processes=1", "--rounds=1", "--select=test_ceiling", "--", "--stage-device=cpu")
    with chdir(tmp_path):
        done = CliRunner().invoke(main, ["bench", "out", *few], env=source)
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
    collected = pytest_arguments(tmp_path, [ENCODE], ("--stage-model=mine",), "", None, 1)
    assert collected[: len(expected)] == expected
