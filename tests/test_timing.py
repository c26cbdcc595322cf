import pytest
import torch
from transformers.integrations import sdpa_attention

from stagebench.core.settings import ModelSettings
from stagebench.pipeline import remembered, timing

CPU = torch.device("cpu")


def test_the_result_of_a_stage_comes_back():
    assert timing.Stopwatch(CPU)("encode", lambda a, b: a + b, 1, b=2) == 3


def test_each_stage_has_its_time():
    watch = timing.Stopwatch(CPU)
    for stage in ("load", "encode"):
        watch(stage, sum, [1, 2])
    assert list(watch.seconds) == ["load", "encode"]


def test_there_are_no_device_times_on_a_cpu():
    watch = timing.Stopwatch(CPU)
    watch("encode", sum, [1, 2])
    assert watch.device_seconds == {}


def test_a_stage_is_timed_from_one_synchronisation_to_the_next(monkeypatch):
    order = []
    monkeypatch.setattr(timing, "synchronize", lambda device: order.append("synchronize"))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: order.append("clock") or 0.0)
    timing.Stopwatch(CPU)("encode", lambda: order.append("stage"))
    assert order == ["synchronize", "clock", "stage", "synchronize", "clock"]


@pytest.mark.parametrize(("kernels", "repeats"), [("efficient", True), ("default", False)])
def test_a_gpu_repeats_itself_where_its_kernels_are_pinned_and_a_cpu_anyway(kernels, repeats):
    with timing.pinned_runtime(ModelSettings(device="cuda", kernels=kernels)):
        assert (timing.repeats_itself(torch.device("cuda")), timing.repeats_itself(CPU)) == (repeats, True)


def test_on_a_gpu_with_pinned_kernels_keys_that_queries_share_are_repeated():
    keys = torch.zeros(1, 2, 3, 8)
    with timing.pinned_runtime(ModelSettings(device="cuda")):
        inside = sdpa_attention.use_gqa_in_sdpa(None, keys, keys)
    assert (inside, sdpa_attention.use_gqa_in_sdpa(None, keys, keys)) == (False, True)


def test_stages_are_asked_again_with_one_thread_which_waits_for_no_other(monkeypatch):
    threads = []
    monkeypatch.setattr(remembered, "run_stages", lambda *_: threads.append(torch.get_num_threads()))
    with timing.torch_threads(2):
        remembered.require_forgetful(None, None, {})
        threads.append(torch.get_num_threads())
    assert threads == [1, 2]
