"""The two sides of a gate as folders, in a repository made on the spot."""

import os
import signal
import subprocess
import sys

import pytest

from stagebench.checkouts import checkouts, home_of
from stagebench.errors import GateError


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
    with checkouts(repository, "HEAD~1") as both:
        assert ((both.base / "a").read_text(), (both.head / "a").read_text(), both.dirty) == ("one", "two", False)


def test_changed_deleted_and_new_files_are_in_the_head(repository, git):
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "three")
    (repository / "a").unlink()
    (repository / "new").mkdir()
    (repository / "new" / "b").write_text("b")
    with checkouts(repository, "HEAD") as both:
        assert ((both.base / "a").exists(), (both.head / "a").exists()) == (True, False)
        assert ((both.head / "new" / "b").read_text(), both.dirty) == ("b", True)
    assert git(repository, "status", "--short").split() == ["D", "a", "??", "new/"]


def test_a_staged_change_is_in_the_head(repository, git):
    (repository / "a").write_text("staged")
    git(repository, "add", "a")
    with checkouts(repository, "HEAD") as both:
        assert (both.head / "a").read_text() == "staged"


def test_a_file_that_became_a_folder_is_one_in_the_head(repository):
    (repository / "a").unlink()
    (repository / "a").mkdir()
    (repository / "a" / "link").symlink_to("nowhere")
    with checkouts(repository, "HEAD") as both:
        assert ((both.base / "a").read_text(), (both.head / "a" / "link").is_symlink()) == ("two", True)


def test_ignored_files_are_left_out(repository):
    (repository / ".gitignore").write_text("big")
    (repository / "big").write_text("big")
    with checkouts(repository, "HEAD") as both:
        assert not (both.head / "big").exists()


def test_a_folder_in_the_repository_will_do(repository):
    (repository / "folder").mkdir()
    with checkouts(repository / "folder", "HEAD") as both:
        assert (both.base / "a").read_text() == "two"


def test_the_variables_of_a_hook_name_no_other_repository(repository, monkeypatch):
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    with checkouts(repository, "HEAD") as both:
        assert (both.base / "a").read_text() == "two"


def test_the_repository_never_shows_them(repository, git):
    with checkouts(repository, "HEAD"):
        assert git(repository, "status", "--short") == ""


@pytest.mark.parametrize("end", [None, RuntimeError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_however_the_block_ends(repository, end, nothing_is_left):
    try:
        with checkouts(repository, "HEAD~1"):
            if end:
                raise end
    except (RuntimeError, KeyboardInterrupt, SystemExit):
        pass
    assert nothing_is_left(repository)


def test_an_unknown_revision_is_refused_and_leaves_nothing(repository):
    with (
        pytest.raises(GateError, match=r"the base must be a revision of .*, got 'nowhere'"),
        checkouts(repository, "nowhere"),
    ):
        pass
    assert not home_of(repository).exists()


def test_outside_of_a_repository_it_is_refused(tmp_path):
    with pytest.raises(GateError, match="not a git repository"), checkouts(tmp_path, "HEAD"):
        pass


def test_what_a_killed_process_left_is_removed_by_the_next(repository, git, nothing_is_left):
    code = "import sys, time\nfrom stagebench.checkouts import checkouts\nfrom pathlib import Path\n"
    code += "with checkouts(Path(sys.argv[1]), 'HEAD'):\n    print('in it', flush=True)\n    time.sleep(60)\n"
    child = subprocess.Popen([sys.executable, "-c", code, repository], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "in it\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert len(git(repository, "worktree", "list").splitlines()) == 3
    with checkouts(repository, "HEAD"):
        assert len(git(repository, "worktree", "list").splitlines()) == 3
    assert nothing_is_left(repository)


def test_those_of_a_living_process_are_left_alone(repository, nothing_is_left):
    with checkouts(repository, "HEAD") as mine, checkouts(repository, "HEAD~1") as another:
        assert ((mine.base / "a").read_text(), (another.base / "a").read_text()) == ("two", "one")
    assert nothing_is_left(repository)
