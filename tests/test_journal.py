"""The lines of a run: nothing is lost, nothing is there twice, whenever it is killed."""

import json
import multiprocessing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebench.analysis.experiments.sample_log import SAMPLES_FILE, Journal, key_of, read_run, read_samples
from stagebench.core.errors import ExperimentError

IDENTITY = {"device": "CPU", "dtype": "float32"}
PLAN = {"broken": [], "skipped": []}


def row(number, **more):
    about = {"study": "main", "value": None, "model": "m", "sample": f"s{number}", "mode": "fixed", "pass": 0}
    return about | more


def journal(folder, **identity):
    return Journal(folder, IDENTITY | identity, PLAN)


def test_what_was_written_is_read_again(tmp_path):
    with journal(tmp_path) as mine:
        mine.append(row(1, text="größer\n"))
    assert read_samples(tmp_path) == [row(1, text="größer\n")]


@given(rows=st.lists(st.text(), min_size=1, max_size=4), data=st.data())
def test_a_cut_anywhere_loses_only_the_line_in_hand(tmp_path_factory, rows, data):
    folder = tmp_path_factory.mktemp("run")
    written = [row(i, text=text) for i, text in enumerate(rows)]
    with journal(folder) as mine:
        for each in written:
            mine.append(each)
    content = (folder / SAMPLES_FILE).read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    (folder / SAMPLES_FILE).write_bytes(content[:cut])
    with journal(folder) as mine:
        assert mine.rows == written[: content[:cut].count(b"\n")]
        for each in written:
            if not mine.has(key_of(each)):
                mine.append(each)
    assert read_samples(folder) == written


def test_a_sample_is_not_written_twice(tmp_path):
    with journal(tmp_path) as mine:
        mine.append(row(1))
        with pytest.raises(ExperimentError, match="a sample is measured once"):
            mine.append(row(1, seconds=2))


def test_another_run_is_refused_and_every_key_named(tmp_path):
    with journal(tmp_path) as mine:
        mine.begin_session({})
        mine.append(row(1))
    with pytest.raises(ExperimentError) as caught:
        journal(tmp_path, dtype="bfloat16", seed="1")
    assert str(caught.value) == (
        f"{tmp_path} holds another run, so it is not resumed: "
        "dtype: 'float32' there, 'bfloat16' here; seed: 'absent' there, '1' here"
    )


def test_a_refused_run_leaves_the_folder_to_others(tmp_path):
    with journal(tmp_path) as mine:
        mine.begin_session({})
        mine.append(row(1))
    with pytest.raises(ExperimentError):
        journal(tmp_path, dtype="bfloat16")
    with journal(tmp_path) as mine:
        assert mine.rows == [row(1)]


def test_a_run_that_ended_before_its_first_line_makes_room_for_another(tmp_path):
    with journal(tmp_path) as mine:
        mine.begin_session({"started": "one"})
    with journal(tmp_path, dtype="bfloat16") as mine:
        mine.begin_session({"started": "two"})
    run = read_run(tmp_path)
    assert (run["identity"]["dtype"], run["sessions"]) == ("bfloat16", [{"started": "two"}])


def test_a_file_that_is_no_run_is_not_replaced(tmp_path):
    (tmp_path / "run.json").write_text('{"mine": 1}')
    with pytest.raises(ExperimentError, match="must have an identity"):
        journal(tmp_path)
    assert (tmp_path / "run.json").read_text() == '{"mine": 1}'


def test_sessions_add_up(tmp_path):
    for number, start in enumerate(("one", "two")):
        with journal(tmp_path) as mine:
            mine.begin_session({"started": start})
            mine.append(row(number))
    assert [each["started"] for each in read_run(tmp_path)["sessions"]] == ["one", "two"]


def test_two_processes_do_not_write_to_one_folder(tmp_path):
    with journal(tmp_path):
        context = multiprocessing.get_context("spawn")
        queue = context.Queue()
        process = context.Process(target=try_to_open, args=(tmp_path, queue))
        process.start()
        message = queue.get(timeout=60)
        process.join()
        queue.close()
        queue.join_thread()
    assert message == f"only one run at a time may write to {tmp_path}, got a second"


def try_to_open(folder, queue):
    try:
        journal(folder)
    except ExperimentError as error:
        queue.put(str(error))
    else:
        queue.put("opened")


@pytest.mark.parametrize("line", ["{", "[]", "1"])
def test_a_damaged_line_in_the_middle_is_refused(tmp_path, line):
    (tmp_path / SAMPLES_FILE).write_text(f"{json.dumps(row(1))}\n{line}\n{json.dumps(row(2))}\n")
    with pytest.raises(ExperimentError, match=r"samples.jsonl:2 must be"):
        read_samples(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"identity": {}}',
        '{"identity": 5, "plan": {}, "sessions": [], "schema": 1}',
        '{"identity": {}, "plan": {}, "sessions": [], "schema": 99}',
    ],
)
def test_a_damaged_run_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ExperimentError, match="must"):
        read_run(tmp_path)


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ExperimentError, match="can't write to"):
        journal(tmp_path / "file")
