"""A stranger's model: in another folder, of classes that nobody else has, registered by a conftest.py of few lines."""

import functools
import json
import shutil
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
EXAMPLE = ROOT / "examples" / "own_model"
MYMODEL = (EXAMPLE / "mymodel.py").read_text(encoding="utf-8")

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
    for name in ("conftest.py", "mymodel.py"):
        shutil.copy(EXAMPLE / name, tmp_path)
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
    said = "stagebench: mine can't be split: its language model uses pixels outside its encoders"
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
