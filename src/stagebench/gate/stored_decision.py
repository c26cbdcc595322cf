"""Read a decision back from untrusted JSON: only numbers and plain names, as sentences might hold links or commands."""

import re
from pathlib import Path
from typing import Any

from stagebench.core.checks import Count, Number, Object, Spread, Text, Whole, check
from stagebench.core.errors import ResultsError
from stagebench.core.json_files import read_json
from stagebench.core.results import SCHEMAS, short_name
from stagebench.core.shown import plain
from stagebench.gate.limits import Limit
from stagebench.gate.verdicts import EXIT_CODES, KINDS, Decision, Verdict

LONGEST = 120  # characters of a name
_UNPLAIN = re.compile(r"[^\w .,:/\[\]()=+-]|(?<=:)/(?=/)", re.ASCII)
_IN_THE_LOG = "see the log of the gate"
_DECISION = {"kind": Text, "schema": Whole, "verdicts": list[Object], "rules_differ": list[Text]}
_VERDICT = {"benchmark": Text, "kind": Text, "verdict": Text, "n": Count}
_NUMBERS = {"base": Spread, "head": Spread, "estimate": Number, "threshold": Spread, "floor": Spread}
_OPTIONAL: dict[str, Any] = _NUMBERS | {"interval": list[Number], "counter": Text}


def read_decision(path: Path) -> Decision:
    """Read the verdicts in a file of `--json`, from which all else follows; raise ResultsError for another file."""
    what = f"the decision {path}"
    data = read_json(path, what, ResultsError)
    check(data, _DECISION, what, ResultsError)
    if (data["kind"], data["schema"]) != ("verdicts", SCHEMAS["verdicts"]):
        raise ResultsError(f"{what} must be verdicts of schema {SCHEMAS['verdicts']}, got {data['kind']!r:.40}")
    verdicts = [_verdict(each, f"{what}: verdict {i}") for i, each in enumerate(data["verdicts"])]
    differ = [f"{len(data['rules_differ'])} times; {_IN_THE_LOG}"] if data["rules_differ"] else []
    return Decision((), differ, error=_IN_THE_LOG) if "error" in data else Decision(verdicts, differ)


def plain_name(text: str) -> str:
    """Return a name with only the usual characters of tests and counters; others become question marks."""
    return plain(_UNPLAIN.sub("?", " ".join(text.split())), LONGEST)


def _verdict(said: Object, where: str) -> Verdict:
    check(said, _VERDICT | {key: form for key, form in _OPTIONAL.items() if key in said}, where, ResultsError)
    if said["verdict"] not in EXIT_CODES or said["kind"] not in KINDS or len(said.get("interval", (0, 0))) != 2:
        raise ResultsError(f"{where} must have a known verdict and kind, and a valid interval, got {said!r:.200}")
    about = (short_name(said["benchmark"]), said.get("counter", ""))
    return Verdict(
        benchmark=": ".join(plain_name(each) for each in about if each),
        kind=said["kind"],
        verdict=said["verdict"],
        reason=_reason(said),
        n=said["n"],
        allowed="a stage" if "allowed" in said else None,
        **{key: said.get(key) for key in ("base", "head", "estimate")},
    )


def _reason(said: Object) -> str:
    """Return the verdict's numbers in words."""
    if said["kind"] == "counter":
        return f"{said['base']:,.12g} before, {said['head']:,.12g} now" if {"base", "head"} <= said.keys() else ""
    if not {"interval", "threshold", "floor", "base"} <= said.keys() or said["base"] == 0:
        return ""
    low, high = said["interval"]
    limit = Limit(said["threshold"], said["floor"]).of(said["base"])
    return f"interval {low:+.1%} to {high:+.1%}, limit {limit:.1%}"
