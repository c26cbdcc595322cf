"""A client of any OpenAI-compatible server. Only the given address is contacted: no proxy, and no redirect followed.

Whatever a server does, a request ends within `Limits`, with an answer or with an error of one line. An API key is read
from the environment, and shown nowhere.
"""

import asyncio
import base64
import io
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, TypeVar

import httpx2
from PIL.Image import fromarray

from stagebench.core.artifacts import Image
from stagebench.core.errors import EngineError
from stagebench.core.json_files import parse_json
from stagebench.core.shown import one_line, plain
from stagebench.engines.stream import Answer, Collector, message_of

KEYS = "STAGEBENCH_API_KEY", "OPENAI_API_KEY"  # variables of the environment: the first one that is set
FORMATS: Mapping[str, Mapping[str, Any]] = {"png": {"compress_level": 1}, "jpeg": {"quality": 95}}
T = TypeVar("T")
_BODY = 2**20  # bytes read of a body that is no answer
_BUSY = (429, 503)  # with a time to wait before another try
_PAUSE = 0.1  # seconds before the first new try, doubled for each further one, if the server asks for less
_DRAIN = 0.5  # seconds for the end of a response after its last event: then its connection can be used again


class Limits(NamedTuple):
    """Seconds that a server may take."""

    connect: float = 10
    first: float = 300  # to the first event, or to a whole response that is no stream
    between: float = 60  # events
    whole: float = 900  # answer
    busy: float = 60  # asking to wait, in all


class Server:
    """A connection to a server, for one thread, until `close`. Raises EngineError where the server fails."""

    def __init__(self, url: str, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._key = next((os.environ[name] for name in KEYS if name in os.environ), "")
        if not self._key.isascii() or any(not "!" <= each <= "~" for each in self._key):  # before h11 quotes it
            raise EngineError(f"an API key ({', '.join(KEYS)}) must be printable ASCII without blanks, got another")
        self.url = url
        self._runner = asyncio.Runner()
        self._http = httpx2.AsyncClient(
            headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {}),
            timeout=httpx2.Timeout(None, connect=self.limits.connect),
            limits=httpx2.Limits(),
            trust_env=False,
        )

    def close(self) -> None:
        """End the connection."""
        try:
            self._runner.run(self._http.aclose())
        finally:
            self._runner.close()

    def get(self, path: str) -> Any:
        """Return the JSON at a path of the server, such as "/v1/models"."""
        return self._runner.run(self._hiding_key(self._get(path)))

    def ask(self, body: bytes, model: str) -> Answer:
        """Send a request as of `body_of`, and return the answer."""
        return self._runner.run(self._hiding_key(self._ask(body, model)))

    def ask_all(self, bodies: Sequence[bytes], model: str, concurrency: int) -> list[Answer | EngineError]:
        """Send requests, at most `concurrency` at a time, and return the answer to each, or its error."""

        async def ask(body: bytes) -> Answer | EngineError:
            async with free:
                try:
                    return await self._hiding_key(self._ask(body, model))
                except EngineError as error:
                    return error

        async def ask_each() -> list[Answer | EngineError]:
            return await asyncio.gather(*map(ask, bodies))

        free = asyncio.Semaphore(concurrency)
        return self._runner.run(ask_each())

    async def _hiding_key(self, asked: Awaitable[T]) -> T:
        """Return what was asked for, or raise its error without the key, which a server may repeat."""
        try:
            return await asked
        except EngineError as error:
            raise EngineError(str(error).replace(self._key or "\0", "***")) from None

    async def _get(self, path: str) -> Any:
        async with self._respond("GET", path, b"", {}) as (source, _):
            return parse_json(await _body(source.response))

    async def _ask(self, body: bytes, model: str) -> Answer:
        """Send a request again where the server asks to, after the time that it names."""
        until, pause = time.monotonic() + self.limits.busy, _PAUSE
        while isinstance(found := await self._stream(body, model), float):
            if not time.monotonic() + found <= until:
                raise EngineError(f"{self.url} must be free within {self.limits.busy:g} s, got: wait {found:g} s more")
            await asyncio.sleep(max(found, pause))
            pause *= 2
        return found

    async def _stream(self, body: bytes, model: str) -> Answer | float:
        """Return the answer to one request, or the seconds to wait for before it is sent again."""
        marks = {"sent": time.perf_counter()}
        collector, end = Collector(model, self.url), time.perf_counter() + self.limits.whole

        async def trace(event: str, info: object) -> None:
            if ".send_request_body." in event:  # as it starts, and as it ends
                marks["uploaded"] = time.perf_counter()

        async with self._respond("POST", "/v1/chat/completions", body, {"trace": trace}, collector) as (source, clock):
            if (wait := _wait(source.response)) is not None:
                return wait
            async for event in source:
                now = time.perf_counter()
                collector.add(event.data, event.event, now)
                limit = _DRAIN if collector.done else min(self.limits.between, end - now)
                clock.reschedule(asyncio.get_running_loop().time() + limit)
        return collector.answer(marks["sent"], marks["uploaded"])

    @asynccontextmanager
    async def _respond(
        self, method: str, path: str, body: bytes, extensions: dict[str, Any], collector: Collector | None = None
    ) -> AsyncIterator[tuple[httpx2.EventSource, asyncio.Timeout]]:
        """Yield a response with status 200, or that of a busy server, and the clock that ends it."""
        more: dict[str, Any] = {"content": body, "headers": {"Content-Type": "application/json"}} if body else {}
        try:
            async with (
                asyncio.timeout(self.limits.first) as clock,
                self._http.sse(self.url + path, method=method, extensions=extensions, **more) as source,
            ):
                await self._require_success(source.response, stream=collector is not None)
                yield source, clock
        except TimeoutError as error:
            if not (collector and collector.done):
                must, seen = f"begin to answer within {self.limits.first:g} s", "nothing"
                if collector and collector.count:
                    must = f"send an event each {self.limits.between:g} s, and all within {self.limits.whole:g} s"
                    seen = f"none in time after event {collector.count}"
                raise EngineError(f"{self.url}{path} must {must}, got {seen}") from error
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, ValueError) as error:
            after = f" after {collector.count} events" if collector else ""
            raise EngineError(f"{self.url}{path} must answer, got{after}: {one_line(error)}") from error

    async def _require_success(self, response: httpx2.Response, stream: bool) -> None:
        """Refuse an answer that is an error, a redirect, compressed, or no stream, in the server's own words."""
        kind, _, _ = response.headers.get("content-type", "").partition(";")
        wanted = "text/event-stream" if stream else "application/json"
        if response.headers.get("content-encoding", "identity") != "identity":
            raise EngineError(
                f"{self.url} must answer uncompressed, as asked, got {response.headers['content-encoding']}"
            )
        busy = stream and _wait(response) is not None
        if busy or (response.status_code == 200 and kind.strip().lower() == wanted):
            return
        got = f"status {response.status_code} and {kind or 'no type'}"
        if response.has_redirect_location:
            got += f", to {response.headers['location']}, which is not contacted"
        elif body := await _body(response):
            try:
                got += f": {message_of(parse_json(body))}"
            except ValueError:
                got += f": {body.decode(errors='replace')}"
        raise EngineError(f"{response.url} must answer with {wanted}, got {plain(got, 500)}")


async def _body(response: httpx2.Response) -> bytes:
    """Return the first bytes of a response's body."""
    body = b""
    async for chunk in response.aiter_raw():
        if len(body := body + chunk) > _BODY:
            break
    return body[:_BODY]


def _wait(response: httpx2.Response) -> float | None:
    """Return the seconds that a busy server asks to wait; None where it does not ask."""
    if response.status_code not in _BUSY or not (asked := response.headers.get("retry-after")):
        return None
    try:
        return max(
            0.0, float(asked) if asked.strip().isdecimal() else parsedate_to_datetime(asked).timestamp() - time.time()
        )
    except (ValueError, OverflowError):
        return None


def encoded(images: Sequence[Image], kind: str) -> list[str]:
    """Return images, uint8 (height, width, 3), as data URLs of PNG (without loss) or JPEG."""
    urls = []
    for image in images:
        file = io.BytesIO()
        fromarray(image).save(file, kind, **FORMATS[kind])
        urls.append(f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}")
    return urls


def body_of(model: str, urls: Sequence[str], question: str, new_tokens: int, more: Mapping[str, Any]) -> bytes:
    """Return a request for one greedy, streamed text about images; `more` adds to it, or replaces parts of it."""
    shown: list[Any] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    request = {
        "model": model,
        "messages": [{"role": "user", "content": [*shown, {"type": "text", "text": question}]}],
        "temperature": 0,
        "max_tokens": new_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(request | dict(more)).encode()
