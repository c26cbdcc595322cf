"""Draw a report's pictures as SVG; hatches, markers and line styles tell things apart, so that grey is enough."""

import io
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from stagebench.analysis.attribution import UNATTRIBUTED
from stagebench.analysis.narrative import subject
from stagebench.analysis.samples import SampleLine, by_model
from stagebench.core.stages import STAGE_NAMES

WIDTH = 6.4
INKS = ("#000000", "#5a5a5a", "#8f8f8f")
LINES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 4)))
STYLE: dict[Any, Any] = {
    "axes.prop_cycle": cycler(color=INKS * 2, linestyle=LINES, marker=list("os^Dvx")),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 13,
    "boxplot.flierprops.marker": "x",
    "boxplot.flierprops.markersize": 5,
    "boxplot.medianprops.color": "black",
    "boxplot.medianprops.linewidth": 2,
    "boxplot.patchartist": True,
    "figure.constrained_layout.use": True,
    "font.size": 13,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "stagebench",  # the same numbers give the same bytes
    "text.parse_math": False,  # a name with $ in it is no formula
}
FILLS = (("#ffffff", ""), ("#d9d9d9", ""), ("#a6a6a6", "//"), ("#6b6b6b", ""), ("#2b2b2b", ""), ("#ffffff", ".."))


def svg(draw: Callable[[], Figure]) -> bytes:
    """Draw a figure in the look of all."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        draw().savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def stages(modes: Mapping[str, Any]) -> Figure:
    """Stack the mean milliseconds of each stage, a bar a model and mode."""
    bars = {f"{model}\n{mode}": of["stages"] for mode, each in modes.items() for model, of in each["models"].items()}
    figure, axes = _bars(list(bars), 1.6 + 0.62 * len(bars), "ms, mean of a sample")
    left = np.zeros(len(bars))
    for i, part in enumerate((*STAGE_NAMES, UNATTRIBUTED)):
        widths = [max(of[part]["mean"], 0.0) * 1e3 for of in bars.values()]
        axes.barh(range(len(bars)), widths, left=left, height=0.7, label=part, **_fill(i))
        left += widths
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
        axes.plot([level, level], [i - 1.35, i + 0.35], "k-", linewidth=0.8)
        level -= saved
        text = f"{-saved:+,.1f}" if abs(saved) >= 0.05 else "0"
        axes.annotate(text, (max(level, level + saved), i), xytext=(4, 0), textcoords="offset points", va="center")
    axes.set_xlim(0, axes.dataLim.xmax * 1.16)
    return figure


def latency(rows: Sequence[SampleLine]) -> Figure:
    """Draw the gap before each token over all passes that reach it: the median as a line, up to p90 as a band."""
    figure = Figure(figsize=(WIDTH, 3.9))
    axes = figure.add_subplot(xlabel="token", ylabel="ms since the one before")
    for model, own in by_model(row for row in rows if row.get("itl")).items():
        gaps = np.array(list(zip_longest(*(row["itl"] for row in own), fillvalue=np.nan))) * 1e3
        p50, p90 = np.nanquantile(gaps, (0.5, 0.9), axis=1)
        positions = range(3, len(gaps) + 3)  # the first gap lies between the second and the third token
        (line,) = axes.plot(positions, p50, marker="", linewidth=1.8, label=model)
        axes.fill_between(positions, p50, p90, color=line.get_color(), alpha=0.18, linewidth=0)
    axes.locator_params(axis="x", integer=True)
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
        boxes = axes.boxplot(values, orientation="horizontal", tick_labels=list(models), widths=0.6)
        for i, box in enumerate(boxes["boxes"]):
            box.set(**_fill(i % 6))
        axes.invert_yaxis()
        axes.set_title(stage)
    panels[-1].set_xlabel("ms")
    return figure


def scaling(models: Mapping[str, Any], sizes: str) -> Figure:
    """Draw the median milliseconds of each stage against the size, on logarithmic axes, a panel a model."""
    figure = Figure(figsize=(WIDTH, 1.0 + 3.1 * len(models)))
    panels = figure.subplots(len(models), 1, squeeze=False, sharex=True)[:, 0]
    for axes, (model, curves) in zip(panels, models.items(), strict=True):
        for stage in STAGE_NAMES:
            at, seconds = np.transpose(curves[stage]["points"])
            axes.plot(at, seconds * 1e3, label=stage)
        axes.set(xscale="log", yscale="log", title=model, ylabel="ms")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xticks(at, [f"{size:g}" for size in at], minor=False)
        axes.minorticks_off()
    panels[-1].set_xlabel(sizes)
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
    color, hatch = FILLS[i]
    return {"facecolor": color, "hatch": hatch, "edgecolor": "black", "linewidth": 0.8}
