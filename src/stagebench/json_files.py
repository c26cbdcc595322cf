"""JSON and text on disk: read with errors of one line, written so that nobody ever sees half of it."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from stagebench.errors import StagebenchError


def read_json(path: Path, what: str, error_type: type[StagebenchError]) -> Any:
    """Read a JSON file.

    Args:
        path: of the file.
        what: it is, for an error ("the run out.json").
        error_type: of the error.

    Raises:
        error_type: where the file can't be read, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise error_type(f"can't read {what}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise error_type(f"{what} must be JSON, got: {' '.join(str(error).split())}") from error


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that nobody ever sees half of it.

    Raises:
        StagebenchError: where it can't be written.
    """
    write_text(path, json.dumps(data, indent=1, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text so that nobody ever sees half of it: to a temporary file beside it, then renamed.

    Raises:
        StagebenchError: where it can't be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise StagebenchError(f"can't write {path}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
