"""What `import stagebench` offers a program, and that what is said of it is so."""

import ast
import doctest
import inspect
import json
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import stagebench
from stagebench.cli.bench import command as bench_command
from stagebench.cli.gate import command as gate_command
from stagebench.core.errors import GateError, ModelError, StageError
from stagebench.gate.runner.gate import gate
from stagebench.gate.runner.recording import bench
from stagebench.media.synthetic_clip import write_synthetic_clip
from stagebench.models import registry

ROOT = Path(__file__).parents[1]


def test_importing_the_package_imports_nothing_that_takes_long():
    code = "import json, sys, stagebench; print(json.dumps(sorted(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "transformers", "numpy", "click"} & set(json.loads(shown.stdout)) == set()


@pytest.mark.parametrize("name", stagebench.__all__)
def test_each_name_is_there_and_says_what_it_is(name):
    assert callable(getattr(stagebench, name))
    assert getattr(stagebench, name).__doc__


def test_a_type_checker_sees_the_names_that_python_has():
    tree = ast.parse(Path(stagebench.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert seen == {name: f"stagebench.{module}" for name, module in stagebench._PUBLIC.items()}


def stored_run(flops):
    place = {"device": "d", "profile": "tiny", "dtype": "float32"}
    benchmark = {"fullname": "t.py::t[m-decode]", "stats": {"median": 0.1}, "extra_info": {"work": {"flops": flops}}}
    own = {"schema": 1, "failed": 0, "exit_status": 0, "regressed": []}
    return json.dumps({"machine_info": place, "stagebench": own, "benchmarks": [benchmark]})


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_synthetic_clip(tmp_path_factory.mktemp("clip")).video


@pytest.fixture
def folder(tmp_path, new_project, clip, monkeypatch):
    """A working folder with all that the examples speak of: a repository with a benchmark, a clip, two stored runs."""
    project = new_project(tmp_path / "project")
    shutil.copy(clip, project / "clip.mp4")
    for name, flops in (("base.json", 10), ("head.json", 11)):
        (project / name).write_text(stored_run(flops))
    monkeypatch.chdir(project)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setattr(registry, "_REGISTERED", {})
    return project


FUNCTIONS = [name for name in stagebench.__all__ if name.islower()]


@pytest.mark.parametrize("name", ["the package", *FUNCTIONS])
def test_the_example_of_each_function_is_so(folder, name):
    where = "" if name == "the package" else f".{stagebench._PUBLIC[name]}"
    found = import_module(f"stagebench{where}")
    text = vars(found).get(name, found).__doc__
    test = doctest.DocTestParser().get_doctest(text, {"stagebench": stagebench, "Path": Path}, name, None, 0)
    said = []
    done = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert (done.failed, done.attempted > 0) == (0, True), "".join(said)


@pytest.mark.parametrize("page", ["docs/tutorials/first-run.md", "docs/api.md"])
def test_the_blocks_of_python_on_a_page_run(folder, capsys, page):
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    names = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)  # noqa: S102 # our own text
    assert len(capsys.readouterr().out.splitlines()) > len(blocks)


@pytest.mark.parametrize(
    ("function", "command", "of_command"),
    [
        (bench, bench_command, {"out", "baselines", "judged"}),
        (gate, gate_command, {"revision", "json_path", "markdown"}),
    ],
)
def test_a_command_and_its_function_have_the_same_options_and_defaults(function, command, of_command):
    parameters = inspect.signature(function).parameters
    mine = {name: each.default for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY}
    given = command.make_context("", ["--base", "HEAD"] if function is gate else ["out"]).params
    elsewhere = {"arguments", "console", "decision", "repository", "say"}
    assert {name: given[name] for name in mine.keys() - elsewhere} == {
        name: mine[name] for name in mine.keys() - elsewhere
    }
    assert given.keys() - mine.keys() == of_command


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"clock": "sun"}, "the clock must be one of wall, cpu, got 'sun'"),
        ({"allow_changed": ["lod"]}, "allow_changed must be of load, preprocess, encode, prefill, decode, got lod"),
    ],
)
def test_what_the_command_line_would_refuse_the_function_does_too(option, said):
    with pytest.raises(GateError, match=f"^{re.escape(said)}$"):
        gate("HEAD", **option)


def test_a_name_that_is_none_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"^module 'stagebench' has no attribute 'benchmark'$"):
        _ = stagebench.benchmark


def test_a_model_is_loaded_by_its_name_and_options():
    model = stagebench.load_model("llava-1.5", device="cpu", seed=3)
    assert (model.name, model.profile) == ("llava-1.5", "tiny")


def test_an_option_that_is_none_is_refused_with_those_that_are():
    with pytest.raises(ModelError, match=r"^options must be among model, profile, .*, got colour$"):
        stagebench.load_model("llava-1.5", colour="red")


def test_several_models_are_named_as_on_the_command_line_or_in_a_list():
    names = ("eventgpt", "llava-1.5")
    given = (",".join(names), ", ".join(names), list(names))
    assert [stagebench.settings_of(model=each, device="cpu").models for each in given] == [names] * 3


def test_a_loaded_model_is_timed_on_any_sample(folder):
    model = stagebench.load_model("llava-1.5", device="cpu")
    found = [
        stagebench.measure(model, stagebench.Sample(folder / "clip.mp4", question), passes=1, new_tokens=2)
        for question in ("What moves?", "What moves, and where to, and since when?")
    ]
    prompts = [each.verification.work["prefill"]["prompt_tokens"] for each in found]
    assert ([len(each.runs) for each in found], prompts[0] < prompts[1]) == ([1, 1], True)


def test_no_pass_is_refused():
    settings = stagebench.settings_of(model="llava-1.5", device="cpu")
    with pytest.raises(StageError, match=r"^a model must be timed in at least one pass, got 0$"):
        stagebench.run(settings, passes=0)


def test_a_sample_takes_a_path_as_text():
    assert stagebench.Sample("clip.mp4").path == Path("clip.mp4")


@pytest.mark.parametrize(
    ("option", "value", "kind"),
    [
        ("trust_remote_code", "no", "boolean"),
        ("frames", "2", "integer"),
        ("frames", True, "integer"),
        ("new_tokens", 2.5, "integer"),
        ("start", "0", "float"),
        ("question", None, "text"),
        ("model", 3, "text"),
        ("model", ["gemma3", 3], "text"),
    ],
)
def test_an_option_of_another_kind_is_refused(option, value, kind):
    got = value[-1] if isinstance(value, list) else value
    with pytest.raises(ModelError, match=f"^{option} must be of the kind {kind}, got {got!r}$"):
        stagebench.settings_of(**{option: value})
