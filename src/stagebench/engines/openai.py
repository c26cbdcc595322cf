"""Any OpenAI-compatible server. Load and request are ours; of the server come its events and its counts.

How it divides the time to its first token among preprocess, encode and prefill can't be seen from here.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain
from statistics import median
from typing import Any

import numpy as np

from stagebench.core import meter
from stagebench.core.artifacts import Generation, Image, Run, Sample
from stagebench.core.checks import Text, check
from stagebench.core.errors import EngineError
from stagebench.core.settings import EngineSettings, GenerationSettings, ModelSettings
from stagebench.core.shown import MS
from stagebench.core.stages import DECODE, FIRST_TOKEN, LOAD, PREFILL, REQUEST
from stagebench.engines.client import FORMATS, Server, body_of, encoded
from stagebench.engines.stream import Answer
from stagebench.models.registry import ANY
from stagebench.pipeline.load import load
from stagebench.pipeline.timing import without_collection

PERCENTILES = (50, 90, 99)
_UNKNOWN = 3  # inputs that a server can't know, before the first pass; the first of them may also set something up
_CACHED = 0.7  # share of the time to first token of such an input, below which passes meet a cache
_HELD = 3e-4  # seconds per token, below which no model gives them one by one: a server or a network held them back
_MODELS = {"data": list[dict[str, Any]]}


class OpenAIEngine:
    """Asks a server at an address that it is given, and sends the frames as PNG, or as JPEG."""

    input_kind = "video"
    instrumented = False

    def __init__(self, model: str, settings: ModelSettings, own: EngineSettings, *, statistics: bool = True) -> None:
        self._settings, self._more = settings, dict(own.arguments)
        self._format = self._more.pop("image_format", "png")
        if self._format not in FORMATS:
            raise EngineError(f"image_format must be one of {', '.join(FORMATS)}, got {self._format!r}")
        if settings.as_ == "video":
            raise EngineError("a server gets frames as images, got --as video")
        self._server = Server(str(own.url))
        self._answers, self._unknown = list[Answer](), list[float]()
        try:
            listed = self._server.get("/v1/models")
            check(listed, _MODELS, f"{self._server.url}/v1/models", EngineError)
            self._model, owner = _served(model, settings, listed["data"], self._server.url)
            version = _version(self._server) if owner == "vllm" else None
        except BaseException:
            self.close()
            raise
        if owner == "vllm":
            self._more = {"return_token_ids": True} | self._more
        said = filter(None, (owner, version, f"model {self._model}", f"images as {self._format}"))
        self.described = f"openai at {self._server.url}: {', '.join(said)}"

    def run(self, sample: Sample, generation: GenerationSettings) -> Run:
        """Return a timed pass; before the first one, send the server inputs that it can't know."""
        if not self._unknown:
            images = load(sample, self._settings.frames).images
            bodies = [self._body(_shifted(images), sample, generation) for _ in range(_UNKNOWN)]
            self._unknown = [self._ask(body, generation).ttft for body in bodies]
        before = meter.so_far()
        with without_collection():
            start = time.perf_counter()
            images = load(sample, self._settings.frames).images
            loaded, done = time.perf_counter(), meter.since(before)
            answer = self._ask(self._body(images, sample, generation), generation)
        self._answers.append(answer)
        first, *further = answer.event_times
        seconds = {
            LOAD.name: loaded - start,
            REQUEST.name: answer.uploaded - loaded,
            FIRST_TOKEN.name: first - answer.uploaded,
        }
        seconds |= {DECODE.name: answer.finished - first} if answer.new_tokens > 1 else {}
        generated = Generation(
            (answer.token_ids or (),),
            (answer.finish_reason,),
            answer.new_tokens - 1,
            tuple(further),
            counted=answer.new_tokens,
        )
        spans = {
            LOAD.name: (start, loaded),
            REQUEST.name: (loaded, answer.uploaded),
            FIRST_TOKEN.name: (answer.uploaded, first),
        }
        work = {LOAD.name: done, PREFILL.name: {"prompt_tokens": answer.prompt_tokens}}
        e2e = answer.finished - start
        return Run(
            self._model, seconds, {}, e2e, generated, answer.text, spans, work, first - loaded, answer.prompt_ids
        )

    def under_load(
        self, sample: Sample, generation: GenerationSettings, requests: int, concurrency: int
    ) -> dict[str, Any]:
        """Send requests, at most `concurrency` at a time, each of other pixels; return percentiles of their times.

        Times are in seconds, from when a request is sent; loading and encoding the images come before all of them.
        """
        images = load(sample, self._settings.frames).images
        bodies = [self._body(_shifted(images), sample, generation) for _ in range(requests)]
        with without_collection():
            start = time.perf_counter()
            found = self._server.ask_all(bodies, self._model, concurrency)
            seconds = time.perf_counter() - start
        errors = [each for each in found if isinstance(each, EngineError)]
        answers = [each for each in found if isinstance(each, Answer)]
        if not answers:
            raise errors[0]
        tokens = sum(each.new_tokens for each in answers)
        times = {
            "ttft": [each.ttft for each in answers],
            "tpot": [each.tpot for each in answers if each.tpot is not None],
            "itl": list(chain.from_iterable(each.itl for each in answers)),
            "e2e": [each.finished - each.sent for each in answers],
        }
        return {
            "concurrency": concurrency,
            "completed": len(answers),
            "failed": len(errors),
            "errors": sorted({str(error) for error in errors}),
            "duration": seconds,
            "total_output_tokens": tokens,
            "output_throughput": tokens / seconds,
            "request_throughput": len(answers) / seconds,
            "percentiles": {name: _percentiles(values) for name, values in times.items() if values},
        }

    @property
    def warnings(self) -> list[str]:
        """Return a line for each thing that the times of the passes so far do not say of themselves."""
        found, last = [], self._answers[-1]
        if cached := max(each.cached_tokens or 0 for each in self._answers):
            found.append(f"{cached} of {last.prompt_tokens} prompt tokens came from the server's cache of prefixes")
        unknown, known = min(self._unknown[1:]), median(each.ttft for each in self._answers)
        if known < _CACHED * unknown:
            took = (
                f"{MS.write(unknown)} ms for an input that the server can't know, and {MS.write(known)} ms for this one"
            )
            found.append(f"the first token took {took}: it has a cache of prefixes or of images")
        if held := sum(each.tpot is not None and each.tpot < _HELD for each in self._answers):
            passes = f"{held} of {len(self._answers)} passes"
            found.append(f"in {passes} tokens came together: held back on the way or here, so ttft holds decode")
        if len(texts := {each.text for each in self._answers}) > 1:
            found.append(f"the server's passes gave {len(texts)} different texts")
        if (events := len(last.event_times)) != last.new_tokens:
            found.append(f"{events} events held {last.new_tokens} tokens: gaps are those between events")
        return found

    def close(self) -> None:
        """End the connection."""
        self._server.close()

    def _body(self, images: Sequence[Image], sample: Sample, generation: GenerationSettings) -> bytes:
        tokens = generation.max_new_tokens
        fixed = {"ignore_eos": True, "min_tokens": tokens} if generation.fixed_length else {}
        return body_of(self._model, encoded(images, self._format), sample.question, tokens, fixed | self._more)

    def _ask(self, body: bytes, generation: GenerationSettings) -> Answer:
        """Send a request, and refuse a text of another length than the fixed one."""
        answer = self._server.ask(body, self._model)
        if generation.fixed_length and answer.new_tokens != generation.max_new_tokens:
            must = f"{self._server.url} must give {generation.max_new_tokens} tokens (or use --natural-length)"
            raise EngineError(f"{must}, got {answer.new_tokens}")
        return answer


def _served(
    model: str, settings: ModelSettings, listed: Sequence[Mapping[str, Any]], url: str
) -> tuple[str, str | None]:
    """Return the name and the owner of the model that is asked for, or of the only one that a server lists."""
    for each in listed:
        check(each, {"id": Text}, f"{url}/v1/models", EngineError)
    own = not model or model.startswith(ANY)  # the name of a checkpoint is ours, and may not be the server's
    wanted = settings.weights if own else model
    fitting = [each for each in listed if each["id"] == wanted] or [each for each in listed if own]
    if len(fitting) != 1:
        names = ", ".join(each["id"] for each in listed) or "none"
        raise EngineError(f"{url} must serve one model, or that of --model, got {names}, and --model {model or 'none'}")
    owner = fitting[0].get("owned_by")
    return fitting[0]["id"], owner if isinstance(owner, str) else None


def _version(server: Server) -> str | None:
    """Return what vLLM says at an address that a gateway before it may not have."""
    with suppress(EngineError):
        said = server.get("/version")
        check(said, {"version": Text}, server.url, EngineError)
        return str(said["version"])
    return None


def _shifted(images: Sequence[Image]) -> list[Image]:
    """Return images of the same content elsewhere, by a random shift around their edges."""
    draw = np.random.default_rng()
    shift = [int(draw.integers(1, side + 1)) for side in images[0].shape[:2]]
    return [np.roll(image, shift, axis=(0, 1)) for image in images]


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    return {f"p{each}": float(np.percentile(values, each)) for each in PERCENTILES}
