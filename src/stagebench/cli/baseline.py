"""`stagebench baseline`: list, show, diff, accept and drop stored baselines. Importable without torch."""

from pathlib import Path
from typing import Any

import click

from stagebench.cli.commands import JSON
from stagebench.cli.output import Console, write_json_to
from stagebench.core.errors import ResultsError
from stagebench.core.machine.environment import ADDED, differences
from stagebench.core.places import Place
from stagebench.core.results import COUNTED, Results, by_name, read_results, short_name, versioned
from stagebench.core.shown import CHANGE, COUNT, MS, SENTENCES, WORDS, Unit, of_records, show
from stagebench.gate import baseline
from stagebench.suite.options import BASELINES, PATH, option

ACCEPTED = {"benchmarks": COUNT, "models": WORDS, "commit": WORDS, "when": WORDS, "who": WORDS, "reason": SENTENCES}
REASON = option("reason", "Store this reason with the baseline.", required=True)


@click.group(name="baseline")
def command() -> None:
    """Manage stored baselines: accepted runs, one per environment.

    They are in the folder `baselines`, with replaced ones in git, or at --baselines: another folder, or a URL of an
    object store. NAME is an environment as `list` prints it, or a unique part of it.
    """


@command.command(name="list", params=[BASELINES, JSON])
def list_command(baselines: Place, json_path: Path | None) -> None:
    """List the baselines."""
    found = [
        {"environment": folder, "reason": str(kept)} if isinstance(kept, ResultsError) else _about(folder, kept)
        for folder, kept in baseline.each_stored(baselines).items()
    ]
    notes = [] if found else [f"no baseline in {baselines}"]
    _show({"environment": WORDS, "machine": WORDS} | ACCEPTED, found, {"baselines": found}, json_path, *notes)


@command.command(name="show", params=[BASELINES, JSON])
@click.argument("name")
def show_command(name: str, baselines: Place, json_path: Path | None) -> None:
    """Print a baseline: its times, its environment, and who accepted or dropped it and earlier ones."""
    environment, kept = _kept(baselines, name)
    found = kept[-1]
    about, before = _about(environment, found), baseline.history(kept)
    keys = {"median": MS, "min": MS, "max": MS, "rounds": COUNT}
    rows = [{"benchmark": name, **{k: each["stats"].get(k) for k in keys}} for name, each in by_name(found).items()]
    data = {**about, "identity": found["machine_info"], "history": before, "times": rows}
    notes = [f"{key}: {value}" for key, value in found["machine_info"].items()]
    events = [("dropped" if each.get("dropped") else "accepted", each) for each in before if each["when"]]
    notes += [f"{what} {each['when']} by {each['who']}: {each['reason']}" for what, each in events]
    _show({"benchmark": WORDS, **keys}, rows, data, json_path, *notes)


@command.command(name="diff", params=[BASELINES, JSON])
@click.argument("names", metavar="A B", nargs=2)
def diff_command(names: tuple[str, str], baselines: Place, json_path: Path | None) -> None:
    """Print by benchmark how B differs from A, each a baseline's NAME or the file of a run; `compare` judges runs.

    The exit code is 0 whatever differs. Different environments are noted.
    """
    sides = [read_results(Path(n)) if Path(n).is_file() else _kept(baselines, n)[1][-1] for n in names]
    before, after = map(by_name, sides)
    rows = []
    for name in {**before, **after}:
        pair: list[Any] = [side.get(name, {"stats": {}}) for side in (before, after)]
        first, second = (each["stats"].get("median") for each in pair)
        both, info = first and second, [each.get("extra_info", {}) for each in pair]
        other = ", ".join(key for key in COUNTED if both and info[0].get(key) != info[1].get(key))
        change = second / first - 1 if both else None
        rows.append({"benchmark": name, "A": first, "B": second, "change": change, "other": other})
    apart = differences(*(ADDED | side["machine_info"] for side in sides))
    notes = [f"different environments, A here and B there: {'; '.join(apart)}"] if apart else []
    columns = {"benchmark": WORDS, "A": MS, "B": MS, "change": CHANGE, "other": WORDS}
    _show(columns, rows, {"differences": apart, "times": rows}, json_path, *notes)


@command.command(params=[BASELINES, REASON, option("partial", "Accept a run of a part of the suite.", default=False)])
@click.argument("run_path", metavar="RUN", type=PATH)
def accept(run_path: Path, reason: str, partial: bool, baselines: Place) -> None:
    """Make RUN, written by `pytest benchmarks --benchmark-json`, the baseline of its environment."""
    click.echo(f"stored {baseline.accept(run_path, baselines, reason, partial)}")


@command.command(params=[BASELINES, REASON])
@click.argument("name")
def drop(name: str, baselines: Place, reason: str) -> None:
    """Drop the baseline of an environment. It is kept with the reason until the next one is accepted."""
    click.echo(f"dropped, and kept as {baseline.drop(baselines, _kept(baselines, name)[0], reason)}")


def _kept(place: Place, name: str) -> tuple[str, list[Results]]:
    """Return the environment with that name, or a unique part of it, and its last accepted results."""
    there = baseline.stored(place)
    found = [each for each in there if each == name] or [each for each in there if name in each]
    if len(found) != 1:
        known = ", ".join(found or there) or "none"
        raise ResultsError(f"a baseline must be one of those in {place}, {known}, got {name!r}")
    return found[0], baseline.latest(place, found[0])[1]


def _about(environment: str, found: Results) -> dict[str, Any]:
    accepted, benchmarks = found["stagebench"].get("accepted", {}), found["benchmarks"]
    models = sorted({model for each in benchmarks if (model := each.get("extra_info", {}).get("model"))})
    about = {"environment": environment, "machine": found["machine_info"]["device"], "models": ", ".join(models)}
    return {**about, "benchmarks": len(benchmarks), **{k: accepted.get(k) for k in ("commit", "when", "who", "reason")}}


def _show(
    columns: dict[str, Unit], rows: list[dict[str, Any]], data: dict[str, Any], json_path: Path | None, *notes: str
) -> None:
    """Print a table with short names and commits, and write the same as JSON."""
    short = [row | {"benchmark": short_name(row["benchmark"])} if "benchmark" in row else row for row in rows]
    shown = [row | {"commit": (row.get("commit") or "")[:12]} for row in short]
    show(of_records("", columns, shown, *notes), Console(stderr=str(json_path) == "-", highlight=False))
    write_json_to(json_path, versioned("report", data))
