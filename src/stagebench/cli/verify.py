"""`stagebench verify`: the claims that the times rest on."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stagebench.cli.options import input_argument, json_option, options, print_head, settings_options
from stagebench.cli.output import Console, require_writable, write_json_to
from stagebench.core.results import versioned
from stagebench.core.tables import SENTENCES, WORDS, Table, show
from stagebench.suite.options import QUESTION

if TYPE_CHECKING:
    from stagebench.suite.settings import Settings

QUESTIONS = replace(QUESTION, help="about the sample; repeatable", default=(QUESTION.default,), several=True)


@click.command(name="verify")
@input_argument
@settings_options("question")
@options(QUESTIONS)
@json_option
def command(settings: Settings, question: tuple[str, ...], json_path: Path | None) -> None:
    """Check what the times rest on: same tokens and same work as generate(), stages that explain e2e.

    Each model answers each question. Exit code 1 where a claim did not hold.
    """
    from stagebench.suite.measure import verify  # here, because a page of help need not wait for torch

    require_writable(json_path)
    console = Console(stderr=str(json_path) == "-")
    print_head(console, settings, ", ".join(question))
    rows: list[dict[str, Any]] = []
    numbers = versioned("verdicts", {"identity": settings.identity(), "checks": rows})
    asked = ((ask, *each) for ask in question for each in verify(replace(settings, question=ask)))
    for (ask, name), checks in groupby(asked, key=itemgetter(0, 1)):
        before = len(rows)
        for *_, check in checks:
            rows.append({"model": name, "question": ask} | asdict(check))
            if json_path and str(json_path) != "-":  # as it goes: at full size it takes many minutes
                write_json_to(json_path, numbers)
        cells = [("held" if row["held"] else "BROKEN", row["claim"], row["detail"]) for row in rows[before:]]
        title = name if len(question) == 1 else f"{name}: {ask}"
        show(Table(title, (("", WORDS), ("claim", WORDS), ("what was seen", SENTENCES)), cells), console)
    if str(json_path) == "-":
        write_json_to(Path("-"), numbers)
    failed = [row for row in rows if not row["held"]]
    console.print(f"{len(rows) - len(failed)} of {len(rows)} claims held")
    sys.exit(1 if failed else 0)
