"""What `import stagebench` offers a program."""

import json
import subprocess
import sys

import pytest

import stagebench
from stagebench.core.errors import ModelError
from stagebench.core.stages import STAGE_NAMES

QUICK = {"model": "llava-1.5", "device": "cpu", "new_tokens": 4}


@pytest.fixture(scope="module")
def settings():
    return stagebench.settings_of(**QUICK)


def test_importing_the_package_imports_nothing_that_takes_long():
    code = "import json, sys, stagebench; print(json.dumps(sorted(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "transformers", "numpy", "click"} & set(json.loads(shown.stdout)) == set()


@pytest.mark.parametrize("name", stagebench.__all__)
def test_each_name_is_there_and_says_what_it_is(name):
    assert getattr(stagebench, name).__doc__


def test_a_name_that_is_none_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"^module 'stagebench' has no attribute 'benchmark'$"):
        _ = stagebench.benchmark


def test_a_model_is_loaded_by_its_name_and_options():
    model = stagebench.load_model("llava-1.5", device="cpu", seed=3)
    assert (model.name, model.profile) == ("llava-1.5", "tiny")


def test_an_option_that_is_none_is_refused_with_those_that_are():
    with pytest.raises(ModelError, match=r"^options must be of model, profile, .*, got colour$"):
        stagebench.load_model("llava-1.5", colour="red")


def test_several_models_are_named_as_on_the_command_line_or_in_a_list():
    names = ("eventgpt", "llava-1.5")
    given = (",".join(names), ", ".join(names), list(names))
    assert [stagebench.settings_of(model=each, device="cpu").models for each in given] == [names] * 3


def test_a_run_has_the_seconds_of_each_stage(settings):
    found = stagebench.run(settings, passes=1)
    assert list(found["llava-1.5"].median.seconds) == list(STAGE_NAMES)


def test_verify_tells_every_claim_with_its_model(settings):
    claims = list(stagebench.verify(settings))
    assert {name for name, _ in claims} == {"llava-1.5"}
    assert all(isinstance(claim.held, bool) for _, claim in claims)


def test_stored_runs_are_compared(tmp_path):
    own = {"schema": 1, "failed": 0, "exit_status": 0, "regressed": []}
    for name, flops in (("base.json", 10), ("head.json", 11)):
        benchmark = {
            "fullname": "t.py::t[m-decode]",
            "stats": {"median": 0.1},
            "extra_info": {"work": {"flops": flops}},
        }
        place = {"device": "d", "profile": "tiny", "dtype": "float32"}
        run = {"machine_info": place, "stagebench": own, "benchmarks": [benchmark]}
        (tmp_path / name).write_text(json.dumps(run))
    verdicts = stagebench.compare(tmp_path / "base.json", tmp_path / "head.json")
    assert [each.verdict for each in verdicts if each.kind == "counter"] == ["regression"]


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
