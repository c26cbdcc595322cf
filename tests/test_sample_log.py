"""The lines of a run: nothing is lost, nothing is there twice, whenever it is killed."""

import json
import multiprocessing

import made_up_analysis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebench.analysis.samples import SAMPLES_FILE, key_of, open_log, read_run, read_samples
from stagebench.core.errors import AnalysisError, StagebenchError

RUN = made_up_analysis.run()
(SESSION,) = RUN["sessions"]


def row(number, **more):
    return made_up_analysis.row("quick", number) | more


def opened(folder, **identity):
    return open_log(folder, RUN["identity"] | identity, RUN["plan"])


def test_what_was_written_is_read_again(tmp_path):
    with opened(tmp_path) as mine:
        mine.append(row(1, text="größer\n"))
    assert read_samples(tmp_path / SAMPLES_FILE) == [row(1, text="größer\n")]


@given(rows=st.lists(st.text(), min_size=1, max_size=4), data=st.data())
def test_a_cut_anywhere_loses_only_the_line_in_hand(tmp_path_factory, rows, data):
    folder = tmp_path_factory.mktemp("run")
    written = [row(i, text=text) for i, text in enumerate(rows)]
    with opened(folder) as mine:
        for each in written:
            mine.append(each)
    content = (folder / SAMPLES_FILE).read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    (folder / SAMPLES_FILE).write_bytes(content[:cut])
    with opened(folder) as mine:
        assert mine.lines == written[: content[:cut].count(b"\n")]
        for each in written:
            if not mine.has(key_of(each)):
                mine.append(each)
    assert read_samples(folder / SAMPLES_FILE) == written


def test_a_sample_is_not_written_twice(tmp_path):
    with opened(tmp_path) as mine:
        mine.append(row(1))
        with pytest.raises(AnalysisError, match="a sample must be measured once"):
            mine.append(row(1, seconds=2))


def test_another_run_is_refused_and_every_key_named(tmp_path):
    with opened(tmp_path) as mine:
        mine.begin_session(SESSION)
        mine.append(row(1))
    with pytest.raises(AnalysisError) as caught, opened(tmp_path, device="a GPU", seed="1"):
        pass
    assert str(caught.value) == (
        f"{tmp_path} holds another run, so it is not resumed: "
        "device: 'a GPU' here, 'the device' there; seed: '1' here, 'absent' there"
    )


def test_a_refused_run_leaves_the_folder_to_others(tmp_path):
    with opened(tmp_path) as mine:
        mine.begin_session(SESSION)
        mine.append(row(1))
    with pytest.raises(AnalysisError), opened(tmp_path, device="a GPU"):
        pass
    with opened(tmp_path) as mine:
        assert mine.lines == [row(1)]


def test_a_run_that_ended_before_its_first_line_makes_room_for_another(tmp_path):
    with opened(tmp_path) as mine:
        mine.begin_session(SESSION | {"started": "one"})
    with opened(tmp_path, device="a GPU") as mine:
        mine.begin_session(SESSION | {"started": "two"})
    run = read_run(tmp_path)
    assert (run["identity"]["device"], run["sessions"]) == ("a GPU", [SESSION | {"started": "two"}])


def test_a_file_that_is_no_run_is_not_replaced(tmp_path):
    (tmp_path / "run.json").write_text('{"mine": 1}')
    with (
        pytest.raises(AnalysisError, match="must have schema, identity, plan, sessions, got no schema"),
        opened(tmp_path),
    ):
        pass
    assert (tmp_path / "run.json").read_text() == '{"mine": 1}'


def test_sessions_add_up(tmp_path):
    for number, start in enumerate(("one", "two")):
        with opened(tmp_path) as mine:
            mine.begin_session(SESSION | {"started": start})
            mine.append(row(number))
    assert [each["started"] for each in read_run(tmp_path)["sessions"]] == ["one", "two"]


def test_two_processes_do_not_write_to_one_folder(tmp_path):
    with opened(tmp_path):
        context = multiprocessing.get_context("spawn")
        queue = context.Queue()
        process = context.Process(target=try_to_open, args=(tmp_path, queue))
        process.start()
        message = queue.get(timeout=60)
        process.join()
        queue.close()
        queue.join_thread()
    assert message == f"only one run at a time may write to a folder, got {tmp_path}"


def try_to_open(folder, queue):
    try:
        with opened(folder):
            queue.put("opened")
    except StagebenchError as error:
        queue.put(str(error))


@pytest.mark.parametrize("line", ["{", "[]", "1"])
def test_a_damaged_line_in_the_middle_is_refused(tmp_path, line):
    (tmp_path / SAMPLES_FILE).write_text(f"{json.dumps(row(1))}\n{line}\n{json.dumps(row(2))}\n")
    with pytest.raises(AnalysisError, match=r"samples.jsonl:2 must be"):
        read_samples(tmp_path / SAMPLES_FILE)


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
    with pytest.raises(AnalysisError, match="must"):
        read_run(tmp_path)


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StagebenchError, match="can't write to"), opened(tmp_path / "file"):
        pass
