"""The client of OpenAI-compatible servers: what it shows of a good one, and its one line about each bad one."""

import json
import time
from contextlib import closing
from email.utils import formatdate
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import CLOSE, DONE, END, HEAD, MODEL, RESET, STALL, answer, chunk, counted, event, plain, said, served

from stagebench.core.errors import EngineError
from stagebench.engines.client import KEYS, Limits, Server, body_of, encoded

LIMITS = Limits(connect=5, first=1, between=0.5, whole=1.5, busy=1.5)  # of servers that make a client wait
KEY = "sk-do-not-show-me"
BODY = body_of(MODEL, [], "What moves?", 2, {})


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def there():
    with served() as server:
        yield server


def ask(address, limits=None):
    with closing(Server(address, limits)) as server:
        return server.ask(BODY, MODEL)


def test_an_answer_has_its_text_its_tokens_and_its_times(there):
    there.chat = answer("Two ", "birds", pause=0.05, tokens=5, prompt_tokens_details={"cached_tokens": 4})
    found = ask(there.address)
    assert (found.text, found.new_tokens, found.prompt_tokens, found.cached_tokens) == ("Two birds", 5, 9, 4)
    assert (len(found.event_times), found.finish_reason, found.token_ids) == (2, "length", None)
    assert found.sent < found.uploaded < found.event_times[0] < found.event_times[1] <= found.finished
    assert found.itl == (found.event_times[1] - found.event_times[0],)
    assert found.tpot == (found.finished - found.event_times[0]) / 4  # of tokens, not of events
    assert found.ttft == found.event_times[0] - found.sent


def test_a_stop_token_may_have_no_event_of_its_own(there):
    there.chat = answer("Yes", tokens=2, finish="stop")
    found = ask(there.address)
    assert (found.new_tokens, found.itl) == (2, ())
    assert found.tpot == found.finished - found.event_times[0]


def test_one_token_has_a_time_to_it_and_none_after_it(there):
    there.chat = answer("Two")
    found = ask(there.address)
    assert found.ttft == found.event_times[0] - found.sent
    assert (found.tpot, found.itl) == (None, ())


def test_an_event_of_token_ids_without_text_counts_as_one(there):
    ids = [said("", token_ids=[7]), said("a", token_ids=[8, 9]), said("", "stop", token_ids=[2])]
    there.chat = [HEAD, said(""), *ids, counted(4), DONE, END]
    found = ask(there.address)
    assert (found.token_ids, len(found.event_times), found.finish_reason) == ((7, 8, 9, 2), 3, "stop")


def test_reasoning_is_part_of_the_text(there):
    there.chat = [HEAD, event(choices=[{"delta": {"reasoning_content": "Hm. "}}]), *answer("Two")[1:]]
    assert ask(there.address).text == "Hm. Two"


def test_a_version_in_the_events_is_that_of_the_server(there):
    there.chat = [HEAD, event(choices=[], system_fingerprint="b1-abc", usage={}), *answer("Two")[1:]]
    assert ask(there.address).version == "b1-abc"


def test_an_end_of_the_response_ends_an_answer_without_its_last_event(there):
    there.chat = [each for each in answer("a", "b") if each is not DONE]
    assert ask(there.address).text == "ab"


def test_a_response_left_open_after_its_last_event_is_whole(there):
    there.chat = [*answer("a", "b")[:-1], STALL]
    assert ask(there.address).text == "ab"


def test_requests_share_a_connection(there):
    with closing(Server(there.address)) as server:
        assert [server.ask(BODY, MODEL).text for _ in range(3)] == ["ab"] * 3
    assert len(there._open) == 1


def test_requests_come_side_by_side_but_no_more_than_allowed(there):
    at_once, most = 0, 0

    def chat(_):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        yield from [*answer("a")[:2], 0.05, *answer("a")[2:]]
        at_once -= 1

    there.chat = chat
    with closing(Server(there.address)) as server:
        answers = server.ask_all([BODY] * 7, MODEL, 3)
    assert ([each.text for each in answers], most) == (["a"] * 7, 3)


def test_an_error_of_one_request_leaves_the_others(there):
    there.chat = lambda number: [plain(500, {"error": {"message": "no"}})] if number == 2 else answer("a")
    with closing(Server(there.address)) as server:
        found = server.ask_all([BODY] * 3, MODEL, 1)
    assert [type(each).__name__ for each in found] == ["Answer", "EngineError", "Answer"]


TEXTS = "Zwei Vögel, 鳥🐦", ' und\r\nein "Schwan"', "\u2028.", "x" * 300


@given(cuts=st.sets(st.integers(1, 1500)), line=st.sampled_from([b"\n", b"\r\n"]), several=st.booleans())
def test_events_are_the_same_wherever_their_bytes_are_cut(cuts, line, several):
    parts = [json.loads(each.split(b"data: ")[1].split(b"\n")[0]) for each in answer(*TEXTS)[1:-2] if each]
    written = []
    for part in parts:
        text = json.dumps(part, ensure_ascii=False, indent=1 if several else None).encode()
        data = line.join(b"data:" + b" " * several + each for each in text.split(b"\n"))
        written += [b": alive" + line, b"id: 3" + line, data + line, b"retry: 9" + line + line]
    stream = b"".join([*written, b"data: [DONE]", line, line])
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    with served() as server:
        server.chat = [HEAD, *(chunk(stream[a:b]) for a, b in pairwise(edges)), END]
        found = ask(server.address, Limits())
    assert (found.text, found.new_tokens, len(found.event_times)) == ("".join(TEXTS), 4, 4)


WAITS = {"never answers", "never sends an event", "stalls in the stream", "only says that it lives", "never ends"}
WAITS |= {"is too busy", "is busy for ever"}
GOOD = answer("a", "b")
FAILURES = {
    "never answers": ([STALL], "/v1/chat/completions must begin to answer within 1 s, got nothing"),
    "never sends an event": ([HEAD, STALL], "must begin to answer within 1 s, got nothing"),
    "stalls in the stream": ([*GOOD[:3], STALL], "must send an event each 0.5 s.* got none in time after event 2"),
    "only says that it lives": (
        [HEAD, said("a"), *[chunk(b": alive\n\n"), 0.05] * 200],
        "got none in time after event 1",
    ),
    "never ends": ([HEAD, *[said("a"), 0.05] * 50], "and all within 1.5 s, got none in time after event [0-9]+"),
    "sends without end": ([HEAD, *[said("a" * 99_000)] * 20], "must end its answer within 1,000,000 characters"),
    "sends an event without end": ([HEAD, *[chunk(b"data: " + b"a" * 99_000)] * 99], "exceeded the 1048576 byte limit"),
    "drops the connection": ([*GOOD[:3], CLOSE], "got after 2 events: RemoteProtocolError"),
    "breaks the connection": ([*GOOD[:3], 0.05, RESET], "got after 2 events: Re"),
    "drops it before a byte": ([CLOSE], "got after 0 events: RemoteProtocolError"),
    "speaks no HTTP": ([b"SSH-2.0-OpenSSH_9.9\r\n", CLOSE], "got after 0 events: RemoteProtocolError"),
    "sends headers without end": ([b"HTTP/1.1 200 OK\r\n", *[b"X: " + b"y" * 9000 + b"\r\n"] * 99], "RemoteProtocol"),
    "sends no usage": ([*GOOD[:-3], DONE, END], "must count its tokens, got 5 events without usage"),
    "counts no token": ([*GOOD[:-3], counted(0), DONE, END], "completion_tokens must be a whole number above 0, got 0"),
    "counts other tokens": ([HEAD, said("a", token_ids=[7]), *GOOD[-4:]], "got 2 for 1 token ids"),
    "says no reason for the end": ([*GOOD[:-4], *GOOD[-3:]], "must say why a text ends, got 5 events without"),
    "ends for another reason": (answer("a", finish="content_filter"), "stop or length, got 'content_filter'"),
    "goes on after the end": ([*GOOD[:-2], said("c"), DONE, END], "one text with one end, got more in event 6"),
    "sends two texts": ([HEAD, event(choices=[{"delta": {}}] * 2), *GOOD[1:]], "must send one text with one end"),
    "sends no text": ([HEAD, *GOOD[-4:]], "must stream, or no first token can be seen, got 0 events"),
    "sends all at once": (answer("Two birds", tokens=3), "must stream.* got 1 events with text for 3 tokens"),
    "sends both tokens at once": ([HEAD, said("a b", "length"), *GOOD[-3:]], "got 1 events with text for 2 tokens"),
    "sends broken JSON": ([HEAD, chunk(b'data: {"choices\n\n'), END], "event 1 must be JSON, got: "),
    "sends a list": ([HEAD, chunk(b"data: []\n\n"), END], "event 1 must be an object, got "),
    "sends no choices": ([HEAD, event(model=MODEL), END], "event 1 must have choices, got no choices"),
    "sends numbers as text": ([HEAD, said(3), END], "delta: content must be a text.*got 3"),
    "sends infinity": ([HEAD, chunk(b'data: {"choices": Infinity}\n\n'), END], "event 1 must be JSON, got: Infinity"),
    "errs in the stream": (
        [HEAD, said("a"), event(error={"message": "out of\nmemory"})],
        "event 2 is an error: out of m",
    ),
    "errs by the event's name": ([HEAD, chunk(b'event: error\ndata: "no"\n\n')], "event 1 is an error: no"),
    "answers by another model": ([HEAD, event(model="large", choices=[])], "answer by tiny, got an answer by large"),
    "refuses the request": (
        [plain(400, {"error": {"message": "at most 1 image"}})],
        "got status 400 .*: at most 1 image",
    ),
    "fails": ([plain(500, b"<h1>Error</h1>")], "got status 500 and text/html: <h1>Error</h1>"),
    "answers with a page": ([plain(200, b"<h1>Hello</h1>")], "must answer with text/event-stream, got status 200"),
    "does not stream": ([plain(200, {"choices": []})], "with text/event-stream, got status 200 and application/json"),
    "fails at length": ([plain(500, b"<" + b"x" * 2_000_000)], "got status 500 and text/html: <x"),
    "has no such path": ([plain(404, {"detail": "Not Found"})], "got status 404 and application/json: Not Found"),
    "compresses": ([HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n"), END], "uncompressed.* got gzip"),
    "is too busy": ([plain(429, {}, b"Retry-After: 3600")], "must be free within 1.5 s, got: wait 3600 s more"),
    "is busy for ever": ([plain(503, {}, b"Retry-After: 0")], "must be free within 1.5 s, got: wait 0 s more"),
    "is busy without saying how long": ([plain(503, {})], "got status 503 and application/json"),
    "is busy until nonsense": ([plain(503, {}, b"Retry-After: soon")], "got status 503 and application/json"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_server_that(kind, there, monkeypatch):
    monkeypatch.setattr("stagebench.engines.stream.LARGEST", 1_000_000)
    there.chat, expected = FAILURES[kind]
    began = time.monotonic()
    with pytest.raises(EngineError, match=expected) as error:
        ask(there.address, LIMITS if kind in WAITS else None)
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 900
    assert time.monotonic() - began < 10


def test_a_server_that_refuses():
    with served() as server:
        address = server.address
    with pytest.raises(EngineError, match="must answer, got after 0 events: ConnectError"):
        ask(address)


@pytest.mark.parametrize(
    "asked", [lambda: "0", lambda: formatdate(time.time() - 5), lambda: formatdate(time.time() + 1)]
)
def test_a_busy_server_is_asked_again_after_the_time_that_it_names(asked, there):
    busy = [plain(429, {}, b"Retry-After: " + asked().encode())]
    there.chat = lambda number: busy if number == 1 else GOOD
    assert (ask(there.address).text, len(there.chats)) == ("ab", 2)


def test_only_the_given_address_is_contacted(there, monkeypatch):
    with served() as elsewhere:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, elsewhere.address)
        assert ask(there.address).text == "ab"
        there.chat = [plain(307, {}, b"Location: " + elsewhere.address.encode())]
        with pytest.raises(EngineError, match=f"got status 307 .*, to {elsewhere.address}, which is not contacted"):
            ask(there.address)
        assert elsewhere.requests == []


def test_a_key_is_sent_and_never_shown(there, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    there.chat = [plain(401, {"error": {"message": f"{KEY} is wrong"}})]
    with pytest.raises(EngineError, match=r"got status 401 .*: \*\*\* is wrong") as error:
        ask(there.address)
    assert f"Authorization: Bearer {KEY}".encode() in there.requests[0][0]
    assert KEY not in str(error.value)


@pytest.mark.parametrize(
    "chat",
    [[HEAD, event(error={"message": f"{KEY} is wrong"})], [HEAD, event(model=KEY, choices=[])], answer(finish=KEY)],
)
def test_a_key_that_a_server_repeats_in_its_events_is_not_shown(chat, there, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    there.chat = chat
    with pytest.raises(EngineError, match=r"\*\*\*") as error:
        ask(there.address)
    assert KEY not in str(error.value)


def test_a_key_of_our_own_variable_goes_first_and_may_be_empty(there, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("STAGEBENCH_API_KEY", "")
    ask(there.address)
    assert b"Authorization" not in there.requests[0][0]


@pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY} x", f"{KEY}ä"])
def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(key, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(EngineError, match="must be printable ASCII without blanks, got another") as error:
        Server("http://127.0.0.1:1")
    assert KEY not in str(error.value)


def test_what_a_server_lists_is_its_json(there):
    with closing(Server(there.address)) as server:
        assert server.get("/v1/models")["data"][0]["id"] == MODEL
        with pytest.raises(EngineError, match="got status 404 and application/json: Not Found"):
            server.get("/else")


def test_a_request_holds_the_images_before_the_question(there):
    images = [np.full((2, 3, 3), 7, np.uint8)] * 2
    with closing(Server(there.address)) as server:
        server.ask(body_of(MODEL, encoded(images, "png"), "What moves?", 4, {"ignore_eos": True}), MODEL)
    [sent] = there.chats
    [message] = sent.pop("messages")
    assert [part["type"] for part in message["content"]] == ["image_url", "image_url", "text"]
    assert sent == {
        "model": MODEL,
        "temperature": 0,
        "max_tokens": 4,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }
