"""`stagebench explain`: why one model is faster than another, from numbers alone."""

from pathlib import Path
from typing import Any

import click

from stagebench.analysis.attribution import attribute
from stagebench.analysis.comparison import compare
from stagebench.analysis.importers.measured import Measured
from stagebench.analysis.importers.read import FORMATS, read_files
from stagebench.analysis.narrative import as_json, table
from stagebench.cli.options import JSON, PATH
from stagebench.cli.output import Console, write_json_to
from stagebench.core.errors import AnalysisError
from stagebench.core.results import versioned
from stagebench.core.shown import plain, show, to_markdown


@click.command(name="explain", params=[JSON])
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=PATH)
@click.option("--from", "format_name", type=click.Choice(tuple(FORMATS)), help="By default what the file looks like.")
@click.option("--baseline", help="The model to explain the others against; the slowest by default.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown, to paste into a report.")
def command(
    paths: tuple[Path, ...], format_name: str | None, baseline: str | None, json_path: Path | None, as_markdown: bool
) -> None:
    """Say why one model is faster than another, from a table of their stages.

    FILE is a table that you typed in, a pytest-benchmark run of our suite, what `stagebench run
    --json` wrote, the raw samples of an analysis (.jsonl), or a result of `vllm bench serve`, one file a model. The
    seconds saved are shared out among the stages, the number of tokens and the time per token, in a way that does not
    depend on which of them is changed first. What in a file can't hold is printed as a warning.
    """
    measured = read_files(paths, format_name)
    first = _baseline(measured, baseline)
    others = [model for model in measured.costs if model != first]
    if not others:
        raise AnalysisError(f"two models are needed, got {first} only")
    explained = [_explain(measured, first, other) for other in others]
    warnings = [*measured.warnings, *filter(None, (_left_out(measured, first, other) for other in others))]
    if json_path:
        write_json_to(json_path, versioned("report", {"attributions": explained, "warnings": warnings}))
    if str(json_path) != "-":
        _print(explained, warnings, as_markdown)


def _baseline(measured: Measured, asked: str | None) -> str:
    if asked is None:
        return max(measured.costs, key=lambda model: measured.costs[model].total)
    if asked not in measured.costs:
        raise AnalysisError(f"the baseline must be one of {', '.join(measured.costs)}, got {asked!r}")
    return asked


def _explain(measured: Measured, baseline: str, other: str) -> dict[str, Any]:
    """Over the samples that both have; of the averages, where they share none."""
    a, b = measured.samples.get(baseline, {}), measured.samples.get(other, {})
    if a.keys() & b.keys():
        return as_json(*compare(a, b, measured.sequences))
    return as_json(attribute(measured.costs[baseline], measured.costs[other]))


def _left_out(measured: Measured, baseline: str, other: str) -> str | None:
    a, b = measured.samples.get(baseline, {}).keys(), measured.samples.get(other, {}).keys()
    return (
        f"{len(a ^ b)} samples are of one of {baseline} and {other} only, {len(a & b)} are of both" if a ^ b else None
    )


def _print(explained: list[dict[str, Any]], warnings: list[str], as_markdown: bool) -> None:
    for each in explained:
        if as_markdown:
            click.echo(to_markdown(table(each)) + "\n")
        else:
            show(table(each), Console())
    for warning in warnings:
        click.echo(f"warning: {plain(warning)}", err=True)
