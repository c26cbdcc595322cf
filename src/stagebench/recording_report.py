"""What `stagebench record` measured, as tables in GitHub's Markdown. Importable without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stagebench.analysis.ceilings import Ceilings
from stagebench.analysis.imports.suite import AXES, BACKENDLESS, EAGER, GENERATION, measured_by
from stagebench.study.document import Points, Section, Table
from stagebench.study.markdown import to_markdown as document_to_markdown
from stagebench.types import STAGES

ORDER = (*STAGES, "e2e", "generate", "e2e by generate")
FIGURES = ("ms", "min to max", "to eager", "ms on the device", "ms a step", "MFU", "MBU")
"""Of every benchmark, where it has them; a table leaves out the columns that stay empty."""


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

_PLAIN: tuple[None, ...] = (None,) * len(AXES)


def to_markdown(results: Mapping[str, Any]) -> str:
    """Lay out a run that `recording.combine` made; how near it came to the machine's ceilings, where it timed those."""
    ceilings = _ceilings(results["benchmarks"])
    found = _benchmarks(results["benchmarks"])
    made = (
        ("How it was measured", _conditions(results, ceilings)),
        ("Stages", _stages(found, ceilings)),
        ("What the stages add up to", _sums(found)),
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
        if "work" in (info := data.get("extra_info", {})) and "ceiling" in info
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
    lines = [
        f"Fresh processes: {recording['processes']}, with {recording['rounds']} rounds of every benchmark in each, "
        f"after one that proved what they run; {recording['seconds'] / 60:.0f} minutes in all.",
        "A time is the median of the processes' medians, with the smallest and the largest of them beside it; a ratio "
        "is that of two such times.",
        f"Commit {commit.get('id')}{', changed' if commit.get('dirty') else ''}; pytest benchmarks "
        f"{' '.join(recording['arguments'])}".rstrip()
        + ".",
    ]
    if ceilings:
        lines.append(
            f"MFU is over {ceilings.flops / 1e12:.3g} TFLOP/s, MBU over {ceilings.bandwidth / 1e12:.3g} TB/s "
            f"({ceilings.bandwidth_kind}), both as measured."
        )
    if warning := results["stagebench"].get("load_warning"):
        lines.append(f"{warning}.")
    lines += [f"Left out, because a process skipped it: {name}." for name in recording["left_out"]]
    environment = tuple(sorted(results["machine_info"].items()))
    return [Points(tuple(lines)), Table("Environment", ("", "value"), environment, prose=True)]


def _stages(found: Found, ceilings: Ceilings | None) -> list[Table]:
    rows = [(_names(b), b) for b in found.values() if b.axes == _PLAIN]
    return _tables(("stage", "backend"), rows, found, ceilings)


def _names(benchmark: Benchmark) -> tuple[str, str]:
    whole = {"generate": "generate()", "e2e by generate": "e2e with generate()"}
    return (whole[benchmark.what], "-") if benchmark.what in whole else (benchmark.what, benchmark.backend)


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
    tables = []
    for model in dict.fromkeys(benchmark.model for _, benchmark in rows):
        cells = [names + _figures(b, _eager(found, b), ceilings) for names, b in rows if b.model == model]
        used = [i for i in range(len(head + FIGURES)) if i < len(head) or any(row[i] for row in cells)]
        tables.append(Table(model, _at(used, head + FIGURES), tuple(_at(used, row) for row in cells)))
    return tables


def _at(places: Sequence[int], cells: Sequence[str]) -> tuple[str, ...]:
    return tuple(cells[place] for place in places)


def _eager(found: Found, benchmark: Benchmark) -> Benchmark | None:
    return found.get((benchmark.model, EAGER, benchmark.what, benchmark.axes))


def _figures(benchmark: Benchmark, eager: Benchmark | None, ceilings: Ceilings | None) -> tuple[str, ...]:
    """The cells of `FIGURES`; empty where a figure has no meaning."""
    device = benchmark.info.get("device_median")
    steps = benchmark.info.get("units") if benchmark.what == "decode" else None
    return (
        _ms(benchmark.seconds),
        f"{_ms(benchmark.stats['min'])} to {_ms(benchmark.stats['max'])}",
        _ratio(benchmark.seconds, eager.seconds) if eager and benchmark.what not in ORDER[-2:] else "",
        _ms(device) if device is not None else "",
        _ms(benchmark.seconds / steps) if steps else "",
        *_utilisation(benchmark, eager or benchmark, ceilings),
    )


def _utilisation(benchmark: Benchmark, reference: Benchmark, ceilings: Ceilings | None) -> tuple[str, str]:
    """MFU of encode and prefill, MBU of decode: work as the reference counted it, at this one's time.

    A replayed graph or a kernel of our own does the same work unseen by the counters.
    """
    flops = reference.info.get("work", {}).get("flops", 0) if benchmark.what in ("encode", "prefill") else 0
    moved = sum(reference.info.get("bytes", {}).values()) if benchmark.what == "decode" else 0
    return (
        f"{ceilings.mfu(flops, benchmark.seconds):.1%}" if ceilings and flops else "",
        f"{ceilings.mbu(moved, benchmark.seconds):.1%}" if ceilings and moved else "",
    )


def _sums(found: Found) -> list[Table]:
    """What a user of the split path pays beside one of `generate()`, and what e2e has that no stage explains."""
    head = ("model", "backend", " + ".join(GENERATION), "to generate()", "all stages", "to e2e")
    rows = []
    for model, backend in dict.fromkeys((benchmark.model, benchmark.backend) for benchmark in found.values()):

        def seconds(what: str, backend: str = backend, model: str = model) -> float | None:
            benchmark = found.get((model, backend, what, _PLAIN))
            if benchmark is None and what in (*BACKENDLESS, "generate"):
                benchmark = found.get((model, EAGER, what, _PLAIN))
            return benchmark.seconds if benchmark else None

        generation, everything = _sum(seconds, GENERATION), _sum(seconds, STAGES)
        ratios = _ratio(generation, seconds("generate")), _ratio(everything, seconds("e2e"))
        if generation is not None or everything is not None:
            rows.append((model, backend, _ms(generation), ratios[0], _ms(everything), ratios[1]))
    return [Table("ms, and ratios of times", head, tuple(rows))] if rows else []


def _sum(seconds: Callable[[str], float | None], names: Sequence[str]) -> float | None:
    """The sum of all of them, None where one is missing."""
    each = [seconds(name) for name in names]
    known = [value for value in each if value is not None]
    return sum(known) if len(known) == len(each) else None


def _set_up(found: Found) -> list[Table]:
    head = ("model", "backend", "for", *AXES, "seconds", "MB", "captures")
    rows = tuple(
        (
            benchmark.model,
            benchmark.backend,
            benchmark.what,
            *(str(axis or "") for axis in benchmark.axes),
            f"{cost['seconds']:.2f}",
            f"{cost['bytes'] / 1e6:,.1f}",
            str(cost["captures"]),
        )
        for benchmark in found.values()
        if (cost := benchmark.info.get("setup"))
    )
    return [Table("What capture and compilation cost, once a process", head, rows)] if rows else []


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.3f}"


def _ratio(seconds: float | None, other: float | None) -> str:
    return "" if seconds is None or other is None else f"{seconds / other:.3f}"
