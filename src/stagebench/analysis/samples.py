"""The samples of an experiment on disk, read and written only here. Times are in seconds. Needs no torch.

A folder holds `run.json` (the identity, the plan, and each session) and `samples.jsonl`, one line per pass. Lines are
only appended, so a killed process loses at most the current pass. Samples that were read need no further check: every
key that an analysis needs is present, and every number valid.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, Required, TypedDict, cast

from stagebench.analysis.attribution import UNATTRIBUTED, Costs
from stagebench.core.artifacts import Run
from stagebench.core.checks import Count, Flag, Must, Number, Object, Positive, Spread, Text, Time, check
from stagebench.core.errors import AnalysisError
from stagebench.core.json_files import json_of, read_bytes, read_json, write_json
from stagebench.core.machine.environment import differences
from stagebench.core.machine.locks import locked
from stagebench.core.results import SCHEMAS, versioned
from stagebench.core.stages import DECODE, FIRST_TOKEN, IN_GENERATE, LOAD, OF_SERVER, ONCE, STAGE_NAMES

RUN_FILE, SAMPLES_FILE = "run.json", "samples.jsonl"
MAIN, DURATIONS, NEW_TOKENS = STUDIES = ("main", "durations", "new_tokens")  # samples, growth with clip and text
MODES = ("natural", "fixed")  # lengths of generation
_OF_SERVER = (LOAD.name, *(stage.name for stage in OF_SERVER))  # parts of a pass that a server shows
KEY = ("study", "value", "model", "sample", "mode", "pass")  # identifies a measurement

Key = tuple[Any, ...]
Name = Text | Count
Study = Annotated[str, Must(STUDIES.__contains__, f"one of {', '.join(STUDIES)}")]
Mode = Annotated[str, Must(MODES.__contains__, f"one of {', '.join(MODES)}")]
Version = Annotated[int, Must(lambda v: v is not True and v == SCHEMAS["samples"], str(SCHEMAS["samples"]))]
_Pass = TypedDict("_Pass", {"pass": Count}, total=False)


class FailedLine(_Pass, total=False):
    """A planned pass; the line of a failed one has no more than this and its `error`."""

    study: Required[Study]
    model: Required[Text]
    sample: Required[Name]
    mode: Required[Mode]
    value: Spread | None  # of the variable of the study
    sequence: Name | None  # the recording that the sample was cut from
    path: Text
    error: Text


class SeenMedia(TypedDict):
    """What a model saw of a sample."""

    kind: Text
    images: Count
    width: Count  # of the first image, in pixels
    height: Count
    bytes: Count  # read
    span: Spread | None  # seconds between the first and the last thing shown, where known


class SampleLine(FailedLine, total=False):
    """One pass of one sample through one model, in the `order` of the run; numbers without a meaning are absent."""

    order: Required[Count]
    seconds: Required[dict[str, Spread]]  # by stage, as `work` and `peak_bytes`
    e2e: Required[Time]
    ttft: Required[Spread]
    tokens: Required[Positive]
    token_ids: Required[list[Count]]
    finish_reason: Required[Text]
    text: Required[Text]
    unattributed: Number
    tpot: Spread | None
    itl: list[Spread]
    starts: dict[str, Spread]  # of each stage, after the first one began, and so are the
    token_times: list[Spread]  # when each further token was known
    work: Object
    peak_bytes: dict[str, Count]
    media: SeenMedia
    cold_load: Spread
    not_cold: Text  # the reason
    right: Flag  # whether the text, of natural length, is the known answer


class DraftLine(TypedDict, total=False):
    """What one model's drafts were worth to another in one sample; no `right` and no times where there is an error."""

    draft: Required[Text]
    target: Required[Text]
    sample: Required[Name]
    sequence: Required[Name]
    tokens: Required[Positive]  # drafted at once
    right: list[Flag]  # of the target's text, but its first token: whether the draft would have written it there
    checks: Count  # that the text took
    plain: Spread  # seconds of the target's decode alone, and
    drafted: Spread  # with drafts
    error: Text


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The machine's measured rates, not a data sheet's; a share above 1 means that a rate was measured too low."""

    flops: float  # FLOPs per second of the fastest matrix product in the model's dtype
    bandwidth: float  # bytes per second
    bandwidth_kind: str  # how it was measured, "read" or "copy"

    def mfu(self, flops: float, seconds: float) -> float:
        """Return the necessary FLOPs per second over the measured rate (PaLM, arXiv 2204.02311, appendix B)."""
        return flops / seconds / self.flops

    def mbu(self, bytes_read: float, seconds: float) -> float:
        """Return the necessary bytes per second, of weights and KV cache, over the measured rate (Databricks 2023)."""
        return bytes_read / seconds / self.bandwidth


_COUNTED = dict.fromkeys(STAGE_NAMES, Object) | {stage: {"flops": Count} for stage in IN_GENERATE}
_PROOF = {"seconds": Spread, "sample": Text} | dict.fromkeys(("work", "bytes"), dict[str, dict[str, Count]])
_SESSION = {
    "started": Text,
    "load_warning": Text | None,
    "ceilings": {"flops": Time, "bandwidth": Time, "bandwidth_kind": Text},
    "together": Flag | None,
    "proofs": GenericAlias(dict, GenericAlias(dict, _PROOF)),  # by model and mode
    "same_tokens": list[list[Text]],
}
ExperimentRun = dict[str, Any]
"""The content of `run.json`: the identity of the times, a summary of the plan, and the sessions."""

_LEFT_OUT = GenericAlias(list, {"name": Text, "reason": Text})
_RUN = {
    "schema": Version,
    "identity": dict.fromkeys(("input", "generation", "media", "loading", "order_seed", "models", "device"), Text),
    "plan": dict.fromkeys(("passes", "samples", "sequences"), Count) | dict.fromkeys(("broken", "skipped"), _LEFT_OUT),
    "sessions": GenericAlias(list, _SESSION),
}


def sample_of(run: Run, mode: str) -> dict[str, Any]:
    """Note what was measured in a pass; a value without meaning is absent."""
    line = {
        "study": MAIN,
        "mode": mode,
        "model": run.model,
        "seconds": run.seconds,
        "unattributed": run.unattributed,
        "e2e": run.e2e,
        "ttft": run.ttft,
        "output_throughput": run.output_throughput,
        "tokens": run.new_tokens,
        "token_ids": list(run.generation.token_ids[0]),
        "finish_reason": run.generation.finish_reasons[0],
        "text": run.text,
    }
    first = min((began for began, _ in run.spans.values()), default=0.0)
    meaningful = {
        "device_seconds": run.device_seconds,
        "tpot": run.tpot,
        "itl": list(run.itl),
        "starts": {stage: began - first for stage, (began, _) in run.spans.items()},
        "token_times": [at - first for at in run.generation.step_ends] if run.spans else [],
    }
    return line | {name: value for name, value in meaningful.items() if value}


def read_samples(path: Path) -> list[SampleLine]:
    """Read JSON lines, failed passes included; raise AnalysisError for an invalid one."""
    return parse_samples(read_bytes(path, f"the samples {path}", AnalysisError), str(path))


def parse_samples(data: bytes, where: str) -> list[SampleLine]:
    """Parse JSON lines. A last line without its end, as a killed process leaves it, is dropped unless it is whole."""
    *lines, last = data.split(b"\n")
    found = [_line(line, f"{where}:{number}") for number, line in enumerate(lines, 1)]
    with suppress(AnalysisError):
        found.append(_line(last, where))
    return found


def _line(data: bytes, where: str) -> SampleLine:
    return require_sample(json_of(data, where, AnalysisError), where)


def require_sample(line: Any, where: str) -> SampleLine:
    """Return a checked pass from JSON; raise AnalysisError that names a missing or wrong value."""
    failed = isinstance(line, dict) and "error" in line
    check(line, FailedLine if failed else SampleLine, where, AnalysisError)
    if not failed:
        told = _OF_SERVER if FIRST_TOKEN.name in line["seconds"] else STAGE_NAMES
        check(line["seconds"], dict.fromkeys(told, Spread), f"{where}: seconds", AnalysisError)
        if line["study"] != MAIN and not line.get("value"):
            raise AnalysisError(f"{where} must have a value of the variable of its study, got {line.get('value')!r}")
    return cast(SampleLine, line)


def thumbnail_of(sample: str, path: str, images: int) -> Path:
    """Return where the picture of what a file shows of a sample lies in the folder of a run."""
    return Path("thumbnails", f"{hashlib.sha256(f'{images} {sample}/{path}'.encode()).hexdigest()[:16]}.jpg")


def read_run(folder: Path) -> ExperimentRun:
    """Read `run.json`; raise AnalysisError where it is missing, damaged, or of another version."""
    where = f"the run {folder / RUN_FILE}"
    run: ExperimentRun = read_json(folder / RUN_FILE, where, AnalysisError)
    check(run, _RUN, where, AnalysisError)
    modes = [by_mode for session in run["sessions"] for by_mode in session["proofs"].values()]
    if not run["sessions"] or not all(modes):
        raise AnalysisError(f"{where} must have at least one session, with a proof of each model, got none")
    check(run.get("drafts", []), list[DraftLine], f"{where}: drafts", AnalysisError)
    for proof in chain.from_iterable(by_mode.values() for by_mode in modes):
        check(proof["work"], _COUNTED, f"{where}: work", AnalysisError)
    return run


def select(lines: Iterable[SampleLine], **wanted: object) -> list[SampleLine]:
    """Return the lines of successful passes with these values: `select(lines, mode="natural")`."""
    good = (line for line in lines if "error" not in line)
    return [line for line in good if all(line.get(key) == value for key, value in wanted.items())]


def by_model(lines: Iterable[SampleLine]) -> dict[str, list[SampleLine]]:
    """Return the lines by model, in a fixed order."""
    kept = list(lines)
    return {model: select(kept, model=model) for model in sorted({line["model"] for line in kept})}


def sequences(lines: Iterable[SampleLine]) -> dict[str, str]:
    """Return the sequence of each sample, by default the sample itself."""
    return {str(line["sample"]): str(line.get("sequence") or line["sample"]) for line in lines}


def costs_of(line: SampleLine) -> Costs:
    """Return the costs of one pass; they add up to its `e2e`."""
    seconds, decode = line["seconds"], line["seconds"].get(DECODE.name, 0.0)
    parts = {stage: seconds[stage] for stage in ONCE if stage in seconds}
    if FIRST_TOKEN.name in seconds:
        parts["ttft"] = sum(seconds[stage.name] for stage in OF_SERVER)
    rest = line["e2e"] - sum(parts.values()) - decode
    return Costs(line["model"], parts | {UNATTRIBUTED: rest}, line["tokens"], decode)


def median_passes(lines: Iterable[SampleLine]) -> dict[str, SampleLine]:
    """Return of each sample of one model the pass in the middle by its `e2e`, so that one far out moves no mean."""
    passes: dict[str, list[SampleLine]] = {}
    for line in lines:
        passes.setdefault(str(line["sample"]), []).append(line)
    return {s: sorted(own, key=lambda line: line["e2e"])[(len(own) - 1) // 2] for s, own in passes.items()}


def costs_by_sample(lines: Iterable[SampleLine]) -> dict[str, Costs]:
    """Return the costs of each sample of one model, those of its median pass."""
    return {sample: costs_of(line) for sample, line in median_passes(lines).items()}


def key_of(line: Mapping[str, Any]) -> Key:
    """Return the key of a line's measurement."""
    return tuple(line.get(name) for name in KEY)


class SampleLog:
    """The open folder of an experiment, for one process at a time; see `open_log`."""

    def __init__(self, folder: Path, file: Any, run: ExperimentRun, lines: list[SampleLine]) -> None:
        self.folder, self.run, self.lines = folder, run, lines
        self._file = file
        self._done = {key_of(line) for line in lines}

    def begin_session(self, session: dict[str, Any]) -> None:
        """Record the conditions of the next lines."""
        self.run["sessions"].append(session)
        self.save_run()

    def save_run(self) -> None:
        """Write `run.json` after a session has changed."""
        write_json(self.folder / RUN_FILE, self.run)

    def has(self, key: Key) -> bool:
        """Return whether this key has been measured, or has failed."""
        return key in self._done

    def append(self, line: SampleLine) -> None:
        """Write a line, and wait until it is on the disk."""
        if self.has(key_of(line)):
            raise AnalysisError(f"a sample must be measured once, got {key_of(line)} twice")
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.lines.append(line)
        self._done.add(key_of(line))


@contextmanager
def open_log(folder: Path, identity: dict[str, str], plan: dict[str, Any]) -> Iterator[SampleLog]:
    """Begin an experiment in a folder, or resume one that was interrupted after its first line.

    The identity is what the times depend on, and what is measured; the plan is only stored. Raise AnalysisError where
    the folder is in use, damaged, or of another identity, with every key that differs.
    """
    path = folder / SAMPLES_FILE
    with locked(folder, "only one run at a time may write to a folder"), path.open("ab") as file:
        data = read_bytes(path, f"the samples {path}", AnalysisError)
        end = data.rfind(b"\n") + 1
        lines = parse_samples(data[:end], str(path))
        run: Any = versioned("samples", {"identity": identity, "plan": plan, "sessions": []})
        if (folder / RUN_FILE).exists():
            there = read_run(folder)  # read also if it is replaced, so that no foreign file is
            if lines and there["identity"] != identity:
                apart = "; ".join(differences(identity, there["identity"]))
                raise AnalysisError(f"{folder} holds another run, so it is not resumed: {apart}")
            run = there if lines else run
        file.truncate(end)  # drops a line without its end, of a killed process
        yield SampleLog(folder, file, run, lines)
