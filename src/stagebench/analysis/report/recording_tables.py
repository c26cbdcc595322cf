"""Lay out what `stagebench bench` measured, as tables in GitHub's Markdown. Importable without torch."""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stagebench.analysis.importers.suite import AXES, EAGER, measured_by
from stagebench.analysis.report import document
from stagebench.analysis.report.document import Part, Sections, without_empty
from stagebench.analysis.roofline import Ceilings
from stagebench.core.stages import BEFORE_GENERATE, DECODE, IN_GENERATE, STAGE_NAMES
from stagebench.core.tables import COUNT, MEGA, MS, PERCENT, RATIO, WORDS, Table, Unit, Value, of_records

STAGE_UNITS = {"stage": WORDS} | dict.fromkeys(AXES, COUNT) | {"backend": WORDS, "work": WORDS, "time": MS}
STAGE_UNITS |= {"min to max": MS, "to eager": RATIO, "a step": MS, "MFU": PERCENT, "MBU": PERCENT}
PATH_UNITS = {"model": WORDS, "by": WORDS, "time": MS, "min to max": MS, "a token": MS, "to generate()": RATIO}
SET_UP_UNITS = {"model": WORDS, "backend": WORDS, "seconds": Unit("{:.2f}"), "bytes": MEGA, "captures": COUNT}
RATES = ("flops", "bandwidth")
"""What a machine has a ceiling of."""
_PLAIN: tuple[None, ...] = (None,) * len(AXES)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark of a stage, of "e2e" or of "generate", over all processes."""

    model: str
    backend: str
    what: str
    axes: tuple[int | None, ...]  # images, batch and context; None where it is what the path has
    seconds: float  # the median of the processes' medians
    extremes: tuple[float, float] | None  # the smallest and the largest of these
    info: Mapping[str, Any]  # its `extra_info`


Found = Mapping[tuple[str, str, str, tuple[int | None, ...]], Benchmark]
"""By model, backend, what and axes: in the order of the run, but stages in theirs, and eager first."""


def to_markdown(results: Mapping[str, Any]) -> str:
    """Lay out a run that `recording.combine` made; how near it came to the machine's ceilings, where it timed those."""
    ceilings = _ceilings(results["benchmarks"])
    found = _benchmarks(results["benchmarks"])
    plain = [b for b in found.values() if b.axes == _PLAIN and b.what in STAGE_NAMES]
    of_images = [b for b in found.values() if b.axes[0] is not None]
    of_batches = [b for b in found.values() if b.axes[1:] != _PLAIN[1:]]
    sections: Sections = {
        "How it was measured": _conditions(results, ceilings),
        "Stages": _stages(plain, found, ceilings),
        "Beside generate()": [_beside_generate(found, "generate", "", IN_GENERATE)],
        "From file to text": [_beside_generate(found, "e2e by generate", "e2e", STAGE_NAMES)],
        "Encode by number of images": _stages(of_images, found, ceilings),
        "Batch and context": _stages(of_batches, found, ceilings),
        "Set-up, outside of what is timed": [_set_up(found)],
    }
    return document.to_markdown(f"stagebench on {results['machine_info']['device']}", without_empty(sections))


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
            of = info["model"], info.get("backend", EAGER), what, tuple(info.get(axis) for axis in AXES)
            benchmarks.append(Benchmark(*of, stats["median"], (stats["min"], stats["max"]), info))
    models, stages = [b.model for b in benchmarks], (*STAGE_NAMES, *(b.what for b in benchmarks))
    benchmarks.sort(
        key=lambda b: (models.index(b.model), stages.index(b.what), [n or 0 for n in b.axes], b.backend != EAGER)
    )
    return {(b.model, b.backend, b.what, b.axes): b for b in benchmarks}


def _conditions(results: Mapping[str, Any], ceilings: Ceilings | None) -> Iterator[Part]:
    recording, commit = results["stagebench"]["recording"], results.get("commit_info", {})
    select = ("--select", recording["select"]) if recording["select"] else ()
    rounds = recording["rounds"]
    counts = ("--processes", str(recording["processes"]), "--rounds", str(rounds))
    command = shlex.join(("stagebench", "bench", "out", *counts, *select, "--", *recording["arguments"]))
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
    yield Table("Environment", (("key", WORDS), ("value", WORDS)), sorted(results["machine_info"].items()))


def _stages(benchmarks: Sequence[Benchmark], found: Found, ceilings: Ceilings | None) -> Iterator[Part]:
    """Lay out a table a model."""
    for model in dict.fromkeys(b.model for b in benchmarks):
        yield of_records(model, STAGE_UNITS, [_figures(b, found, ceilings) for b in benchmarks if b.model == model])


def _figures(benchmark: Benchmark, found: Found, ceilings: Ceilings | None) -> dict[str, Value]:
    """Give the figures of a benchmark that have a meaning.

    MFU of encode and prefill, and MBU of decode, are of the work that eager counted, at this one's time: a replayed
    graph or a kernel of our own does the same work unseen by the counters.
    """
    eager = found.get((benchmark.model, EAGER, benchmark.what, benchmark.axes))
    counted, seconds = (eager or benchmark).info, benchmark.seconds
    decodes, units = benchmark.what == DECODE.name, benchmark.info.get("units")
    generates = benchmark.what in IN_GENERATE
    flops = counted.get("work", {}).get("flops") if generates and not decodes else None
    moved = sum(counted.get("bytes", {}).values()) if decodes else None
    return {
        "stage": benchmark.what,
        **dict(zip(AXES, benchmark.axes, strict=True)),
        "backend": benchmark.backend,
        "work": "" if units is None else f"{units} {benchmark.info.get('unit', '')}".replace("_", " ").strip(),
        "time": seconds,
        "min to max": benchmark.extremes,
        "to eager": seconds / eager.seconds if eager and generates else None,
        "a step": seconds / units if decodes and units else None,
        "MFU": ceilings.mfu(flops, seconds) if ceilings and flops else None,
        "MBU": ceilings.mbu(moved, seconds) if ceilings and moved else None,
    }


def _beside_generate(found: Found, generate: str, whole: str, stages: Sequence[str]) -> Table:
    """Lay out what a path takes, in all and by token, beside the benchmark of the same with `generate()`.

    The path is the benchmark `whole`, or where that is "" the sum of its stages. The share of each stage is its own
    benchmark's time over that of the path.
    """
    rows = []
    for model, backend in _sides(found):
        reference = found.get((model, EAGER, generate, _PLAIN))
        if reference and backend == EAGER:
            rows.append(_path("generate()", reference, reference))
        parts = [b for stage in stages if (b := _in_path(found, model, backend, stage))]
        added = sum(b.seconds for b in parts) if len(parts) == len(stages) else None
        one = _in_path(found, model, backend, whole)
        if added and not whole:
            one = replace(parts[-1], seconds=added, extremes=None)
        if one:
            row = _path(backend, one, reference) | {b.what: b.seconds / one.seconds for b in parts}
            row["all stages"] = added / one.seconds if added and whole else None
            row["operators"] = _operators(parts, reference) if added and backend == EAGER else None
            rows.append(row)
    shares = dict.fromkeys((*stages, "all stages", "unattributed"), PERCENT)
    return of_records("", PATH_UNITS | shares | {"operators": Unit("{:.4f}")}, rows)


def _path(by: str, one: Benchmark, reference: Benchmark | None) -> dict[str, Value]:
    tokens = one.info.get("new_tokens")
    return {
        "model": one.model,
        "by": by,
        "time": one.seconds,
        "min to max": one.extremes,
        "a token": one.seconds / tokens if tokens else None,
        "to generate()": one.seconds / reference.seconds if reference else None,
        "unattributed": one.info.get("unattributed_share"),
    }


def _operators(stages: Sequence[Benchmark], whole: Benchmark | None) -> float | None:
    """Divide the operators of all stages by those of `generate()`: exact, where times are noisy.

    Of the plain path only, because a replayed graph runs none.
    """
    *parts, reference = (b.info.get("work", {}).get("aten_operators", 0) if b else 0 for b in (*stages, whole))
    return float(sum(parts) / reference) if reference and all(parts) else None


def _in_path(found: Found, model: str, backend: str, what: str) -> Benchmark | None:
    """Find a benchmark of the path as it is; eager's where a backend has no part in it and was not timed itself."""
    own = found.get((model, backend, what, _PLAIN))
    return own or (found.get((model, EAGER, what, _PLAIN)) if what in BEFORE_GENERATE else None)


def _sides(found: Found) -> Iterable[tuple[str, str]]:
    return dict.fromkeys((b.model, b.backend) for b in found.values())


def _set_up(found: Found) -> Table:
    """Lay out the set-up by model and backend; of the benchmarks that note it, the one that notes most tells all."""
    rows = []
    for side in _sides(found):
        noted = [b.info["setup"] for b in found.values() if (b.model, b.backend) == side and "setup" in b.info]
        if noted:
            most = max(noted, key=lambda cost: cost["captures"])
            rows.append({"model": side[0], "backend": side[1], **most})
    return of_records("What capture and compilation cost, once a process", SET_UP_UNITS, rows)
