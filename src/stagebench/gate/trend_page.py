"""Write a history as one static page with its own script, which draws a line for each benchmark."""

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stagebench.core.pages import fill
from stagebench.core.places import Place
from stagebench.core.results import NAMING, Benchmark, by_name, read_at, short_name
from stagebench.core.shown import plain
from stagebench.core.stages import STAGE, Stage
from stagebench.gate.trend import Run, Series
from stagebench.gate.verdicts import PASS, Decision, exit_code

COMMITS = {"github.com": "commit", "gitlab.com": "-/commit", "bitbucket.org": "commits", "codeberg.org": "commit"}
"""By known host, the part of a URL between a repository and its commit."""
_REMOTE = re.compile(r"(?:\w+://)?(?:[^@/]*@)?([\w.-]+)(?::\d+(?=/))?[:/]([\w./~-]+?)(?:\.git)?/?")
_NO_STAGE = Stage("", "", unit="")


def to_html(place: Place, looked: Sequence[tuple[Sequence[Run], Sequence[Series]]], decision: Decision | None) -> str:
    """Return the page of environments with their series, the one with the newest run first."""
    newest = sorted(looked, key=lambda each: each[0][-1].began, reverse=True)
    labels = _labels([runs[0].machine for runs, _ in newest])
    repository = repository_of(Path.cwd())
    data = {
        "commits": repository and f"https://{'/'.join(repository)}/{COMMITS[repository[0]]}/",
        "environments": [_environment(place, *each) | {"label": of} for of, each in zip(labels, newest, strict=True)],
    }
    title = f"History of benchmarks{f' of {repository[1]}' if repository else ''}"
    passed = decision and exit_code(decision.verdicts) == PASS
    decided = decision and decision.as_table()
    return fill("stagebench.gate", "trend.html", {}, title=title, decision=decided, passed=passed, data=data)


def repository_of(folder: Path) -> tuple[str, str] | None:
    """Return the known host and the path of a working tree's repository; None for another host."""
    asked = ("git", "-C", str(folder), "config", "--get", "remote.origin.url")
    said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603 # git
    found = _REMOTE.fullmatch(said)
    return (found[1], found[2].strip("/")) if found and found[1] in COMMITS else None


def _labels(machines: Sequence[Mapping[str, str]]) -> list[str]:
    """Return names of environments; equal names get the values that differ."""
    names = [", ".join(machine[key] for key in NAMING) for machine in machines]
    labels = []
    for name, machine in zip(names, machines, strict=True):
        alike = [other for each, other in zip(names, machines, strict=True) if each == name]
        differing = [f"{key} {value}" for key, value in machine.items() if {value} != {each.get(key) for each in alike}]
        labels.append(plain(f"{name} ({', '.join(differing)})" if differing else name, 200))
    return labels


def _environment(place: Place, runs: Sequence[Run], series: Sequence[Series]) -> dict[str, Any]:
    about: dict[str, Benchmark] = {}
    for run in reversed(runs):  # one run describes most benchmarks
        if run.seconds.keys() - about.keys():
            about = by_name(read_at(place, run.name)) | about
    return {
        "when": [int(run.began.timestamp()) for run in runs],
        "commit": [(run.commit or "")[:12] for run in runs],
        "dirty": [i for i, run in enumerate(runs) if run.dirty],
        "series": [_line(each, runs, about[each.benchmark].get("extra_info", {})) for each in series],
    }


def _line(series: Series, runs: Sequence[Run], info: Mapping[str, Any]) -> dict[str, Any]:
    """Return a benchmark's data for drawing; milliseconds have four digits, finer than any noise."""
    name, held = series.benchmark, [i for i, run in enumerate(runs) if series.benchmark in run.seconds]
    steps = [asdict(each) | {"at": held[-each.age], "bisect": plain(each.bisect or "")} for each in series.changes]
    return {
        "name": plain(short_name(name), 200),
        "model": plain(info.get("model", "")),
        "stage": plain(info.get("stage", "")),
        "color": STAGE.get(info.get("stage", ""), _NO_STAGE).color,
        "ms": [float(f"{run.seconds[name] * 1e3:.4g}") if name in run.seconds else None for run in runs],
        "noise": series.noise,
        "changes": steps,
    }
