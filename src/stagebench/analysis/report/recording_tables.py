"""What `stagebench record` measured, as tables in GitHub's Markdown. Importable without torch."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stagebench.analysis.importers.suite import AXES, BACKENDLESS, EAGER, GENERATION, measured_by
from stagebench.analysis.report.document import Part, Section
from stagebench.analysis.report.document import to_markdown as document_to_markdown
from stagebench.analysis.roofline import Ceilings
from stagebench.core.stages import STAGE_NAMES
from stagebench.core.tables import COUNT, MS, PERCENT, RATIO, SECONDS, SENTENCES, WORDS, Table, Unit, Value

ORDER = (*STAGE_NAMES, "e2e", "generate", "e2e by generate")
SHARED = (*BACKENDLESS, "generate", "e2e by generate")
"""What is timed once for all backends."""
MEGABYTES = Unit("{:,.1f}", 1e-6, "MB")
OPERATORS = Unit("{:.4f}")
RATES = ("flops", "bandwidth")
"""What a machine has a ceiling of."""
_PLAIN: tuple[None, ...] = (None,) * len(AXES)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark.

    Attributes:
        model: its name.
        backend: what ran it.
        what: a stage, "e2e" or "generate".
        axes: images, batch and context, each None where it is what the path has.
        seconds: the median over the medians of the processes.
        extremes: the smallest and the largest of these.
        info: its `extra_info`.
    """

    model: str
    backend: str
    what: str
    axes: tuple[int | None, ...]
    seconds: float
    extremes: tuple[float, float]
    info: Mapping[str, Any]


Found = Mapping[tuple[str, str, str, tuple[int | None, ...]], Benchmark]
"""By model, backend, what and axes: the models and backends in the order of the run, of which eager comes first."""


def to_markdown(results: Mapping[str, Any]) -> str:
    """Lay out a run that `recording.combine` made; how near it came to the machine's ceilings, where it timed those."""
    ceilings = _ceilings(results["benchmarks"])
    found = _benchmarks(results["benchmarks"])
    in_path = [b for b in found.values() if b.axes == _PLAIN and b.what in STAGE_NAMES]
    of_images = [b for b in found.values() if b.axes[0] is not None]
    of_batches = [b for b in found.values() if b.axes[1:] != _PLAIN[1:]]
    made: dict[str, Iterable[Part]] = {
        "How it was measured": _conditions(results, ceilings),
        "Stages": _stages(in_path, found, ceilings),
        "Beside generate()": _beside_generate(found),
        "From file to text": _from_file_to_text(found),
        "Encode by number of images": _stages(of_images, found, ceilings),
        "Batch and context": _stages(of_batches, found, ceilings),
        "Set-up, outside of what is timed": _set_up(found),
    }
    sections = [Section(title, parts) for title, each in made.items() if (parts := tuple(each))]
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
        info, stats = data.get("extra_info", {}), data["stats"]
        if (what := measured_by(data, info)) is not None:
            axes, extremes = tuple(info.get(axis) for axis in AXES), (stats["min"], stats["max"])
            backend = info.get("backend", EAGER)
            benchmarks.append(Benchmark(info["model"], backend, what, axes, stats["median"], extremes, info))
    models = list(dict.fromkeys(b.model for b in benchmarks))
    backends = list(dict.fromkeys(b.backend for b in benchmarks))

    def place(benchmark: Benchmark) -> tuple[Any, ...]:
        stage = ORDER.index(benchmark.what) if benchmark.what in ORDER else len(ORDER)
        axes = tuple(axis or 0 for axis in benchmark.axes)
        return models.index(benchmark.model), stage, axes, benchmark.backend != EAGER, backends.index(benchmark.backend)

    return {(b.model, b.backend, b.what, b.axes): b for b in sorted(benchmarks, key=place)}


def _conditions(results: Mapping[str, Any], ceilings: Ceilings | None) -> Iterator[Part]:
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
    yield (*lines, *(f"Left out, because a process skipped it: {name}." for name in recording["left_out"]))
    yield Table("Environment", (("", WORDS), ("value", SENTENCES)), sorted(results["machine_info"].items()))


def _stages(benchmarks: Sequence[Benchmark], found: Found, ceilings: Ceilings | None) -> Iterator[Part]:
    """Lay out a table a model."""
    names = ("stage", WORDS), *((axis, COUNT) for axis in AXES), ("backend", WORDS), ("work", WORDS)
    figures = ("", MS), ("min to max", MS), ("to eager", RATIO), ("a step", MS), ("MFU", PERCENT), ("MBU", PERCENT)
    for model in dict.fromkeys(b.model for b in benchmarks):
        rows = [
            (b.what, *b.axes, b.backend, _work(b), *_figures(b, found, ceilings))
            for b in benchmarks
            if b.model == model
        ]
        yield Table(model, (*names, *figures), rows)


def _work(benchmark: Benchmark) -> str:
    """Say how much of what a stage did ("626 prompt tokens"), where it was counted."""
    units = benchmark.info.get("units")
    return "" if units is None else f"{units} {benchmark.info.get('unit', '')}".replace("_", " ").strip()


def _figures(benchmark: Benchmark, found: Found, ceilings: Ceilings | None) -> tuple[Value, ...]:
    """Give the values of a benchmark's figures; None where one has no meaning.

    MFU of encode and prefill, and MBU of decode, are of the work that eager counted, at this one's time: a replayed
    graph or a kernel of our own does the same work unseen by the counters.
    """
    eager = found.get((benchmark.model, EAGER, benchmark.what, benchmark.axes))
    to_eager = _over(benchmark.seconds, eager) if benchmark.what not in BACKENDLESS else None
    counted, seconds = (eager or benchmark).info, benchmark.seconds
    flops = counted.get("work", {}).get("flops", 0) if benchmark.what in ("encode", "prefill") else 0
    moved = sum(counted.get("bytes", {}).values()) if benchmark.what == "decode" else 0
    mfu = ceilings.mfu(flops, seconds) if ceilings and flops else None
    mbu = ceilings.mbu(moved, seconds) if ceilings and moved else None
    return seconds, benchmark.extremes, to_eager, _a_step(benchmark), mfu, mbu


def _a_step(benchmark: Benchmark) -> float | None:
    """Give the seconds of a decode step; None for another stage."""
    steps = benchmark.info.get("units") if benchmark.what == "decode" else None
    return benchmark.seconds / steps if steps else None


def _beside_generate(found: Found) -> Iterator[Part]:
    """Lay out what a token costs a user of `generate()`, and one of the stages."""
    rows: list[tuple[Value, ...]] = []
    for model, backends in _backends(found).items():
        whole = _in_path(found, model, EAGER, "generate")
        if whole:
            token = _a_token(whole.seconds, whole)
            rows.append((model, "generate()", None, None, whole.seconds, whole.extremes, token, 1.0, None))
        for backend in backends:
            if decode := _in_path(found, model, backend, "decode"):
                to_eager = _over(decode.seconds, _in_path(found, model, EAGER, "decode"))
                stages = [_in_path(found, model, backend, stage) for stage in GENERATION]
                seconds, token = _sum(stages), _a_token(_sum(stages), decode)
                operators = _operators(stages, whole) if backend == EAGER else None
                own = _a_step(decode), to_eager, seconds, None, token, _over(seconds, whole), operators
                rows.append((model, backend, *own))
    step, times = ("decode a step", MS), (" + ".join(GENERATION), MS)
    spread = ("min to max", MS), ("a token", MS), ("to generate()", RATIO), ("operators, to generate()", OPERATORS)
    if rows:
        yield Table("Times", (("model", WORDS), ("by", WORDS), step, ("to eager", RATIO), times, *spread), rows)


def _operators(stages: Sequence[Benchmark | None], whole: Benchmark | None) -> float | None:
    """Divide the operators of all stages by those of `generate()`: exact, where times are noisy.

    Of the plain path only, because a replayed graph runs none.
    """
    *parts, reference = (b.info.get("work", {}).get("aten_operators", 0) if b else 0 for b in (*stages, whole))
    return float(sum(parts) / reference) if reference and all(parts) else None


def _a_token(seconds: float | None, benchmark: Benchmark) -> float | None:
    """Divide a time by the tokens that a benchmark wrote."""
    tokens = benchmark.info.get("new_tokens")
    return seconds / tokens if seconds is not None and tokens else None


def _from_file_to_text(found: Found) -> Iterator[Part]:
    """Lay out the whole path beside the same with `generate()`, and what it is made of.

    A stage's share is its own benchmark's time over that of the path; "unattributed" was seen in the path itself.
    """
    rows: list[tuple[Value, ...]] = []
    for model, backends in _backends(found).items():
        reference = _in_path(found, model, EAGER, "e2e by generate")
        if reference:
            blank = [None] * (len(STAGE_NAMES) + 2)
            rows.append((model, "generate()", reference.seconds, reference.extremes, 1.0, *blank))
        for backend in backends:
            if e2e := _in_path(found, model, backend, "e2e"):
                stages = [_in_path(found, model, backend, stage) for stage in STAGE_NAMES]
                shares = [_over(stage.seconds if stage else None, e2e) for stage in stages]
                rest = _over(_sum(stages), e2e), e2e.info.get("unattributed_share")
                rows.append((model, backend, e2e.seconds, e2e.extremes, _over(e2e.seconds, reference), *shares, *rest))
    times = ("", MS), ("min to max", MS), ("to generate()", RATIO)
    parts = *((stage, PERCENT) for stage in STAGE_NAMES), ("all stages", RATIO), ("unattributed", PERCENT)
    if rows:
        yield Table("Times, and shares of them", (("model", WORDS), ("by", WORDS), *times, *parts), rows)


def _backends(found: Found) -> dict[str, list[str]]:
    """Name by model what ran it, eager first."""
    return {
        model: list(dict.fromkeys(b.backend for b in found.values() if b.model == model))
        for model in dict.fromkeys(b.model for b in found.values())
    }


def _in_path(found: Found, model: str, backend: str, what: str) -> Benchmark | None:
    """Find a benchmark of the path as it is; eager's where a backend has no part in it and was not timed itself."""
    own = found.get((model, backend, what, _PLAIN))
    return own or (found.get((model, EAGER, what, _PLAIN)) if what in SHARED else None)


def _sum(benchmarks: Sequence[Benchmark | None]) -> float | None:
    """Add the times of all of them; None where one is missing."""
    known = [benchmark.seconds for benchmark in benchmarks if benchmark]
    return sum(known) if len(known) == len(benchmarks) else None


def _over(seconds: float | None, whole: Benchmark | None) -> float | None:
    return None if seconds is None or whole is None else seconds / whole.seconds


def _set_up(found: Found) -> Iterator[Part]:
    """By model and backend; every benchmark notes what was set up until then, so the one that notes most tells all."""
    costs: dict[tuple[str, str], Mapping[str, Any]] = {}
    for b in found.values():
        if "setup" in b.info:
            key = b.model, b.backend
            costs[key] = max(costs.get(key, b.info["setup"]), b.info["setup"], key=lambda cost: cost["captures"])
    columns = ("model", WORDS), ("backend", WORDS), ("", SECONDS), ("", MEGABYTES), ("captures", COUNT)
    if costs:
        rows = [(*key, *(cost[name] for name in ("seconds", "bytes", "captures"))) for key, cost in costs.items()]
        yield Table("What capture and compilation cost, once a process", columns, rows)
