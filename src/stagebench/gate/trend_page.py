"""Write a history as one static page, whose own script draws a line for each benchmark out of the numbers in it."""

import hashlib
import re
import statistics
import subprocess
from base64 import b64encode
from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stagebench.core.errors import ResultsError
from stagebench.core.places import Place
from stagebench.core.results import NAMING, Benchmark, by_name, read_at, short_name
from stagebench.core.shown import plain
from stagebench.core.stages import STAGE, Stage
from stagebench.gate.trend import Change, Run, Series
from stagebench.gate.verdicts import PASS, Decision, exit_code

COMMITS = {"github.com": "commit", "gitlab.com": "-/commit", "bitbucket.org": "commits", "codeberg.org": "commit"}
"""Of each host that is known, what stands between a repository and a commit of it."""
_REMOTE = re.compile(r"(?:\w+://)?(?:[^@/]*@)?([\w.-]+)(?::\d+(?=/))?[:/]([\w./~-]+?)(?:\.git)?/?")
_NO_STAGE = Stage("", "", unit="")


def require_page_extra() -> None:
    """Refuse early, with a ResultsError that names the extra, where what the page needs is missing."""
    if find_spec("jinja2") is None:
        raise ResultsError("a page of the history needs the extra: pip install 'stagebench[trend]', got no jinja2")


def to_html(place: Place, looked: Sequence[tuple[Sequence[Run], Sequence[Series]]], decision: Decision | None) -> str:
    """Fill in the page, of environments with their series, the one of the newest run first."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # of an extra, which a terminal does without

    newest = sorted(looked, key=lambda each: each[0][-1].began, reverse=True)
    labels = _labels([runs[0].machine for runs, _ in newest])
    found = [{"label": label} | _environment(place, *each) for label, each in zip(labels, newest, strict=True)]
    repository = repository_of(Path.cwd())
    commits = repository and f"https://{'/'.join(repository)}/{COMMITS[repository[0]]}/"
    changes = sum(len(series["changes"]) for each in found for series in each["series"])
    days = [run.when[:10] for runs, _ in newest for run in (runs[0], runs[-1])]
    counted = f"Runs: {sum(len(runs) for runs, _ in looked)}, environments: {len(looked)}, changes: {changes}"
    environment = Environment(
        loader=PackageLoader("stagebench.gate"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    script = (files("stagebench.gate") / "templates" / "trend.js").read_text(encoding="utf-8")
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment.get_template("trend.html").render(
        title=f"History of benchmarks{f' of {repository[1]}' if repository else ''}",
        summary=f"{counted}, from {plain(min(days))} to {plain(max(days))}.",
        decision=decision and decision.as_table(),
        passed=decision and exit_code(decision.verdicts) == PASS,
        data={"commits": commits, "environments": found},
        script=script,
        digest=b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )


def repository_of(folder: Path) -> tuple[str, str] | None:
    """Return the host, if it is known, and the path there of the repository that a working tree is pushed to."""
    asked = ("git", "-C", str(folder), "config", "--get", "remote.origin.url")
    said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603 # git
    found = _REMOTE.fullmatch(said)
    return (found[1], found[2].strip("/")) if found and found[1] in COMMITS else None


def _labels(machines: Sequence[Mapping[str, str]]) -> list[str]:
    """Name environments, those that would have one name by what differs between them."""
    names = [", ".join(machine[key] for key in NAMING) for machine in machines]
    labels = []
    for name, machine in zip(names, machines, strict=True):
        alike = [other for each, other in zip(names, machines, strict=True) if each == name]
        differing = [key for key in machine if len({other.get(key) for other in alike}) > 1]
        more = ", ".join(f"{key} {machine[key]}" for key in differing)
        labels.append(plain(f"{name} ({more})" if more else name, 200))
    return labels


def _environment(place: Place, runs: Sequence[Run], series: Sequence[Series]) -> dict[str, Any]:
    about: dict[str, Benchmark] = {}
    for run in reversed(runs):  # one says of most what they are
        if run.seconds.keys() - about.keys():
            about = by_name(read_at(place, run.name)) | about
    return {
        "when": [int(run.began.timestamp()) for run in runs],
        "commit": [_id(run.commit) for run in runs],
        "dirty": [i for i, run in enumerate(runs) if run.dirty],
        "series": [_line(each, runs, about[each.benchmark].get("extra_info", {})) for each in series],
    }


def _line(series: Series, runs: Sequence[Run], info: Mapping[str, Any]) -> dict[str, Any]:
    """Give what is drawn of a benchmark; milliseconds have four digits, which is less than any noise."""
    held = [i for i, run in enumerate(runs) if series.benchmark in run.seconds]
    changes = [_change(change, held[-change.age]) for change in series.changes]
    first = changes[0]["before"] if changes else statistics.median(series.seconds) * 1e3
    medians = [run.seconds.get(series.benchmark) for run in runs]
    return {
        "name": plain(short_name(series.benchmark), 200),
        "model": plain(info.get("model", "")),
        "stage": plain(info.get("stage", "")),
        "color": STAGE.get(info.get("stage", ""), _NO_STAGE).color,
        "ms": [seconds and float(f"{seconds * 1e3:.4g}") for seconds in medians],
        "first": held[0],
        "last": held[-1],
        "noise": series.noise,
        "changes": changes,
        "levels": [first, *(each["after"] for each in changes)],
    }


def _change(change: Change, at: int) -> dict[str, Any]:
    ids = {"good": _id(change.good), "bad": _id(change.bad)}
    about = {"ratio": change.ratio, "dirty": change.dirty, "bisect": change.bisect}
    return {"at": at, "before": change.before * 1e3, "after": change.after * 1e3} | about | ids


def _id(commit: str | None) -> str:
    """Shorten the id of a commit to what any host finds it by; what is none becomes nothing."""
    return commit[:12] if commit and re.fullmatch("[0-9a-f]{7,64}", commit) else ""
