"""The functions `load_model`, `run` and `verify`, for programs and for the command line."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from stagebench.backends import load
from stagebench.core.artifacts import Run, Sample, Work
from stagebench.core.errors import ModelError, StageError
from stagebench.core.settings import ENGINES, GenerationSettings, ModelSettings
from stagebench.engines.claims import engine_claims, expected
from stagebench.engines.engine import Engine, start
from stagebench.models.protocol import VisionLanguageModel
from stagebench.models.registry import ANY
from stagebench.models.weights import release
from stagebench.pipeline.claims import Claim, claims
from stagebench.pipeline.run_stages import Options
from stagebench.pipeline.timed_pass import check_passes, timed_pass
from stagebench.pipeline.timing import pinned_runtime
from stagebench.pipeline.verify import Verification, count_reference
from stagebench.pipeline.verify import verify as verify_model
from stagebench.suite.settings import Column, Settings, settings_of

Say = Callable[[str], object]


class Measured(NamedTuple):
    """A model's timed passes, and the verification by an untimed pass before them.

    An engine other than transformers has none (`stagebench verify` does it), but where its statistics take time, it has
    the e2e of as many passes without them.
    """

    runs: list[Run]
    verification: Verification | None
    uninstrumented: tuple[float, ...] = ()
    engine: str = "transformers"  # with its version and flags, where it is another
    warnings: Sequence[str] = ()
    under_load: Mapping[str, Any] | None = None  # percentiles of a server's answers to several requests at once

    @property
    def work(self) -> Mapping[str, Work]:
        """Return what was counted by stage, in the untimed pass, or by an engine in the first one."""
        return self.verification.work if self.verification else self.runs[0].metered

    @property
    def median(self) -> Run:
        """Return the pass with the median e2e, the lower median of an even number."""
        return sorted(self.runs, key=lambda run: run.e2e)[(len(self.runs) - 1) // 2]


def load_model(name: str, **options: Any) -> VisionLanguageModel:
    """Build a model by its name, with options of `stagebench run`, such as `profile="7b"`, `backend="graph"`.

    >>> stagebench.load_model("llava-1.5", device="cpu").profile
    'tiny'
    """
    return load.load_model(name, settings_of(model=name, **options).require_one_backend().model)


def run(
    settings: Settings,
    passes: int = 3,
    order_seed: int = 0,
    say: Say = lambda line: None,
    found: dict[str, Measured] | None = None,
    concurrency: int | None = None,
) -> dict[str, Measured]:
    """Time a sample's way through models, by their names; raise StagebenchError for a pass that is not what it says.

    What came before such an error is in `found`, with the passes of a server that fails in a later one. With a
    `concurrency` the server is then sent that many requests at once, that many times `passes`.

    The seed shuffles the models, or one of them would always pay for going first. Of each an untimed pass must give the
    tokens, and do the work, of `generate()`; the timed ones must give the same. `say` gets a line as each step begins.

    >>> found = stagebench.run(stagebench.settings_of(model="llava-1.5", device="cpu", new_tokens=4), passes=1)
    >>> found["llava-1.5"].median.new_tokens
    4
    """
    if concurrency and not settings.engine.url:
        raise StageError(f"requests at once need a server (the engine openai), got {concurrency} and no url")
    found = {} if found is None else found
    for column in shuffled([*settings.columns], order_seed):
        if settings.columns[column].engine == ENGINES[0]:
            found[column] = _timed(settings, column, passes, say)
        else:
            _served(settings, column, passes, say, found, concurrency)
    return {column: found[column] for column in settings.columns}


def _timed(settings: Settings, column: str, passes: int, say: Say) -> Measured:
    """Time passes of a model in transformers."""
    with _built(settings, settings.columns[column], say) as (model, sample):
        found = _measured(model, sample, passes, settings.generation.options(), say)
    return found._replace(runs=[replace(one, model=column) for one in found.runs])


def _served(
    settings: Settings, column: str, passes: int, say: Say, found: dict[str, Measured], concurrency: int | None
) -> None:
    """Time passes of a model in an engine other than transformers, after one that is not timed."""
    name = settings.columns[column].engine
    for statistics in (True, False):
        done, under_load = list[Run](), None
        with started(settings, column, say, statistics=statistics) as (engine, sample):
            instrumented = engine.instrumented
            try:
                for i in range(passes + 1):
                    say(f"pass {i} of {passes} of {column}")
                    done.append(engine.run(sample, settings.generation))
                if name == "openai" and concurrency:
                    say(f"{concurrency} requests at once")
                    server: Any = engine
                    under_load = server.under_load(sample, settings.generation, passes * concurrency, concurrency)
            finally:
                runs = [replace(run, model=column) for run in done[1:]]
                if statistics and runs:
                    found[column] = Measured(runs, None, (), engine.described, engine.warnings, under_load)
        if not instrumented:
            break
    else:
        found[column] = found[column]._replace(uninstrumented=tuple(run.e2e for run in runs))


@contextmanager
def started(
    settings: Settings, column: str, say: Say = lambda line: None, *, statistics: bool = True
) -> Iterator[tuple[Engine, Sample]]:
    """Yield the engine of a column, and its sample."""
    model, name, _ = settings.columns[column]
    say(f"starting {column}{'' if statistics else ' without its statistics'}")
    with settings.samples() as sample_of, pinned_runtime(settings.model):
        release()
        engine = start(name, model, settings.model, settings.engine, statistics=statistics)
        try:
            yield engine, sample_of(engine)
        finally:
            engine.close()


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
    for name, column in settings.columns.items():
        yield from ((name, claim) for claim in _claims_of(settings, name, column, say))


def _claims_of(settings: Settings, name: str, column: Column, say: Say) -> Iterator[Claim]:
    options = settings.generation.options()
    if column.engine == ENGINES[0]:
        with _built(settings, column, say) as (model, sample):
            yield from claims(model, sample, options, known=settings.known)
        return
    if not column.model.startswith(ANY):
        got = column.model or "none"
        raise ModelError(f"verify needs the checkpoint that the engine serves ({ANY}FOLDER), got {got}")
    with _built(settings, column, say) as (model, sample):
        found = expected(model, sample, settings.generation)
    del model
    with started(settings, name, say) as (engine, sample):
        yield from engine_claims(engine, sample, settings.generation, found)


@contextmanager
def _built(
    settings: Settings, column: Column, say: Say = lambda line: None
) -> Iterator[tuple[VisionLanguageModel, Sample]]:
    """Yield the model of a column of transformers, and its sample."""
    settings = settings.build_with(column.backend or "eager")
    with settings.samples() as sample_of, pinned_runtime(settings.model):
        say(f"building {column.model}")
        release()  # the memory of the previous model, which is unreachable by now
        model = load.load_model(column.model, settings.model)
        yield model, sample_of(model)
