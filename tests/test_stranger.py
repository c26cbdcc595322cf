"""A stranger's model: in another folder, of classes that nobody else has, registered by ten lines of a conftest.py."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from stagebench.cli import main
from stagebench.core.artifacts import Media
from stagebench.models import registry
from stagebench.models.registry import build_model
from stagebench.pipeline.run_stages import reference_generate, staged_generate
from stagebench.suite.settings import settings_of

ROOT = Path(__file__).parents[1]
QUICK = ("--model", "mine", "--device", "cpu", "--new-tokens", "3", "--frames", "2")
NOISE = tuple(np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8))
CONFTEST = """
from mymodel import MyModel, MyProcessor
from stagebench import Registration, register_model

SHAPES = {"text_config": {"hidden_size": 1024, "num_hidden_layers": 8, "vocab_size": 32000}}
register_model(Registration(name="mine", network=MyModel, config=SHAPES, processor=MyProcessor))
"""
MYMODEL = """
import numpy as np
import torch
from torch import nn
from transformers import BatchFeature, GenerationMixin, LlamaConfig, LlamaModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from stagebench.models.profiles import build_tokenizer


class MyConfig(PretrainedConfig):
    model_type = "my_vlm"
    sub_configs = {"text_config": LlamaConfig}
    text_config: LlamaConfig | dict | None = None
    side: int = 64
    image_token_id: int = 0

    def __post_init__(self, **kwargs):
        if not isinstance(self.text_config, LlamaConfig):
            self.text_config = LlamaConfig(**(self.text_config or {}))
        super().__post_init__(**kwargs)


class MyModel(PreTrainedModel, GenerationMixin):
    config_class = MyConfig
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        text = config.text_config
        self.tower = nn.Conv2d(3, text.hidden_size, 16, stride=16)
        self.language_model = LlamaModel(text)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()

    def get_decoder(self):
        return self.language_model

    def get_input_embeddings(self):
        return self.language_model.embed_tokens

    def forward(self, input_ids, attention_mask=None, position_ids=None, pixel_values=None, logits_to_keep=0, **kwargs):
        embeds = self.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            features = self.tower(pixel_values).flatten(2).transpose(1, 2)
            embeds = embeds.masked_scatter((input_ids == self.config.image_token_id)[..., None], features)
        output = self.language_model(
            inputs_embeds=embeds, attention_mask=attention_mask, position_ids=position_ids, **kwargs
        )
        logits = self.lm_head(output.last_hidden_state[:, -logits_to_keep:])
        return CausalLMOutputWithPast(logits=logits, cache=output.cache)

    def prepare_inputs_for_generation(self, input_ids, pixel_values=None, is_first_iteration=False, **kwargs):
        inputs = super().prepare_inputs_for_generation(input_ids, is_first_iteration=is_first_iteration, **kwargs)
        return inputs | ({"pixel_values": pixel_values} if is_first_iteration else {})


class MyProcessor:
    chat_template = "images, and a question"

    def __init__(self, config):
        self.tokenizer, self.side = build_tokenizer(config.text_config.vocab_size, ("<image>",)), config.side
        config.image_token_id = self.tokenizer.convert_tokens_to_ids("<image>")

    def apply_chat_template(self, conversation, chat_template, tokenize, add_generation_prompt):
        parts = conversation[0]["content"]
        return " ".join("<image>" if part["type"] == "image" else part["text"] for part in parts)

    def __call__(self, text, images, return_tensors):
        (prompt,), (pictures,) = text, images
        resized = [np.asarray(picture.resize((self.side, self.side))) for picture in pictures]
        pixels = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2) / 255
        tokens = (self.side // 16) ** 2
        made = self.tokenizer(prompt.replace("<image>", "<image>" * tokens), return_tensors="pt")
        return BatchFeature({**made, "pixel_values": pixels})
"""


AGAIN = "logits = self.lm_head(output.last_hidden_state[:, -logits_to_keep:])"
SEES_PIXELS = MYMODEL.replace(
    AGAIN, AGAIN + " + (0 if pixel_values is None else torch.conv2d(pixel_values, self.tower.weight).mean())"
)
MADE = "self.tower = nn.Conv2d(3, text.hidden_size, 16, stride=16)"
HOOKED = MYMODEL.replace(
    MADE, MADE + "; self.tower.register_forward_hook(lambda module, args, output: 2 * output + 0 * args[0].amin())"
)
SCALED = (
    MYMODEL.replace("nn.Conv2d(3, text", "Scaled(3, text").replace(
        "self.tower(pixel_values)", "self.tower(pixel_values, float(pixel_values.std()))"
    )
    + """
class Scaled(nn.Conv2d):
    def forward(self, pixels, scale):
        return super().forward(pixels) * scale
"""
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder of a stranger; what is imported from it is forgotten after the test."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "mymodel.py").write_text(MYMODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", {**sys.modules})
    monkeypatch.setattr(registry, "_REGISTERED", {})
    return tmp_path


def test_a_strangers_model_keeps_every_claim(folder, tmp_path):
    done = CliRunner().invoke(main, ["verify", *QUICK, "--json", "out.json"])
    assert (done.exit_code, done.output.splitlines()[-1]) == (0, "11 of 11 claims held")


def test_a_network_that_sees_pixels_beside_its_encoder_too_is_refused(folder):
    (folder / "mymodel.py").write_text(SEES_PIXELS)
    done = CliRunner().invoke(main, ["verify", *QUICK])
    said = "stagebench: mine can't be split: beside its encoders, its language model sees pixels itself"
    assert (done.exit_code, done.output.splitlines()[-1]) == (2, said)


def test_what_a_hook_makes_of_an_answer_it_makes_once(folder):
    (folder / "mymodel.py").write_text(HOOKED)
    mine = build_model("mine", settings_of(model="mine", device="cpu", frames=2).model)
    inputs = mine.preprocess(Media(NOISE, "frames", 2, 0, None), "What moves?")
    options = {"max_new_tokens": 4, "do_sample": False}
    expected = reference_generate(mine, inputs, options)[0].tolist()
    assert expected == list(staged_generate(mine, inputs, options).token_ids[0])


def test_a_number_that_an_encoder_is_given_is_that_of_these_pixels(folder):
    (folder / "mymodel.py").write_text(SCALED)
    mine = build_model("mine", settings_of(model="mine", device="cpu", frames=2).model)
    encode, makes = mine.encode, functools.partial(mine.preprocess, question="What moves?")
    first, second = (makes(Media(images, "frames", 2, 0, None)) for images in (NOISE, [each // 2 for each in NOISE]))
    encode(first)
    (expected,), _ = mine.encoders.record(mine.reference_inputs(second))
    torch.testing.assert_close(encode(second)[0].output, expected.output)


def test_a_strangers_model_is_run(folder):
    assert CliRunner().invoke(main, ["run", *QUICK, "--passes", "1", "--json", "out.json"]).exit_code == 0
    (sample,) = json.loads((folder / "out.json").read_text())["samples"]
    assert (sample["model"], sample["work"]["encode"]["images_encoded"]) == ("mine", 2)


def test_the_folder_is_looked_at_only_for_a_name_that_is_not_known(folder):
    registry.registration_of("llava-1.5")
    assert ("mymodel" in sys.modules, "mine" in registry.origins()) == (False, False)


def test_a_name_that_the_folder_does_not_know_either_is_refused_with_what_is_known(folder):
    done = CliRunner().invoke(main, ["run", "--model", "yours"])
    assert (done.exit_code, done.output.count("\n")) == (2, 1)
    assert "llava-onevision, mine or hf:FOLDER, got yours" in done.output


@pytest.mark.parametrize(
    ("text", "said"), [("1 / 0", "ZeroDivisionError: division by zero"), ("raise SystemExit(1)", "SystemExit: 1")]
)
def test_a_conftest_that_fails_is_one_line(folder, text, said):
    (folder / "conftest.py").write_text(text)
    done = CliRunner().invoke(main, ["run", "--model", "mine"])
    assert (done.exit_code, done.output) == (2, f"stagebench: can't import {folder / 'conftest.py'}: {said}\n")


def test_a_conftest_that_pytest_has_loaded_is_not_run_again(folder, monkeypatch):
    (folder / "conftest.py").unlink()
    (folder / "elsewhere.py").write_text("1 / 0")
    (folder / "conftest.py").symlink_to("elsewhere.py")
    monkeypatch.setitem(sys.modules, "conftest", type(sys)("conftest"))
    sys.modules["conftest"].__file__ = str(folder / "conftest.py")
    done = CliRunner().invoke(main, ["run", "--model", "mine"])
    assert "or hf:FOLDER, got mine" in done.output


def test_the_gate_names_the_stage_of_a_strangers_model_that_does_more_work(folder, git):
    (folder / ".gitignore").write_text("__pycache__/\nout/\npytest.ini\n")
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")  # in neither copy, but above both
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    twice = MYMODEL.replace("features = self.tower(", "self.tower(pixel_values)\n            features = self.tower(")
    (folder / "mymodel.py").write_text(twice)
    own = ("--stage-model=mine", "--stage-new-tokens=3", "--stage-device=cpu", "--stage-frames=2")
    asked = (
        "gate",
        "--base",
        "HEAD",
        "--counters-only",
        "--json",
        "-",
        "--out",
        "out",
        "--select",
        "encode or preproc",
    )
    done = subprocess.run(
        [sys.executable, "-m", "stagebench", *asked, "--", *own],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    verdicts = {v["benchmark"].partition("[")[2]: v["verdict"] for v in json.loads(done.stdout)["verdicts"]}
    assert (done.returncode, verdicts) == (1, {"mine-encode]": "regression", "mine-preprocess]": "pass"}), done.stderr
