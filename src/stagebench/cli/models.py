"""`stagebench models`: list the registered models with their sizes and backends."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from stagebench.cli.commands import JSON
from stagebench.cli.output import Console, write_json_to
from stagebench.core.errors import ModelError
from stagebench.core.results import versioned
from stagebench.core.shown import COUNT, MEGA, SENTENCES, WORDS, Table, progress, show


@click.command(name="models", params=[JSON])
@click.argument("names", metavar="[NAME]...", nargs=-1)
def command(names: Sequence[str], json_path: Path | None) -> None:
    """List the registered models, or those named: their inputs, their sizes, and their backends.

    Models are our own, those of installed packages (entry points "stagebench.models"), and those that a conftest.py of
    the working folder registers. Nothing is downloaded. The prompt is the default question about the synthetic clip. A
    backend may still be refused on the GPU, if its results differ there.
    """
    from stagebench.models.registry import ANY, import_conftest, origins, registration_of

    import_conftest()
    for name in names:
        if name.startswith(ANY):
            raise ModelError(f"only registered models can be listed, got {name}: use run or verify")
        registration_of(name)
    from stagebench.suite.listing import described  # here, because help does not need torch

    console = Console(stderr=str(json_path) == "-")
    models, named = [], names or origins()
    with progress(Console(stderr=True), len(named)) as begin:
        for name in named:
            begin(f"building {name} with narrow layers")
            models.append(described(name))
    show(_table(models), console)
    show(_refusals(models), console)
    write_json_to(json_path, versioned("report", {"models": models}))


def _table(models: Sequence[Mapping[str, Any]]) -> Table:
    """Make a row for each profile of a model, or one with the error where it can't be built here."""
    numbers = ("parameters", MEGA), ("images", COUNT), ("prompt tokens", COUNT)
    columns = ("model", WORDS), ("profile", WORDS), *numbers, ("input", WORDS), ("backends", WORDS), ("from", SENTENCES)
    rows = []
    for each in models:
        can = ", ".join(name for name, why in each.get("backends", {}).items() if why is None)
        shown = (each.get("images"), each.get("prompt_tokens"), each.get("input"), can, each.get("error", each["from"]))
        rows += [(each["model"], name, size, *shown) for name, size in each.get("parameters", {"": None}).items()]
    return Table("", columns, rows)


def _refusals(models: Sequence[Mapping[str, Any]]) -> Table:
    """Make a row for each reason why a backend is refused."""
    reasons: dict[str, list[str]] = {}
    for each in models:
        for why in filter(None, each.get("backends", {}).values()):
            reasons.setdefault(why, []).append(each["model"])
    return Table("", (("not for", SENTENCES), ("because", SENTENCES)), [(", ".join(n), w) for w, n in reasons.items()])
