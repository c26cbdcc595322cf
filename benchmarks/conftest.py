"""Fixtures of the benchmarks: a sample, the models one after the other, and the audit of each."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stagebench.attention import pinned
from stagebench.counters import additive, total
from stagebench.media.scene import Scene, render_scene
from stagebench.models.protocol import VisionLanguageModel
from stagebench.models.registry import BUILDERS, build_model
from stagebench.models.weights import release
from stagebench.pipeline import Options, counted_reference, counted_run, prepared
from stagebench.pytest_plugin import generation_settings, model_settings
from stagebench.types import Generation, Sample, Work


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise over the models, in an order that the seed shuffles: none of them always pays for going first."""
    if "model" in metafunc.fixturenames:
        names = [name for name in metafunc.config.getoption("models").split(",") if name]
        if unknown := [name for name in names if name not in BUILDERS]:
            raise pytest.UsageError(f"--models must be of {', '.join(BUILDERS)}, got {', '.join(unknown)}")
        random.Random(metafunc.config.getoption("order_seed")).shuffle(names)
        metafunc.parametrize("model", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """The embedded default input: one second of one scene, as a clip and as events."""
    return render_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="session")
def options(pytestconfig: pytest.Config) -> Options:
    """Keyword arguments of `generate()`, the same for all models."""
    return generation_settings(pytestconfig).options()


@pytest.fixture(scope="session")
def rounds(pytestconfig: pytest.Config) -> int:
    return pytestconfig.getoption("rounds")


@pytest.fixture(scope="session")
def model(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Iterator[VisionLanguageModel]:
    """Each model once a session; pytest frees one before it builds the next."""
    settings = model_settings(pytestconfig)
    release()  # the model before this one is out of reach by now, but its memory is not yet free
    built = build_model(request.param, settings)
    with pinned(built.network.device, settings.kernels):
        yield built


@pytest.fixture(scope="session")
def sample(model: VisionLanguageModel, scene: Scene, pytestconfig: pytest.Config) -> Sample:
    """What the model looks at: the given input, or the scene in the model's own kind of media."""
    given: Path | None = pytestconfig.getoption("input")
    own = scene.events if model.name == "eventgpt" else scene.video
    return Sample(given or own, pytestconfig.getoption("question"))


@dataclass(frozen=True)
class Audit:
    """What one untimed pass found: the work of each stage, and the tokens."""

    work: dict[str, Work]
    reference_work: Work
    generation: Generation


@pytest.fixture(scope="session")
def audit(model: VisionLanguageModel, sample: Sample, options: Options) -> Audit:
    """Prove, before anything is timed, that the stages do what `generate()` does: same tokens, forwards and FLOPs."""
    generation, counter = counted_run(model, sample, options)
    tokens, reference_work, _ = counted_reference(model, prepared(model, sample), options)
    assert list(generation.token_ids[0]) == tokens[0].tolist()
    assert total(counter.work) == additive(reference_work)
    text = model.tokenizer.decode(generation.token_ids[0])
    if model.profile != "pretrained":  # a pretrained tokenizer need not give a text's tokens back
        assert len(model.tokenizer(text, add_special_tokens=False)["input_ids"]) == len(generation.token_ids[0])
    return Audit(counter.work, reference_work, generation)
