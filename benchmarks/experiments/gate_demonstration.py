"""Does the gate see what it should, and nothing else? Real decisions about planted changes, and about none.

    python benchmarks/experiments/gate_demonstration.py FOLDER [--only aa] [-- OPTIONS OF stagebench gate]

Every decision is a `stagebench gate` in a clone of this repository's last commit, whose working tree holds the planted
change. FOLDER keeps what each of them measured and decided; what is there already is not measured again, so that an
interrupted demonstration goes on where it was.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from stagebench.core.json_files import write_json
from stagebench.core.results import versioned

ROOT = Path(__file__).parents[2]
SOURCES = Path("src", "stagebench")

SLOWED = """

def _slowed(function, share):
    import time

    def slowed(*args, **kwargs):
        start = time.{clock}()
        result = function(*args, **kwargs)
        until = start + (1 + share) * (time.{clock}() - start)
        while time.{clock}() < until:
            pass
        return result

    return slowed


{stage} = _slowed({stage}, {share})
"""
"""A busy loop in a stage, for a share of the time that the stage took."""

MORE_WORK = {
    "tower": (
        "models/eventgpt.py",
        """

_image_tokens = modeling.EventGPTForConditionalGeneration.get_image_tokens


def _tower_twice(self, pixel_values):
    _image_tokens(self, pixel_values)
    return _image_tokens(self, pixel_values)


modeling.EventGPTForConditionalGeneration.get_image_tokens = _tower_twice
""",
    ),
    "copy": (
        "pipeline/preprocess.py",
        """

_preprocess = preprocess


def preprocess(*args, **kwargs):
    from dataclasses import replace

    inputs = _preprocess(*args, **kwargs)
    return replace(inputs, given={name: tensor.clone() for name, tensor in inputs.given.items()})
""",
    ),
    "frames": (
        "media/video/frames.py",
        """

_read_video = read_video


def read_video(path, *args, **kwargs):
    from dataclasses import replace
    from itertools import islice

    media = _read_video(path, *args, **kwargs)
    with av.open(path) as container:
        more = sum(1 for _ in islice(container.decode(video=0), 8))
    return replace(media, frames_decoded=media.frames_decoded + more)
""",
    ),
}
"""A second forward of the tower (in `generate()` too, or the proof would refuse it), an extra copy, 8 more frames."""


@dataclass(frozen=True)
class Decision:
    """One decision to be made.

    Attributes:
        name: of its folder.
        changed: the file that gets the change, relative to the sources; None for no change at all.
        code: what is appended to it.
        expected: in the names of the benchmarks that are to be regressions, and of no other.
        options: of the gate.
    """

    name: str
    changed: str | None = None
    code: str = ""
    expected: str = ""
    options: tuple[str, ...] = ()


def decisions(stage: str, clock: str) -> list[Decision]:
    """All that the demonstration makes, in order."""
    timer = {"wall": "perf_counter", "cpu": "process_time"}[clock]
    nothing = [Decision(f"aa-{i}") for i in range(6)]
    slower = [
        Decision(
            f"slower-{share:g}-{i}",
            f"pipeline/{stage}.py",
            SLOWED.format(clock=timer, stage=stage, share=share),
            f"-{stage}]",
        )
        for share in (0.1, 0.2)
        for i in range(3)
    ]
    seen = {"tower": "eventgpt-encode]", "copy": "-preprocess]", "frames": "llava"}
    select = {"tower": "eventgpt-encode", "copy": "preprocess", "frames": "llava and load"}
    more = [
        Decision(f"{name}-{i}", *MORE_WORK[name], seen[name], ("--counters-only", "--select", select[name]))
        for i in range(20)
        for name in MORE_WORK
    ]
    return [*nothing, *slower, *more]


def decide(decision: Decision, folder: Path, options: tuple[str, ...]) -> None:
    """Make one decision, unless it has been made."""
    out = folder / decision.name
    if (out / "decision.json").is_file():
        return
    shutil.rmtree(out, ignore_errors=True)
    clone = folder / "clone"
    shutil.rmtree(clone, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)  # noqa: S603, S607 # git on the path
    if decision.changed:
        with (clone / SOURCES / decision.changed).open("a", encoding="utf-8") as file:
            file.write(decision.code)
    command = [sys.executable, "-m", "stagebench", "gate", "--base", "HEAD", "--out", str(out.resolve())]
    start = time.monotonic()
    done = subprocess.run(  # noqa: S603 # ours
        [*command, *decision.options, *options],
        cwd=clone,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "160"},
        capture_output=True,
        text=True,
        check=False,
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "log.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    (out / "seconds.txt").write_text(f"{time.monotonic() - start:.0f}\n", encoding="utf-8")


def outcome(decision: Decision, folder: Path) -> dict[str, Any]:
    """What came of a decision, and whether it was right: one that measured nothing is not, nor is a missed change."""
    out = folder / decision.name
    if not (out / "decision.json").is_file():
        return {"name": decision.name, "right": False, "log": str(out / "log.txt")}
    made = json.loads((out / "decision.json").read_text(encoding="utf-8"))
    slower = sorted({v["benchmark"].split("::")[-1] for v in made["verdicts"] if v["verdict"] == "regression"})
    named = [name for name in slower if decision.expected and decision.expected in name]
    return {
        "name": decision.name,
        "right": made["exit_code"] != 2 and named == slower and bool(slower) == bool(decision.expected),  # not measured
        "seconds": int((out / "seconds.txt").read_text(encoding="utf-8")),
        "exit_code": made["exit_code"],
        "verdicts": dict(sorted(Counter(v["verdict"] for v in made["verdicts"]).items())),
        "slower": slower,
        "commit": made["base"],
        "plan": made["plan"],
    }


def line(outcome: dict[str, Any]) -> str:
    """An outcome in one line."""
    if "log" in outcome:
        return f"{outcome['name']}: no decision, see {outcome['log']}"
    told = ", ".join(f"{n} {verdict}" for verdict, n in outcome["verdicts"].items())
    slower = ", ".join(outcome["slower"]) or "none"
    return f"{outcome['name']}: {outcome['seconds']} s; {told}; slower: {slower}{'' if outcome['right'] else '; WRONG'}"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--only", default="", help="Decisions whose name starts so: aa, slower, tower, copy, frames.")
@click.option("--stage", default="decode", show_default=True, help="That the busy loop is planted in.")
@click.option("--clock", type=click.Choice(["wall", "cpu"]), default="wall", show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Also write the outcomes.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def main(folder: Path, only: str, stage: str, clock: str, json_path: Path | None, options: tuple[str, ...]) -> None:
    """Make the decisions and print what came of them."""
    folder.mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, list[dict[str, Any]]] = {}
    for decision in decisions(stage, clock):
        if decision.name.startswith(only):
            decide(decision, folder, ("--clock", clock, *options))
            of_kind = outcomes.setdefault(decision.name.rpartition("-")[0], [])
            of_kind.append(outcome(decision, folder))
            click.echo(line(of_kind[-1]))
    for kind, of_kind in outcomes.items():
        click.echo(f"{kind}: {sum(each['right'] for each in of_kind)} of {len(of_kind)} as expected")
    if json_path:
        write_json(json_path, versioned("report", {"outcomes": outcomes}))


if __name__ == "__main__":
    main()
