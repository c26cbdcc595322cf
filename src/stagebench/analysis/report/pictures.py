"""Draw a report's pictures as SVG; hatches, markers and line styles tell things apart, so that grey is enough."""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stagebench.analysis.attribution import UNATTRIBUTED
from stagebench.analysis.narrative import subject
from stagebench.analysis.report.report_data import latencies, shared
from stagebench.analysis.samples import DURATIONS, MAIN, SampleLine, by_model, select
from stagebench.core.stages import STAGE_NAMES

Found = Mapping[str, Any]

WIDTH = 6.4
STYLE: dict[Any, Any] = {
    "font.size": 13,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 13,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "stagebench",  # the same numbers give the same bytes
    "figure.constrained_layout.use": True,
    "text.parse_math": False,  # a name with $ in it is no formula
}
GREYS = ("#ffffff", "#d9d9d9", "#a6a6a6", "#6b6b6b", "#2b2b2b", "#ffffff")
HATCHES = ("", "", "//", "", "", "..")
LINES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 4)))
MARKERS = ("o", "s", "^", "D", "v", "x")
INKS = ("#000000", "#5a5a5a", "#8f8f8f")


def draw(found: Found, rows: Sequence[SampleLine]) -> dict[str, bytes]:
    """Draw every picture that the run has numbers for.

    Args:
        found: as `report_data` gives it.
        rows: the lines that it was made of.

    Returns:
        SVG by the name under which `sections` refers to it.
    """
    good = [row for row in rows if "error" not in row and row["study"] == MAIN]
    with mpl.rc_context(STYLE):
        return {name: _svg(figure) for name, figure in _figures(found, good)}


def _figures(found: Found, good: Sequence[SampleLine]) -> Iterator[tuple[str, Figure]]:
    yield "stages", stages(found["modes"])
    for mode, each in found["modes"].items():
        kept = shared(select(good, mode=mode))
        yield f"distribution-{mode}", distribution(kept)
        if gaps := {model: columns for model, columns in latencies(kept).items() if len(columns) > 1}:
            yield f"latency-{mode}", latency(gaps)
        for i, pair in enumerate(each["pairs"]):
            yield f"waterfall-{mode}-{i}", waterfall(pair)
    for study, models in found["scaling"].items():
        if any(len(curves["e2e"]["points"]) > 1 for curves in models.values()):
            yield f"scaling-{study}", scaling(models, study)


def stages(modes: Mapping[str, Any]) -> Figure:
    """Stack the mean milliseconds of each stage, a bar a model and mode."""
    bars = [(f"{model}\n{mode}", each["models"][model]) for mode, each in modes.items() for model in each["models"]]
    figure, axes = _bars([name for name, _ in bars], 1.6 + 0.62 * len(bars), "ms, mean of a sample")
    left = [0.0] * len(bars)
    for i, part in enumerate((*STAGE_NAMES, UNATTRIBUTED)):
        widths = [max(summary["stages"][part]["mean"], 0.0) * 1e3 for _, summary in bars]
        axes.barh(range(len(bars)), widths, left=left, height=0.7, label=part, **_fill(i))
        left = [start + width for start, width in zip(left, widths, strict=True)]
    _legend(figure, axes)
    return figure


def waterfall(pair: Mapping[str, Any]) -> Figure:
    """Go from one model's mean milliseconds to the other's, a step a factor."""
    names = [pair["baseline"]["model"], *map(subject, pair["seconds"]), pair["other"]["model"]]
    figure, axes = _bars(names, 0.9 + 0.46 * len(names), "ms, mean of a sample; hatched: slower")
    level = pair["baseline"]["total"] * 1e3
    axes.barh([0, len(names) - 1], [level, pair["other"]["total"] * 1e3], height=0.7, **_fill(3))
    for i, saved in enumerate((seconds * 1e3 for seconds in pair["seconds"].values()), 1):
        axes.barh(i, -saved, left=level, height=0.7, **_fill(0 if saved >= 0 else 2))
        axes.plot([level, level], [i - 1.35, i + 0.35], color="black", linewidth=0.8)
        level -= saved
        text = f"{-saved:+,.1f}" if abs(saved) >= 0.05 else "0"
        axes.annotate(text, (max(level, level + saved), i), xytext=(4, 0), textcoords="offset points", va="center")
    axes.set_xlim(0, axes.dataLim.xmax * 1.16)
    return figure


def latency(gaps: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Draw the gap before each token by its position: the median as a line, up to p90 as a band."""
    figure = Figure(figsize=(WIDTH, 3.9))
    axes = figure.add_subplot(xlabel="token", ylabel="ms since the one before")
    for i, (model, columns) in enumerate(gaps.items()):
        positions = range(3, len(columns) + 3)  # the first gap lies between the second and the third token
        p50, p90 = ([column[name] * 1e3 for column in columns] for name in ("p50", "p90"))
        axes.fill_between(positions, p50, p90, color=INKS[i % 3], alpha=0.18, linewidth=0)
        axes.plot(positions, p50, linestyle=LINES[i % 6], color=INKS[i % 3], linewidth=1.8, label=model)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    _legend(figure, axes)
    return figure


def distribution(rows: Sequence[SampleLine]) -> Figure:
    """Draw boxes of all passes, a panel a stage, a box a model; whiskers reach to 1.5 times the middle half."""
    models = by_model(rows)
    figure = Figure(figsize=(WIDTH, 1.1 + len(STAGE_NAMES) * (0.55 + 0.32 * len(models))))
    panels = figure.subplots(len(STAGE_NAMES), 1)
    for stage, axes in zip(STAGE_NAMES, panels, strict=True):
        values = [[row["seconds"][stage] * 1e3 for row in own] for own in models.values()]
        look: dict[str, Any] = {
            "medianprops": {"color": "black", "linewidth": 2},
            "flierprops": {"marker": "x", "markersize": 5},
        }
        look |= {"patch_artist": True, "orientation": "horizontal", "tick_labels": list(models), "widths": 0.6}
        boxes = axes.boxplot(values, **look)
        for i, box in enumerate(boxes["boxes"]):
            box.set(**_fill(i % 6))
        axes.invert_yaxis()
        axes.set_title(stage)
    panels[-1].set_xlabel("ms")
    return figure


def scaling(models: Mapping[str, Any], study: str) -> Figure:
    """Draw the median milliseconds of each stage against the size, on logarithmic axes, a panel a model."""
    figure = Figure(figsize=(WIDTH, 1.0 + 3.1 * len(models)))
    panels = figure.subplots(len(models), 1, squeeze=False, sharex=True)[:, 0]
    for axes, (model, curves) in zip(panels, models.items(), strict=True):
        for i, stage in enumerate(STAGE_NAMES):
            sizes, seconds = zip(*curves[stage]["points"], strict=True)
            look = {"linestyle": LINES[i], "marker": MARKERS[i], "markerfacecolor": GREYS[i]}
            axes.plot(sizes, [each * 1e3 for each in seconds], color="black", label=stage, **look)
        axes.set(xscale="log", yscale="log", title=model, ylabel="ms")
        axes.set_xticks(sizes, [f"{size:g}" for size in sizes], minor=False)
        axes.minorticks_off()
    panels[-1].set_xlabel("seconds of the clip" if study == DURATIONS else "new tokens")
    _legend(figure, panels[0])
    return figure


def _bars(names: Sequence[str], height: float, label: str) -> tuple[Figure, Axes]:
    """Make room for horizontal bars, the first one on top."""
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_subplot(xlabel=label)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    return figure, axes


def _legend(figure: Figure, axes: Axes) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, columnspacing=1.2)


def _fill(i: int) -> dict[str, Any]:
    return {"facecolor": GREYS[i], "hatch": HATCHES[i], "edgecolor": "black", "linewidth": 0.8}


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
