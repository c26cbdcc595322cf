"""`stagebench run` and `stagebench verify`: time one sample, and check the claims that the times rest on."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING, Any

import click

from stagebench.analysis.attribution import UNATTRIBUTED
from stagebench.analysis.report.pictures import of_run
from stagebench.analysis.samples import MODES, sample_of
from stagebench.cli.commands import INPUT, JSON, SVG, SettingsCommand, print_head
from stagebench.cli.output import Console, write_json_to, write_svg_to
from stagebench.core.artifacts import Run
from stagebench.core.errors import StagebenchError
from stagebench.core.results import versioned
from stagebench.core.settings import DEFAULT_QUESTION
from stagebench.core.shown import COUNT, MS, SENTENCES, WORDS, Table, Value, plain, progress, show, teller
from stagebench.core.stages import ENCODE, LOAD, OF_SERVER, PREFILL, PREPROCESS, STAGES, time_outside
from stagebench.suite.options import ORDER_SEED, POSITIVE, option

if TYPE_CHECKING:
    from stagebench.suite.measure import Measured
    from stagebench.suite.settings import Settings


_PASSES = option("passes", "Time this many passes.", 3, POSITIVE)
_CONCURRENCY = option(
    "concurrency", "Then send a server (--url) this many requests at once. Default: none.", kind=POSITIVE
)


@click.command(name="run", cls=SettingsCommand, params=[INPUT, ORDER_SEED, JSON, SVG, _PASSES, _CONCURRENCY])
def command(
    settings: Settings,
    passes: int,
    concurrency: int | None,
    order_seed: int | None,
    json_path: Path | None,
    svg_path: Path | None,
) -> None:
    """Run one sample through the models, and print the times of their stages.

    PATH is a clip, an event recording (.npy, .npz, .events, .h5, .raw, .aedat4) or a folder of PNGs; without it, the
    synthetic clip. Before a model is timed, an untimed pass must give the tokens, and do the work, of generate().

    With --engine an engine that serves the model is timed on the same path, beside transformers if both are named. What
    it can't split is unattributed. `stagebench verify --engine` compares its tokens. With --engine openai the server at
    --url is asked, and no other address; its key is the environment's OPENAI_API_KEY, or STAGEBENCH_API_KEY.
    """
    console = Console(stderr=str(json_path) == "-")
    seed = secrets.randbelow(2**16) if order_seed is None else order_seed
    numbers = _run(console, settings, passes, concurrency, seed)
    write_json_to(json_path, numbers)
    if "error" in numbers:
        raise StagebenchError(numbers["error"])
    write_svg_to(svg_path, partial(of_run, numbers))


def _run(console: Console, settings: Settings, passes: int, concurrency: int | None, seed: int) -> dict[str, Any]:
    """Measure and print; return the JSON."""
    from stagebench.pipeline.timed_pass import COLLECTION
    from stagebench.suite.measure import run, shuffled  # here, because help does not need torch

    found: dict[str, Measured] = {}
    failed = {}
    with progress(Console(stderr=True), len(settings.columns) * (passes + 2)) as begin:
        try:
            found = run(settings, passes, seed, begin, found, concurrency)
        except StagebenchError as error:  # what was measured before is shown and written
            if not found:
                raise
            failed = {"error": str(error)}
    print_head(console, settings, f"the median of {passes} passes by e2e; models in order {seed}")
    show(stage_table(found), console)
    _say_notes(found, console)
    identity, mode = settings.identity(), MODES[settings.generation.fixed_length]
    if (engines := dict.fromkeys(each.engine for each in found.values())).keys() != {"transformers"}:
        identity["engine"] = "; ".join(engines)
    order = shuffled([*settings.columns], seed)
    samples = [
        sample_of(one, mode)
        | {"sample": identity["input"], "pass": i, "order": order.index(name) * passes + i}
        | {"work": each.work}
        | ({"stages": dict(each.verification.stages)} if each.verification else {"engine": each.engine})
        for name, each in found.items()
        for i, one in enumerate(each.runs)
    ]
    if loads := {name: each.under_load for name, each in found.items() if each.under_load}:
        errors = [error for load in loads.values() for error in load["errors"]]
        failed |= {"under_load": loads} | ({"error": errors[0]} if errors else {})
    return versioned("samples", {"identity": identity, "order_seed": seed, "samples": samples} | COLLECTION | failed)


def _say_notes(found: Mapping[str, Measured], console: Console) -> None:
    """Print what the table does not say: warnings, how stages ran, several requests at once, and the texts."""
    say = teller(console)
    for name, each in found.items():
        for warning in each.warnings:
            click.echo(f"warning: {name}: {plain(warning)}", err=True)
        if problem := time_outside([one.unattributed for one in each.runs], [one.e2e for one in each.runs]):
            click.echo(f"warning: {name}: {problem}", err=True)
        for stage, runs in each.verification.stages.items() if each.verification else ():
            if runs.startswith("eager"):
                say(f"{name}: {stage} is {runs}")
        if plainly := each.uninstrumented:
            seen = f"{MS.write(median_low(plainly))} ms ({MS.write((min(plainly), max(plainly)))})"
            say(f"{name}: without its own statistics e2e takes {seen}")
        say(f"{name}: {plain(each.median.text)}")
        if each.under_load:
            show(_load_table(name, each.under_load), console)


def _load_table(name: str, load: Mapping[str, Any]) -> Table:
    """Return the times of several requests at once to a server."""
    heads = next(iter(load["percentiles"].values()))
    rows = [(each, *values.values()) for each, values in load["percentiles"].items()]
    requests = f"{load['completed']} requests, {load['concurrency']} at once, in {load['duration']:.1f} s"
    rates = f"{load['output_throughput']:.1f} new tokens/s, {load['request_throughput']:.2f} requests/s"
    return Table(name, (("ms", WORDS), *((head, MS) for head in heads)), rows, (f"{requests}: {rates}",))


def stage_table(found: Mapping[str, Measured]) -> Table:
    """Return models side by side: their median passes, shares and work. All bars have one scale."""
    told = {plain(name): each.median.seconds for name, each in found.items()}
    every = [LOAD, *OF_SERVER, *STAGES[1:]]
    stages = {stage.name: stage.color for stage in every if any(stage.name in seconds for seconds in told.values())}
    columns = {name: _column(each.median, each, stages) for name, each in found.items()}
    rows = list(zip(next(iter(columns.values())), *(column.values() for column in columns.values()), strict=True))
    longest = max(max(seconds.values()) for seconds in told.values())
    bars = {name: [seconds.get(stage, 0.0) / longest for stage in stages] for name, seconds in told.items()}
    colors = [*stages.values()] + [""] * (len(rows) - len(stages))
    return Table("", (("ms", WORDS), *((name, COUNT) for name in columns)), rows, styles=colors, bars=bars)


def _column(run: Run, measured: Measured, stages: Mapping[str, str]) -> dict[str, Value]:
    told = {stage: run.seconds[stage] for stage in stages if stage in run.seconds}
    parts, e2e = told | {UNATTRIBUTED: run.unattributed}, [each.e2e for each in measured.runs]
    work = measured.work
    return {
        # The share comes first, so that all times are aligned.
        **dict.fromkeys(stages),
        **{name: f"{seconds / run.e2e:.0%} {MS.write(seconds)}" for name, seconds in parts.items()},
        "e2e": MS.write(run.e2e),
        "e2e of all passes": MS.write((min(e2e), max(e2e))),
        "ttft (load excluded)": MS.write(run.ttft),
        "tpot": MS.write(run.tpot),
        "images encoded": _encoded(work[PREPROCESS.name][PREPROCESS.unit], work[ENCODE.name][ENCODE.unit])
        if ENCODE.name in work
        else None,
        "prompt tokens": work[PREFILL.name][PREFILL.unit],
        "new tokens": run.new_tokens,
        "finished by": run.generation.finish_reasons[0],
        "tokens/s (e2e)": f"{run.output_throughput:.1f}",
    }


def _encoded(images: int, rows: int) -> Value:
    """Return the number of images, with that of the tower's rows where a row is a tile or several images."""
    return images if rows == images else f"{images} in {rows} tiles" if rows > images else f"{images} in {rows}"


_QUESTION = option("question", f"Ask this about the sample. Default: {DEFAULT_QUESTION}", (DEFAULT_QUESTION,))


@click.command(name="verify", cls=SettingsCommand, params=[INPUT, _QUESTION, JSON])
def verify_command(settings: Settings, question: tuple[str, ...], json_path: Path | None) -> None:
    """Check that the stages give the tokens and the work of generate(), and explain e2e.

    With --engine also that an engine gives the tokens of generate() for the same checkpoint, or parts from them at a
    near-tie of its logits, and that it does its work each time. Each model answers each question. The exit code is 1 if
    a claim does not hold.
    """
    from stagebench.pipeline.claims import CLAIMS
    from stagebench.suite.measure import verify  # here, because help does not need torch

    console = Console(stderr=str(json_path) == "-")
    print_head(console, settings, ", ".join(question))
    rows: list[dict[str, Any]] = []
    columns = ("", WORDS), ("claim", WORDS), ("what was seen", SENTENCES)
    total = len(question) * len(settings.columns) * (1 + CLAIMS)
    try:
        with progress(Console(stderr=True), total) as begin:
            asked = ((ask, *each) for ask in question for each in verify(replace(settings, question=ask), begin))
            for (ask, name), checks in groupby(asked, key=itemgetter(0, 1)):
                made = []
                for *_, check in checks:
                    begin(f"after: {check.claim}")
                    made.append(asdict(check))
                begin("")
                rows += [{"model": name, "question": ask} | check for check in made]
                cells = [("held" if check["held"] else "BROKEN", check["claim"], check["detail"]) for check in made]
                show(Table(name if len(question) == 1 else f"{name}: {ask}", columns, cells), console)
    finally:  # it may take many minutes, and be stopped
        if rows:
            write_json_to(json_path, versioned("verdicts", {"identity": settings.identity(), "checks": rows}))
    held = sum(row["held"] for row in rows)
    console.print(f"{held} of {len(rows)} claims held")
    sys.exit(int(held < len(rows)))
