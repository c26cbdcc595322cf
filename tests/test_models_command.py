"""`stagebench models`: what is registered, and what each can do."""

import json
from importlib.metadata import EntryPoint

import pytest
from click.testing import CliRunner

from stagebench.cli import main
from stagebench.models import registry


def listed(*arguments):
    done = CliRunner().invoke(main, ["models", *arguments, "--json", "out.json"])
    assert done.exit_code == 0, done.output
    with open("out.json", encoding="utf-8") as file:  # noqa: PTH123 # of the working folder
        return done.output, {model.pop("model"): model for model in json.load(file)["models"]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_REGISTERED", {})
    return tmp_path


def test_models_are_listed_with_what_each_can_do(folder, tiny_model):
    output, models = listed("llava-1.5", "qwen3-vl", "gemma3")
    assert models["llava-1.5"] == {
        "from": "built in",
        "parameters": {
            "tiny": 1498240,
            "tiny-random": tiny_model("llava-1.5").hf_model.num_parameters(),
            "7b": 7063427072,
        },
        "input": "video",
        "images": 8,
        "prompt_tokens": 590,
        "backends": dict.fromkeys(("eager", "graph", "compiled", "fused")),
    }
    assert (models["qwen3-vl"]["parameters"]["random"], models["qwen3-vl"]["prompt_tokens"]) == (8767123696, 2430)
    assert models["qwen3-vl"]["backends"] == dict.fromkeys(("eager", "graph", "compiled", "fused"))
    assert "got Gemma3TextModel" in output


def test_all_that_is_registered_is_listed(folder, monkeypatch):
    (folder / "conftest.py").write_text(
        "from stagebench import Registration as R, register_model\n"
        "register_model(R(name='mine', network='stagebench.models.llava:Llava'))\n"
    )
    broken = EntryPoint("theirs", "no_such_module:CARD", registry.ENTRY_POINTS)
    monkeypatch.setattr(registry, "_BUILT_IN", {})
    monkeypatch.setattr(registry, "entry_points", lambda group: [broken])
    _, models = listed()
    said = "can't import the model theirs, no_such_module:CARD: ModuleNotFoundError: No module named 'no_such_module'"
    assert models["theirs"] == {"from": "entry point no_such_module:CARD", "error": said}
    assert models["mine"] | {"parameters": {}} == {
        "from": "register_model",
        "parameters": {},
        "error": "without a config the network of mine must be a Family of that name, got Llava",
    }


def test_a_name_that_is_none_is_refused_in_one_line(folder):
    done = CliRunner().invoke(main, ["models", "gpt-9"])
    assert (done.exit_code, done.output.count("\n")) == (2, 1)
    assert "or hf:FOLDER, got gpt-9" in done.output


def test_a_checkpoint_is_no_name_of_a_list(folder):
    done = CliRunner().invoke(main, ["models", "hf:./there"])
    said = "stagebench: only registered models can be listed, got hf:./there: use run or verify\n"
    assert (done.exit_code, done.output) == (2, said)
