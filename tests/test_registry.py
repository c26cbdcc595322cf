"""Registration: our own models, strangers', and those of installed packages."""

import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from checkpoints import write_checkpoint

import stagebench
from stagebench.core.artifacts import Sample
from stagebench.core.errors import CheckpointError, ModelError
from stagebench.core.settings import DEFAULT_MODELS, ModelSettings
from stagebench.models import registry
from stagebench.models.cards.qwen2_5_vl import CARD
from stagebench.models.from_registration import config_of
from stagebench.models.profiles import narrow
from stagebench.models.registry import build_model, origins, registration_of
from stagebench.pipeline.verify import count_reference, verify_work

CARDS = [name for name in origins() if name not in DEFAULT_MODELS]
OPTIONS = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
PAGE = (Path(__file__).parents[1] / "docs" / "families.md").read_text(encoding="utf-8")
LISTED = """
import sys
from stagebench.models.registry import registration_of, origins
print(all(map(registration_of, origins())), "torch" in sys.modules)
"""
# InternVL's processor of transformers 5.15 and 5.17 hands tensors to numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")


@pytest.fixture(scope="module", params=CARDS)
def card(request):
    """A narrow model of a card, about one frame; as far as its processor can be had here."""
    try:
        return build_model(request.param, ModelSettings(frames=1))
    except ModelError as error:
        if request.param != "smolvlm" or not re.search("num2words|torchvision", str(error)):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def verified(card, synthetic):
    return verify_work(card, count_reference(card, Sample(synthetic.video), OPTIONS))


@pytest.fixture
def table(monkeypatch):
    """What is registered in a test alone."""
    monkeypatch.setattr(registry, "_REGISTERED", {})


@pytest.fixture
def installed(monkeypatch):
    def install(*points):
        found = [EntryPoint(name, value, registry.ENTRY_POINTS) for name, value in points]
        monkeypatch.setattr(registry, "entry_points", lambda group: found)

    return install


@pytest.fixture
def folder(tmp_path, monkeypatch, table):
    """A working folder, whose modules are forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", {**sys.modules})
    return tmp_path


def test_a_card_gives_the_tokens_and_the_work_of_generate(verified):
    assert str(verified.tokens) == "equal"


def test_a_narrow_model_writes_more_than_one_word(verified):
    assert len(set(verified.generation.token_ids[0])) > 1


def test_the_tokens_of_a_narrow_model_are_those_of_its_text(card, verified):
    (tokens,) = verified.generation.token_ids
    text = card.tokenizer.decode(tokens)
    assert card.tokenizer(text, add_special_tokens=False)["input_ids"] == list(tokens)


@pytest.mark.parametrize("name", CARDS)
def test_a_card_has_the_parameters_of_its_checkpoint(name):
    registration = registration_of(name)
    network = registration.resolve("network")
    with torch.device("meta"):
        real = network._from_config(config_of(registration, network, "random"))
    (published,) = re.findall(rf"^\| `{re.escape(name)}` \| .* \| ([\d.]+) \|$", PAGE, flags=re.MULTILINE)
    assert f"{real.num_parameters() / 1e9:.3f}" == published


@pytest.mark.parametrize("key", ["layer_types", "mlp_layer_types"])
@pytest.mark.parametrize(
    ("kinds", "expected"), [(["dense", "dense", "sparse"], ["dense", "sparse"]), (["dense"], ["dense"])]
)
def test_a_narrow_config_says_the_kind_of_each_of_its_layers(key, kinds, expected):
    values = {"num_hidden_layers": len(kinds), key: kinds}
    assert narrow(values) == {"num_hidden_layers": len(expected), key: expected}


@pytest.mark.parametrize(
    "path", sorted((Path(registry.__file__).parent / "cards").glob("[!_]*.py")), ids=lambda p: p.stem
)
def test_a_card_is_a_file_of_at_most_forty_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40


def test_to_list_what_is_registered_needs_no_torch():
    shown = subprocess.run([sys.executable, "-c", LISTED], capture_output=True, text=True, check=True)
    assert shown.stdout == "True False\n"


@pytest.mark.parametrize("profile", ["7b", "random"])
def test_random_weights_of_real_shapes_have_the_name_that_the_stored_baselines_know(profile):
    names = {
        model: stagebench.settings_of(model=model, profile=profile, device="cpu").identity()["profile"]
        for model in ("llava-1.5", "qwen3-vl", "llava-1.5,qwen3-vl")
    }
    assert names == {"llava-1.5": "7b", "qwen3-vl": "random", "llava-1.5,qwen3-vl": "random"}


def test_what_runs_by_default_is_all_that_the_stored_baselines_know():
    settings = stagebench.settings_of(device="cpu")
    assert (settings.models, settings.identity()["profile"]) == (("eventgpt", "llava-1.5", "video-llava"), "tiny")


def test_models_of_both_kinds_run_beside_each_other(synthetic):
    settings = stagebench.settings_of(
        model="llava-1.5,qwen2.5-vl", input=synthetic.video, frames=1, new_tokens=2, device="cpu"
    )
    assert list(stagebench.run(settings, passes=1)) == ["llava-1.5", "qwen2.5-vl"]


def test_the_number_of_frames_is_part_of_the_identity():
    one, two = (stagebench.settings_of(model="qwen3-vl", frames=n, device="cpu").identity() for n in (1, 2))
    assert one["preprocess"] != two["preprocess"]


def test_a_checkpoint_of_the_family_is_read_by_the_name_of_its_card(tmp_path, synthetic):
    write_checkpoint("qwen2_5_vl", tmp_path)
    model = stagebench.load_model("qwen2.5-vl", weights=str(tmp_path), device="cpu", frames=1)
    found = verify_work(model, count_reference(model, Sample(synthetic.video), OPTIONS))
    assert (str(found.tokens), model.name, model.profile) == ("equal", "qwen2.5-vl", "pretrained")


def test_a_checkpoint_of_another_family_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(CheckpointError, match="must have model_type qwen2_5_vl, got llava"):
        stagebench.load_model("qwen2.5-vl", weights=str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"profile": "tiny", "weights": "here"}, "the profile 'pretrained', and no other, takes weights"),
        ({"preprocess": "torch"}, "preprocess must be pil for a model with its own processor, got torch for qwen3-vl"),
        ({"trust_remote_code": True}, "trust_remote_code needs a checkpoint with its own code"),
    ],
)
def test_options_that_a_card_can_not_take_are_refused(options, message):
    with pytest.raises(ModelError, match=message):
        stagebench.settings_of(model="llava-1.5,qwen3-vl", device="cpu", **options)


@pytest.mark.parametrize("name", ["", "a,b", "hf:a", "a b", " a", "[a]", "a/b", "-a", 7])
def test_a_name_that_no_list_could_hold_is_refused(name):
    with pytest.raises(ModelError, match=r"a model's name must consist of letters, digits and \._\+-, got"):
        stagebench.Registration(name=name, network="mine:Network")


def test_a_name_that_ends_as_a_backends_is_refused():
    with pytest.raises(ModelError, match="must not end with a backend's, got 'mine-graph' and graph"):
        stagebench.Registration(name="mine-graph", network="mine:Network")


@pytest.mark.parametrize("name", ["llava-1.5", "qwen3-vl", "mine"])
def test_a_name_is_registered_once(name, table):
    mine = stagebench.Registration(name=name, network="mine:Network")
    if name == "mine":
        stagebench.register_model(mine)
    with pytest.raises(ModelError, match=f"^a model must be registered once, got {name} again$"):
        stagebench.register_model(mine)


def test_what_is_no_registration_is_refused():
    with pytest.raises(ModelError, match=r"^a model must be registered by a Registration, got str$"):
        stagebench.register_model("llava")


def test_an_entry_point_is_found_under_its_name(installed):
    installed(("qwen2.5-vl-again", "made_up:CARD"))
    assert origins()["qwen2.5-vl-again"] == "entry point made_up:CARD"


@pytest.mark.parametrize(
    ("points", "name", "message"),
    [
        (
            [("theirs", "no_such_module:CARD")],
            "theirs",
            "can't import the model theirs, no_such_module:CARD: ModuleNotF",
        ),
        ([("theirs", "json:CARD")], "theirs", "can't import the model theirs, json:CARD: AttributeError"),
        ([("theirs", "json:loads")], "theirs", "json:loads must be the Registration of theirs, got function"),
        (
            [("theirs", "stagebench.models.cards.qwen3_vl:CARD")],
            "theirs",
            "stagebench.models.cards.qwen3_vl:CARD must be the Registration of theirs, got that of qwen3-vl",
        ),
        (
            [("gemma3", "json:loads")],
            "gemma3",
            "a model must be registered once, got gemma3 again by the entry point json:lo",
        ),
        ([("theirs", "a:A"), ("theirs", "b:B")], "theirs", "a model must be registered once, got theirs again .* b:B"),
    ],
)
def test_an_entry_point_that_is_no_model_is_refused_in_one_line(points, name, message, installed):
    installed(*points)
    with pytest.raises(ModelError, match=message) as error:
        registration_of(name)
    assert "\n" not in str(error.value)


def test_an_import_that_ends_the_process_is_refused_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "a_script_without_main.py").write_text("raise SystemExit(1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    registration = stagebench.Registration(name="mine", network="a_script_without_main:Network")
    said = "can't import the network of mine, a_script_without_main:Network: SystemExit: 1"
    with pytest.raises(ModelError, match=f"^{said}$"):
        registration.resolve("network")


def test_an_entry_point_that_two_paths_have_is_one(installed):
    installed(*[("theirs", "stagebench.models.cards.qwen3_vl:CARD")] * 2)
    with pytest.raises(ModelError, match="got that of qwen3-vl"):
        registration_of("theirs")


def test_a_broken_entry_point_leaves_others_alone(installed):
    installed(("theirs", "no_such_module:CARD"))
    assert registration_of("qwen2.5-vl") is CARD


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("no_such_module:Network", "can't import the network of mine, no_such_module:Network: ModuleNotFoundError"),
        ("json:loads", "the network of mine must be a class of transformers' networks, got <function loads"),
        ("transformers:LlamaForCausalLM", "the processor of mine must be a function: transformers has none for llama"),
    ],
)
def test_a_network_that_can_not_be_had_is_refused(network, message, table):
    stagebench.register_model(stagebench.Registration(name="mine", network=network, config={}))
    with pytest.raises(ModelError, match=message):
        build_model("mine", ModelSettings())
