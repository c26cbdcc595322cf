"""Files in a folder, or at a URL such as an object store's. No other module tells the two apart."""

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
    """A folder or a URL with files, each named by its relative path with slashes; failures raise ResultsError."""

    given: str  # a path or a URL
    folder: Path
    store: Any = None  # fsspec's file system for a URL, which can be pickled; None for a folder

    def __str__(self) -> str:
        return self.given

    @property
    def is_in_memory(self) -> bool:
        """Whether the files are invisible to other processes."""
        return bool(self.store) and "memory" in self.store.fs.protocol

    def below(self, home: Path) -> "Place":
        """Return the same place, with a relative path resolved against `home`."""
        return self if self.store else replace(self, folder=home / self.folder)

    def where(self, name: str) -> Path | str:
        """Return the path of a file, or its URL."""
        return f"{self.given.rstrip('/')}/{name}" if self.store else self.folder / name

    def names(self, pattern: str) -> list[str]:
        """Return the names that match, sorted."""
        if not self.store:
            return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.glob(pattern))
        with self._refusals("be listed"):
            self.store.invalidate_cache()  # else it returns an earlier listing
            return sorted(self.store.glob(pattern))

    def read(self, names: Sequence[str]) -> list[bytes | ResultsError]:
        """Read files, several at a time from a URL; return for each its content or the error."""
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
        """Write a file atomically."""
        if not self.store:
            write_text(self.folder / name, text)
            return
        with self._refusals("be written to"), self.store.transaction:
            self.store.pipe_file(name, text.encode())

    def held(self) -> Any:
        """Lock a folder for this process. A URL can't be locked, but its files are never replaced."""
        return nullcontext() if self.store else locked(self.folder, sure=True)

    @contextmanager
    def _refusals(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each store has errors of its own
            raise ResultsError(f"{self} can't {what}: {one_line(error)}") from error


def place_of(given: Place | Path | str) -> Place:
    """Return the place of a path or a URL; raise StagebenchError where fsspec can't serve the URL."""
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
        taken = f"a URL needs the extra 'stores' and fsspec's file system for {url['kind']}"
        raise StagebenchError(f"{taken}, got {shown}: {one_line(error)}") from error
