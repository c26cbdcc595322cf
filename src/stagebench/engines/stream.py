"""Read the streamed answer of an OpenAI-compatible server: its events, checked, and when each of them came."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Required, TypedDict, cast

from stagebench.core.artifacts import FinishReason
from stagebench.core.checks import Count, Object, Positive, Text, check
from stagebench.core.errors import EngineError
from stagebench.core.json_files import parse_json
from stagebench.core.shown import plain

END = "[DONE]"  # the data of the last event
LARGEST = 2**26  # characters of all events of an answer


class _Delta(TypedDict, total=False):
    content: Text | None
    reasoning: Text | None
    reasoning_content: Text | None


class _Choice(TypedDict, total=False):
    delta: Required[_Delta]
    finish_reason: Text | None
    token_ids: list[Count] | None


class _Usage(TypedDict, total=False):
    completion_tokens: Required[Positive]
    prompt_tokens: Required[Count]
    prompt_tokens_details: Object | None


class _Event(TypedDict, total=False):
    choices: Required[list[_Choice]]
    prompt_token_ids: list[Count] | None
    model: Text
    system_fingerprint: Text | None
    usage: Object | None  # some servers send an empty one before the last


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request showed of the server. Times are in seconds of `time.perf_counter`."""

    sent: float  # when sending began
    uploaded: float  # when all of the request was handed over
    event_times: tuple[float, ...]  # of the events that hold text or tokens, any number of them
    finished: float  # when the event with the finish reason came: the last token was known then
    text: str
    new_tokens: int  # as the server counts them
    prompt_tokens: int
    finish_reason: FinishReason
    token_ids: tuple[int, ...] | None  # where the server gives them
    prompt_ids: tuple[int, ...]  # none where it does not give them
    cached_tokens: int | None  # of the prompt, where the server says how many it had computed before
    version: str | None  # of the server, where its events name it

    @property
    def ttft(self) -> float:
        """Return the time to first token, counted from sending."""
        return self.event_times[0] - self.sent

    @property
    def tpot(self) -> float | None:
        """Return the time per token after the first one, by the server's count; None for an answer of one token."""
        return (self.finished - self.event_times[0]) / (self.new_tokens - 1) if self.new_tokens > 1 else None

    @property
    def itl(self) -> tuple[float, ...]:
        """Return the gaps between events, which are those between tokens only where each event holds one token."""
        return tuple(after - before for before, after in pairwise(self.event_times))


@dataclass(slots=True)
class Collector:
    """The events of one answer so far."""

    model: str  # that was asked for
    where: str  # the server, in errors
    done: bool = False
    text: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    prompt_ids: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    ends: dict[str, float] = field(default_factory=dict)  # by finish reason: one
    usage: Mapping[str, Any] | None = None
    version: str | None = None
    count: int = 0
    size: int = 0

    def add(self, data: str, kind: str, now: float) -> None:
        """Take an event; raise EngineError for one that is malformed, an error, or of another model."""
        self.count += 1
        self.size += len(data)
        if self.size > LARGEST:
            raise EngineError(f"{self.where} must end its answer within {LARGEST:,} characters, got more")
        if data == END or self.done:
            self.done = True
            return
        event = self._parsed(data, kind)
        self.version = event.get("system_fingerprint") or self.version
        self.usage = event.get("usage") or self.usage
        self.prompt_ids = event.get("prompt_token_ids") or self.prompt_ids
        if (name := event.get("model") or self.model) != self.model:
            raise EngineError(f"{self.where} must answer by {self.model}, got an answer by {name}")
        if not event["choices"]:
            return
        choice, *others = event["choices"]
        delta, tokens, reason = choice["delta"], choice.get("token_ids") or [], choice.get("finish_reason")
        text = (delta.get("reasoning") or delta.get("reasoning_content") or "") + (delta.get("content") or "")
        if others or (self.ends and (text or tokens or reason)):
            raise EngineError(f"{self.where} must send one text with one end, got more in event {self.count}")
        if text or tokens:
            self.times.append(now)
            self.text.append(text)
            self.token_ids += tokens
        if reason:
            self.ends[reason] = now

    def _parsed(self, data: str, kind: str) -> _Event:
        where = f"{self.where}: event {self.count}"
        try:
            event = parse_json(data.encode())
        except ValueError as error:
            raise EngineError(f"{where} must be JSON, got: {plain(str(error), 300)}") from error
        if kind == "error" or (isinstance(event, dict) and (event.get("error") or event.get("object") == "error")):
            raise EngineError(f"{where} is an error: {message_of(event)}")
        check(event, _Event, where, EngineError)
        return cast("_Event", event)

    def answer(self, sent: float, uploaded: float) -> Answer:
        """Return the whole answer; raise EngineError where a part is missing, or parts contradict each other."""
        reason = next(iter(self.ends), None)
        if reason is None:
            raise EngineError(f"{self.where} must say why a text ends, got {self.count} events without a finish reason")
        if reason not in ("stop", "length"):
            raise EngineError(f"{self.where} must end a text by stop or length, got {plain(reason)!r}")
        if not self.usage:
            raise EngineError(f"{self.where} must count its tokens, got {self.count} events without usage")
        check(self.usage, _Usage, f"{self.where}: usage", EngineError)
        tokens = self.usage["completion_tokens"]
        if self.token_ids and len(self.token_ids) != tokens:
            raise EngineError(f"{self.where} must count its tokens, got {tokens} for {len(self.token_ids)} token ids")
        # The last token may be a stop without text.
        if len(self.times) < max(1, min(tokens - 1, 2)) or self.ends[reason] - self.times[0] <= 0 < tokens - 1:
            got = f"{len(self.times)} events with text for {tokens} tokens"
            raise EngineError(f"{self.where} must stream, or no first token can be seen, got {got}")
        cached = (self.usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        return Answer(
            sent,
            uploaded,
            tuple(self.times),
            self.ends[reason],
            "".join(self.text).strip(),
            tokens,
            self.usage["prompt_tokens"],
            cast("FinishReason", reason),
            tuple(self.token_ids) or None,
            tuple(self.prompt_ids),
            cached if isinstance(cached, int) else None,
            self.version,
        )


def message_of(body: Any) -> str:
    """Return a server's own words about an error, from the parsed body of a response, in one short line."""
    while isinstance(body, dict) and (inner := next((body[k] for k in ("error", "message", "detail") if k in body), 0)):
        body = inner
    return plain(str(body), 300)
