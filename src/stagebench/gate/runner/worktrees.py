"""Copy both sides of a gate, a revision and the working tree.

A copy is a separate repository that borrows the objects, settings and tags of the original. The original is only read,
and nothing is left behind. No hooks run. Filters run where the base is checked out; the head's files are copied
unchanged. Submodules are copied in the same way.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from stagebench.core.errors import GateError
from stagebench.core.machine import processes
from stagebench.core.machine.locks import scratch_folder

# In a hook these name the hook's repository, whatever folder git runs in.
ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")

_NO_PROGRAMS = ("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false")
_WRITING = {"checkout", "read-tree"}  # may take long and run filters, so they end with this process
_HERE = ("--git-dir=.", "--work-tree=.")  # a submodule's own setting may name a missing working tree
# Later settings win: the original's, except for these.
_SETTINGS = b"""
[include] path = %b
[core] worktree = %b
hooksPath = /dev/null
fsmonitor = false
bare = false
sparseCheckout = false
"""


@dataclass(frozen=True, slots=True)
class Worktrees:
    """Copies of both sides, and their origin."""

    base: Path  # the folder of the gate in a copy of the revision
    head: Path  # the folder of the gate in a copy of the working tree, uncommitted changes included
    imports: dict[str, list[Path]]  # by side, the copies of folders on this interpreter's search path
    not_from: str  # the repository, and the folder of all copies, as a search path
    commit: str  # of the base
    head_commit: str
    same: bool  # whether both sides are the working tree
    dirty: bool  # whether the head differs from its commit
    empty: tuple[str, ...]  # submodules that are empty on both sides, because they are in the working tree
    generated: tuple[str, ...]  # modules that git ignores, copied from the working tree to both sides
    home: Path  # the folder of the copies, which stays


@contextmanager
def worktrees(repository: Path, revision: str | None) -> Iterator[Worktrees]:
    """Copy both sides into a repository's `.git` folder, and remove them after the block; None is the working tree.

    Both are copies, so that later edits change nothing, and neither side has warmer files. Leftovers of killed
    processes are removed first. Raise GateError where the repository or the revision does not exist, or is not complete
    here.
    """
    top = Path(_line(repository, "rev-parse", "--show-toplevel"))
    within = repository.resolve().relative_to(top)
    commit = _commit(top, revision or "HEAD", "the base")
    head_commit = _commit(top, "HEAD", "what is checked out")
    home = home_of(top)
    home.mkdir(exist_ok=True)
    with scratch_folder(home) as folder:
        base, head = folder / "base", folder / "head"
        (folder / "pytest.ini").touch()  # else pytest would find the repository's settings above a copy without any
        empty = tuple(_check_out(_git_folder(top), commit, base, top)) if revision else ()
        for side in (head,) if revision else (base, head):
            _copy(top, side)
        dirty = bool(_git(head, "status", "--porcelain", "--untracked-files=normal", "--ignore-submodules=none"))
        generated = tuple(_add_generated(top, (base, head)))
        if not (base / within).is_dir():
            raise GateError(f"the base must have the folder that the gate runs in, got no {within} in {commit[:7]}")
        found = [*imported_from(top)]
        imports = {side.name: [side / path for path in found] for side in (base, head)}
        not_from = f"{top}{os.pathsep}{home}"
        sides = (base / within, head / within, imports, not_from, commit, head_commit, not revision)
        yield Worktrees(*sides, dirty, empty, generated, home)


def _add_generated(top: Path, copies: Sequence[Path]) -> Iterator[str]:
    """Copy generated modules in packages that git ignores, such as `_version.py`; yield their names."""
    listed = _git(top, "ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory", "--", "*.py")
    for name in (name for name in map(os.fsdecode, listed.split(b"\0")) if name.endswith(".py")):
        beside = [copy for copy in copies if (copy / name).with_name("__init__.py").exists()]
        for copy in (copy for copy in beside if not (copy / name).exists()):
            shutil.copy(top / name, copy / name)
        yield from [name] * bool(beside)


def imported_from(top: Path) -> Iterator[Path]:
    """Yield the repository's folders on this interpreter's search path, or of packages installed from there."""
    found = [Path(each).resolve() for each in sys.path]
    for package in metadata.distributions():
        if "dir_info" in (about := json.loads(package.read_text("direct_url.json") or "{}")):
            project = Path(unquote(urlsplit(about["url"]).path)).resolve()
            found.append(project / "src" if (project / "src").is_dir() else project)
    for each in dict.fromkeys(found):
        if each.is_relative_to(top) and not each.is_relative_to(sys.prefix):
            yield each.relative_to(top)


def state_of(repository: Path) -> str:
    """Return a working tree's commit, and a digest of its changes; untracked files do not count."""
    changes = _git(repository, "diff", "HEAD", "--binary")
    changed = f", changed ({hashlib.sha256(changes).hexdigest()[:12]})" if changes else ""
    return f"{_commit(repository, 'HEAD', 'what is checked out')}{changed}"


def home_of(repository: Path) -> Path:
    """Return the folder of copies, inside a repository's `.git` folder, where its status never shows them."""
    return _git_folder(repository) / "stagebench-gate"


def _git_folder(repository: Path) -> Path:
    return Path(_line(repository, "rev-parse", "--path-format=absolute", "--git-common-dir"))


def _commit(top: Path, revision: str, what: str) -> str:
    try:
        return _line(top, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    except GateError as error:
        raise GateError(f"{what} must be a revision of {top}, got {revision!r}") from error


def _borrow(git_folder: Path, commit: str | None, folder: Path) -> None:
    """Make a repository without files that borrows another's objects, settings and tags, at a commit if given."""
    form = _line(git_folder, *_HERE, "rev-parse", "--show-object-format")
    folder.mkdir(parents=True, exist_ok=True)
    _git(folder, "init", "--quiet", "--template=", f"--object-format={form}")
    own = folder / ".git"
    for name in ("shallow", "info/exclude", "info/attributes"):
        if (git_folder / name).is_file():
            (own / "info").mkdir(exist_ok=True)
            shutil.copyfile(git_folder / name, own / name)
    (own / "objects" / "info" / "alternates").write_bytes(_quoted(git_folder / "objects") + b"\n")
    tags = _git(git_folder, *_HERE, "for-each-ref", "--format=%(objectname) %(refname)", "refs/tags", "refs/replace")
    (own / "packed-refs").write_bytes(tags)
    with (own / "config").open("ab") as config:
        config.write(_SETTINGS % (_quoted(git_folder / "config"), _quoted(folder)))
    if commit:
        (own / "HEAD").write_text(f"{commit}\n")


def _quoted(path: Path) -> bytes:
    """Return a path, with any characters, quoted for git's files."""
    escaped = os.fsencode(path).replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
    return b'"' + escaped + b'"'


def _check_out(git_folder: Path, commit: str, folder: Path, tree: Path | None) -> Iterator[str]:
    """Check out a commit and its submodules, or raise GateError; yield those left empty as in the working tree."""
    _borrow(git_folder, commit, folder)
    _git(folder, "read-tree", "--reset", "-u", "--no-recurse-submodules", commit)
    used = dict(_submodules(tree)) if tree else {}
    for path, pinned in _submodules(folder):
        name, there, kept = os.fsdecode(path), None, git_folder / "modules" / os.fsdecode(path)
        if tree and (tree / name / ".git").exists():
            there, kept = tree / name, _git_folder(tree / name)
        elif path in used:
            yield name
            continue
        if not kept.is_dir() or _status(kept, *_HERE, "cat-file", "-e", f"{pinned}^{{commit}}")[0]:
            raise GateError(f"the base needs the submodule {name!r} at {pinned[:7]}, which must be fetched first")
        for below in _check_out(kept, pinned, folder / name, there):
            yield f"{name}/{below}"


def _submodules(tree: Path) -> Iterator[tuple[bytes, str]]:
    """Yield the submodules in a repository's index with their pinned commits."""
    for line in _git(tree, "ls-files", "--stage", "-z").split(b"\0"):
        about, _, path = line.partition(b"\t")
        if about.startswith(b"160000 "):
            yield path, about.split()[1].decode()


def _copy(tree: Path, folder: Path) -> None:
    """Copy a working tree with its submodules and nested repositories, without ignored files."""
    status, said, _ = _status(tree, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    commit = None if status else said.decode().strip()
    _borrow(_git_folder(tree), commit, folder)
    if commit:
        _git(folder, "read-tree", commit)
    linked = cache(Path.is_symlink)
    left_out = []
    listed = _git(tree, "ls-files", "-t", "-z", "--cached", "--others", "--exclude-standard").split(b"\0")
    for line in dict.fromkeys(each.removesuffix(b"/") for each in listed if each):
        path = Path(os.fsdecode(line[2:]))
        if any(linked(tree / above) for above in path.parents[:-1]):
            continue  # deleted: it is now behind a link
        if line.startswith(b"S ") and not os.path.lexists(tree / path):
            left_out.append(line[2:])  # in a sparse checkout
        else:
            _copy_entry(tree / path, folder / path)
    if left_out:
        names = folder / ".git" / "left-out"
        names.write_bytes(b"\0".join(left_out))
        given = (f"--pathspec-from-file={names}", "--pathspec-file-nul")
        _git(folder, "--literal-pathspecs", "checkout", "--quiet", *given)


def _copy_entry(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink() or source.is_file():
        with suppress(FileNotFoundError):  # deleted meanwhile
            shutil.copy(source, target, follow_symlinks=False)
    elif (source / ".git").exists():
        _copy(source, target)
    elif source.is_dir():
        target.mkdir(exist_ok=True)  # an unused submodule, or a folder in place of a file


def _line(where: Path, *arguments: str) -> str:
    return os.fsdecode(_git(where, *arguments)).removesuffix("\n")


def _git(where: Path, *arguments: str) -> bytes:
    """Run git in a folder; raise GateError with the last line of its errors."""
    status, said, complaint = _status(where, *arguments)
    if status:
        last = (complaint.decode(errors="replace").strip().splitlines() or ["no word"])[-1]
        raise GateError(f"git {' '.join(arguments)} failed in {where.absolute()}: {last}")
    return said


def _status(where: Path, *arguments: str) -> tuple[int, bytes, bytes]:
    given = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    environment = given | {"GIT_DEFAULT_REF_FORMAT": "files"}
    command = ["git", "-C", str(where), *_NO_PROGRAMS, *arguments]
    if _WRITING & {*arguments}:
        return processes.run(command, env=environment)
    done = subprocess.run(command, env=environment, capture_output=True, check=False)  # noqa: S603 # git
    return done.returncode, done.stdout, done.stderr
