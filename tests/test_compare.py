"""`stagebench compare`, and what it prints."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from stagebench.cli import main

NAME = "benchmarks/test_stages.py::test_stage[m|x-decode]"
HERE = {"device": "d", "profile": "tiny", "dtype": "float32"}


def write(path, time=0.1, work=None, here=HERE, **own):
    benchmark = {"fullname": NAME, "stats": {"median": time}, "extra_info": {"work": work or {"flops": 10}}}
    own = {"schema": 1, "failed": 0, "exit_status": 0, "regressed": []} | own
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"machine_info": here, "stagebench": own, "benchmarks": [benchmark]}))
    return path


@pytest.fixture
def sides(tmp_path):
    """Two folders of eight processes, the head a fifth slower."""
    rng = np.random.default_rng(0)
    for side, factor in (("base", 1.0), ("head", 1.2)):
        for i in range(8):
            write(tmp_path / side / f"{i}.json", 0.1 * factor * np.exp(rng.normal(0, 0.01)))
    return tmp_path / "base", tmp_path / "head"


def compare(*arguments):
    return CliRunner().invoke(main, ["compare", *map(str, arguments)])


def test_two_folders_of_processes_decide(sides):
    assert compare(*sides).exit_code == 1
    assert compare(*reversed(sides)).exit_code == 0


def test_files_by_side_are_the_same_as_folders(sides):
    by_file = [
        x
        for name, folder in zip(("base", "head"), sides, strict=True)
        for file in sorted(folder.iterdir())
        for x in (f"--{name}", file)
    ]
    assert compare(*by_file).output == compare(*sides).output


def test_two_single_runs_are_inconclusive(tmp_path):
    result = compare(write(tmp_path / "a.json"), write(tmp_path / "b.json"), "--json", "-")
    assert result.exit_code == 3
    reasons = [v["reason"] for v in json.loads(result.stdout)["verdicts"]]
    assert reasons == ["all 1 as before", "cannot decide: 1 pair of processes, 7 are needed"]


def test_two_single_runs_with_more_work_are_a_regression(tmp_path):
    assert compare(write(tmp_path / "a.json"), write(tmp_path / "b.json", work={"flops": 11})).exit_code == 1


def test_the_json_has_all_verdicts(sides, tmp_path):
    compare(*sides, "--json", tmp_path / "out.json")
    decision = json.loads((tmp_path / "out.json").read_text())
    assert decision["exit_code"] == 1
    assert [(v["kind"], v["verdict"], v["n"]) for v in decision["verdicts"]] == [
        ("counter", "pass", 1),
        ("time", "regression", 8),
    ]


def test_json_on_standard_output_stands_alone(sides):
    assert json.loads(compare(*sides, "--json", "-").stdout)["exit_code"] == 1


def test_the_markdown_shows_the_regression_and_folds_what_passes(sides, tmp_path):
    compare(*sides, "--markdown", tmp_path / "out.md")
    lines = (tmp_path / "out.md").read_text().splitlines()
    assert lines[0] == "### stagebench gate: regression (1 regression, 1 pass)"
    assert lines[4].startswith("| regression | test\\_stage\\[m\\|x-decode\\] | ")
    assert lines[6] == "<details><summary>1 that pass</summary>"


def test_the_limits_of_a_configuration_hold(sides, tmp_path):
    config = tmp_path / "limits.toml"
    config.write_text("[tool.stagebench.gate]\nthreshold = 0.5")
    assert compare(*sides, "--config", config).exit_code == 0


@pytest.mark.parametrize("key", ["device", "profile", "dtype", "torch"])
def test_a_run_of_another_environment_is_refused_with_the_key(tmp_path, key):
    here = HERE | {"torch": "2.13.0"}
    result = compare(write(tmp_path / "a.json", here=here), write(tmp_path / "b.json", here=here | {key: "other"}))
    assert result.exit_code == 2
    assert f"{key}: 'other' here" in result.stderr


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["a.json"], "has a base and a head, got 1 paths"),
        (["a.json", "empty"], "needs a run of the head, got none"),
        (["a.json", "missing.json"], "can't read the run"),
        (["a.json", "failed.json"], "nothing failed, got 1 failures"),
        (["a.json", "a.json", "--config", "missing.toml"], "--config must be a file, got"),
    ],
)
def test_what_cannot_be_compared_is_one_line_and_exit_code_2(tmp_path, paths, message):
    write(tmp_path / "a.json")
    write(tmp_path / "failed.json", failed=1, exit_status=1)
    (tmp_path / "empty").mkdir()
    result = compare(*(each if each.startswith("--") else tmp_path / each for each in paths))
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert message in result.stderr


def test_what_cannot_be_compared_leaves_no_markdown(tmp_path):
    assert compare("no-base", "no-head", "--markdown", tmp_path / "out.md").exit_code == 2
    assert not (tmp_path / "out.md").exists()


def test_markdown_that_cannot_be_written_is_one_line_and_no_regression(sides, tmp_path):
    (tmp_path / "file").touch()
    result = compare(*sides, "--markdown", tmp_path / "file" / "out.md")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "can't write" in result.stderr


def test_markdown_is_appended(sides, tmp_path):
    out = tmp_path / "folder" / "out.md"
    compare(*sides, "--markdown", out)
    first = out.read_text()
    compare(*sides, "--markdown", out)
    assert (first.startswith("### stagebench gate"), out.read_text()) == (True, first * 2)
