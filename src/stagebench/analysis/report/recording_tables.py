"""What `stagebench record` measured, as tables in GitHub's Markdown. Importable without torch."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stagebench.analysis.importers.suite import AXES, BACKENDLESS, EAGER, GENERATION, measured_by
from stagebench.analysis.report.markdown import to_markdown as document_to_markdown
from stagebench.analysis.report.sections import Points, Section, Table
from stagebench.analysis.roofline import Ceilings
from stagebench.core.stages import STAGE_NAMES

ORDER = (*STAGE_NAMES, "e2e", "generate", "e2e by generate")
SHARED = (*BACKENDLESS, "generate", "e2e by generate")
"""What is timed once for all backends."""
FIGURES = ("ms", "min to max", "to eager", "ms a step", "MFU", "MBU")
"""Of every benchmark of a stage, where it has them."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark.

    Attributes:
        model: its name.
        backend: what ran it.
        what: a stage, "e2e" or "generate".
        axes: images, batch and context, each None where it is what the path has.
        stats: over the medians of the processes, in seconds.
        info: its `extra_info`.
    """

    model: str
    backend: str
    what: str
    axes: tuple[int | None, ...]
    stats: Mapping[str, float]
    info: Mapping[str, Any]

    @property
    def seconds(self) -> float:
        """The median."""
        return self.stats["median"]


Found = Mapping[tuple[str, str, str, tuple[int | None, ...]], Benchmark]
"""By model, backend, what and axes: the models and backends in the order of the run, of which eager comes first."""

Row = tuple[tuple[str, ...], Benchmark]
"""What tells a benchmark from the others in its table, and the benchmark."""

RATES = ("flops", "bandwidth")
"""What a machine has a ceiling of."""

_PLAIN: tuple[None, ...] = (None,) * len(AXES)


def to_markdown(results: Mapping[str, Any]) -> str:
    """Lay out a run that `recording.combine` made; how near it came to the machine's ceilings, where it timed those."""
    ceilings = _ceilings(results["benchmarks"])
    found = _benchmarks(results["benchmarks"])
    made = (
        ("How it was measured", _conditions(results, ceilings)),
        ("Stages", _stages(found, ceilings)),
        ("Beside generate()", _beside_generate(found)),
        ("From file to text", _from_file_to_text(found)),
        ("Encode by number of images", _by_axes(found, ("images",), ceilings)),
        ("Batch and context", _by_axes(found, ("batch", "context"), ceilings)),
        ("Set-up, outside of what is timed", _set_up(found)),
    )
    sections = [Section("", title, tuple(parts)) for title, each in made if (parts := list(each))]
    return document_to_markdown(f"stagebench on {results['machine_info']['device']}", sections)


def _ceilings(given: Iterable[Mapping[str, Any]]) -> Ceilings | None:
    rates = {
        info["ceiling"]: info["work"]["amount"] / data["stats"]["median"]
        for data in given
        if "amount" in (info := data.get("extra_info", {})).get("work", {}) and info.get("ceiling") in RATES
    }
    return Ceilings(**rates, bandwidth_kind="copy") if len(rates) == 2 else None


def _benchmarks(given: Iterable[Mapping[str, Any]]) -> Found:
    benchmarks = []
    for data in given:
        info = data.get("extra_info", {})
        if (what := measured_by(data, info)) is not None:
            axes = tuple(info.get(axis) for axis in AXES)
            benchmarks.append(Benchmark(info["model"], info.get("backend", EAGER), what, axes, data["stats"], info))
    models = list(dict.fromkeys(b.model for b in benchmarks))
    backends = list(dict.fromkeys(b.backend for b in benchmarks))

    def place(benchmark: Benchmark) -> tuple[Any, ...]:
        stage = ORDER.index(benchmark.what) if benchmark.what in ORDER else len(ORDER)
        axes = tuple(axis or 0 for axis in benchmark.axes)
        return models.index(benchmark.model), stage, axes, benchmark.backend != EAGER, backends.index(benchmark.backend)

    return {(b.model, b.backend, b.what, b.axes): b for b in sorted(benchmarks, key=place)}


def _conditions(results: Mapping[str, Any], ceilings: Ceilings | None) -> list[Points | Table]:
    recording, commit = results["stagebench"]["recording"], results.get("commit_info", {})
    select = ("--select", recording["select"]) if recording["select"] else ()
    rounds = recording["rounds"]
    counts = ("--processes", str(recording["processes"]), "--rounds", str(rounds))
    command = shlex.join(("stagebench", "record", "out", *counts, *select, "--", *recording["arguments"]))
    lines = [
        f"Fresh processes: {recording['processes']}, with {rounds} round{'s' * (rounds != 1)} of every benchmark in "
        f"each, after one that proved what they run; {recording['seconds'] / 60:.0f} minutes in all.",
        "A time is the median of the processes' medians, with the smallest and the largest of them beside it; a ratio "
        "is that of two such times.",
        f"Commit {commit.get('id')}{', changed' if commit.get('dirty') else ''}: {command}",
    ]
    if ceilings:
        lines.append(
            f"MFU is over {ceilings.flops / 1e12:.3g} TFLOP/s, MBU over {ceilings.bandwidth / 1e12:.3g} TB/s "
            f"({ceilings.bandwidth_kind}), both as measured; of the work that was counted on the eager path."
        )
    if warning := results["stagebench"].get("load_warning"):
        lines.append(f"{warning}.")
    lines += [f"Left out, because a process skipped it: {name}." for name in recording["left_out"]]
    environment = tuple(sorted(results["machine_info"].items()))
    return [Points(tuple(lines)), Table("Environment", ("", "value"), environment, prose=True)]


def _stages(found: Found, ceilings: Ceilings | None) -> list[Table]:
    rows = [((b.what, b.backend, _work(b)), b) for b in found.values() if b.axes == _PLAIN and b.what in STAGE_NAMES]
    return _tables(("stage", "backend", "work"), rows, found, ceilings)


def _work(benchmark: Benchmark) -> str:
    """How much of what a stage did ("626 prompt tokens"), where it was counted."""
    units = benchmark.info.get("units")
    return "" if units is None else f"{units} {benchmark.info.get('unit', '')}".replace("_", " ").strip()


def _by_axes(found: Found, axes: Sequence[str], ceilings: Ceilings | None) -> list[Table]:
    """A table a model of the benchmarks that vary one of these."""
    places = [AXES.index(axis) for axis in axes]
    rows = [
        ((b.what, *(str(b.axes[place] or "") for place in places), b.backend), b)
        for b in found.values()
        if any(b.axes[place] is not None for place in places)
    ]
    return _tables(("stage", *axes, "backend"), rows, found, ceilings)


def _tables(head: tuple[str, ...], rows: Sequence[Row], found: Found, ceilings: Ceilings | None) -> list[Table]:
    """A table a model, with the columns of the head and those figures that any of its rows has."""
    models = dict.fromkeys(benchmark.model for _, benchmark in rows)
    cells = {m: [names + _figures(b, found, ceilings) for names, b in rows if b.model == m] for m in models}
    return [_table(model, head + FIGURES, cells[model]) for model in models]


def _table(caption: str, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    """A table without the columns that stay empty."""
    used = [place for place in range(len(head)) if any(row[place] for row in rows)]
    return Table(caption, _at(used, head), tuple(_at(used, row) for row in rows))


def _at(places: Sequence[int], cells: Sequence[str]) -> tuple[str, ...]:
    return tuple(cells[place] for place in places)


def _figures(benchmark: Benchmark, found: Found, ceilings: Ceilings | None) -> tuple[str, ...]:
    """The cells of `FIGURES`; empty where a figure has no meaning."""
    eager = found.get((benchmark.model, EAGER, benchmark.what, benchmark.axes))
    return (
        _ms(benchmark.seconds),
        _spread(benchmark),
        _ratio(benchmark, eager) if benchmark.what not in BACKENDLESS else "",
        _ms(_a_step(benchmark)),
        *_utilisation(benchmark, eager or benchmark, ceilings),
    )


def _a_step(benchmark: Benchmark | None) -> float | None:
    """The seconds of a decode step; None for another stage."""
    steps = benchmark.info.get("units") if benchmark and benchmark.what == "decode" else None
    return benchmark.seconds / steps if benchmark and steps else None


def _utilisation(benchmark: Benchmark, reference: Benchmark, ceilings: Ceilings | None) -> tuple[str, str]:
    """MFU of encode and prefill, MBU of decode: work as the reference counted it, at this one's time.

    A replayed graph or a kernel of our own does the same work unseen by the counters.
    """
    flops = reference.info.get("work", {}).get("flops", 0) if benchmark.what in ("encode", "prefill") else 0
    moved = sum(reference.info.get("bytes", {}).values()) if benchmark.what == "decode" else 0
    return (
        _share(ceilings.mfu(flops, benchmark.seconds)) if ceilings and flops else "",
        _share(ceilings.mbu(moved, benchmark.seconds)) if ceilings and moved else "",
    )


def _beside_generate(found: Found) -> list[Table]:
    """What a token costs a user of `generate()`, and one of the stages."""
    times = ("decode, ms a step", "to eager", " + ".join(GENERATION), "min to max", "ms a token", "to generate()")
    head = ("model", "by", *times, "operators, to generate()")
    rows = []
    for model, backends in _backends(found).items():
        whole = _in_path(found, model, EAGER, "generate")
        if whole:
            token = _a_token(whole.seconds, whole)
            rows.append((model, "generate()", "", "", _ms(whole.seconds), _spread(whole), token, "1.000", ""))
        for backend in backends:
            if decode := _in_path(found, model, backend, "decode"):
                step = _ms(_a_step(decode)), _ratio(decode, _in_path(found, model, EAGER, "decode"))
                stages = [_in_path(found, model, backend, stage) for stage in GENERATION]
                seconds = _sum(stages)
                ratios = _ratio(seconds, whole), _operators(stages, whole) if backend == EAGER else ""
                rows.append((model, backend, *step, _ms(seconds), "", _a_token(seconds, decode), *ratios))
    return [_table("ms, and ratios of times", head, rows)] if rows else []


def _operators(stages: Sequence[Benchmark | None], whole: Benchmark | None) -> str:
    """The operators of all stages over those of `generate()`: exact, where times hang on the host's mood.

    Of the plain path only, because a replayed graph runs none.
    """
    *parts, reference = (b.info.get("work", {}).get("aten_operators", 0) if b else 0 for b in (*stages, whole))
    return f"{sum(parts) / reference:.4f}" if reference and all(parts) else ""


def _a_token(seconds: float | None, benchmark: Benchmark) -> str:
    """A time over the tokens that a benchmark wrote."""
    tokens = benchmark.info.get("new_tokens")
    return _ms(seconds / tokens) if seconds is not None and tokens else ""


def _from_file_to_text(found: Found) -> list[Table]:
    """The whole path beside the same with `generate()`, and what it is made of.

    A stage's share is its own benchmark's time over that of the path; "unattributed" was seen in the path itself.
    """
    head = ("model", "by", "ms", "min to max", "to generate()", *STAGE_NAMES, "all stages", "unattributed")
    rows = []
    for model, backends in _backends(found).items():
        reference = _in_path(found, model, EAGER, "e2e by generate")
        if reference:
            blank = [""] * (len(STAGE_NAMES) + 2)
            rows.append((model, "generate()", _ms(reference.seconds), _spread(reference), "1.000", *blank))
        for backend in backends:
            if e2e := _in_path(found, model, backend, "e2e"):
                stages = [_in_path(found, model, backend, stage) for stage in STAGE_NAMES]
                shares = [_share(stage.seconds / e2e.seconds if stage else None) for stage in stages]
                rest = _ratio(_sum(stages), e2e), _share(e2e.info.get("unattributed_share"))
                own = _ms(e2e.seconds), _spread(e2e), _ratio(e2e, reference)
                rows.append((model, backend, *own, *shares, *rest))
    return [_table("ms, ratios of times, and shares of them", head, rows)] if rows else []


def _backends(found: Found) -> dict[str, list[str]]:
    """By model what ran it, eager first."""
    return {
        model: list(dict.fromkeys(b.backend for b in found.values() if b.model == model))
        for model in dict.fromkeys(b.model for b in found.values())
    }


def _in_path(found: Found, model: str, backend: str, what: str) -> Benchmark | None:
    """A benchmark of the path as it is; eager's where a backend has no part in it and was not timed itself."""
    own = found.get((model, backend, what, _PLAIN))
    return own or (found.get((model, EAGER, what, _PLAIN)) if what in SHARED else None)


def _sum(benchmarks: Sequence[Benchmark | None]) -> float | None:
    """Of the times of all of them; None where one is missing."""
    known = [benchmark.seconds for benchmark in benchmarks if benchmark]
    return sum(known) if len(known) == len(benchmarks) else None


def _set_up(found: Found) -> list[Table]:
    """By model and backend; every benchmark notes what was set up until then, so the one that notes most tells all."""
    costs: dict[tuple[str, str], Mapping[str, Any]] = {}
    for b in found.values():
        if "setup" in b.info:
            key = b.model, b.backend
            costs[key] = max(costs.get(key, b.info["setup"]), b.info["setup"], key=lambda cost: cost["captures"])
    rows = tuple(
        (*key, f"{cost['seconds']:.2f}", f"{cost['bytes'] / 1e6:,.1f}", str(cost["captures"]))
        for key, cost in costs.items()
    )
    head = ("model", "backend", "seconds", "MB", "captures")
    return [Table("What capture and compilation cost, once a process", head, rows)] if rows else []


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.3f}"


def _spread(benchmark: Benchmark) -> str:
    return f"{_ms(benchmark.stats['min'])} to {_ms(benchmark.stats['max'])}"


def _ratio(one: Benchmark | float | None, other: Benchmark | None) -> str:
    seconds = one.seconds if isinstance(one, Benchmark) else one
    return "" if seconds is None or other is None else f"{seconds / other.seconds:.3f}"


def _share(part: float | None) -> str:
    return "" if part is None else f"{part:.1%}"
