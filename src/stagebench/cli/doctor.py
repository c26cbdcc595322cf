"""`stagebench doctor`: check whether this machine is fit for timing, and with which baselines it is comparable."""

import sys
from contextlib import suppress

import click

from stagebench.cli.output import Console
from stagebench.core.errors import ResultsError
from stagebench.core.machine import environment
from stagebench.core.places import Place
from stagebench.core.settings import GenerationSettings, LoadSettings, ModelSettings
from stagebench.core.shown import SENTENCES, WORDS, Table, show
from stagebench.gate import baseline, doctor
from stagebench.suite.options import BASELINES, option

STYLES = {"ok": "green", "warning": "red", "unknown": "yellow"}


_PROCESSES = option("processes", "Repeat the same work in this many processes.", 8, click.IntRange(min=2))


@click.command(name="doctor", params=[BASELINES, _PROCESSES])
def command(baselines: Place, processes: int) -> None:
    """Check what makes times differ: clocks, load, other guests, the GPU, and the same work in fresh processes.

    The exit code is 0 if the machine is fit for timing now, else 3, because a gate could not decide here. Comparable
    baselines are listed, and don't change the exit code.
    """
    findings, comparable = examine(processes), comparable_with(baselines)
    console = Console(highlight=False)
    rows = [(each.name, each.state, each.detail) for each in findings]
    columns = ("finding", WORDS), ("state", WORDS), ("detail", SENTENCES)
    show(Table("", columns, rows, styles=[STYLES[each.state] for each in findings]), console)
    stored = [(name, "; ".join(keys) or "at most the run's settings") for name, keys in comparable.items()]
    show(Table("", (("baseline", WORDS), ("what differs", SENTENCES)), stored), console)
    warnings = [each.name for each in findings if each.state == "warning"]
    console.print(f"not fit for timing now: {', '.join(warnings)}" if warnings else "fit for timing")
    sys.exit(3 if warnings else 0)


def examine(processes: int) -> list[doctor.Finding]:
    """Return all findings about this machine now."""
    with environment.opened_gpu() as gpu:
        reading = gpu.read() if gpu else None
    before = doctor.ticks()
    spread = doctor.spread(doctor.measure(processes))
    steal = doctor.steal(before, doctor.ticks())
    return [doctor.governor(), doctor.load(), steal, *doctor.gpu(reading), spread]


def comparable_with(place: Place) -> dict[str, list[str]]:
    """Return by stored baseline how this machine differs from that of its run, or the error of reading it."""
    keys = environment.identity(ModelSettings(), GenerationSettings(), "", None, LoadSettings()).keys()
    here = on_gpu = environment.machine("cpu")
    with suppress(ImportError):
        import torch  # a baseline has torch's name of a GPU

        if torch.cuda.is_available():
            on_gpu = environment.machine("cuda")
    found = {}
    for folder, kept in baseline.each_stored(place).items():
        if isinstance(kept, ResultsError):
            found[folder] = [str(kept)]
            continue
        there = environment.ADDED | kept["machine_info"]
        mine = here if there["device"] == there.get("cpu") else on_gpu
        older = sorted(f"{key}: missing" for key in keys - mine.keys() - there.keys())  # no run equals it
        found[folder] = environment.differences(mine, {k: there[k] for k in mine if k in there}) + older
    return found
