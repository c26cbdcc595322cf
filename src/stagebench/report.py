"""Tables for a person: milliseconds, one column a model, one row a stage. Importable without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from stagebench.types import STAGES, Run, Work


def stage_table(runs: Sequence[Run], work: Mapping[str, Mapping[str, Work]]) -> Table:
    """Lay runs side by side, with the share of each stage and the work that it did.

    Args:
        runs: one a model.
        work: counters by model and stage.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("ms")
    for run in runs:
        table.add_column(run.model, justify="right")
    for stage in STAGES:
        table.add_row(stage, *(_share(run.seconds[stage], run.e2e) for run in runs))
    table.add_row("unattributed", *(_share(run.unattributed, run.e2e) for run in runs), end_section=True)
    table.add_row("e2e", *(_ms(run.e2e) for run in runs))
    table.add_row("ttft (load excluded)", *(_ms(run.ttft) for run in runs))
    table.add_row("tpot", *(_ms(run.tpot) for run in runs), end_section=True)
    table.add_row("images encoded", *(str(work[run.model]["encode"]["images_encoded"]) for run in runs))
    table.add_row("prompt tokens", *(str(work[run.model]["prefill"]["prompt_tokens"]) for run in runs))
    table.add_row("new tokens", *(str(run.new_tokens) for run in runs))
    table.add_row("finished by", *(run.generation.finish_reasons[0] for run in runs))
    table.add_row("tokens/s (e2e)", *(f"{run.output_throughput:.1f}" for run in runs))
    return table


def run_as_json(run: Run, work: Mapping[str, Work]) -> dict[str, Any]:
    """One run for a machine: seconds, counters, tokens and text. A value without meaning is absent."""
    report: dict[str, Any] = {
        "model": run.model,
        "seconds": run.seconds,
        "unattributed": run.unattributed,
        "e2e": run.e2e,
        "ttft": run.ttft,
        "output_throughput": run.output_throughput,
        "work": work,
        "token_ids": list(run.generation.token_ids[0]),
        "finish_reason": run.generation.finish_reasons[0],
        "text": run.text,
    }
    if run.device_seconds:
        report["device_seconds"] = run.device_seconds
    if run.tpot is not None:
        report["tpot"] = run.tpot
    return report


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.2f}"


def _share(seconds: float, total: float) -> str:
    return f"{_ms(seconds)} {seconds / total:>4.0%}"
