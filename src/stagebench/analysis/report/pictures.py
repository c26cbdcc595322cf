"""Draw pictures for talks: each is one SVG on a white card, with the bars that a report has."""

from collections.abc import Mapping, Sequence
from typing import Any

from stagebench.analysis.narrative import factors, no_difference
from stagebench.analysis.report.document import COLORS, brief
from stagebench.analysis.samples import MAIN, median_passes, select
from stagebench.core.pages import fill
from stagebench.core.shown import PERCENT


def draw(title: str, under: str, small: str, **bars: Any) -> str:
    """Return a picture with a title, a line under it, small print, and bars: `stacks` of passes, or `waterfalls`."""
    drawn: dict[str, Any] = {"title": title, "under": under, "small": small, "colors": COLORS} | bars
    filters = {"brief": brief, "percent": PERCENT.write}
    return fill("stagebench.analysis.report", "picture.svg", filters, **drawn).lstrip()


def of_run(numbers: Mapping[str, Any], small: str) -> str:
    """Draw the median pass of each model, from the JSON of `stagebench run`."""
    here, rows = numbers["identity"], select(numbers["samples"], study=MAIN)
    models = dict.fromkeys(row["model"] for row in rows)
    medians = [line for model in models for line in median_passes(select(rows, model=model)).values()]
    weights = "random weights" if here.get("weights") == "random" else f"weights: {here.get('weights')}"
    built = f"{here['device']}; {here['profile']} profile, {weights}, {here['dtype']}"
    under = f"{here['engine'] if here['dtype'] == 'none' else built}; {here['generation']}"
    many = len(rows) // len(models)
    title = f"{', '.join(models)}: ms by stage, {f'the median of {many} passes' if many > 1 else 'one pass'}"
    return draw(title, under, small, stacks=medians)


def of_attributions(explained: Sequence[Mapping[str, Any]], small: str) -> str:
    """Draw how each baseline's total becomes the other model's; a total that may be no difference has no shares."""
    shares = [{} if no_difference(each) else each.get("shares", {}) for each in explained]
    falls = list(zip(explained, map(factors, explained), shares, strict=True))
    others = ", ".join(each["other"]["model"] for each in explained)
    title = f"From {explained[0]['baseline']['model']} to {others}: what saves the time"
    known = "; thin lines: 95 % intervals" * any("intervals" in each for each in explained)
    return draw(title, f"dashed bars: time lost{known}", small, waterfalls=falls)
