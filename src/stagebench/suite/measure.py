"""What `run`, `verify` and `load_model` do, for a program and for the command line: it prints what they return."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch.distributed as dist

from stagebench.backends.load import load_model as load_network
from stagebench.backends.tensor_parallel import (
    certify,
    collectives,
    interleaved,
    local_device,
    require_devices,
    shard,
    share,
    spread,
)
from stagebench.core.artifacts import Run, Sample
from stagebench.core.errors import ModelError
from stagebench.core.stages import IN_GENERATE
from stagebench.models.protocol import VisionLanguageModel
from stagebench.models.weights import release
from stagebench.pipeline.claims import Claim, claims
from stagebench.pipeline.run_stages import Options, prepared, scored_generate
from stagebench.pipeline.timed_pass import check_passes, timed_pass
from stagebench.pipeline.timing import pinned_runtime
from stagebench.pipeline.verify import Verification, count_reference, repeats_itself
from stagebench.pipeline.verify import verify as verify_model
from stagebench.suite.options import SETTINGS
from stagebench.suite.settings import Settings, resolve

Status = Callable[[str], AbstractContextManager[object]]
"""Says what is done while it is."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of one model.

    Attributes:
        runs: its timed passes.
        verification: what an untimed pass found before them.
    """

    runs: list[Run]
    verification: Verification

    @property
    def median(self) -> Run:
        """The pass in the middle by e2e, of two the faster one."""
        return sorted(self.runs, key=lambda run: run.e2e)[(len(self.runs) - 1) // 2]


def settings_of(**options: Any) -> Settings:
    """Make settings of options by their names on the command line, with underscores; what is not given has its default.

    Raises:
        ModelError: for a name that is no option.
        StagebenchError: as `settings.resolve`.
    """
    known = {option.argument: option.default for option in SETTINGS}
    if unknown := options.keys() - known.keys():
        raise ModelError(f"options must be of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    several = {name: (value,) for name, value in options.items() if known[name] == () and isinstance(value, str)}
    return resolve(known | options | several).with_one_backend()


def load_model(name: str, **options: Any) -> VisionLanguageModel:
    """Build a model by its name.

    Args:
        name: as `stagebench run --model` takes it.
        options: those of `stagebench run`, with underscores (`device="cpu"`, `profile="7b"`, `backend="graph"`).

    Raises:
        StagebenchError: for a model or an option that is refused.
    """
    return load_network(name, settings_of(model=name, **options).model)


def run(input: str | Path | None = None, passes: int = 3, **options: Any) -> dict[str, Measured]:  # noqa: A002
    """Time a sample's way through models; an untimed pass must give the tokens, and do the work, of `generate()`.

    Args:
        input: a clip, a recording or a folder; None for the synthetic clip.
        passes: timed ones of each model.
        options: those of `stagebench run`, with underscores.

    Returns:
        By the name of the model what was measured.

    Raises:
        StagebenchError: for what is refused, and for a pass that is not what it says.
    """
    return measure(settings_of(input=None if input is None else Path(input), **options), passes)


def verify(input: str | Path | None = None, **options: Any) -> dict[str, list[Claim]]:  # noqa: A002
    """Check what the times of models rest on: the tokens and the work of `generate()`, and stages that explain e2e.

    Args:
        input: as of `run`.
        options: those of `stagebench verify`, with underscores.

    Returns:
        By the name of the model its checks; a claim that broke has `held` False.
    """
    found: dict[str, list[Claim]] = {}
    for name, check in claims_of(settings_of(input=None if input is None else Path(input), **options)):
        found.setdefault(name, []).append(check)
    return found


def measure(
    settings: Settings, passes: int, order_seed: int = 0, status: Status = lambda _: nullcontext()
) -> dict[str, Measured]:
    """Time each model, in an order that the seed shuffles."""
    found: dict[str, Measured] = {}
    options = settings.generation.options()
    with settings.samples() as sample_of, pinned_runtime(settings.model):
        for name in shuffled(settings.models, order_seed):
            with status(f"{name}: building"):
                model = load_network(name, settings.model)
            sample = sample_of(model)
            with status(f"{name}: warming up, counting, comparing with generate()"):
                verification = verify_model(model, count_reference(model, sample, options), settings.model.kernels)
            with status(f"{name}: timing"):
                runs = [timed_pass(model, sample, options) for _ in range(passes)]
            expected = verification.generation.token_ids if repeats_itself(model, settings.model.kernels) else None
            check_passes(model, runs, expected)
            found[name] = Measured(runs, verification)
            del model
            release()
    return {name: found[name] for name in settings.models}


def shuffled(names: Sequence[str], seed: int) -> list[str]:
    """Put names into the order of a seed: none of them always pays for going first."""
    return random.Random(seed).sample(names, len(names))


def claims_of(settings: Settings) -> Iterator[tuple[str, Claim]]:
    """Yield the name of each model with each of its checks, as they are made."""
    with settings.samples() as sample_of, pinned_runtime(settings.model):
        for name in settings.models:
            model = load_network(name, settings.model)
            for check in claims(model, sample_of(model), settings.generation.options(), settings.model.kernels):
                yield name, check
            del model
            release()


def measure_sharded(settings: Settings, passes: int, processes: int) -> dict[str, Any]:
    """Time the models on one process and, by tensor parallelism, on several, which are started for it.

    Returns:
        "checks", for each model the share of the weights that a process holds, and how the tokens compare with those of
        `generate()`; and "rows", one a model, stage and number of processes, with the seconds of the passes.

    Raises:
        ModelError: for a backend, natural length or a device with which that can't be.
        StageError: where the tokens are others.
    """
    if settings.model.backend != "eager":
        raise ModelError(f"tensor parallelism spreads what eager runs, got the backend {settings.model.backend}")
    if not settings.generation.fixed_length:
        raise ModelError("processes that stop at different tokens wait for each other, got natural length")
    require_devices(settings.model.device, processes)
    return dict(spread(processes, sharded, settings, passes))


def sharded(settings: Settings, passes: int) -> dict[str, Any]:
    """Measure on one of the processes; what rank 0 returns counts."""
    build = replace(settings.model, device=local_device())
    checks, rows = list[dict[str, Any]](), list[dict[str, Any]]()
    with settings.samples() as sample_of, pinned_runtime(build):
        for name in settings.models:
            release()  # the model before this one is out of reach by now, but its memory is not yet free
            check, of_model = _sharded_model(
                load_network(name, build), sample_of, settings.generation.options(), passes
            )
            checks.append(check)
            rows += of_model
    return {"collectives": collectives(), "checks": checks, "rows": rows}


def _sharded_model(
    whole: VisionLanguageModel, sample_of: Callable[[VisionLanguageModel], Sample], options: Options, passes: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    parts, sample = shard(whole), sample_of(whole)
    done = interleaved(whole, parts, sample, options, passes + 1)  # the first of each warms up
    if dist.get_rank() > 0:
        return {}, []
    tokens, logits = scored_generate(whole, prepared(whole, sample), options)
    outcomes = certify(done, tuple(tokens[0].tolist()), logits)
    check = {
        "model": whole.name,
        "share_of_weights": share(parts.hf_model, whole.hf_model),
        "tokens": {str(processes): str(outcome) for processes, outcome in outcomes.items()},
    }
    seconds = {
        (stage, n): [each.seconds[stage] for each in done if each.processes == n][1:]
        for stage in IN_GENERATE
        for n in (1, dist.get_world_size())
    }
    return check, [
        {"model": whole.name, "stage": stage, "tp": n, "seconds": s, "median": statistics.median(s)}
        for (stage, n), s in seconds.items()
    ]
