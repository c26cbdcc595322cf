"""Fixtures for benchmarks of models, which import torch: a sample, the models one by one, and their verification."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from stagebench.core.artifacts import Run, Sample
from stagebench.core.machine import environment
from stagebench.suite import gpu_monitored, judging, no_capture_guard, plugin

if TYPE_CHECKING:
    from stagebench.media.synthetic_clip import SyntheticClip
    from stagebench.models.protocol import VisionLanguageModel
    from stagebench.pipeline.run_stages import Options
    from stagebench.pipeline.verify import Reference, Verification


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise over the models in an order shuffled by the seed, so that none always goes first."""
    if "stage_model" in metafunc.fixturenames:
        settings = plugin.settings(metafunc.config)
        names, backends = list(settings.models), list(settings.backends)
        draw = random.Random(metafunc.config.option.stage_order_seed)
        draw.shuffle(names)
        draw.shuffle(backends)
        pairs = [(name, backend) for name in names for backend in backends]
        ids = [name if backend == "eager" else f"{name}-{backend}" for name, backend in pairs]
        metafunc.parametrize(("stage_plain_model", "stage_model"), pairs, indirect=True, scope="session", ids=ids)
    if "stage_passes" in metafunc.fixturenames:
        columns = plugin.settings(metafunc.config).columns.items()
        served = {name: f"{each.model}-{each.engine}" for name, each in columns if each.engine != "transformers"}
        metafunc.parametrize("stage_passes", served, indirect=True, scope="session", ids=served.values())


@pytest.fixture(scope="session")
def stage_passes(
    request: pytest.FixtureRequest, stage_rounds: int, pytestconfig: pytest.Config
) -> tuple[str, list[Run]]:
    """What an engine is, and as many timed passes in it as there are rounds, after one that is not timed."""
    from stagebench.suite.measure import started

    settings = plugin.settings(pytestconfig)
    with started(settings, request.param) as (engine, sample):
        return engine.described, [engine.run(sample, settings.generation) for _ in range(stage_rounds + 1)][1:]


@pytest.fixture(scope="session")
def stage_clip(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> SyntheticClip:
    """The synthetic clip, as video and as events."""
    return plugin.settings(pytestconfig).write_clip(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="session")
def stage_options(pytestconfig: pytest.Config) -> Options:
    """Keyword arguments of `generate()`, the same for all models."""
    return plugin.settings(pytestconfig).generation.options()


@pytest.fixture(scope="session")
def stage_rounds(pytestconfig: pytest.Config) -> int:
    """The number of timed rounds."""
    return int(pytestconfig.option.stage_rounds)


@pytest.fixture(scope="session")
def stage_gpu(pytestconfig: pytest.Config) -> Iterator[environment.Gpu | None]:
    """The timed GPU; None on a CPU, without NVML, or in lockstep, where repeating a benchmark would break step."""
    import torch

    device = torch.device(plugin.settings(pytestconfig).model.device)
    if device.type != "cuda" or not plugin.lockstep(pytestconfig).alone:
        yield None
        return
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    with environment.opened_gpu(uuid, own_processes=1) as gpu:
        yield gpu


@pytest.fixture
def stage_benchmark(
    benchmark: Any,
    stage_model: VisionLanguageModel,
    stage_gpu: environment.Gpu | None,
    stage_rounds: int,
    pytestconfig: pytest.Config,
) -> Callable[..., Any]:
    """`benchmark.pedantic` after all set-up; on a GPU it records clocks, and repeats a disturbed benchmark."""
    if benchmark.disabled:  # pytest-benchmark calls it once, and times nothing
        return functools.partial(gpu_monitored.pedantic, benchmark, [], None, rounds=stage_rounds)
    collected = judging.session_of(pytestconfig).benchmarks
    watching = functools.partial(gpu_monitored.pedantic, benchmark, collected, stage_gpu)
    return no_capture_guard.settled(stage_model, watching, stage_rounds, plugin.lockstep(pytestconfig).pass_on)


@pytest.fixture(scope="session")
def stage_plain_model(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Iterator[VisionLanguageModel]:
    """Each model once per session; pytest frees one before it builds the next."""
    from stagebench.models.registry import build_model
    from stagebench.models.weights import release
    from stagebench.pipeline.timing import pinned_runtime

    settings = plugin.settings(pytestconfig).model
    release()  # the memory of the previous model, which is unreachable by now
    with pinned_runtime(settings):
        yield build_model(request.param, settings)


@pytest.fixture(scope="session")
def stage_model(request: pytest.FixtureRequest, stage_plain_model: VisionLanguageModel) -> VisionLanguageModel:
    """The model with each of the backends."""
    from stagebench.backends.load import with_backend
    from stagebench.models.weights import release

    release()
    return with_backend(stage_plain_model, request.param)


@pytest.fixture(scope="session")
def stage_sample(
    stage_plain_model: VisionLanguageModel, stage_clip: SyntheticClip, pytestconfig: pytest.Config
) -> Sample:
    """The model's sample: the given input, or the synthetic clip in the model's own form or `--stage-media`."""
    loading = plugin.settings(pytestconfig).loading
    path = pytestconfig.option.stage_input or stage_clip.shown(loading.media, stage_plain_model.input_kind)
    return Sample(path, pytestconfig.option.stage_question, loading)


@pytest.fixture(scope="session")
def stage_reference(
    stage_plain_model: VisionLanguageModel, stage_sample: Sample, stage_options: Options, pytestconfig: pytest.Config
) -> Reference | None:
    """The reference of all backends of a model; None with `--stage-times-only`: the code was verified before."""
    from stagebench.pipeline.verify import count_reference

    timed = pytestconfig.option.stage_times_only
    return None if timed else count_reference(stage_plain_model, stage_sample, stage_options)


@pytest.fixture(scope="session")
def stage_verified(stage_model: VisionLanguageModel, stage_reference: Reference | None) -> Verification | None:
    """An untimed pass that gave the tokens, and did the work, of `generate()`; nothing is timed before it."""
    from stagebench.pipeline.verify import verify

    if stage_reference is None:
        return None
    found, tokenizer = verify(stage_model, stage_reference), stage_model.tokenizer
    tokens = found.generation.token_ids[0]
    if stage_model.profile not in ("tiny", "pretrained"):  # a trained one may give other tokens for its own text
        assert len(tokenizer(tokenizer.decode(tokens), add_special_tokens=False)["input_ids"]) == len(tokens)
    return found
