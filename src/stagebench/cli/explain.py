"""`stagebench explain`: explain why one model is faster than another, from numbers alone."""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import click

from stagebench.analysis.attribution import attribute, compare
from stagebench.analysis.importers.read import FORMATS, read_files
from stagebench.analysis.narrative import as_json, table
from stagebench.analysis.report.pictures import of_attributions
from stagebench.cli.commands import JSON, SVG
from stagebench.cli.output import Console, write_json_to, write_svg_to
from stagebench.core.errors import AnalysisError
from stagebench.core.results import versioned
from stagebench.core.shown import plain, show, to_markdown
from stagebench.suite.options import PATH, option


@click.command(
    name="explain",
    params=[
        JSON,
        SVG,
        option("from", "Read this format. Default: detected.", kind=tuple(FORMATS), dest="format_name"),
        option("baseline", "Explain the other models against this one. Default: the slowest."),
        option("markdown", "Print Markdown for a report.", default=False, dest="as_markdown"),
    ],
)
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=PATH)
def command(
    paths: tuple[Path, ...],
    format_name: str | None,
    baseline: str | None,
    json_path: Path | None,
    svg_path: Path | None,
    as_markdown: bool,
) -> None:
    """Explain why one model is faster than another, from a table of their stages.

    FILE is a table that you typed in, a pytest-benchmark run of our suite, or the JSON of `stagebench run`. It may also
    be the samples of an analysis (.jsonl), or results of vllm, SGLang, AIPerf, GuideLLM or llama-bench. The seconds
    saved are attributed to the stages, the number of tokens and the time per token, independent of the order in which
    these are changed. Impossible numbers are named in warnings.
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
            warnings.append(f"{len(only)} samples belong to only one of {first} and {other}, {both} to both")
    if not explained:
        raise AnalysisError(f"two models are needed, got {first} only")
    write_json_to(
        json_path, versioned("report", {"attributions": explained, "tools": measured.tools, "warnings": warnings})
    )
    write_svg_to(svg_path, partial(of_attributions, explained))
    if str(json_path) == "-":
        return
    for each in map(table, explained):
        if as_markdown:
            click.echo(to_markdown(each) + "\n")
        else:
            show(each, Console())
    _say(measured.tools, warnings)


def _say(tools: Mapping[str, str], warnings: Iterable[str]) -> None:
    for model, tool in tools.items():
        click.echo(plain(f"{model} is a result of {tool}."))
    for warning in warnings:
        click.echo(f"warning: {plain(warning)}", err=True)
