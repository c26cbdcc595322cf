"""What the README and the pages of docs/ tell people to type works, prints what they show, and leads where they say."""

import json
import re
import shlex
import shutil
from configparser import ConfigParser
from pathlib import Path

import loss_curves
import power_curves
import pytest
import stage_bars
from checkpoints import write_checkpoint
from click.testing import CliRunner
from rich.console import Console

import stagebench
from stagebench.cli import main
from stagebench.core.results import SCHEMAS
from stagebench.core.shown import show
from stagebench.gate.verdicts import Decision, Verdict
from stagebench.suite.options import PREFIX, PYTEST

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# Have tests of their own.
OTHERS = {f"docs/{name}.md" for name in ("api", "baselines", "ci", "families", "gate", "own-repository")}
ALL_PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))
}
PAGES = {page: text for page, text in ALL_PAGES.items() if page not in OTHERS}
README = PAGES["README.md"]
WHY_FASTER = PAGES["docs/tutorials/why-faster.md"]
_BLOCKS = [block for text in PAGES.values() for block in re.findall(r"(?ms)^```console\n(.*?)^```", text)]
SHOWN = {  # a command, and what a page shows of its output
    command: output.strip("\n")
    for block in reversed(_BLOCKS)
    for command, output in re.findall(r"(?ms)^\$ (.*?)\n(.*?)(?=^\$ |\Z)", block)
}
SHOWN["stagebench explain numbers.json"] = re.search(r"(?ms)^```text\n(factor.*?)\n^```", WHY_FASTER)[1]
COMMANDS = list(SHOWN)


def commands(program):
    return [command for command in COMMANDS if command.startswith(program)]


def test_every_command_is_of_a_kind_that_is_checked_here():
    assert [c for c in COMMANDS if not c.startswith(("stagebench ", "pytest ", "python3 -m pip install tox && "))] == []


def test_the_two_commands_run_tox_environments_that_exist():
    tox = ConfigParser()
    tox.read(ROOT / "tox.ini")
    names = {command.split("-e ")[1] for command in commands("python3")}
    assert names == {"bench", "py"}
    assert [n for n in names if f"testenv:{n}" not in tox and n not in tox["tox"]["env_list"]] == []


@pytest.fixture
def folder(tmp_path, monkeypatch, synthetic):
    """A working directory with the files that the README's examples name."""
    shutil.copy(synthetic.video, tmp_path / "clip.mp4")
    shutil.copy(synthetic.events, tmp_path / "recording.npy")
    write_checkpoint("qwen2_5_vl", tmp_path / "checkpoint")
    run = next(ROOT.glob("baselines/*-tiny-*/baseline.json"))
    for copy in ("out.json", "history/one.json", "out/results.json"):
        (tmp_path / copy).parent.mkdir(exist_ok=True)
        shutil.copy(run, tmp_path / copy)
    for before in ("before.json", "before/results.json"):
        (tmp_path / before).parent.mkdir(exist_ok=True)
        (tmp_path / before).write_text(json.dumps(slower(json.loads(run.read_text()))))
    (tmp_path / "numbers.json").write_text(re.search(r"```json\n(.*?)```", WHY_FASTER, flags=re.DOTALL)[1])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def slower(run):
    """Another run: the same work in 1 % more time."""
    for benchmark in run["benchmarks"]:
        times = {key: value * 1.01 for key, value in benchmark["stats"].items() if key in TIMES and value is not None}
        rounds = [value * 1.01 for value in benchmark["stats"].get("data") or []]
        benchmark["stats"] |= times | ({"data": rounds} if rounds else {})
    return run


TIMES = ("min", "max", "mean", "median", "q1", "q3", "ld15iqr", "hd15iqr", "total")
RUN_MODELS = {"run": ("--passes", "1"), "verify": (), "analyze": ()}
QUICK = ("--device", "cpu", "--new-tokens", "4")  # unless the command says otherwise
EXIT_CODES = {"compare": {3}, "doctor": {0, 3}}  # one pair of processes decides no time; a busy machine is not fit


RUN_SUITES = [c for name in ("gate", "bench", "init", "bisect", "matrix") for c in commands(f"stagebench {name}")]


OF_ENGINES = [c for c in COMMANDS if "engine" in c]  # test_vllm.py runs them, where vLLM is, and test_openai.py


@pytest.mark.parametrize("command", [c for c in commands("stagebench") if c not in RUN_SUITES + OF_ENGINES])
def test_a_stagebench_command_runs_and_prints_what_is_shown(command, folder):
    name, *arguments = shlex.split(command)[1:]
    quick = [*QUICK, *RUN_MODELS[name]] if name in RUN_MODELS else []
    result = CliRunner().invoke(main, [name, *quick, *arguments])
    assert result.exit_code in EXIT_CODES.get(name, {0}), result.output
    as_shown = layout if name == "run" else str.splitlines  # times differ
    printed = as_shown(result.output)
    assert [line for line in as_shown(SHOWN[command]) if line not in printed] == []


def layout(table):
    """The models of a table of stages, and the names of its rows."""
    rows = table[table.find("ms   ") :].splitlines()
    return [row[:20].rstrip() if i else row.split() for i, row in enumerate(rows)]


@pytest.mark.parametrize("command", RUN_SUITES)
def test_a_command_that_runs_suites_has_the_options_it_is_given(command, tmp_path, monkeypatch):
    """To run them takes two revisions or several processes: test_gate_command.py, test_bench.py and test_init.py do."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "before" / "bin").mkdir(parents=True)
    (tmp_path / "before" / "bin" / "python").touch(0o755)
    name, *arguments = shlex.split(command)[1:]
    with main.get_command(None, name).make_context(name, arguments) as context:
        assert context.params.get("revision") in {None, "main", "HEAD~1"}
        ours = {option.opts[0].replace("--", PREFIX) for option in PYTEST}
        assert {each.partition("=")[0] for each in context.params.get("arguments", ()) if each.startswith("-")} <= ours


def test_what_the_gate_is_shown_to_print_is_what_it_prints_of_that_decision():
    (command,) = (c for c in commands("stagebench gate") if SHOWN[c])
    decided = json.loads((DOCS / "results" / "readme-gate.json").read_text(encoding="utf-8"))
    console = Console(width=120, force_terminal=False, color_system=None)
    with console.capture() as printed:
        show(Decision([Verdict(**each) for each in decided["verdicts"]]).as_table(), console)
    assert [line.rstrip() for line in printed.get().strip().splitlines()] == SHOWN[command].splitlines()
    assert decided["exit_code"] == 1  # as the README says


# Those that judge: test_gate_option.py.
@pytest.mark.parametrize("command", [c for c in commands("pytest") if "--stage-gate" not in c and c not in OF_ENGINES])
def test_a_pytest_command_runs(command, folder, suite_command):
    arguments = [re.sub("=(clip|out|before)", rf"={folder}/\1", a) for a in shlex.split(command)]
    done = suite_command(*arguments[2:], "-k", "llava-1.5 and encode")  # one benchmark stands for all
    assert done.returncode == pytest.ExitCode.OK, done.stdout + done.stderr


def selection(command):
    """What a command selects with -k or --select, and whether out of the matrix of sizes."""
    words = shlex.split(command)
    found = [words[i + 1] for i, word in enumerate(words) if word in ("-k", "--select")]
    return (*found, "--stage-scale" in words) if found else None


SELECTIONS = {selection(c) for c in COMMANDS if c not in OF_ENGINES} - {None}


@pytest.mark.parametrize(("selected", "matrix"), sorted(SELECTIONS))
def test_a_selection_of_a_command_selects_something(selected, matrix, suite_command):
    done = suite_command("--collect-only", *["--stage-scale"] * matrix, "-k", selected)
    assert done.returncode == pytest.ExitCode.OK, done.stdout + done.stderr


def test_every_test_that_the_lies_name_exists():
    lies = (ROOT / "docs" / "how-numbers-lie.md").read_text(encoding="utf-8")
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", lies)
    assert [name for name in named if f"def {name}(" not in tests] == []
    assert len(named) > 12


def anchors(path):
    """The headings of a page as GitHub links to them."""
    titles = re.findall(r"(?m)^#+ (.*)$", path.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", ALL_PAGES)
def test_every_link_leads_to_a_file_of_this_repository_and_to_a_heading_in_it(page):
    here = "https://github.com/stagebench/stagebench/"
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", ALL_PAGES[page]):
        path, _, anchor = target.partition("#")
        if path.startswith("https://") and not path.startswith(here):
            continue
        if path.startswith(here):
            found = ROOT / path.removeprefix(here).partition("/main/")[2]
        else:
            found = (ROOT / page).parent / path if path else ROOT / page
        if not found.exists() or (anchor and anchor not in anchors(found)):
            lost.append(target)
    assert lost == []


@pytest.mark.parametrize("page", ALL_PAGES)
def test_every_file_that_a_page_names_exists(page):
    named = re.findall(r"`((?:benchmarks|docs|examples|src|tests)/[\w/.-]+)`", ALL_PAGES[page])
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", ["README.md", "docs/tutorials/own-model.md", "docs/families.md"])
def test_the_registration_on_a_page_is_that_of_the_example(page):
    (block,) = re.findall(r"(?ms)^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"))
    example = (ROOT / "examples" / "own_model" / "conftest.py").read_text(encoding="utf-8")
    lines = [line.partition("  #")[0] for line in block.splitlines()]
    assert [line for line in lines if line not in example.splitlines()] == []


def test_the_readme_counts_families_and_lies_as_their_pages_do():
    families = re.findall(r"(?m)^\| `\w[^|]*\| yes \|", (DOCS / "families.md").read_text(encoding="utf-8"))
    lies = re.findall(r"(?m)^\| \d+\. ", (DOCS / "how-numbers-lie.md").read_text(encoding="utf-8"))
    assert (f"[{len(families)} families]" in README, f"[{len(lies)} ways" in README) == (True, True)


def test_the_reference_has_every_public_name():
    named = re.findall(r"(?m)^::: stagebench\.(.*)\.(\w+)$", PAGES["docs/reference/api.md"])
    assert {name: module for module, name in named} == stagebench._PUBLIC


def test_the_schemas_of_the_reference_are_those_that_are_written():
    rows = re.findall(r"(?m)^\| (\w+) \| (\d+) \|", PAGES["docs/reference/schemas.md"])
    assert {kind: int(version) for kind, version in rows} == SCHEMAS


@pytest.mark.parametrize(("name", "drawn"), [("stages", stage_bars), ("power", power_curves), ("loss", loss_curves)])
def test_a_picture_is_that_of_the_stored_results(name, drawn):
    assert (DOCS / "pictures" / f"{name}.svg").read_text(encoding="utf-8") == drawn.picture()


def test_the_readme_is_read_in_minutes():
    assert len(README.splitlines()) <= 150


WRITTEN = [page for page in ALL_PAGES if not re.search("/results/.+/|-step", page)]  # by people


@pytest.mark.parametrize("page", WRITTEN)
def test_no_sentence_of_a_page_is_longer_than_35_words(page):
    assert [sentence for sentence in sentences(ALL_PAGES[page]) if len(sentence.split()) > 35] == []


def sentences(text):
    """The sentences of a page, without code, tables and headings; an item of a list is one, or several."""
    prose = re.sub(r"(?ms)^```.*?^```|^\$\$$.*?^\$\$$|^[|#].*?$", "\n\n", text)
    prose = re.sub(r"\]\([^)]*\)", "]", prose)
    items = re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", prose)
    return [s for item in items for s in re.split(r"(?<=[.?!])\s+(?=[A-Z`*\[])", " ".join(item.split())) if s]
