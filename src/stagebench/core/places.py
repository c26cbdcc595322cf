"""Files of a folder, or of what a URL names, as an object store: nothing else of ours tells the two apart."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from stagebench.core.errors import ResultsError, StagebenchError
from stagebench.core.json_files import read_bytes, write_text
from stagebench.core.machine.locks import locked
from stagebench.core.shown import one_line

_URL = re.compile(r"(?P<kind>[A-Za-z][A-Za-z0-9+.-]*)(://|::)(?P<rest>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Place:
    """Where files are, each by its name below, with slashes; what can't be read or written raises ResultsError."""

    given: str  # a path or a URL
    folder: Path
    store: Any = None  # what fsspec has for a URL, which may be sent to another process; None of a folder

    def __str__(self) -> str:
        return self.given

    @property
    def is_in_memory(self) -> bool:
        """Whether no other process sees what it holds."""
        return bool(self.store) and "memory" in self.store.fs.protocol

    def below(self, home: Path) -> "Place":
        """Return the same, a path that is not absolute being one below there."""
        return self if self.store else replace(self, folder=home / self.folder)

    def where(self, name: str) -> Path | str:
        """Return the path of a file, or its URL."""
        return f"{self.given.rstrip('/')}/{name}" if self.store else self.folder / name

    def names(self, pattern: str) -> list[str]:
        """List the files that match, in order."""
        if not self.store:
            return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.glob(pattern))
        with self._refusals("be listed"):
            self.store.invalidate_cache()  # of what it held when somebody asked before
            return sorted(self.store.glob(pattern))

    def read(self, names: Sequence[str]) -> list[bytes | ResultsError]:
        """Read files, of a store several at a time, each to its content or why it can't be read."""
        if not self.store:
            return list(map(self._content, names))
        with self._refusals("be read"):
            there = [f"{self.store.path}/{name}" for name in names]
            found = zip(names, self.store.fs.cat_ranges(there, None, None, on_error="return"), strict=True)
        lost = "the run {} can't be read: {}"
        return [e if isinstance(e, bytes) else ResultsError(lost.format(self.where(n), one_line(e))) for n, e in found]

    def _content(self, name: str) -> bytes | ResultsError:
        try:
            return read_bytes(self.folder / name, f"the run {self.folder / name}", ResultsError)
        except ResultsError as error:
            return error

    def write(self, name: str, text: str) -> None:
        """Write a file so that nobody ever sees half of it."""
        if not self.store:
            write_text(self.folder / name, text)
            return
        with self._refusals("be written to"), self.store.transaction:
            self.store.pipe_file(name, text.encode())

    def held(self) -> Any:
        """Hold a folder for this process alone; a store can't be, and nothing of it is ever replaced."""
        return nullcontext() if self.store else locked(self.folder, sure=True)

    @contextmanager
    def _refusals(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each store has errors of its own
            raise ResultsError(f"{self} can't {what}: {one_line(error)}") from error


def place_of(given: Place | Path | str) -> Place:
    """Return the place that a path or a URL names; raise StagebenchError where fsspec can't serve that URL."""
    if isinstance(given, Place):
        return given
    url = _URL.fullmatch(str(given))
    if not url or url["kind"] in ("file", "local"):
        return Place(str(given), Path(url["rest"] if url else given))
    shown = re.sub("(?<=://)[^/]*@", "", str(given))  # without a password
    try:
        files, root = import_module("fsspec.core").url_to_fs(str(given))
        return Place(shown, Path(), import_module("fsspec.implementations.dirfs").DirFileSystem(root, files))
    except (ImportError, ValueError) as error:
        taken = f"a URL takes the extra 'stores', and what fsspec has for {url['kind']}"
        raise StagebenchError(f"{taken}, got {shown}: {one_line(error)}") from error
