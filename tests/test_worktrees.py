"""The two sides of a gate as folders, in a repository made on the spot."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from stagebench.core.errors import GateError
from stagebench.gate.runner.worktrees import home_of, worktrees


@pytest.fixture
def repository(tmp_path, git):
    """Two commits: `a` says one, then two."""
    git(tmp_path, "init", "--quiet")
    for text in ("one", "two"):
        (tmp_path / "a").write_text(text)
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "--quiet", "-m", text)
    return tmp_path


def test_the_base_is_the_revision_and_the_head_is_what_is_there(repository):
    with worktrees(repository, "HEAD~1") as both:
        assert ((both.base / "a").read_text(), (both.head / "a").read_text(), both.dirty) == ("one", "two", False)


def test_changed_deleted_and_new_files_are_in_the_head(repository, git):
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "three")
    (repository / "a").unlink()
    (repository / "new").mkdir()
    (repository / "new" / "b").write_text("b")
    with worktrees(repository, "HEAD") as both:
        assert ((both.base / "a").exists(), (both.head / "a").exists()) == (True, False)
        assert ((both.head / "new" / "b").read_text(), both.dirty) == ("b", True)
    assert git(repository, "status", "--short").split() == ["D", "a", "??", "new/"]


def test_a_staged_change_is_in_the_head(repository, git):
    (repository / "a").write_text("staged")
    git(repository, "add", "a")
    with worktrees(repository, "HEAD") as both:
        assert (both.head / "a").read_text() == "staged"


def test_a_file_that_became_a_folder_is_one_in_the_head(repository):
    (repository / "a").unlink()
    (repository / "a").mkdir()
    (repository / "a" / "link").symlink_to("nowhere")
    with worktrees(repository, "HEAD") as both:
        assert ((both.base / "a").read_text(), (both.head / "a" / "link").is_symlink()) == ("two", True)


def test_ignored_files_are_left_out(repository):
    (repository / ".gitignore").write_text("big")
    (repository / "big").write_text("big")
    with worktrees(repository, "HEAD") as both:
        assert not (both.head / "big").exists()


def test_a_folder_in_the_repository_will_do(repository, git):
    (repository / "folder").mkdir()
    (repository / "folder" / "b").write_text("here")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "a folder")
    with worktrees(repository / "folder", "HEAD") as both:
        assert ((both.base / "b").read_text(), (both.head.parent / "a").read_text()) == ("here", "two")


def test_a_folder_that_the_base_does_not_have_is_refused(repository):
    (repository / "folder").mkdir()
    with pytest.raises(GateError, match="the base must have the folder that the gate runs in, got no folder in"):
        worktrees(repository / "folder", "HEAD").__enter__()


def test_the_variables_of_a_hook_name_no_other_repository(repository, monkeypatch):
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    with worktrees(repository, "HEAD") as both:
        assert (both.base / "a").read_text() == "two"


def test_the_repository_never_shows_them(repository, git):
    with worktrees(repository, "HEAD"):
        assert git(repository, "status", "--short") == ""


@pytest.mark.parametrize("end", [None, RuntimeError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_however_the_block_ends(repository, end, nothing_is_left):
    try:
        with worktrees(repository, "HEAD~1"):
            if end:
                raise end
    except (RuntimeError, KeyboardInterrupt, SystemExit):
        pass
    assert nothing_is_left(repository)


def test_an_unknown_revision_is_refused_and_leaves_nothing(repository):
    with (
        pytest.raises(GateError, match=r"the base must be a revision of .*, got 'nowhere'"),
        worktrees(repository, "nowhere"),
    ):
        pass
    assert not home_of(repository).exists()


def test_outside_of_a_repository_it_is_refused(tmp_path):
    expected = f"^git rev-parse --show-toplevel failed in {tmp_path}: fatal: not a git repository"
    with pytest.raises(GateError, match=expected), worktrees(tmp_path, "HEAD"):
        pass


def test_what_a_killed_process_left_is_removed_by_the_next(repository, nothing_is_left):
    code = "import sys, time\nfrom stagebench.gate.runner.worktrees import worktrees\nfrom pathlib import Path\n"
    code += "with worktrees(Path(sys.argv[1]), 'HEAD'):\n    print('in it', flush=True)\n    time.sleep(60)\n"
    child = subprocess.Popen([sys.executable, "-c", code, repository], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "in it\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    left = list(home_of(repository).iterdir())
    with worktrees(repository, "HEAD") as both:
        assert ([path.exists() for path in left], both.base.exists()) == ([False], True)
    assert nothing_is_left(repository)


def test_those_of_a_living_process_are_left_alone(repository, nothing_is_left):
    with worktrees(repository, "HEAD") as mine, worktrees(repository, "HEAD~1") as another:
        assert ((mine.base / "a").read_text(), (another.base / "a").read_text()) == ("two", "one")
    assert nothing_is_left(repository)


def everything(folder):
    """All that git keeps of a repository, to the byte and the nanosecond, without the gate's own folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.parts[0] != "stagebench-gate" and name.parts[:2] != ("modules", "stagebench-gate"):
            about = path.lstat()
            found[str(name)] = (about.st_mode, about.st_mtime_ns, path.read_bytes() if path.is_file() else None)
    return found


def listing(folder):
    """The files of a copy, as bytes, without what git keeps in it."""
    paths = (path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    return {os.fsencode(path.relative_to(folder)) for path in paths if ".git" not in path.relative_to(folder).parts}


def test_the_repository_is_only_read(repository, git):
    (repository / "a").write_text("changed")
    (repository / "staged").write_text("staged")
    git(repository, "add", "staged")
    (repository / "big").write_bytes(os.urandom(2**20))
    git(repository, "status")
    before = everything(repository / ".git")
    with worktrees(repository, "HEAD~1") as both:
        assert (both.dirty, listing(both.head)) == (True, {b"a", b"big", b"staged"})
        (both.head / "of a benchmark").touch()
        git(both.head, "add", "of a benchmark")
        git(both.head, "commit", "--quiet", "-m", "of a benchmark")
        git(both.base, "tag", "of-a-benchmark")
        assert everything(repository / ".git") == before
    assert everything(repository / ".git") == before
    assert git(repository, "status", "--short").splitlines() == [" M a", "A  staged", "?? big"]


HOOKS = (
    "post-checkout post-index-change reference-transaction post-commit pre-commit post-merge update fsmonitor"
    " fsmonitor-watchman pre-auto-gc post-rewrite applypatch-msg"
).split()


@pytest.mark.parametrize("where", ["repository", "user"])
def test_no_hook_runs(where, repository, git, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("hooks")
    for name in HOOKS:
        (folder / name).write_text(f"#!/bin/sh\ntouch {folder}/{name}-ran\n")
        (folder / name).chmod(0o755)
    settings = {"core.hooksPath": folder, "core.fsmonitor": folder / "fsmonitor"}
    if where == "repository":
        for name, value in settings.items():
            git(repository, "config", name, str(value))
    else:
        lines = (f"[core]\n\t{name.removeprefix('core.')} = {value}\n" for name, value in settings.items())
        (folder / "gitconfig").write_text("".join(lines))
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(folder / "gitconfig"))
    (repository / "a").write_text("changed")
    with worktrees(repository, "HEAD~1") as both:
        for side in (both.base, both.head):  # as pytest-benchmark asks
            git(side, "describe", "--dirty", "--always", "--long", "--abbrev=40")
    assert [path.name for path in folder.glob("*-ran")] == []


@pytest.fixture
def with_submodule(repository, git, tmp_path_factory):
    """The repository with a submodule at `libs/sub`, which has one of its own at `deep`; each has two commits."""
    monkeyed = ("-c", "protocol.file.allow=always")
    deep, sub = (tmp_path_factory.mktemp(name) for name in ("deep", "sub"))
    for folder in (deep, sub):
        git(folder, "init", "--quiet")
        (folder / "b").write_text("one")
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "-m", "one")
    git(sub, *monkeyed, "submodule", "--quiet", "add", str(deep), "deep")
    git(sub, "commit", "--quiet", "-m", "two")
    git(repository, *monkeyed, "submodule", "--quiet", "add", str(sub), "libs/sub")
    git(repository, *monkeyed, "submodule", "--quiet", "update", "--init", "--recursive")
    git(repository, "commit", "--quiet", "-m", "with a submodule")
    inner = repository / "libs" / "sub"
    (inner / "b").write_text("two")
    git(inner, "commit", "--quiet", "-am", "three")
    git(repository, "commit", "--quiet", "-am", "with another")
    return repository


def test_submodules_are_in_both_copies_each_at_its_commit(with_submodule):
    (with_submodule / "libs/sub/new").write_text("new")
    before = everything(with_submodule / ".git")
    with worktrees(with_submodule, "HEAD~1") as both:
        names = {b".gitmodules", b"a", b"libs/sub/.gitmodules", b"libs/sub/b", b"libs/sub/deep/b"}
        assert (listing(both.base), listing(both.head)) == (names, names | {b"libs/sub/new"})
        assert [(side / "libs/sub/b").read_text() for side in (both.base, both.head)] == ["one", "two"]
        assert (both.dirty, both.empty) == (True, ())
    assert everything(with_submodule / ".git") == before


def test_a_submodule_as_it_was_committed_is_no_change(with_submodule):
    with worktrees(with_submodule, "HEAD") as both:
        assert (both.dirty, listing(both.base)) == (False, listing(both.head))


def test_a_submodule_that_is_not_in_use_is_empty_in_both_copies_and_named(with_submodule, git):
    git(with_submodule, "submodule", "--quiet", "deinit", "--force", "libs/sub")
    with worktrees(with_submodule, "HEAD~1") as both:
        assert (both.empty, listing(both.base), listing(both.head)) == (
            ("libs/sub",),
            {b".gitmodules", b"a"},
            {b".gitmodules", b"a"},
        )
        assert ((both.base / "libs/sub").is_dir(), (both.head / "libs/sub").is_dir()) == (True, True)


def test_a_submodule_that_the_head_no_longer_has_is_in_the_base(with_submodule, git):
    git(with_submodule, "rm", "--quiet", "--force", "libs/sub")
    with worktrees(with_submodule, "HEAD") as both:
        assert ((both.base / "libs/sub/b").read_text(), (both.head / "libs").exists()) == ("two", False)


@pytest.mark.parametrize("gone", ["the commit", "the repository"])
def test_a_submodule_that_is_not_here_is_refused_by_name(with_submodule, git, gone):
    if gone == "the commit":
        unknown = "1234567" + "0" * 33
        git(with_submodule, "update-index", "--cacheinfo", f"160000,{unknown},libs/sub")
        git(with_submodule, "commit", "--quiet", "-m", "pin what is nowhere")
    else:
        unknown = git(with_submodule, "rev-parse", "HEAD:libs/sub").strip()
        git(with_submodule, "rm", "--quiet", "--force", "libs/sub")
        shutil.rmtree(with_submodule / ".git" / "modules")
    expected = f"^the base needs the submodule 'libs/sub' at {unknown[:7]}, which must be fetched first$"
    with pytest.raises(GateError, match=expected), worktrees(with_submodule, "HEAD"):
        pass


def test_a_submodule_can_be_gated_itself(with_submodule):
    with worktrees(with_submodule / "libs" / "sub", "HEAD~1") as both:
        assert ((both.base / "b").read_text(), (both.head / "b").read_text()) == ("one", "two")


@pytest.mark.parametrize("kind", ["with a commit", "without a commit", "a worktree", "in a new folder"])
def test_files_of_a_repository_within_are_in_the_head(repository, git, kind):
    nested = repository / ("new/inner" if kind == "in a new folder" else "inner")
    if kind == "a worktree":
        git(repository, "worktree", "add", "--quiet", "--detach", str(nested))
    else:
        nested.mkdir(parents=True)
        git(nested, "init", "--quiet")
    (nested / ".gitignore").write_text("ignored")
    (nested / "ignored").touch()
    (nested / "b").write_text("b")
    if kind == "with a commit":
        git(nested, "add", ".")
        git(nested, "commit", "--quiet", "-m", "one")
    (nested / "c").write_text("c")
    with worktrees(repository, "HEAD") as both:
        inner = both.head / nested.relative_to(repository)
        assert listing(inner) == {b".gitignore", b"b", b"c"} | ({b"a"} if kind == "a worktree" else set())
        assert both.dirty


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_a_change_that_git_was_asked_to_overlook_is_in_the_head(repository, git, flag):
    git(repository, "update-index", flag, "a")
    (repository / "a").write_text("hidden")
    assert git(repository, "status", "--short") == ""
    with worktrees(repository, "HEAD") as both:
        assert ((both.head / "a").read_text(), both.dirty) == ("hidden", True)


@pytest.mark.parametrize("form", [[], ["--sparse-index"]])
def test_what_a_sparse_checkout_leaves_out_is_in_both_copies(repository, git, form):
    for name in ("in", "out"):
        (repository / name).mkdir()
        (repository / name / "-b\nc").write_text(name)
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "folders")
    git(repository, "sparse-checkout", "set", "--cone", *form, "in")
    assert not (repository / "out").exists()
    with worktrees(repository, "HEAD") as both:
        assert listing(both.base) == listing(both.head) == {b"a", b"in/-b\nc", b"out/-b\nc"}
        assert not both.dirty


def test_names_modes_and_links_are_as_they_are(repository):
    names = [b"-b", b"new\nline", b"not \xff utf-8", b'quo"ted\\', b" spaces ", b":(exclude)a", b"*", b"tab\t"]
    for name in names:
        (repository / os.fsdecode(name)).write_bytes(name)
    (repository / "-b").chmod(0o755)
    (repository / "folder").mkdir()
    (repository / "link").symlink_to("folder")
    (repository / "nowhere").symlink_to("no/where")
    with worktrees(repository, "HEAD") as both:
        assert listing(both.head) == {b"a", b"link", b"nowhere", *names}
        assert [(both.head / os.fsdecode(name)).read_bytes() for name in names] == names
        assert [os.access(both.head / name, os.X_OK) for name in ("-b", "*")] == [True, False]
        assert (both.head / "link").readlink().name == "folder"


def test_a_folder_that_became_a_link_is_one_and_nothing_is_written_where_it_leads(repository, git, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (repository / "folder").mkdir()
    (repository / "folder" / "b").write_text("inside")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "a folder")
    shutil.rmtree(repository / "folder")
    (outside / "b").write_text("outside")
    (repository / "folder").symlink_to(outside)
    with worktrees(repository, "HEAD") as both:
        assert (listing(both.base), listing(both.head)) == ({b"a", b"folder/b"}, {b"a", b"folder"})
    assert [(path.name, path.read_text()) for path in outside.iterdir()] == [("b", "outside")]


def test_the_index_in_any_state_is_left_so_and_the_files_count(repository, git):
    git(repository, "branch", "other", "HEAD~1")
    (repository / ".gitignore").write_text("forced\nignored")
    for name in ("forced", "ignored", "intended"):
        (repository / name).write_text(name)
    git(repository, "add", "--force", "forced")
    git(repository, "add", "--intent-to-add", "intended")
    blobs = [git(repository, "rev-parse", f"{each}:a").strip() for each in ("HEAD~1", "HEAD", "other")]
    index = "".join(f"100644 {blob} {stage}\ta\n" for stage, blob in enumerate(blobs, 1))
    command = ["/usr/bin/env", "git", "update-index", "--index-info"]
    subprocess.run(command, input=f"0 {'0' * 40}\ta\n{index}", text=True, cwd=repository, check=True)
    (repository / "a").write_text("<<<<<<< in conflict")
    before = git(repository, "ls-files", "--stage")
    with worktrees(repository, "HEAD") as both:
        assert listing(both.head) == {b".gitignore", b"a", b"forced", b"intended"}
        assert (both.head / "a").read_text() == "<<<<<<< in conflict"
    assert git(repository, "ls-files", "--stage") == before


@pytest.mark.parametrize(
    "kind",
    ["worktree", "separate", "bare with worktree", "shallow", "partial", "sha256", "split index", 'odd "\n\\ name'],
)
def test_a_repository_of_any_kind(repository, git, tmp_path_factory, kind):
    folder = tmp_path_factory.mktemp("kinds") / (kind if kind.startswith("odd") else "clone")
    git(repository, "config", "uploadpack.allowFilter", "true")
    clone = ("clone", "--quiet", f"file://{repository}")
    if kind == "worktree":
        git(repository, "worktree", "add", "--quiet", "--detach", str(folder))
    elif kind == "bare with worktree":
        git(repository, *clone, "--bare", str(folder.parent / "bare"))
        git(folder.parent / "bare", "worktree", "add", "--quiet", "--detach", str(folder))
    elif kind == "sha256":
        folder.mkdir()
        git(folder, "init", "--quiet", "--object-format=sha256")
        for text in ("one", "two"):
            (folder / "a").write_text(text)
            git(folder, "add", ".")
            git(folder, "commit", "--quiet", "-m", text)
    else:
        more = {
            "separate": [f"--separate-git-dir={folder.parent / 'git'}"],
            "shallow": ["--depth=2"],
            "partial": ["--filter=blob:none"],
        }
        git(repository, *clone, str(folder), *more.get(kind, []))
    if kind == "split index":
        git(folder, "update-index", "--split-index")
    git(folder, "tag", "v1")
    with worktrees(folder, "HEAD~1") as both:
        assert ((both.base / "a").read_text(), (both.head / "a").read_text(), both.dirty) == ("one", "two", False)
        assert git(both.head, "describe", "--tags").strip() == "v1"
        assert both.head_commit == git(both.head, "rev-parse", "HEAD").strip()


@pytest.mark.parametrize("kind", ["empty", "unborn", "bare"])
def test_a_repository_without_a_working_tree_at_a_commit_is_refused_in_one_line(
    repository, git, kind, tmp_path_factory
):
    folder, expected = repository, "what is checked out must be a revision of .*, got 'HEAD'"
    if kind == "unborn":
        git(repository, "tag", "v1")
        git(repository, "checkout", "--quiet", "--orphan", "new")
    else:
        folder = tmp_path_factory.mktemp("folder")
        git(folder, "init", "--quiet", *(["--bare"] if kind == "bare" else []))
        expected = "must be run in a work tree" if kind == "bare" else "the base must be a revision of .*, got 'v1'"
    with pytest.raises(GateError, match=expected), worktrees(folder, "v1"):
        pass


def test_settings_of_the_repository_hold_in_the_copies(repository, git):
    git(repository, "config", "filter.shout.smudge", "tr a-z A-Z")
    git(repository, "config", "filter.shout.clean", "tr A-Z a-z")
    (repository / ".git" / "info").mkdir(exist_ok=True)
    (repository / ".git" / "info" / "attributes").write_text("a filter=shout\n")
    (repository / ".git" / "info" / "exclude").write_text("excluded\n")
    (repository / "excluded").touch()
    (repository / "a").write_text("TWO")
    with worktrees(repository, "HEAD~1") as both:
        assert ((both.base / "a").read_text(), (both.head / "a").read_text(), both.dirty) == ("ONE", "TWO", False)
