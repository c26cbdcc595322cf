"""Show passes of models: side by side. Importable without torch."""

from collections.abc import Mapping, Sequence

from stagebench.core.artifacts import Run, Work
from stagebench.core.stages import ENCODE, PREFILL
from stagebench.core.tables import COUNT, MS, WORDS, Table, Value


def stage_table(
    runs: Sequence[Run], work: Mapping[str, Mapping[str, Work]], passes: Mapping[str, Sequence[Run]]
) -> Table:
    """Lay runs side by side, with the share of each stage and the work that it did.

    Args:
        runs: one a model, the one to show.
        work: counters by model and stage.
        passes: all passes by model, for the spread.
    """
    columns = [_column(run, work[run.model], [each.e2e for each in passes[run.model]]) for run in runs]
    rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
    return Table("", (("ms", WORDS), *((run.model, COUNT) for run in runs)), rows)


def _column(run: Run, work: Mapping[str, Work], e2e: Sequence[float]) -> dict[str, Value]:
    parts = run.seconds | {"unattributed": run.unattributed}
    return {
        # The share comes first, so that all times end where the others do.
        **{name: f"{seconds / run.e2e:.0%} {MS.write(seconds)}" for name, seconds in parts.items()},
        "e2e": MS.write(run.e2e),
        "e2e of all passes": MS.write((min(e2e), max(e2e))),
        "ttft (load excluded)": MS.write(run.ttft),
        "tpot": MS.write(run.tpot),
        "images encoded": work[ENCODE.name][ENCODE.unit],
        "prompt tokens": work[PREFILL.name][PREFILL.unit],
        "new tokens": run.new_tokens,
        "finished by": run.generation.finish_reasons[0],
        "tokens/s (e2e)": f"{run.output_throughput:.1f}",
    }
