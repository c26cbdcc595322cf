"""Write a report as Markdown, and as one HTML page with its pictures in it, to which the network gives nothing."""

import math
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stagebench.analysis.attribution import UNATTRIBUTED
from stagebench.core import shown
from stagebench.core.json_files import json_text, table_beside
from stagebench.core.pages import fill
from stagebench.core.shown import MS, RATIO, Table, Unit, markdown
from stagebench.core.stages import OF_SERVER, STAGE_NAMES, STAGES, Stage

_DRAWN = (*STAGES, *OF_SERVER, Stage(UNATTRIBUTED, "", unit=""), Stage("e2e", "", unit="", color="#595959"))
COLORS = {stage.name: stage for stage in _DRAWN}
_WORDING = table_beside(__file__)
UNITS: Mapping[str, Unit] = vars(shown) | {name: Unit(**fields) for name, fields in _WORDING["units"].items()}
COLUMNS = {name: {key: UNITS[unit] for key, unit in own.items()} for name, own in _WORDING["columns"].items()}
SAID: Mapping[str, str] = _WORDING["said"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture, which only HTML shows: a macro of `charts.html` draws it."""

    caption: str
    macro: str
    data: Any  # what that macro takes
    instead: Table | None = None  # what Markdown shows


@dataclass(frozen=True, slots=True)
class Folded:
    """What lies behind a line until somebody opens it."""

    line: str
    table: Table


Part = str | tuple[str, ...] | Table | Figure | Folded  # a paragraph, a list of sentences, a table, ...
Sections = Mapping[str, Iterable[Part]]  # what stands under each heading


def without_empty(sections: Sections) -> Sections:
    """Leave out lists and tables without rows, and then sections that have nothing to say."""
    kept = {title: [p for p in parts if (p.rows if isinstance(p, Table) else p)] for title, parts in sections.items()}
    return {title: parts for title, parts in kept.items() if parts}


def to_markdown(title: str, sections: Sections) -> str:
    """Write all sections, without their pictures."""
    blocks = [f"# {markdown(title)}"]
    for heading, parts in sections.items():
        said = list(filter(None, map(_part, parts)))
        blocks += [f"## {markdown(heading)}", *said] if said else []
    return "\n\n".join(blocks) + "\n"


def _part(part: Part) -> str:
    if isinstance(part, Folded):
        table = shown.to_markdown(part.table)
        return f'<details markdown="1"><summary>{markdown(part.line)}</summary>\n\n{table}\n\n</details>'
    if isinstance(part, Figure):
        return shown.to_markdown(part.instead) if part.instead else ""
    if isinstance(part, Table):
        return shown.to_markdown(part)
    return markdown(part) if isinstance(part, str) else "\n".join(f"- {markdown(line)}" for line in part)


def to_html(title: str, sections: Sections) -> str:
    """Fill in the page, with a table of contents."""
    numbers = {"brief": brief, "ms": MS.write, "ratio": RATIO.write, "log10": math.log10, "ticks": ticks}
    filters = numbers | {"trace": _trace}
    stages: dict[str, Any] = {"stages": STAGES, "stage_names": STAGE_NAMES, "colors": COLORS}
    return fill("stagebench.analysis.report", "report.html", filters, title=title, sections=sections, **stages)


def brief(seconds: float) -> str:
    """Write milliseconds in three digits, or whole ones; what is less than a picosecond is rounding."""
    ms = round(seconds * 1e3, 9)
    return f"{ms:,.0f}" if abs(ms) >= 99.95 else f"{ms:z.3g}"


def ticks(top: float) -> Sequence[float]:
    """Return round numbers from 0 to a number above 0, three to six of them."""
    size = 10 ** math.floor(math.log10(top / 4))
    step = next(size * n for n in (1, 2, 5, 10) if size * n >= top / 4.001)
    return [step * i for i in range(int(top / step * 1.001) + 1)]


def _trace(line: Mapping[str, Any]) -> str:
    """Put the trace of a timeline into a link, from which a browser saves it."""
    return f"data:application/json;base64,{b64encode(json_text(to_trace(line)).encode()).decode('ascii')}"


def to_trace(line: Mapping[str, Any]) -> dict[str, Any]:
    """Write a timeline as events of Chrome's trace format, which Perfetto reads: a process a model, in microseconds."""
    events: list[dict[str, Any]] = []
    for process, (model, own) in enumerate(line["passes"].items(), 1):
        name = {"name": f"{model}: {line['sample']}, {line['mode']} length"}
        events.append({"ph": "M", "name": "process_name", "pid": process, "args": name})
        for thread, what in enumerate(("stages", "tokens"), 1):
            at = {"pid": process, "tid": thread}
            events.append({"ph": "M", "name": "thread_name", **at, "args": {"name": what}})
        of = {"pid": process, "cat": "stage"}
        for stage, (start, seconds) in own["stages"].items():
            events.append({"ph": "X", "name": stage, "ts": start * 1e6, "dur": seconds * 1e6, "tid": 1, **of})
        for number, at_second in enumerate(own["tokens"], 2):  # prefill gives the first
            events.append({"ph": "i", "name": f"token {number}", "ts": at_second * 1e6, "s": "t", "tid": 2, **of})
    return {"displayTimeUnit": "ms", "traceEvents": events}
