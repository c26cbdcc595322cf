"""What `stagebench init` writes works as it is, and nothing that was there is touched."""

import re
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from stagebench import __version__
from stagebench.cli import main
from stagebench.core.json_files import parse_json
from stagebench.gate.limits import Rules, read_rules

ROOT = Path(__file__).parents[1]
ACTIONS, SRC = ROOT / ".github" / "actions", ROOT / "src"
PROJECT = '[project]\nname = "x"\nversion = "1"\n'
WORKFLOWS = (".github/workflows/stagebench.yml", ".github/workflows/stagebench-comment.yml")
BENCHMARK = "benchmarks/test_speed.py"


@pytest.fixture
def repository(tmp_path, git):
    git(tmp_path, "init", "--quiet")
    return tmp_path


def init(folder):
    with chdir(folder):
        done = CliRunner().invoke(main, ["init"])
    return done.exit_code, done.output.splitlines()


def files(folder):
    inside = (path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in inside}


def gate_of(repository, name="stagebench"):
    return yaml.safe_load((repository / ".github" / "workflows" / f"{name}.yml").read_text())["jobs"]["gate"]


def test_a_new_repository_gets_all_of_it(repository):
    (repository / "pyproject.toml").write_text(PROJECT)
    section = "[tool.stagebench.gate] in pyproject.toml"
    assert init(repository) == (0, [f"wrote {name}" for name in (*WORKFLOWS, BENCHMARK, section)])
    assert files(repository).keys() == {*WORKFLOWS, BENCHMARK, "pyproject.toml"}


def test_a_second_time_changes_nothing_and_says_so(repository):
    (repository / "pyproject.toml").write_text(PROJECT)
    init(repository)
    before = files(repository)
    assert init(repository) == (0, [f"kept {name}" for name in (*WORKFLOWS, BENCHMARK, "pyproject.toml")])
    assert files(repository) == before


def test_what_is_there_stays_a_link_to_nothing_too(repository):
    for name in (WORKFLOWS[0], BENCHMARK):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text("mine")
    (repository / WORKFLOWS[1]).symlink_to("nowhere")
    said = [f"kept {name}" for name in (*WORKFLOWS, BENCHMARK)]
    assert init(repository) == (0, [*said, "no pyproject.toml here, so the default limits hold"])
    assert files(repository) == {WORKFLOWS[0]: b"mine", BENCHMARK: b"mine"}


TAKING = (
    "def test_x(benchmark): ...\n",
    "def test_x(tmp_path, benchmark: Any) -> None: ...\n",
    "class TestX:\n    def test_x(self, benchmark): ...\n",
    "def test_x(\n    tmp_path, benchmark\n): ...\n",
    "def test_x(\n    benchmark,\n): ...\n",
    '@pytest.mark.usefixtures("benchmark")\ndef test_x(): ...\n',
)


@pytest.mark.parametrize("code", TAKING)
@pytest.mark.parametrize("name", ["tests/test_own.py", "benchmarks/deep/é_test.py", "bench_speed.py", "perf/parse.py"])
def test_a_project_that_has_benchmarks_gets_no_example(repository, name, code):
    """A folder benchmarks/ would become all that the gate runs."""
    (repository / name).parent.mkdir(parents=True, exist_ok=True)
    (repository / name).write_text(code)
    (repository / "tests" / "test_other.py").parent.mkdir(exist_ok=True)
    (repository / "tests" / "test_other.py").write_text("def test_benchmarks_are_fun(): ...\n")
    assert f"kept {name}" in init(repository)[1]
    assert BENCHMARK not in files(repository)


def test_the_benchmark_that_it_writes_passes_and_counts(repository):
    init(repository)
    command = [sys.executable, "-m", "pytest", "benchmarks", "--benchmark-json=out.json"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    (benchmark,) = parse_json((repository / "out.json").read_bytes())["benchmarks"]
    assert (benchmark["name"], benchmark["extra_info"]) == ("test_example", {"counters": {"lines_read": 2000}})


@pytest.mark.parametrize(("lines", "code"), [(2000, 0), (2001, 1)])
def test_the_gate_judges_the_benchmark_that_it_writes_by_its_counter(repository, git, lines, code):
    init(repository)
    (repository / ".gitignore").write_text(".benchmarks/\n__pycache__/\n")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "first")
    path = repository / BENCHMARK
    path.write_text(path.read_text().replace("range(2000)", f"range({lines})").replace("1999", str(lines - 1)))
    with chdir(repository):
        done = CliRunner().invoke(main, ["gate", "--base", "HEAD", "--counters-only"], env={"PYTHONPATH": str(SRC)})
    assert done.exit_code == code, done.output


def test_the_limits_that_it_writes_are_the_defaults_and_the_example_is_a_rule(repository):
    path = repository / "pyproject.toml"
    path.write_text(PROJECT)
    init(repository)
    assert (path.read_text().startswith(PROJECT), read_rules(path).described()) == (True, Rules().described())
    path.write_text(re.sub(r"(?m)^# (?=\[|match|threshold)", "", path.read_text()))
    assert read_rules(path).limit_of("benchmarks/test_speed.py::test_example", {}).threshold == 0.1


@pytest.mark.parametrize(
    "text",
    [
        "[tool.stagebench.gate]\nthreshold = 0.2\n",
        "[tool.stagebench.gate.tolerance]\npeak_bytes = 0.2\n",
        "tool = {black = {}}\n",
        "tool = 3\n",
        "[tool.stagebench]\ngate = {}\n",
    ],
)
def test_a_section_that_is_there_or_has_no_place_is_not_added(repository, text):
    (repository / "pyproject.toml").write_text(text)
    assert init(repository)[1][-1] == "kept pyproject.toml"
    assert (repository / "pyproject.toml").read_text() == text


@pytest.mark.parametrize("text", [b"", b"[project]\r\nname = 'x'", b"[tool.stagebench]"])
def test_a_section_is_added_below_what_is_there_with_its_line_ends(repository, text):
    path = repository / "pyproject.toml"
    path.write_bytes(text)
    init(repository)
    added = path.read_bytes().removeprefix(text)
    assert added.count(b"\r\n") == (added.count(b"\n") if b"\r\n" in text else 0)
    assert read_rules(path).described() == Rules().described()


def test_a_pyproject_that_is_no_toml_is_refused_before_anything_is_written(repository):
    (repository / "pyproject.toml").write_text("[")
    code, (said,) = init(repository)
    assert (code, "pyproject.toml must be TOML" in said, [*files(repository)]) == (2, True, ["pyproject.toml"])


def test_outside_of_a_repository_it_is_refused(tmp_path):
    assert init(tmp_path) == (2, [f"stagebench: init must run in a git repository, got {tmp_path}"])


@pytest.mark.parametrize(
    ("name", "text", "command"),
    [
        ("pyproject.toml", PROJECT, "python -m pip install -e ."),
        ("pyproject.toml", "[tool.black]\n", "python -m pip install pytest-benchmark"),
        ("setup.py", "", "python -m pip install -e ."),
        ("requirements.txt", "", "python -m pip install -r requirements.txt"),
    ],
)
def test_the_workflow_installs_what_the_repository_has(repository, name, text, command):
    (repository / name).write_text(text)
    init(repository)
    assert [step["run"] for step in gate_of(repository)["steps"] if "run" in step] == [command]


def test_a_folder_of_a_repository_gets_workflows_of_its_own_at_the_top(repository):
    init(repository)
    folder = repository / "packages" / 'NAME "é'
    folder.mkdir(parents=True)
    assert init(folder)[1][0] == "wrote ../../.github/workflows/stagebench-packages-name-8885a9.yml"
    steps = gate_of(repository, "stagebench-packages-name-8885a9")["steps"]
    assert [step["working-directory"] for step in steps if "run" in step] == ['packages/NAME "é']
    assert steps[-1]["with"] == {
        "working-directory": 'packages/NAME "é',
        "name": "stagebench-packages-name-8885a9",
        "arguments": "",
    }


def test_folders_of_like_names_get_workflows_of_different_names(repository):
    for name in ("sub/dir", "sub-dir", "sub dir", "Sub/dir", "日本", "本日"):
        (repository / name).mkdir(parents=True)
        assert init(repository / name)[1][0].startswith("wrote ")


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_the_workflows_use_the_actions_of_this_version_with_inputs_that_they_have(repository, workflow):
    init(repository)
    (job,) = yaml.safe_load((repository / workflow).read_text())["jobs"].values()
    action, version = job["steps"][-1]["uses"].split("@")
    inputs = yaml.safe_load((ACTIONS / Path(action).name / "action.yml").read_text())["inputs"]
    assert (str(Path(action).parent), version) == ("stagebench/stagebench/.github/actions", f"v{__version__}")
    assert job["steps"][-1]["with"].keys() - inputs.keys() == set()


def test_the_comment_waits_for_the_gate_and_looks_for_its_artifact(repository):
    init(repository)
    gate, comment = (yaml.safe_load((repository / name).read_text()) for name in WORKFLOWS)
    steps = [job["steps"][-1]["with"]["name"] for each in (gate, comment) for job in each["jobs"].values()]
    assert (comment[True]["workflow_run"]["workflows"], steps) == ([gate["name"]], ["stagebench", "stagebench"])
