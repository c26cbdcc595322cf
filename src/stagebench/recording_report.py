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

ORDER = (*STAGES, "e2e", "generate")
FIGURES = ("ms", "min to max", "to eager", "ms on the device", "ms a step", "MFU", "MBU")
"""Of every benchmark, where it has them; a table leaves out the columns that stay empty."""


@dataclass(frozen=True, slots=True)
class Point:
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


Found = Mapping[tuple[str, str, str, tuple[int | None, ...]], Point]
"""By model, backend, what and axes: the models and backends in the order of the run, of which eager comes first."""

_PLAIN: tuple[None, ...] = (None,) * len(AXES)


def to_markdown(results: Mapping[str, Any], ceilings: Ceilings | None) -> str:
    """Lay out a run that `recording.combine` made.

    Args:
        results: with the medians of the processes.
        ceilings: of the machine; None leaves out how near it came to them.
    """
    found = _points(results["benchmarks"])
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


def _points(benchmarks: Iterable[Mapping[str, Any]]) -> Found:
    points = []
    for benchmark in benchmarks:
        info = benchmark.get("extra_info", {})
        if (what := measured_by(benchmark, info)) is not None:
            axes = tuple(info.get(axis) for axis in AXES)
            points.append(Point(info["model"], info.get("backend", EAGER), what, axes, benchmark["stats"], info))
    models, backends = (
        list(dict.fromkeys(names)) for names in ([p.model for p in points], [p.backend for p in points])
    )

    def place(point: Point) -> tuple[Any, ...]:
        stage = ORDER.index(point.what) if point.what in ORDER else len(ORDER)
        axes = tuple(axis or 0 for axis in point.axes)
        return models.index(point.model), stage, axes, point.backend != EAGER, backends.index(point.backend)

    return {(p.model, p.backend, p.what, p.axes): p for p in sorted(points, key=place)}


def _conditions(results: Mapping[str, Any], ceilings: Ceilings | None) -> list[Points | Table]:
    recording, commit = results["stagebench"]["recording"], results.get("commit_info", {})
    lines = [
        f"{recording['processes']} fresh processes, each {recording['rounds']} rounds of every benchmark, after one "
        f"that proved what they run; {recording['seconds'] / 60:.0f} minutes in all.",
        "A time is the median of the processes' medians, with the smallest and the largest of them beside it; a ratio "
        "is that of two such times.",
        f"Commit {commit.get('id')}{', changed' if commit.get('dirty') else ''}; pytest benchmarks "
        f"{' '.join(recording['arguments'])}".rstrip()
        + ".",
    ]
    if ceilings:
        lines.append(
            f"MFU is over {ceilings.flops / 1e12:.1f} TFLOP/s, MBU over {ceilings.bandwidth / 1e12:.2f} TB/s "
            f"({ceilings.bandwidth_kind}), both as measured."
        )
    if warning := results["stagebench"].get("load_warning"):
        lines.append(f"{warning}.")
    lines += [f"Left out, because a process skipped it: {name}." for name in recording["left_out"]]
    environment = tuple(sorted(results["machine_info"].items()))
    return [Points(tuple(lines)), Table("Environment", ("", "value"), environment, prose=True)]


def _stages(found: Found, ceilings: Ceilings | None) -> list[Table]:
    points = [point for point in found.values() if point.axes == _PLAIN]
    return [
        _table(model, ("stage", "backend"), [(_names(p), p) for p in points if p.model == model], found, ceilings)
        for model in dict.fromkeys(point.model for point in points)
    ]


def _names(point: Point) -> tuple[str, str]:
    return ("generate()", "-") if point.what == "generate" else (point.what, point.backend)


def _by_axes(found: Found, axes: Sequence[str], ceilings: Ceilings | None) -> list[Table]:
    """A table a model of the benchmarks that vary one of these."""
    places = [AXES.index(axis) for axis in axes]
    points = [point for point in found.values() if any(point.axes[place] is not None for place in places)]

    def names(point: Point) -> tuple[str, ...]:
        return point.what, *(str(point.axes[place] or "") for place in places), point.backend

    return [
        _table(model, ("stage", *axes, "backend"), [(names(p), p) for p in points if p.model == model], found, ceilings)
        for model in dict.fromkeys(point.model for point in points)
    ]


def _table(
    caption: str,
    head: tuple[str, ...],
    rows: Sequence[tuple[tuple[str, ...], Point]],
    found: Found,
    ceilings: Ceilings | None,
) -> Table:
    cells = [names + _figures(point, _eager(found, point), ceilings) for names, point in rows]
    whole = (*head, *FIGURES)
    used = [i for i in range(len(whole)) if i < len(head) or any(row[i] for row in cells)]
    return Table(caption, tuple(whole[i] for i in used), tuple(tuple(row[i] for i in used) for row in cells))


def _eager(found: Found, point: Point) -> Point | None:
    return found.get((point.model, EAGER, point.what, point.axes))


def _figures(point: Point, eager: Point | None, ceilings: Ceilings | None) -> tuple[str, ...]:
    """The cells of `FIGURES`; empty where a figure has no meaning."""
    device, steps = point.info.get("device_median"), point.info.get("units") if point.what == "decode" else None
    return (
        _ms(point.seconds),
        f"{_ms(point.stats['min'])} to {_ms(point.stats['max'])}",
        _ratio(point.seconds, eager.seconds) if eager and point.what != "generate" else "",
        _ms(device) if device is not None else "",
        _ms(point.seconds / steps) if steps else "",
        *_utilisation(point, eager or point, ceilings),
    )


def _utilisation(point: Point, reference: Point, ceilings: Ceilings | None) -> tuple[str, str]:
    """MFU of encode and prefill, MBU of decode: FLOPs and bytes as the reference counted them, at this point's times.

    A replayed graph or a kernel of our own does the same work unseen by the counters.
    """
    flops = reference.info.get("work", {}).get("flops", 0) if point.what in ("encode", "prefill") else 0
    moved = sum(reference.info.get("bytes", {}).values()) if point.what == "decode" else 0
    return (
        f"{ceilings.mfu(flops, point.seconds):.1%}" if ceilings and flops else "",
        f"{ceilings.mbu(moved, point.seconds):.1%}" if ceilings and moved else "",
    )


def _sums(found: Found) -> list[Table]:
    """What a user of the split path pays beside one of `generate()`, and what e2e has that no stage explains."""
    head = ("model", "backend", " + ".join(GENERATION), "to generate()", "all stages", "to e2e")
    rows = []
    for model, backend in dict.fromkeys((point.model, point.backend) for point in found.values()):

        def seconds(what: str, backend: str = backend, model: str = model) -> float | None:
            point = found.get((model, backend, what, _PLAIN))
            if point is None and what in (*BACKENDLESS, "generate"):
                point = found.get((model, EAGER, what, _PLAIN))
            return point.seconds if point else None

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
            point.model,
            point.backend,
            point.what,
            *(str(axis or "") for axis in point.axes),
            f"{cost['seconds']:.2f}",
            f"{cost['bytes'] / 1e6:,.1f}",
            str(cost["captures"]),
        )
        for point in found.values()
        if (cost := point.info.get("setup"))
    )
    return [Table("What capture and compilation cost, once a process", head, rows)] if rows else []


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.3f}"


def _ratio(seconds: float | None, other: float | None) -> str:
    return "" if seconds is None or other is None else f"{seconds / other:.3f}"
