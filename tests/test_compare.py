"""`stagebench compare`, and what it prints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from stagebench.cli import main
from stagebench.core import shown
from stagebench.core.shown import show
from stagebench.gate import decide
from stagebench.gate.verdicts import Decision, Verdict

NAME = "benchmarks/test_stages.py::test_stage[m|x-decode]"
HERE = {"device": "d", "profile": "tiny", "dtype": "float32"}


def write(path, time=0.1, work=None, here=HERE, content=None, **own):
    info = {"work": work or {"flops": 10}} | ({"content": {"frames": content}} if content else {})
    benchmark = {"fullname": NAME, "stats": {"median": time}, "extra_info": info}
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
    result = compare(write(tmp_path / "a.json"), write(tmp_path / "b.json", 0.11), "--json", "-")
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
    assert lines[4].startswith("| regression | `test_stage[m\\|x-decode]` | ")
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
        (["a.json"], "must have a base and a head, got 1 paths"),
        (["a.json", "empty"], "the head must have a run, got none"),
        (["a.json", "missing.json"], "can't read the run"),
        (["a.json", "failed.json"], "nothing failed, got 1 failures"),
        (["a.json", "a.json", "--config", "missing.toml"], "--config must be a file, got"),
        (["a.json", "a.json"], "a process counts once, got "),
    ],
)
def test_what_cannot_be_compared_is_one_line_and_exit_code_2(tmp_path, paths, message):
    write(tmp_path / "a.json")
    write(tmp_path / "failed.json", failed=1, exit_status=1)
    (tmp_path / "empty").mkdir()
    result = compare(*(each if each.startswith("--") else tmp_path / each for each in paths))
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert message in result.stderr


@pytest.mark.parametrize("arguments", [("no-base", "no-head"), ("one",), ("--config", "none")])
def test_what_cannot_be_compared_is_reported_in_json_and_markdown(tmp_path, arguments):
    out, told = tmp_path / "out.md", tmp_path / "out.json"
    result = compare(*arguments, "--markdown", out, "--json", told)
    decision = json.loads(told.read_text())
    assert (result.exit_code, decision["exit_code"], decision["verdicts"]) == (2, 2, [])
    assert result.stderr == f"stagebench: {decision['error']}\n"
    assert (
        out.read_text()
        == f"### stagebench gate: could not be measured (an error)\n\n{shown.markdown(decision['error'])}\n\n"
    )


def test_an_error_of_stagebench_itself_is_no_verdict(sides, tmp_path, monkeypatch):
    monkeypatch.setattr(decide, "judge", lambda *_: 1 / 0)
    result = compare(*sides, "--json", tmp_path / "out.json")
    decision = json.loads((tmp_path / "out.json").read_text())
    assert (result.exit_code, decision["error"]) == (
        2,
        "an error of stagebench itself, ZeroDivisionError: division by zero",
    )


def test_a_json_that_cannot_be_written_is_refused_before_anything_is_compared(sides, tmp_path):
    out = tmp_path / "out.md"
    result = compare(*sides, "--markdown", out, "--json", "/proc/nowhere/out.json")
    assert (result.exit_code, out.exists()) == (2, False)


COPIES = {
    "itself": lambda file, copy: copy.write_bytes(file.read_bytes()),
    "a symbolic link": lambda file, copy: copy.symlink_to(file),
    "a hard link": lambda file, copy: copy.hardlink_to(file),
    "another layout": lambda file, copy: copy.write_text(json.dumps(json.loads(file.read_text()), indent=4)),
    "another date": lambda file, copy: copy.write_text(json.dumps(json.loads(file.read_text()) | {"datetime": "x"})),
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("side", ["base", "head"])
def test_a_process_counts_once(sides, tmp_path, how, side):
    base, _ = sides
    original, copy = base / "0.json", tmp_path / side / "9.json"
    COPIES[how](original, copy)
    result = compare(*sides)
    assert (result.exit_code, result.stderr) == (
        2,
        f"stagebench: a process counts once, got the same times in {original} and {copy}\n",
    )


def test_a_file_that_is_named_four_times_is_refused(sides):
    base, head = sides
    result = compare(*["--base", base / "0.json"] * 4, *["--head", head / "0.json"] * 4)
    assert (result.exit_code, result.stderr) == (
        2,
        f"stagebench: a process counts once, got {base / '0.json'} twice\n",
    )


def test_a_copy_with_other_work_is_refused_beside_its_original_only(tmp_path):
    original, copy = write(tmp_path / "a.json"), write(tmp_path / "b.json", work={"flops": 11})
    assert compare(original, copy).exit_code == 1
    assert compare("--base", original, "--base", copy, "--head", write(tmp_path / "c.json", 0.2)).exit_code == 2


def recording(path, times):
    """As `stagebench bench` writes it: the median of each process."""
    run = json.loads(write(path).read_text())
    run["benchmarks"][0]["stats"] = {"median": sorted(times)[len(times) // 2], "data": times}
    run["benchmarks"][0]["extra_info"]["processes"] = len(times)
    path.write_text(json.dumps(run))
    return path


def test_a_recording_with_one_process_several_times_is_refused(tmp_path):
    once = recording(tmp_path / "once.json", [0.1, 0.11, 0.12, 0.13, 0.14, 0.15, 0.16])
    twice = recording(tmp_path / "twice.json", [0.2, 0.21, 0.22, 0.23, 0.24, 0.25, 0.21])
    result = compare(once, twice)
    assert (result.exit_code, result.stderr) == (
        2,
        f"stagebench: a process counts once, got the same times in process 2 of {twice} and process 7 of {twice}\n",
    )


def test_a_process_of_a_recording_does_not_count_beside_it(tmp_path):
    whole = recording(tmp_path / "whole.json", [0.1, 0.11, 0.12])
    part = write(tmp_path / "part.json", 0.11)
    result = compare("--base", whole, "--base", part, "--head", write(tmp_path / "head.json", 0.2))
    assert (result.exit_code, "process 2 of" in result.stderr) == (2, True)


def test_processes_of_equal_medians_and_other_rounds_are_two(tmp_path):
    files = []
    for i, data in enumerate(([0.1, 0.2, 0.3], [0.15, 0.2, 0.25])):
        run = json.loads(write(tmp_path / f"{i}.json", 0.2).read_text())
        run["benchmarks"][0]["stats"]["data"] = data
        files.append(tmp_path / f"{i}.json")
        files[-1].write_text(json.dumps(run))
    assert compare(*files).exit_code == 3


def test_other_content_is_changed_until_it_is_allowed(tmp_path):
    base, head = write(tmp_path / "a.json", content="0" * 16), write(tmp_path / "b.json", content="1" * 16)
    changed = compare(base, head)
    allowed = compare(base, head, "--allow-changed", "load", "--json", "-")
    assert (changed.exit_code, allowed.exit_code) == (1, 3)  # one pair decides no time
    assert [v["allowed"] for v in json.loads(allowed.stdout)["verdicts"] if "allowed" in v] == ["load"]


def test_a_stage_that_is_none_cannot_be_allowed(tmp_path):
    result = compare("a", "b", "--allow-changed", "deocde")
    assert (result.exit_code, "'load', 'preprocess', 'encode', 'prefill', 'decode'" in result.stderr) == (2, True)


def test_another_marker_is_the_first_line_and_the_stricter_holds(sides, tmp_path):
    for file in sides[1].iterdir():
        run = json.loads(file.read_text())
        run["benchmarks"][0]["extra_info"]["gate"] = {"threshold": 9}
        file.write_text(json.dumps(run))
    result = compare(*sides, "--markdown", tmp_path / "out.md", "--json", tmp_path / "out.json")
    said = "the marker of test_stage[m|x-decode]: threshold not given in the base, 9 in the head"
    assert (result.exit_code, json.loads((tmp_path / "out.json").read_text())["rules_differ"]) == (1, [said])
    assert shown.markdown(said) in (tmp_path / "out.md").read_text().splitlines()[0]
    assert "the rules differ" in result.output.strip().splitlines()[0]


def test_benchmarks_without_counters_are_not_counted_and_never_nothing(tmp_path):
    files = []
    for name, time in (("a", 0.1), ("b", 0.2)):
        run = json.loads(write(tmp_path / f"{name}.json", time).read_text())
        del run["benchmarks"][0]["extra_info"]["work"]
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps(run))
    result = compare(*files, "--markdown", tmp_path / "out.md")
    line = (tmp_path / "out.md").read_text().splitlines()[0]
    assert (result.exit_code, line) == (3, "### stagebench gate: inconclusive (1 inconclusive, 1 not counted)")


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


def test_the_table_of_a_narrow_terminal_shows_all_of_the_reason():
    verdicts = [Verdict(NAME, "counter", "regression", "StageError: got tower_forwards 2, not 1", 1)]
    console = Console(width=50, force_terminal=True, color_system=None)
    with console.capture() as shown_there:
        show(Decision(verdicts).as_table(), console)
    assert "StageError: got tower_forwards 2, not 1" in " ".join(shown_there.get().split())
    assert "base, ms" not in shown_there.get()


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("out", "code"), [("/dev/full", 2), ("/dev/null", 3)])
def test_a_terminal_without_the_letters_changes_no_verdict_and_a_full_disk_is_none(tmp_path, out, code, unbuffered):
    files = []
    for name, time in (("a", 0.1), ("b", 0.2)):
        run = json.loads(write(tmp_path / f"{name}.json", time).read_text())
        run["benchmarks"][0]["fullname"] = "b.py::test_stage[m\u00e9-\u65e5\u672c]"
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps(run))
    command = [sys.executable, "-m", "stagebench", "compare", *map(str, files)]
    with Path(out).open("w") as stdout:
        done = subprocess.run(
            command,
            env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUNBUFFERED": unbuffered},
            stdout=stdout,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (done.returncode, b"Traceback" in done.stderr) == (code, False)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--help"], ["compare", "--help"], ["--version"]])
def test_help_that_cannot_be_written_is_an_error_of_one_line(arguments, unbuffered):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "stagebench", *arguments],
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (2, b"stagebench: [Errno 28] No space left on device\n")
