"""A server on the loopback, in threads, that answers each request as a test says: with bytes, pauses, or not at all."""

import json
import socket
import struct
import threading
from contextlib import contextmanager, suppress
from itertools import takewhile

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
STALL, CLOSE, RESET = object(), object(), object()
"""Parts of an answer beside its bytes: nothing more until the client leaves, its end, and its reset."""
MODEL = "tiny"


class Loopback:
    """Answers `chat` to each chat request, `models` to a question for them, and 404 to all else; keeps requests."""

    def __init__(self):
        self.requests, self.chat, self.owner = [], answer("a", "b"), "somebody"
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._stopped = threading.Event()
        self._open = []
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def chats(self):
        return [json.loads(body) for head, body in self.requests if b"/chat/completions" in head]

    def _accept(self):
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as servers do
                self._open.append(connection)
                self._threads.append(threading.Thread(target=self._serve, args=[connection]))
                self._threads[-1].start()

    def _serve(self, connection):
        with suppress(OSError), connection, connection.makefile("rb") as file:
            while head := b"".join(takewhile(lambda line: line.strip(), iter(file.readline, b""))):
                length = next((int(line[15:]) for line in head.splitlines() if line.startswith(b"Content-Length:")), 0)
                self.requests.append((head, file.read(length)))
                for part in self._parts(head):
                    if part is STALL:
                        file.read(1)
                        return
                    if part is CLOSE:
                        return
                    if part is RESET:
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        return
                    if isinstance(part, float):
                        self._stopped.wait(part)
                    else:
                        connection.sendall(part)

    def _parts(self, head):
        if b"/chat/completions" in head:
            return self.chat(len(self.chats)) if callable(self.chat) else self.chat
        if b"/models" in head:
            return [plain(200, {"data": [{"id": MODEL, "owned_by": self.owner}]})]
        return [plain(200, {"version": "1.2.3"}) if b"/version" in head else plain(404, {"detail": "Not Found"})]

    def close(self):
        self._stopped.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)


@contextmanager
def served():
    server = Loopback()
    try:
        yield server
    finally:
        server.close()


def plain(status, body, *headers):
    """Return a response that is no stream."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = b"application/json" if data[:1] in b"{[" else b"text/html"
    lines = [b"HTTP/1.1 %d Said" % status, b"Content-Type: " + kind, b"Content-Length: %d" % len(data), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + data


def chunk(data):
    """Return bytes as a chunk of a response; none ends it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(**given):
    """Return the chunk of one event."""
    return chunk(b"data: %b\n\n" % json.dumps(given).encode())


def said(text, finish=None, **more):
    """Return the event of a text."""
    return event(model=MODEL, choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish, **more}])


def counted(tokens, **more):
    """Return the event with the usage."""
    return event(model=MODEL, choices=[], usage={"prompt_tokens": 9, "completion_tokens": tokens, **more})


DONE, END = chunk(b"data: [DONE]\n\n"), chunk(b"")


def answer(*texts, tokens=None, finish="length", pause=0.0, **usage):
    """Return a whole answer of one event for each text."""
    parts = [part for text in texts for part in (said(text), pause)]
    return [HEAD, said(""), *parts, said("", finish), counted(tokens or len(texts), **usage), DONE, END]
