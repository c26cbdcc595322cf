"""`stagebench tp`: the same model on one GPU and spread over several."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch
import torch.distributed as dist
from rich.console import Console

from stagebench.backends.backend import load_model
from stagebench.backends.tensor_parallel import certify, interleaved, local_device, process_group, shard, share
from stagebench.cli.options import building_options, print_head, sample_of, settings_of, synthetic_clip_of
from stagebench.cli.output import refusals, require_writable, write_json_to
from stagebench.core import environment
from stagebench.core.errors import ModelError
from stagebench.core.results import versioned
from stagebench.core.settings import DEFAULT_QUESTION, GenerationSettings, LoadSettings, ModelSettings
from stagebench.core.tables import MS, RATIO, WORDS, Table, show
from stagebench.media.synthetic_clip import SyntheticClip
from stagebench.models.weights import release
from stagebench.pipeline.run_stages import prepared, scored_generate
from stagebench.pipeline.timing import pinned_runtime

SHOWN = ("encode", "prefill", "decode")
"""The stages that the network runs."""

LOADING = LoadSettings()


@click.command(name="tp")
@building_options
@click.option("--new-tokens", default=32, show_default=True, help="Exactly so many.")
@click.option("--passes", type=click.IntRange(min=1), default=5, show_default=True, help="Timed passes of each.")
@click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Also write the numbers there; - for standard output.",
)
def command(
    names: tuple[str, ...], new_tokens: int, passes: int, json_path: Path | None, device: str | None, **given: Any
) -> None:
    """Time the synthetic clip's stages on one GPU and, by tensor parallelism, on all of torchrun's processes.

    torchrun --nproc-per-node 2 -m stagebench tp

    transformers shards the language model; every process encodes all images itself. Passes alternate. Each must give
    the tokens of generate() on one GPU, or part from them at a near-tie, and the same on every rank. Rank 0 reports.
    """
    with refusals():
        require_writable(json_path)
        device = local_device(device)
        models, settings, generation = settings_of(names, new_tokens, True, device=device, **given)
        if settings.backend != "eager":
            raise ModelError(f"tensor parallelism spreads what eager runs, got the backend {settings.backend}")
        with (
            synthetic_clip_of(None, LOADING) as synthetic,
            pinned_runtime(settings),
            process_group(torch.device(device)),
        ):
            console = Console(stderr=str(json_path) == "-", quiet=dist.get_rank() > 0)
            print_head(console, settings, generation, f"medians of {passes} passes; the encoder is not sharded")
            results = [_measure(name, settings, synthetic, generation, passes) for name in models]
            if dist.get_rank() == 0:
                checks, rows = [check for check, _ in results], [row for _, rows in results for row in rows]
                _report(console, checks, rows)
                here = environment.identity(settings, generation, DEFAULT_QUESTION, None, LOADING)
                here |= {"collectives": _collectives()}
                if json_path:
                    numbers = versioned("samples", {"identity": here, "checks": checks, "rows": rows})
                    write_json_to(json_path, numbers)


def _measure(
    name: str, settings: ModelSettings, synthetic: SyntheticClip | None, generation: GenerationSettings, passes: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What held, and a row a stage and number of processes; both are rank 0's to tell, and empty on any other."""
    release()  # the model before this one is out of reach by now, but its memory is not yet free
    whole = load_model(name, settings)
    sharded = shard(whole)
    sample, options = sample_of(None, synthetic, whole.input_kind, DEFAULT_QUESTION, LOADING), generation.options()
    done = interleaved(whole, sharded, sample, options, passes + 1)  # the first of each warms up
    if dist.get_rank() > 0:
        return {}, []
    tokens, logits = scored_generate(whole, prepared(whole, sample), options)
    outcomes = certify(done, tuple(tokens[0].tolist()), logits)
    check = {
        "model": name,
        "share_of_weights": share(sharded.hf_model, whole.hf_model),
        "tokens": {str(processes): str(outcome) for processes, outcome in outcomes.items()},
    }
    rows = []
    for stage in SHOWN:
        for processes in (1, dist.get_world_size()):
            seconds = [each.seconds[stage] for each in done if each.processes == processes][1:]
            row = {"model": name, "stage": stage, "tp": processes, "seconds": seconds}
            rows.append(row | {"median": statistics.median(seconds)})
    return check, rows


def _report(console: Console, checks: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> None:
    processes = dist.get_world_size()
    times = (("1 process", MS), ("", MS), (f"{processes} processes", MS), ("", MS))
    cells = [
        (one["model"], one["stage"], *_spread(one), *_spread(several), one["median"] / several["median"])
        for one, several in zip(rows[::2], rows[1::2], strict=True)
    ]
    show(Table("", (("model", WORDS), ("stage", WORDS), *times, ("speed-up", RATIO)), cells), console)
    for check in checks:
        line = f"{check['model']}: a process holds {check['share_of_weights']:.0%} of the weights"
        console.print(f"{line}; tokens {check['tokens'][str(processes)]}", highlight=False)


def _spread(row: Mapping[str, Any]) -> tuple[float, tuple[float, float]]:
    """The median and the range."""
    return row["median"], (min(row["seconds"]), max(row["seconds"]))


def _collectives() -> str:
    backend = dist.get_backend()
    version = f" {'.'.join(map(str, torch.cuda.nccl.version()))}" if backend == "nccl" else ""
    return f"{dist.get_world_size()} processes, {backend}{version}"
