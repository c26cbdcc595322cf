"""`stagebench gate` in a small project of its own, whose suite has the options of ours and needs no torch."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import chdir
from pathlib import Path
from unittest.mock import patch

import pytest
from click.testing import CliRunner

from stagebench.cli import main
from stagebench.cli.output import refusals, tidy_stop
from stagebench.core import shown
from stagebench.core.errors import GateError
from stagebench.core.machine import locks
from stagebench.gate.runner import gate
from stagebench.gate.runner.ab_runner import schedule

SRC = Path(__file__).parents[1] / "src"


@pytest.fixture
def project(tmp_path, new_project):
    """One commit of a project that a gate can compare."""
    return new_project(tmp_path / "project")


def rewrite(project, old, new):
    path = project / "src" / "fake.py"
    path.write_text(path.read_text().replace(old, new))


FEW = """
from stagebench.cli import main
from stagebench.gate.runner import gate

gate._require_possible = lambda plan, decision: None
main()
"""
"""The command line, in which a block is enough: a test has no time for what decides on times."""


def command_line(project, *arguments, blocks=1):
    out = str(project.parent / "out")
    return ["gate", "--base", "HEAD", "--rounds", "2", "--blocks", str(blocks), "--out", out, *map(str, arguments)]


ENVIRONMENT = {"PYTHONPATH": str(SRC), "COLUMNS": "200"}


def start(project, *arguments, **options):
    command = [sys.executable, "-c", FEW, *command_line(project, *arguments, **options)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=project, env=os.environ | ENVIRONMENT, **pipes)


def run_gate(project, *arguments):
    """The exit code, the verdicts that are no pass, and what was said."""
    with chdir(project), patch.object(gate, "_require_possible"):
        done = CliRunner().invoke(main, command_line(project, *arguments), env=ENVIRONMENT)
    path = project.parent / "out" / "decision.json"
    decision = json.loads(path.read_text()) if path.exists() else {"verdicts": []}
    loud = [(v["benchmark"].split("::")[-1], v["verdict"]) for v in decision["verdicts"] if v["verdict"] != "pass"]
    return done.exit_code, loud, done.stdout + done.stderr


def files(project):
    return sorted(path.name for path in (project.parent / "out").iterdir() if path.name != ".gitignore")


def test_a_block_is_base_head_head_base_or_the_other_way_round():
    turns = schedule("first", 40, seed=1)
    blocks = ["".join(turn.variant[0] for turn in turns[i : i + 4]) for i in range(0, 160, 4)]
    assert (set(blocks), 8 < blocks.count("bhhb") < 32) == ({"bhhb", "hbbh"}, True)


def test_the_order_of_the_benchmarks_is_drawn_by_block_and_one_for_both_sides():
    turns = schedule("first", 20, seed=1)
    seeds = [{turn.order_seed for turn in turns if turn.block == block} for block in range(20)]
    assert ([len(of_block) for of_block in seeds], len(set.union(*seeds)) > 15) == ([1] * 20, True)


def test_one_seed_gives_one_plan_and_another_for_the_confirmation():
    def arms(phase, seed):
        return [turn.variant for turn in schedule(phase, 20, seed)]

    assert arms("first", 1) == arms("first", 1) != arms("first", 2)
    assert arms("first", 1) != arms("confirmation", 1)


def test_a_gate_keeps_the_run_of_every_process_and_nothing_else(project, nothing_is_left):
    code, _, said = run_gate(project, "--seed", "5")
    order = [turn.file_name for turn in schedule("first", 1, 5)]
    again = [turn.file_name for turn in schedule("confirmation", 1, 5)]
    assert code == 3, said  # two pairs can't decide on a time
    assert files(project) == sorted(
        [*order, *again, "counters-00-0-base.json", "counters-00-1-head.json", "decision.json"]
    )
    run = json.loads((project.parent / "out" / order[1]).read_text())
    scheduled = run["stagebench"]["scheduled"]
    assert (scheduled["phase"], scheduled["block"], scheduled["position"], len(run["benchmarks"])) == ("first", 0, 1, 3)
    assert nothing_is_left(project)
    assert "up to 8 to time" in said
    assert "still open, so up to 1 more blocks for test_stage[a], test_stage[b]" in said


def test_the_runs_of_a_gate_are_no_part_of_the_working_tree_that_the_next_one_measures(project, git):
    clean = git(project, "status", "--porcelain")
    assert run_gate(project, "--counters-only", "--out", "runs")[0] == 0
    assert (git(project, "status", "--porcelain"), (project / "runs" / "decision.json").exists()) == (clean, True)


def test_more_work_in_a_tree_that_nobody_committed_is_a_regression(project, git):
    rewrite(project, "8", "16")
    code, loud, said = run_gate(project, "--counters-only")
    assert (code, loud) == (1, [("test_stage[a]", "regression"), ("test_stage[b]", "regression")]), said
    assert "frames_decoded: 8 before, 16 now" in said
    assert git(project, "status", "--short") == " M src/fake.py\n"


def test_equal_counters_pass(project):
    assert run_gate(project, "--counters-only")[:2] == (0, [])


def test_a_deleted_benchmark_is_missing(project):
    suite = project / "benchmarks" / "test_fake.py"
    suite.write_text(suite.read_text().replace('["a", "b"]', '["a"]'))
    assert run_gate(project, "--counters-only")[:2] == (2, [("test_stage[b]", "missing")])


def test_a_crashed_benchmark_is_reported_with_its_last_lines(project, nothing_is_left):
    rewrite(project, "return", "raise ValueError('boom')\n    return")
    code, _, said = run_gate(project)
    assert code == 2
    kept = project.parent / "out" / "counters-00-1-head.txt"
    assert said.splitlines()[-1] == (
        "stagebench: the benchmarks of the head must pass, got test_stage[a]: ValueError: boom (and 1 more); "
        f"its full output is in {kept}"
    )
    assert "Traceback" not in said
    assert ">       return sum(range(1000))" in kept.read_text() or "raise ValueError" in kept.read_text()
    assert nothing_is_left(project)


def decision_of(project, *arguments):
    """The exit code, what --json and --markdown hold, and what was said."""
    told, markdown = project.parent / "told.json", project.parent / "told.md"
    code, _, said = run_gate(project, "--json", told, "--markdown", markdown, *arguments)
    return code, json.loads(told.read_text()), markdown.read_text(), said


STAGE_ERROR = """
class StageError(Exception):
    pass

def work():
    raise StageError("the stages must do the work of generate(), got images_encoded 10, not 5")
"""
REASON = "StageError: the stages must do the work of generate(), got images_encoded 10, not 5"


def test_what_a_stage_of_the_head_refuses_is_a_regression_with_its_reason(project, nothing_is_left):
    (project / "src" / "fake.py").write_text("FRAMES = 8\n" + STAGE_ERROR)
    code, decision, markdown, said = decision_of(project)
    assert (code, decision["exit_code"], [(v["verdict"], v["reason"]) for v in decision["verdicts"]]) == (
        1,
        1,
        [("regression", REASON)] * 2,
    )
    assert [v["benchmark"] for v in decision["verdicts"]] == [f"benchmarks/test_fake.py::test_stage[{c}]" for c in "ab"]
    assert (markdown.splitlines()[0], shown.markdown(REASON) in markdown) == (
        "### stagebench gate: regression (2 regression)",
        True,
    )
    assert "Traceback" not in said
    assert nothing_is_left(project)


def test_what_a_stage_of_the_head_refuses_while_it_is_timed_is_a_regression_too(project):
    suite = project / "benchmarks" / "test_fake.py"
    late = "    if pytestconfig.option.stage_times_only:\n        fake.refuse()\n    benchmark.pedantic(function"
    suite.write_text(suite.read_text().replace("    benchmark.pedantic(function", late))
    (project / "src" / "fake.py").write_text(
        "FRAMES = 8\n" + STAGE_ERROR.replace("def work", "def refuse") + "\ndef work():\n    return 1\n"
    )
    code, loud, said = run_gate(project)
    assert (code, loud) == (1, [("test_stage[a]", "regression"), ("test_stage[b]", "regression")]), said


def test_what_a_stage_of_the_base_refuses_is_no_verdict_on_the_head(project, git):
    (project / "src" / "fake.py").write_text("FRAMES = 8\n" + STAGE_ERROR)
    git(project, "commit", "--quiet", "-am", "refuse")
    code, decision, _, said = decision_of(project)
    assert (code, decision["verdicts"]) == (2, [])
    assert decision["error"].startswith("the base fails, so there is nothing to compare with: ")
    assert said.splitlines()[-1] == f"stagebench: {decision['error']}"


@pytest.mark.parametrize(
    ("file", "code", "reason"),
    [
        ("src/fake.py", "import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("conftest.py", "import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("src/fake.py", "import os\n\ndef work():\n    os.abort()", "a process killed by signal 6, Aborted"),
        ("pyproject.toml", "=", "exit status 4: ERROR: "),
    ],
)
def test_what_fails_otherwise_is_one_line_in_json_and_markdown_too(project, file, code, reason):
    with (project / file).open("a") as appended:
        appended.write(f"\n{code}\n")
    status, decision, markdown, said = decision_of(project, "--counters-only")
    assert (status, decision["verdicts"], "Traceback" in said) == (2, [], False)
    assert decision["error"].startswith("the benchmarks of the head must pass, got ")
    assert reason in decision["error"]
    assert said.splitlines()[-1] == f"stagebench: {decision['error']}"
    assert shown.markdown(decision["error"]) in markdown


def test_benchmarks_that_are_all_skipped_ran_none(project):
    suite = project / "benchmarks" / "test_fake.py"
    suite.write_text(
        suite.read_text().replace("import fake", "import fake\nimport pytest\npytestmark = pytest.mark.skip")
    )
    suite.with_name("test_reference.py").unlink()
    code, _, said = run_gate(project, "--counters-only")
    assert (code, "stagebench: the head must run a benchmark, got none" in said) == (2, True)


def test_a_selection_that_leaves_the_reference_alone_matches_nothing(project):
    code, _, said = run_gate(project, "--counters-only", "--select", "test_stages")
    assert (code, said.splitlines()[-1]) == (
        2,
        "stagebench: the base must have a benchmark, got none that --select 'test_stages' matches",
    )


def test_benchmarks_without_counters_are_not_counted(project, git):
    suite = project / "benchmarks" / "test_fake.py"
    suite.write_text(suite.read_text().replace('{"frames_decoded": fake.FRAMES}', "{}"))
    git(project, "commit", "--quiet", "-am", "count nothing")
    code, decision, markdown, _ = decision_of(project, "--counters-only")
    assert (code, markdown.splitlines()[0]) == (2, "### stagebench gate: could not be measured (2 not counted)")
    assert [v["kind"] for v in decision["verdicts"]] == ["uncounted"] * 2


TOLERANT = "[tool.stagebench.gate.tolerance]\nframes_decoded = 9\n"


def test_a_tolerance_that_the_head_raises_lets_nothing_pass_and_is_the_first_line(project):
    rewrite(project, "8", "16")
    with (project / "pyproject.toml").open("a") as file:
        file.write(TOLERANT)
    code, decision, markdown, said = decision_of(project, "--counters-only")
    assert (code, decision["rules_differ"]) == (
        1,
        ["tolerance of frames_decoded: not given in the base, 9.0 in the head"],
    )
    assert shown.markdown(decision["rules_differ"][0]) in markdown.splitlines()[0]
    assert "regression" in said


def test_what_a_tolerance_of_the_base_let_pass_is_reported_with_both_numbers(project, git):
    with (project / "pyproject.toml").open("a") as file:
        file.write(TOLERANT)
    git(project, "commit", "--quiet", "-am", "tolerate")
    rewrite(project, "8", "16")
    code, decision, *_ = decision_of(project, "--counters-only")
    assert (code, decision["rules_differ"]) == (0, [])
    assert {v["reason"] for v in decision["verdicts"]} == {
        "frames_decoded: 8 before, 16 now, within its tolerance of 9"
    }


@pytest.mark.parametrize("head", ["limit = 1", "threshold = 'much'", "rules = 3"])
def test_rules_of_the_head_that_make_no_sense_are_reported_and_those_of_the_base_judge(project, head):
    rewrite(project, "8", "16")
    with (project / "pyproject.toml").open("a") as file:
        file.write(f"[tool.stagebench.gate]\n{head}\n")
    code, decision, *_ = decision_of(project, "--counters-only")
    assert (code, len(decision["rules_differ"])) == (1, 1)
    assert decision["rules_differ"][0].startswith("those of the head are invalid: ")


def test_other_work_is_changed_until_it_is_allowed(project, git):
    suite = project / "benchmarks" / "test_fake.py"
    suite.write_text(suite.read_text().replace("frames_decoded", "images"))
    git(project, "commit", "--quiet", "-am", "count images")
    rewrite(project, "8", "4")
    strict = decision_of(project, "--counters-only")
    shutil.rmtree(project.parent / "out")
    (project.parent / "told.md").unlink()
    allowed = decision_of(project, "--counters-only", "--allow-changed", "load")
    assert (strict[0], allowed[0]) == (1, 0)
    assert strict[2].splitlines()[0] == "### stagebench gate: changed (2 changed)"
    assert allowed[2].splitlines()[0] == "### stagebench gate: pass (2 pass, 2 allowed)"
    assert {v["reason"] for v in allowed[1]["verdicts"]} == {"images: allowed: other work, 8 before, 4 now"}


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_too_few_blocks_to_decide_are_refused_before_anything_runs(tmp_path, blocks):
    told = tmp_path / "told.json"
    done = CliRunner().invoke(main, ["gate", "--base", "nowhere", "--blocks", str(blocks), "--json", str(told)])
    assert (done.exit_code, json.loads(told.read_text())["exit_code"]) == (2, 2)
    assert done.stderr == (
        "stagebench: --blocks must be at least 4, because a time needs 7 pairs of processes and a block has 2, "
        f"got {blocks}; --counters-only needs none\n"
    )


def test_a_budget_is_a_time(tmp_path):
    done = CliRunner().invoke(main, ["gate", "--base", "nowhere", "--budget", "five"])
    expected = """stagebench: --budget must be a time such as "20us", "1.5 ms" or "5m", got 'five'\n"""
    assert (done.exit_code, done.stderr) == (2, expected)


def test_a_run_without_any_benchmark_could_not_be_measured(project):
    code, _, said = run_gate(project, "--", "--deselect", "benchmarks")
    assert (code, "the base must have a benchmark, got none that pytest finds; name its files" in said) == (2, True)


def test_a_head_in_another_dtype_is_refused_and_the_key_named(project):
    (project / "dtype").write_text("bfloat16")
    code, _, said = run_gate(project, "--counters-only")
    assert (code, "dtype: 'bfloat16' here, 'float32' there" in said) == (2, True)


def test_other_packages_are_part_of_the_change_where_the_base_has_an_interpreter_of_its_own(project):
    (project / "torch").write_text("2.14")
    own = Path(sys.executable).parent / ".." / Path(sys.executable).parent.name / Path(sys.executable).name
    code, _, said = run_gate(project, "--counters-only", "--base-python", own)
    assert (code, "part of the change: torch: '2.14' here, '2.13' there" in said) == (0, True)


def test_an_unknown_base_is_one_line(project):
    code, decision, markdown, said = decision_of(project, "--base", "nowhere")
    assert (code, said) == (2, f"stagebench: {decision['error']}\n")
    assert "got 'nowhere'" in decision["error"]
    assert not (project.parent / "out").exists()
    assert (
        markdown == f"### stagebench gate: could not be measured (an error)\n\n{shown.markdown(decision['error'])}\n\n"
    )


def test_a_base_interpreter_is_found_from_where_the_gate_was_called(project):
    python = os.path.relpath(sys.executable, project)  # no link to it: an environment is known by its own folder
    code, loud, said = run_gate(project, "--counters-only", "--base-python", python)
    assert (code, loud) == (0, []), said


def test_a_base_interpreter_that_does_not_run_is_one_line_and_no_regression(project, nothing_is_left):
    python = project / "python"
    python.touch()
    code, _, said = run_gate(project, "--counters-only", "--base-python", python)
    assert (code, said.splitlines()[-1].endswith(f"'{python}' is not executable.")) == (2, True), said
    python.write_bytes(b"\x7fELF")
    python.chmod(0o755)
    code, _, said = run_gate(project, "--counters-only", "--base-python", python)
    assert (code, "the base fails, so there is nothing to compare with: " in said) == (2, True), said
    assert "got exit status 126: Exec format error" in said
    assert nothing_is_left(project)


def test_times_of_other_work_are_not_compared_though_only_the_first_processes_count(project, git):
    suite = project / "benchmarks" / "test_fake.py"
    suite.write_text(suite.read_text().replace("frames_decoded", "steps"))
    git(project, "commit", "--quiet", "-am", "count steps")
    rewrite(project, "8", "16")
    code, loud, said = run_gate(project)
    stages = ("test_stage[a]", "test_stage[b]")
    expected = [*((name, "changed") for name in stages), *((name, "incomparable") for name in stages)]
    assert (code, loud) == (1, expected), said
    assert "still open" not in said


def test_two_gates_do_not_write_to_one_folder(project, monkeypatch):
    first = start_and_wait_for_times(project)
    monkeypatch.setenv(locks.FOLDER, str(project))  # as on a file system that two machines share
    code, _, said = run_gate(project)
    first.terminate()
    first.communicate(timeout=60)
    assert (code, "--out must be a folder that no other gate writes to" in said) == (2, True)


def test_runs_of_two_gates_do_not_mix(project):
    (project.parent / "out").mkdir()
    (project.parent / "out" / "first-00-0-base.json").touch()
    code, _, said = run_gate(project)
    assert (code, "--out must be an empty folder" in said) == (2, True)


TURNS = """
from stagebench.gate.runner.lockstep import Lockstep
lockstep = Lockstep.of_environment()

def pytest_runtestloop(session):
    lockstep.begin()

def pytest_runtest_setup(item):
    lockstep.pass_on()

def pytest_benchmark_update_json(config, benchmarks, output_json):
    own = {"schema": 1, "failed": 0, "exit_status": 0, "regressed": [], "turns": lockstep.turns}
    output_json["stagebench"] = own
"""


@pytest.fixture
def taking_turns(project, git):
    """A project whose processes take turns, test by test."""
    conftest = project / "conftest.py"
    conftest.write_text(conftest.read_text() + TURNS)
    git(project, "commit", "--quiet", "-am", "take turns")
    return project


def test_both_processes_of_a_pair_take_turns(taking_turns, nothing_is_left):
    code, loud, said = run_gate(taking_turns, "--seed", "5", "--lockstep")
    assert (code, {verdict for _, verdict in loud}) == (3, {"inconclusive"}), said
    runs = [json.loads((taking_turns.parent / "out" / turn.file_name).read_text()) for turn in schedule("first", 1, 5)]
    assert all(run["stagebench"]["turns"] > 2 for run in runs)
    assert nothing_is_left(taking_turns)


def test_a_base_that_knows_of_no_turns_is_refused(project, nothing_is_left):
    code, _, said = run_gate(project, "--lockstep")
    assert (code, "--lockstep needs a revision that has it on both sides, got an older base" in said) == (2, True)
    assert not (project.parent / "out").exists()
    assert nothing_is_left(project)


@pytest.mark.parametrize("first", ["base", "head"])
def test_a_base_that_takes_turns_in_another_way_is_refused(taking_turns, git, nothing_is_left, first):
    conftest = taking_turns / "conftest.py"
    ours = conftest.read_text()
    conftest.write_text(
        ours.replace("Lockstep.of_environment()", "Lockstep(None)")
    )  # as where VARIABLE has another name
    git(taking_turns, "commit", "--quiet", "-am", "take no turns")
    conftest.write_text(ours)
    seed = next(seed for seed in range(100) if schedule("first", 1, seed)[0].variant == first)
    code, _, said = run_gate(taking_turns, "--lockstep", "--seed", seed)
    assert (code, "--lockstep needs one version of its protocol on both sides" in said) == (2, True), said
    assert nothing_is_left(taking_turns)


def test_a_crash_while_the_other_side_waits_is_reported(taking_turns, nothing_is_left):
    suite = taking_turns / "benchmarks" / "test_fake.py"
    suite.write_text(
        suite.read_text().replace("    if not", "    assert not pytestconfig.option.stage_times_only\n    if not")
    )
    code, _, said = run_gate(taking_turns, "--lockstep")
    assert (code, "stagebench: the benchmarks of the head must pass, got test_stage[a]: " in said) == (2, True)
    assert nothing_is_left(taking_turns)


def start_and_wait_for_times(project, *arguments):
    """A gate that has kept the run of its first timed process."""
    process = start(project, "--seed", "5", *arguments, blocks=50)
    wait_for(project.parent / "out" / schedule("first", 1, 5)[0].file_name, process)
    return process


def wait_for(file, process):
    deadline = time.monotonic() + 120
    while not file.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_gate_says_so_wherever_it_was_to_write_and_leaves_nothing_behind(project, number, nothing_is_left):
    process = start_and_wait_for_times(project, "--json", "../told.json", "--markdown", "../told.md")
    process.send_signal(number)
    said = "".join(process.communicate(timeout=60))
    assert (process.returncode, f"stopped by {number.name} before there was a decision" in said) == (2, True)
    decision = json.loads((project.parent / "told.json").read_text())
    assert (decision["exit_code"], decision["error"]) == (2, f"stopped by {number.name} before there was a decision")
    assert shown.markdown(decision["error"]) in (project.parent / "told.md").read_text()
    assert "decision.json" not in files(project)
    assert nothing_is_left(project)


SLOW_GIT = """#!/bin/sh
case "$*" in *read-tree*-u*) touch {adding}; sleep 300;; esac
exec {git} "$@"
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_gate_that_ends_while_git_checks_out_leaves_no_git(project, tmp_path, monkeypatch, number):
    git, adding = tmp_path / "bin" / "git", tmp_path / "adding"
    git.parent.mkdir()
    git.write_text(SLOW_GIT.format(git=shutil.which("git"), adding=adding))
    git.chmod(0o755)
    with monkeypatch.context() as paths:
        paths.setenv("PATH", str(git.parent), prepend=os.pathsep)
        process = start(project)
    wait_for(adding, process)
    process.send_signal(number)
    said = "".join(process.communicate(timeout=60))
    deadline = time.monotonic() + 2
    while left := [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(git).encode() in _command(path)]:
        assert time.monotonic() < deadline, left
    assert (process.returncode, said) in {
        (2, "stagebench: stopped by SIGTERM before there was a decision\n"),
        (-signal.SIGKILL, ""),
    }


def _command(path):
    try:
        return path.read_bytes()
    except OSError:  # gone meanwhile
        return b""


def test_what_the_system_refuses_is_one_line_and_no_verdict(capsys):
    with pytest.raises(SystemExit, match=r"^2$"), refusals():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out")
    assert capsys.readouterr().err == "stagebench: [Errno 28] No space left on device: 'out'\n"


def test_a_second_signal_does_not_cut_the_tidying_short():
    tidied = []

    def stop_while_tidying():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGINT)
            tidied.append(True)

    with pytest.raises(GateError, match=r"^stopped by SIGTERM before the end$"), tidy_stop("the end"):
        stop_while_tidying()
    assert tidied == [True]


def test_a_stopped_gate_leaves_neither_process_of_a_pair_behind(taking_turns, nothing_is_left):
    process = start_and_wait_for_times(taking_turns, "--lockstep")
    process.terminate()
    process.communicate(timeout=60)
    here = str(taking_turns).encode()
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert [command for command in commands if here in command] == []
    assert nothing_is_left(taking_turns)


def test_a_killed_gate_leaves_whole_files_and_the_next_one_cleans_up_and_works(project, nothing_is_left):
    process = start_and_wait_for_times(project)
    process.kill()
    process.communicate(timeout=60)
    kept = files(project)
    assert [
        json.loads((project.parent / "out" / name).read_text())["stagebench"]["scheduled"]["variant"] for name in kept
    ]
    assert [name for name in kept if name.startswith(".")] == []
    (project.parent / "out").rename(project.parent / "killed")
    assert run_gate(project, "--counters-only")[0] == 0
    assert nothing_is_left(project)
