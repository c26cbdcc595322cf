"""Does the gate see what it should, and nothing else? Real decisions about planted changes, and about none.

    python benchmarks/gate_demonstration.py FOLDER [--only aa] [-- OPTIONS OF stagebench gate]

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

import click

ROOT = Path(__file__).parents[1]
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

_image_tokens = EventGPTForConditionalGeneration.get_image_tokens


def _tower_twice(self, pixel_values):
    _image_tokens(self, pixel_values)
    return _image_tokens(self, pixel_values)


EventGPTForConditionalGeneration.get_image_tokens = _tower_twice
""",
    ),
    "copy": (
        "stages/preprocess.py",
        """

_preprocess = preprocess


def preprocess(*args, **kwargs):
    from dataclasses import replace

    inputs = _preprocess(*args, **kwargs)
    return replace(inputs, pixels=inputs.pixels.clone())
""",
    ),
    "frames": (
        "media/video.py",
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
            f"stages/{stage}.py",
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
    command = [sys.executable, "-m", "stagebench.cli", "gate", "--base", "HEAD", "--out", str(out.resolve())]
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


def describe(decision: Decision, folder: Path) -> tuple[bool, str]:
    """Whether a decision was right, and one line about it; an `inconclusive` is neither right nor an alarm."""
    out = folder / decision.name
    path = out / "decision.json"
    if not path.is_file():
        return False, f"{decision.name}: no decision, see {out / 'log.txt'}"
    made = json.loads(path.read_text(encoding="utf-8"))
    verdicts = [(v["verdict"], v["benchmark"].split("::")[-1]) for v in made["verdicts"]]
    slower = sorted({name for verdict, name in verdicts if verdict == "regression"})
    wrong = [name for name in slower if not decision.expected or decision.expected not in name]
    counts = Counter(verdict for verdict, _ in verdicts)
    right = not wrong and bool(slower) == bool(decision.expected)
    seconds = (out / "seconds.txt").read_text(encoding="utf-8").strip()
    told = ", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.items()))
    return right, f"{decision.name}: {seconds} s; {told}; slower: {', '.join(slower) or 'none'}" + (
        f"; WRONGLY: {', '.join(wrong)}" if wrong else ""
    )


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--only", default="", help="Decisions whose name starts so: aa, slower, tower, copy, frames.")
@click.option("--stage", default="decode", show_default=True, help="That the busy loop is planted in.")
@click.option("--clock", type=click.Choice(["wall", "cpu"]), default="wall", show_default=True)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def main(folder: Path, only: str, stage: str, clock: str, options: tuple[str, ...]) -> None:
    """Make the decisions and print what came of them."""
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    for decision in decisions(stage, clock):
        if decision.name.startswith(only):
            decide(decision, folder, ("--clock", clock, *options))
            results.append((decision.name.rpartition("-")[0], *describe(decision, folder)))
            click.echo(results[-1][2])
    for kind in dict.fromkeys(result[0] for result in results):
        right = [result[1] for result in results if result[0] == kind]
        click.echo(f"{kind}: {sum(right)} of {len(right)} as expected")


if __name__ == "__main__":
    main()
