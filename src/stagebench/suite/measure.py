"""The functions `load_model`, `run` and `verify`, for programs and for the command line."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch

from stagebench.backends import load, tensor_parallel
from stagebench.core.artifacts import Run, Sample
from stagebench.core.errors import ModelError, StageError
from stagebench.core.settings import GenerationSettings, ModelSettings
from stagebench.models.protocol import VisionLanguageModel
from stagebench.models.weights import release
from stagebench.pipeline.claims import Claim, claims
from stagebench.pipeline.run_stages import Options
from stagebench.pipeline.timed_pass import check_passes, timed_pass
from stagebench.pipeline.timing import pinned_runtime
from stagebench.pipeline.verify import Verification, count_reference
from stagebench.pipeline.verify import verify as verify_model
from stagebench.suite.settings import Settings, settings_of

T = TypeVar("T")
Say = Callable[[str], object]


class Measured(NamedTuple):
    """A model's timed passes, and the verification by an untimed pass before them."""

    runs: list[Run]
    verification: Verification

    @property
    def median(self) -> Run:
        """Return the pass with the median e2e, the lower median of an even number."""
        return sorted(self.runs, key=lambda run: run.e2e)[(len(self.runs) - 1) // 2]


def load_model(name: str, **options: Any) -> VisionLanguageModel:
    """Build a model by its name, with options of `stagebench run`, such as `profile="7b"`, `backend="graph"`.

    >>> stagebench.load_model("llava-1.5", device="cpu").profile
    'tiny'
    """
    return load.load_model(name, settings_of(model=name, **options).model)


def run(settings: Settings, passes: int = 3, order_seed: int = 0, say: Say = lambda line: None) -> dict[str, Measured]:
    """Time a sample's way through models, by their names; raise StagebenchError for a pass that is not what it says.

    The seed shuffles the models, or one of them would always pay for going first. Of each an untimed pass must give the
    tokens, and do the work, of `generate()`; the timed ones must give the same. `say` gets a line as each step begins.

    >>> found = stagebench.run(stagebench.settings_of(model="llava-1.5", device="cpu", new_tokens=4), passes=1)
    >>> found["llava-1.5"].median.new_tokens
    4
    """
    measured = partial(_measured, passes=passes, options=settings.generation.options(), say=say)
    found = dict(_with_each(settings, shuffled(settings.models, order_seed), measured, say))
    return {name: found[name] for name in settings.models}


def measure(
    model: VisionLanguageModel, sample: Sample, passes: int = 3, new_tokens: int = 32, natural_length: bool = False
) -> Measured:
    """Time a sample's way through a loaded model as `run` does, on as many threads as torch has.

    >>> sample = stagebench.Sample(Path("clip.mp4"), "What moves?")
    >>> stagebench.measure(stagebench.load_model("llava-1.5", device="cpu"), sample, new_tokens=4).median.new_tokens
    4
    """
    with pinned_runtime(ModelSettings(device=str(model.hf_model.device), threads=torch.get_num_threads())):
        return _measured(model, sample, passes, GenerationSettings(new_tokens, not natural_length).options())


def _measured(
    model: VisionLanguageModel, sample: Sample, passes: int, options: Options, say: Say = lambda line: None
) -> Measured:
    if passes < 1:
        raise StageError(f"a model must be timed in at least one pass, got {passes}")
    say(f"comparing {model.name} with generate()")
    verification = verify_model(model, count_reference(model, sample, options))
    runs = []
    for i in range(passes):
        say(f"pass {i + 1} of {passes} of {model.name}")
        runs.append(timed_pass(model, sample, options))
    check_passes(model, runs, verification.generation.token_ids)
    return Measured(runs, verification)


def shuffled(names: Sequence[str], seed: int) -> list[str]:
    """Return names in an order shuffled by a seed."""
    return random.Random(seed).sample(names, len(names))


def verify(settings: Settings, say: Say = lambda line: None) -> Iterator[tuple[str, Claim]]:
    """Check what the times of models rest on; yield each model's name with each claim, as it holds or breaks.

    `say` gets a line as a model is built.

    >>> claims = stagebench.verify(stagebench.settings_of(model="llava-1.5", device="cpu", new_tokens=4))
    >>> all(claim.held for name, claim in claims)
    True
    """

    def check(model: VisionLanguageModel, sample: Sample) -> Iterator[Claim]:
        return claims(model, sample, settings.generation.options(), known=settings.known)

    for name, made in _with_each(settings, settings.models, check, say):
        for claim in made:
            yield name, claim


def _with_each(
    settings: Settings,
    names: Sequence[str],
    call: Callable[[VisionLanguageModel, Sample], T],
    say: Say = lambda line: None,
) -> Iterator[tuple[str, T]]:
    """Build the models one by one, and call a function with each and its sample."""
    with settings.samples() as sample_of, pinned_runtime(settings.model):
        for name in names:
            say(f"building {name}")
            release()  # the memory of the previous model, which is unreachable by now
            model = load.load_model(name, settings.model)
            found = call(model, sample_of(model))
            del model
            yield name, found


def run_sharded(settings: Settings, passes: int, processes: int) -> dict[str, Any]:
    """Time the models on one process and, by tensor parallelism, on several new ones.

    Return "collectives", and "checks" and "rows" as of `tensor_parallel.beside_one_process`. Raise ModelError for an
    unsupported backend, natural length or device, and StageError for different tokens.
    """
    if settings.model.backend != "eager":
        raise ModelError(f"tensor parallelism needs the backend eager, got {settings.model.backend}")
    if settings.model.preprocess == "checkpoint":
        models = ", ".join(settings.models)
        raise ModelError(f"tensor parallelism needs models without their own processor, got {models}")
    if not settings.generation.fixed_length:
        raise ModelError("tensor parallelism needs a fixed length, got natural length")
    tensor_parallel.require_devices(settings.model.device, processes)
    return dict(tensor_parallel.spread(processes, on_each_rank, settings, passes))


def on_each_rank(settings: Settings, passes: int) -> dict[str, Any]:
    """Measure on one of the processes; rank 0 returns the results."""
    here, options = replace(settings.model, device=tensor_parallel.local_device()), settings.generation.options()
    measured = partial(tensor_parallel.beside_one_process, options=options, rounds=passes)
    found = [both for _, both in _with_each(replace(settings, model=here), settings.models, measured)]
    return {
        "collectives": tensor_parallel.collectives(),
        "checks": [check for check, _ in found],
        "rows": [row for _, rows in found for row in rows],
    }
