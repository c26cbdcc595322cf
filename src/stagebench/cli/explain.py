"""`stagebench explain`: why one model is faster than another, from numbers alone."""

from pathlib import Path

import click

from stagebench.analysis.attribution import attribute, compare
from stagebench.analysis.importers.read import FORMATS, read_files
from stagebench.analysis.narrative import as_json, table
from stagebench.cli.commands import JSON, PATH
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

    FILE is a table that you typed in, a pytest-benchmark run of our suite, what `stagebench run --json` wrote, the raw
    samples of an analysis (.jsonl), or a result of `vllm bench serve` or sglang, one file a model. The seconds saved
    are shared out among the stages, the number of tokens and the time per token, in a way that does not depend on
    which of them is changed first. Numbers that can't be true are named in warnings.
    """
    measured = read_files(paths, format_name)
    first = baseline or max(measured.costs, key=lambda model: measured.costs[model].total)
    if first not in measured.costs:
        raise AnalysisError(f"the baseline must be one of {', '.join(measured.costs)}, got {baseline!r}")
    explained, warnings = [], list(measured.warnings)
    for other in (model for model in measured.costs if model != first):
        a, b = (measured.samples.get(name, {}) for name in (first, other))
        if a.keys() & b.keys():
            explained.append(as_json(*compare(a, b, measured.sequences)))
        else:
            explained.append(as_json(attribute(measured.costs[first], measured.costs[other])))
        if only := a.keys() ^ b.keys():
            both = len(a.keys() & b.keys())
            warnings.append(f"{len(only)} samples are of one of {first} and {other} only, {both} are of both")
    if not explained:
        raise AnalysisError(f"two models are needed, got {first} only")
    write_json_to(json_path, versioned("report", {"attributions": explained, "warnings": warnings}))
    if str(json_path) == "-":
        return
    for each in map(table, explained):
        if as_markdown:
            click.echo(to_markdown(each) + "\n")
        else:
            show(each, Console())
    for warning in warnings:
        click.echo(f"warning: {plain(warning)}", err=True)
