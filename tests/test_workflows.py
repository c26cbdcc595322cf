"""The workflows run what exists, with the least permissions, and actions that nobody can exchange."""

import contextlib
import json
import os
import re
import shlex
import subprocess
import tempfile
from configparser import ConfigParser
from pathlib import Path

import click
import pytest
import yaml

from stagebench.cli import main

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTIONS = sorted((ROOT / ".github" / "actions").glob("*/action.yml"))
TEMPLATES = sorted((ROOT / "src" / "stagebench" / "cli" / "templates").glob("*.yml"))
SCRIPTS = sorted(path for path in (ROOT / ".github").glob("*s/**/*") if path.is_file() and not path.suffix)
PLUMBING = (
    "python -m pip install tox",
    'python -m pip install "./head[test,events]"',
    ".venv/bin/python -m pip install tox",
    "python3 -m venv .venv",
    'git config user.name "$GITHUB_ACTOR"',
)
SAYS_SO = 'echo "nothing is measured, because '
CPU_BUILDS = "https://download.pytorch.org/whl/cpu"

each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def read(path):
    workflow = yaml.safe_load(path.read_text())
    return workflow | {"on": workflow[True]}  # YAML 1.1 takes the key "on" for a boolean


def jobs(path):
    return read(path)["jobs"].values()


def run_lines(path):
    """Each line that a step runs, once for each value of the matrix."""
    for job in jobs(path):
        for step in job["steps"]:
            for line in step.get("run", "").splitlines():
                rows = job.get("strategy", {}).get("matrix", {}).get("include", [{}])
                values = [row.get("environment", "") for row in rows]
                yield from {line.replace("${{ matrix.environment }}", value) for value in values}


def tox():
    config = ConfigParser(interpolation=None)
    config.read(ROOT / "tox.ini")
    return config


def environments():
    """Those of tox.ini by name, with tf{515,517} written out; py is the bare [testenv]."""
    found = {"py": tox()["testenv"]}
    for section in tox().sections():
        if section.startswith("testenv:"):
            name, values = re.match(r"testenv:([^{]*)(?:\{(.*)\})?", section).groups()
            found |= {name + value: tox()[section] for value in (values or "").split(",")}
    return found


def require_command(line, group=main):
    """Parse a command line of ours as click does, and require that it leaves nothing over."""
    name, *arguments = shlex.split(line)[1:]
    command = group.get_command(click.Context(group), name)
    assert command, f"stagebench has no command {name}"
    if isinstance(command, click.Group):
        require_command(shlex.join(["stagebench", *arguments]), command)
        return
    # Elsewhere, because click opens what a command is to write to.
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        command.make_context(name, [*arguments]) as context,
    ):
        of_pytest = tuple(arguments[arguments.index("--") + 1 :]) if "--" in arguments else ()
        assert (context.args, context.params.get("arguments", of_pytest)) == ([], of_pytest)


def require_tox(line, pytest_options):
    """Require that tox has these environments, and that the one which gets arguments has a use for them."""
    names, _, arguments = line.partition(" tox run -e ")[2].partition(" -- ")
    for name in names.split(","):
        commands = environments()[name].get("commands", tox()["testenv"]["commands"])
        for command in filter(None, commands.replace("\\\n", " ").splitlines()):
            if command.startswith("stagebench"):
                require_command(re.sub(r"\{posargs(:.*)?\}", lambda _: arguments, command))
            elif "posargs" in command:
                assert all(hasattr(pytest_options, option) for option in re.findall(r"--(\w+)", arguments))
        assert "posargs" in commands or not arguments


@each_workflow
def test_every_line_is_one_that_tox_or_the_command_line_has(path, pytestconfig):
    for line in run_lines(path):
        line = line.replace("$GATE", "--gate")  # which is all that it may hold
        if " -m tox run -e " in line:
            require_tox(line, pytestconfig.option)
        elif line.startswith(".github/scripts/"):
            assert os.access(ROOT / shlex.split(line)[0], os.X_OK), f"no script {line}"
        else:
            assert line in PLUMBING or line.startswith(SAYS_SO)


@pytest.mark.parametrize("line", ["stagebench trend", "stagebench trend x --jsn y", "stagebench baseline accept x"])
def test_a_wrong_command_line_is_found(line):
    with pytest.raises((AssertionError, click.UsageError)):
        require_command(line)


@each_workflow
def test_nothing_is_allowed_but_by_job_and_nothing_runs_for_ever(path):
    assert read(path)["permissions"] == {}
    assert "concurrency" in read(path)
    assert [job for job in jobs(path) if not {"permissions", "timeout-minutes"} <= job.keys()] == []


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS, *TEMPLATES], ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_action_of_others_is_pinned_by_commit_with_its_version_beside_it(path):
    used = [line for line in path.read_text().splitlines() if "uses:" in line]
    others = [
        line for line in used if not re.search(r"uses: (\$|\./judge|stagebench/stagebench)/\.github/actions/", line)
    ]
    assert [line for line in others if not re.search(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line)] == []


def test_one_action_has_one_commit_everywhere():
    paths = (*WORKFLOWS, *ACTIONS, *TEMPLATES)
    used = {pin for path in paths for pin in re.findall(r"uses: (\S+@\S+)", path.read_text())}
    assert len({pin.split("@")[0] for pin in used}) == len(used)


@each_workflow
def test_a_checkout_keeps_no_credentials(path):
    steps = [step for job in jobs(path) for step in job["steps"] if "checkout@" in step.get("uses", "")]
    assert [step for step in steps if step.get("with", {}).get("persist-credentials") is not False] == []


@each_workflow
def test_code_of_a_pull_request_gets_no_secret_and_may_write_nothing(path):
    assert "pull_request_target" not in read(path)["on"]
    if "pull_request" not in read(path)["on"]:
        return
    assert re.findall(r"secrets\.|github\.token|GITHUB_TOKEN", path.read_text()) == []
    assert [value for job in jobs(path) for value in job["permissions"].values() if value != "read"] == []


def test_who_may_write_what_is_all_there_is_to_it():
    writing = {
        (path.stem, name, scope)
        for path in WORKFLOWS
        for name, job in read(path)["jobs"].items()
        for scope, value in job["permissions"].items()
        if value == "write"
    }
    assert writing == {
        ("accept-baseline", "accept", "contents"),
        ("comment", "comment", "checks"),
        ("comment", "comment", "pull-requests"),
        ("nightly", "issue", "issues"),
        ("release", "publish", "id-token"),
    }


@each_workflow
def test_what_others_write_is_never_part_of_a_script(path):
    inside = [line for line in run_lines(path) if "${{" in line]
    assert inside == []


def test_lint_sees_every_workflow_and_action_and_what_init_writes():
    commands = tox()["testenv:lint"]["commands"].replace("\\\n", " ").splitlines()
    (audited,) = (line for line in commands if line.startswith("zizmor"))
    checked = [str(path.relative_to(ROOT)) for path in (*WORKFLOWS, *ACTIONS, *TEMPLATES)]
    assert [path for path in checked if not any(path in line for line in commands if "--builtin-schema" in line)] == []
    assert [path for path in checked if not path.startswith(".github/") and path not in audited] == []


def test_without_a_gpu_every_installation_takes_the_cpu_build_of_torch():
    """Of tox too, which hands on pip's settings."""
    lacking = []
    for path in WORKFLOWS:
        for name, job in read(path)["jobs"].items():
            steps = [
                step
                for step in job["steps"]
                if "tox run" in step.get("run", "") or "actions/gate" in step.get("uses", "")
            ]
            env = read(path).get("env", {}) | job.get("env", {})
            places = [env | step.get("env", {}) for step in steps if job["runs-on"] == "ubuntu-latest"]
            lacking += [(path.stem, name) for each in places if each.get("PIP_EXTRA_INDEX_URL") != CPU_BUILDS]
    assert lacking == []


def test_every_python_of_a_hosted_machine_keeps_what_pip_fetched_but_for_a_release():
    steps = [(path.stem, step) for path in WORKFLOWS for job in jobs(path) for step in job["steps"]]
    pythons = [(name, step["with"]) for name, step in steps if "setup-python@" in step.get("uses", "")]
    assert {name for name, given in pythons if given.get("cache") != "pip"} == {"release"}


def test_a_repository_without_a_gpu_runner_is_informed_that_nothing_is_measured():
    nightly = read(ROOT / ".github" / "workflows" / "nightly.yml")["jobs"]
    told, measured = nightly["without-gpu"], nightly["gpu"]
    assert (told["if"], measured["if"]) == ("vars.GPU_RUNNER == ''", "vars.GPU_RUNNER != ''")
    assert (told["runs-on"], measured["runs-on"]) == ("ubuntu-latest", "${{ vars.GPU_RUNNER || 'ubuntu-latest' }}")
    assert nightly["thorough"]["if"] == "vars.GPU_RUNNER != '' || github.event_name == 'workflow_dispatch'"


def test_no_workflow_needs_a_secret_and_a_fork_publishes_nothing():
    assert [path.stem for path in WORKFLOWS if "secrets." in path.read_text()] == []
    publish = read(ROOT / ".github" / "workflows" / "release.yml")["jobs"]["publish"]
    assert publish["if"] == "github.repository == 'stagebench/stagebench'"


def test_every_night_draws_the_many_examples_that_a_change_does_not_wait_for():
    steps = read(ROOT / ".github" / "workflows" / "nightly.yml")["jobs"]["thorough"]["steps"]
    (tests,) = (step for step in steps if step.get("run") == "python -m tox run -e py")
    assert tests["env"]["HYPOTHESIS_PROFILE"] == "thorough"
    assert "HYPOTHESIS_PROFILE" in tox()["testenv"]["pass_env"].split()


GH = r"""
printf '%s ' "$@" >> log; echo >> log
for argument; do
    [ "$before" != --dir ] || folder=$argument
    [ "$before" != --body-file ] || cp "$argument" body
    before=$argument
done
if [ "$2" = download ]; then
    mkdir -p "$folder/out"
    cp artifact "$folder/out/results.json"
    cp trend "$folder/trend.json"
elif answer=$(ls answers | head -n 1) && [ -n "$answer" ]; then
    cat "answers/$answer"
    rm "answers/$answer"
fi
"""


@pytest.fixture
def script(tmp_path):
    """Runs one of the workflows' scripts where `gh` is a stand-in: it notes its arguments, and answers as told."""
    (tmp_path / "bin").mkdir()
    gh = tmp_path / "bin" / "gh"
    answers = tmp_path / "answers"
    answers.mkdir()

    def run(name, *arguments, artifact="", trend="", api=(), **environment):
        for i, answer in enumerate(api):
            (answers / str(i)).write_text(answer)
        (tmp_path / "artifact").write_text(artifact)
        (tmp_path / "trend").write_text(trend)
        gh.write_text(f"#!/bin/bash\ncd {tmp_path}\n{GH}")
        gh.chmod(0o755)
        own = {"PATH": f"{gh.parent}:{os.environ['PATH']}", "HOME": str(tmp_path), "GITHUB_REPOSITORY": "o/r"}
        command = [ROOT / ".github" / "scripts" / name, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=os.environ | own | environment, capture_output=True, text=True, check=False
        )

    return run


def test_a_pull_request_is_judged_by_the_code_of_its_base_on_the_same_machine():
    (job,) = read(ROOT / ".github" / "workflows" / "gate.yml")["jobs"].values()
    places = {
        step["with"].get("path"): step["with"].get("ref")
        for step in job["steps"]
        if "checkout@" in step.get("uses", "")
    }
    assert places == {"head": None, "judge": "${{ github.base_ref }}"}
    assert job["steps"][-1]["uses"] == "./judge/.github/actions/gate"
    assert job["steps"][-1]["with"] == {"name": "gate", "working-directory": "head"}


NIGHTLY = {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_RUN_ID": "5"}


@pytest.mark.parametrize(("found", "verb"), [("", "issue create"), ("3\n", "issue comment 3")])
def test_a_slower_night_opens_an_issue_or_adds_to_the_open_one(script, tmp_path, found, verb):
    run = json.dumps({"stagebench": {"failed": 0, "regressed": ["decode"]}})
    change = {"when": "2026-01-11T02:17", "ratio": 1.1, "benchmark": "encode", "bisect": "git bisect start b a"}
    done = script("issue", artifact=run, trend=json.dumps({"slower": [change]}), api=[found], **NIGHTLY)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "body").read_text().splitlines() == [
        "https://github.com/o/r/actions/runs/5",
        "",
        "failed: 0",
        "worse than the baseline: decode",
        "slower since 2026-01-11 by 10.0%: encode",
        "    git bisect start b a",
    ]
    assert verb in (tmp_path / "log").read_text()


def test_a_night_that_left_no_numbers_is_reported_too(script, tmp_path):
    assert script("issue", artifact="", api=[""], **NIGHTLY).returncode == 0
    assert "it left no numbers" in (tmp_path / "body").read_text()


def test_the_history_is_kept_outside_the_checkout(script, tmp_path):
    (tmp_path / "out.json").write_text("{}")
    kept = tmp_path / "kept"
    assert script("keep", "out.json", STAGEBENCH_HISTORY=str(kept)).returncode == 0
    assert [path.read_text() for path in kept.iterdir()] == ["{}"]
    assert (tmp_path / "history").resolve() == kept


@pytest.mark.parametrize(
    ("run_id", "made", "code"),
    [
        ("7", ".github/workflows/nightly.yml main o/r\n", 0),
        ("7", ".github/workflows/ci.yml main o/r\n", 2),
        ("7", ".github/workflows/nightly.yml topic o/r\n", 2),
        ("7", ".github/workflows/nightly.yml main fork/r\n", 2),
        ("7 --repo fork/r", "", 2),
    ],
)
def test_only_a_nightly_run_of_this_repositorys_main_can_be_accepted(script, tmp_path, run_id, made, code):
    done = script("download", artifact="{}", api=["main\n", made], RUN_ID=run_id)
    assert (done.returncode, (tmp_path / "nightly").exists()) == (code, code == 0)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_stops_at_the_first_error(path):
    assert "set -euo pipefail" in path.read_text()


def test_an_environment_with_constraints_names_a_requirement_too():
    """Of constraints alone pip makes an error."""
    lists = [section["deps"].split("\n") for section in environments().values() if "-c " in section.get("deps", "")]
    assert len(lists) == 2
    assert [deps for deps in lists if not any(line and not line.startswith("-c ") for line in deps)] == []
