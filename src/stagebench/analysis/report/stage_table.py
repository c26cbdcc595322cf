"""Tables for a person: milliseconds, one column a model, one row a stage. Importable without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from stagebench.core.artifacts import Run, Work
from stagebench.core.stages import STAGE_NAMES


def stage_table(
    runs: Sequence[Run], work: Mapping[str, Mapping[str, Work]], passes: Mapping[str, Sequence[Run]]
) -> Table:
    """Lay runs side by side, with the share of each stage and the work that it did.

    Args:
        runs: one a model, the one to show.
        work: counters by model and stage.
        passes: all passes by model, for the spread.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("ms")
    for run in runs:
        table.add_column(run.model, justify="right")
    for stage in STAGE_NAMES:
        table.add_row(stage, *(_share(run.seconds[stage], run.e2e) for run in runs))
    table.add_row("unattributed", *(_share(run.unattributed, run.e2e) for run in runs), end_section=True)
    table.add_row("e2e", *(_ms(run.e2e) for run in runs))
    table.add_row("e2e of all passes", *(_spread([each.e2e for each in passes[run.model]]) for run in runs))
    table.add_row("ttft (load excluded)", *(_ms(run.ttft) for run in runs))
    table.add_row("tpot", *(_ms(run.tpot) for run in runs), end_section=True)
    table.add_row("images encoded", *(str(work[run.model]["encode"]["images_encoded"]) for run in runs))
    table.add_row("prompt tokens", *(str(work[run.model]["prefill"]["prompt_tokens"]) for run in runs))
    table.add_row("new tokens", *(str(run.new_tokens) for run in runs))
    table.add_row("finished by", *(run.generation.finish_reasons[0] for run in runs))
    table.add_row("tokens/s (e2e)", *(f"{run.output_throughput:.1f}" for run in runs))
    return table


def runs_as_json(runs: Sequence[Run], work: Mapping[str, Work]) -> dict[str, Any]:
    """The passes of one model for a machine: seconds, counters, tokens and text. A value without meaning is absent."""
    return {
        "model": runs[0].model,
        "work": work,
        "token_ids": list(runs[0].generation.token_ids[0]),
        "finish_reason": runs[0].generation.finish_reasons[0],
        "text": runs[0].text,
        "passes": [pass_as_json(run) for run in runs],
    }


def pass_as_json(run: Run) -> dict[str, Any]:
    """The times of one pass."""
    numbers = {
        "seconds": run.seconds,
        "unattributed": run.unattributed,
        "e2e": run.e2e,
        "ttft": run.ttft,
        "output_throughput": run.output_throughput,
    }
    meaningful = {"device_seconds": run.device_seconds, "tpot": run.tpot, "itl": run.itl}
    return numbers | {name: value for name, value in meaningful.items() if value}


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.2f}"


def _share(seconds: float, total: float) -> str:
    return f"{_ms(seconds)} {seconds / total:>4.0%}"


def _spread(seconds: Sequence[float]) -> str:
    return f"{_ms(min(seconds))} to {_ms(max(seconds))}"
