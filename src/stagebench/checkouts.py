"""The two sides of a gate as folders: a revision, and the working tree as it is now. Nothing of them is left behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stagebench.errors import GateError
from stagebench.locks import locked

# Inside of a hook these name the hook's repository, whatever folder git is called in.
_ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")


@dataclass(frozen=True, slots=True)
class Checkouts:
    """Two worktrees of one repository, and what they are of.

    Attributes:
        base: a worktree of the revision.
        head: a worktree of HEAD, made what the working tree was: changes that nobody committed are in it.
        commit: of the base.
        head_commit: of the head.
        dirty: whether the head differs from its commit.
        home: the folder that they are in, which stays.
    """

    base: Path
    head: Path
    commit: str
    head_commit: str
    dirty: bool
    home: Path


@contextmanager
def checkouts(repository: Path, revision: str) -> Iterator[Checkouts]:
    """Check out both sides inside the repository's `.git` folder, and remove them whatever happens in the block.

    Both are copies, in folders alike: edits made meanwhile change nothing, and neither side has warmer files. What a
    killed process left behind is removed first.

    Args:
        repository: the working tree, or a folder in it.
        revision: of the base; whatever git understands.

    Raises:
        GateError: where there is no such repository or revision.
    """
    top = Path(_git(repository, "rev-parse", "--show-toplevel").strip())
    commit = _commit(top, revision)
    home = home_of(top)
    home.mkdir(exist_ok=True)
    with ExitStack() as stack:
        with locked(home / "lock"):  # so that a new folder is locked before another process looks at it
            _sweep(top, home)
            folder = Path(tempfile.mkdtemp(prefix="run-", dir=home))
            stack.enter_context(locked(folder / "lock"))
        stack.callback(_remove, top, folder)
        base, head = folder / "base", folder / "head"
        _git(top, "worktree", "add", "--quiet", "--detach", str(base), commit)
        _git(top, "worktree", "add", "--quiet", "--detach", str(head), "HEAD")
        tree = _snapshot(top, folder / "index")
        _git(head, "read-tree", "--reset", "-u", tree)
        dirty = tree != _git(top, "rev-parse", "HEAD^{tree}").strip()
        yield Checkouts(base, head, commit, _commit(top, "HEAD"), dirty, home)


def home_of(repository: Path) -> Path:
    """Where the checkouts of a repository are made: in its `.git` folder, so that its own status never shows them."""
    common = _git(repository, "rev-parse", "--path-format=absolute", "--git-common-dir")
    return Path(common.strip()) / "stagebench-gate"


def _commit(top: Path, revision: str) -> str:
    try:
        return _git(top, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}").strip()
    except GateError as error:
        raise GateError(f"the base must be a revision of {top}, got {revision!r}") from error


def _snapshot(top: Path, index: Path) -> str:
    """Store the working tree, ignored files left out, by an index of its own: the repository's stays as it is."""
    own = {"GIT_INDEX_FILE": str(index)}
    _git(top, "read-tree", "HEAD", **own)
    _git(top, "add", "--all", **own)
    return _git(top, "write-tree", **own).strip()


def _sweep(top: Path, home: Path) -> None:
    """Remove the checkouts of processes that are no more."""
    for folder in home.glob("run-*"):
        with suppress(OSError), (folder / "lock").open("w") as file:  # held by a living process, or gone meanwhile
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(top, folder)


def _remove(top: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _git(top, "worktree", "prune")


def _git(where: Path, *arguments: str, **variables: str) -> str:
    """Run git in a folder, with these variables; its last line of complaint is ours."""
    environment = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE} | variables
    command = ["git", "-C", str(where), "-c", "core.hooksPath=/dev/null", *arguments]
    run = partial(subprocess.run, command, capture_output=True, text=True, check=False, env=environment)
    try:
        # Signals come to this thread, so none of them kills git halfway, which leaves a worktree that is never pruned.
        with ThreadPoolExecutor(1) as aside:
            done = aside.submit(run).result()
    except OSError as error:
        raise GateError(f"git must be there to check out a revision, got {error.strerror}") from error
    if done.returncode:
        complaint = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise GateError(f"git {' '.join(arguments[:2])} of {arguments[-1]} failed in {where}: {complaint}")
    return done.stdout
