"""`stagebench audit`: the claims that the times rest on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from stagebench.backends.backend import load_model
from stagebench.cli.options import load_options, model_options, print_head, sample_of, settings_of, synthetic_clip_of
from stagebench.cli.output import refusals, require_writable, write_json_to
from stagebench.core import environment
from stagebench.core.results import versioned
from stagebench.core.settings import DEFAULT_QUESTION, GenerationSettings, LoadSettings, ModelSettings
from stagebench.core.shown import plain
from stagebench.media.synthetic_clip import SyntheticClip
from stagebench.models.weights import release
from stagebench.pipeline.claims import claims
from stagebench.pipeline.timing import pinned_runtime


@click.command(name="audit")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@model_options
@load_options
@click.option("--question", "questions", multiple=True, default=(DEFAULT_QUESTION,), help="Repeatable.")
def command(
    path: Path | None,
    names: tuple[str, ...],
    questions: tuple[str, ...],
    json_path: Path | None,
    new_tokens: int,
    fixed_length: bool,
    loading: LoadSettings,
    **given: Any,
) -> None:
    """Check what the times rest on: same tokens and same work as generate(), stages that explain e2e.

    Exit code 1 where a claim did not hold.
    """
    with refusals():
        require_writable(json_path)
        models, settings, generation = settings_of(names, new_tokens, fixed_length, **given)
        console = Console(stderr=str(json_path) == "-")
        print_head(console, settings, generation, f"{len(questions)} questions")
        here = environment.identity(settings, generation, " / ".join(questions), path, loading)
        rows: list[dict[str, Any]] = []
        with synthetic_clip_of(path, loading) as synthetic, pinned_runtime(settings):
            for name in models:
                for row in _audit_model(name, settings, path, synthetic, questions, generation, loading, console):
                    rows.append(row)
                    if json_path and str(json_path) != "-":  # as it goes: an audit at full size takes many minutes
                        write_json_to(json_path, versioned("verdicts", {"identity": here, "checks": rows}))
                release()
        if str(json_path) == "-":
            write_json_to(Path("-"), versioned("verdicts", {"identity": here, "checks": rows}))
        failed = [row for row in rows if not row["held"]]
        console.print(f"{len(rows) - len(failed)} of {len(rows)} claims held")
        sys.exit(1 if failed else 0)


def _audit_model(
    name: str,
    settings: ModelSettings,
    path: Path | None,
    synthetic: SyntheticClip | None,
    questions: tuple[str, ...],
    generation: GenerationSettings,
    loading: LoadSettings,
    console: Console,
) -> Iterator[dict[str, Any]]:
    model = load_model(name, settings)
    for question in questions:
        sample = sample_of(path, synthetic, model.input_kind, question, loading)
        for check in claims(model, sample, generation.options(), settings.kernels):
            line = plain(f"{name}: {check.claim} ({check.detail})")
            click.echo(f"{'held  ' if check.held else 'BROKEN'} {line}", err=console.stderr)
            yield {"model": name, "question": question} | asdict(check)
