"""The table of what backends write, on a CPU, where a backend is the plain code called."""

from dataclasses import replace

import certify_backends
import pytest
from certify_backends import QUESTIONS, main, texts
from click.testing import CliRunner

from stagebench.backends.graph import RECIPES, GraphBackend
from stagebench.core.settings import GenerationSettings


@pytest.fixture
def rows(plain, synthetic, monkeypatch):
    called = {
        name: replace(plain, backend=GraphBackend(plain, name, None, RECIPES["graph"])) for name in ("graph", "fused")
    }
    monkeypatch.setattr(certify_backends, "with_backend", lambda model, name: called[name])
    return list(texts(plain, synthetic, GenerationSettings(3, fixed_length=True), list(called)))


def test_every_question_is_put_to_every_backend(rows):
    assert [(row["question"], row["backend"]) for row in rows] == [
        (q, b) for q in QUESTIONS for b in ("graph", "fused")
    ]


def test_what_repeats_and_equals_generate_keeps_the_promise(rows):
    assert {(row["verdict"], row["tokens"], row["repeats"], row["kept"]) for row in rows} == {("equal", 3, True, True)}


@pytest.mark.parametrize("verdict", ["near-tie", "different"])
def test_another_text_breaks_the_promise_of_an_exact_backend(plain, synthetic, monkeypatch, verdict):
    outcome = certify_backends.match_tokens([1], [1])
    monkeypatch.setattr(certify_backends, "match_tokens", lambda *_: replace(outcome, verdict=verdict))
    fast = replace(plain, backend=GraphBackend(plain, "graph", None, RECIPES["graph"]))
    monkeypatch.setattr(certify_backends, "with_backend", lambda *_: fast)
    one = next(texts(plain, synthetic, GenerationSettings(2, fixed_length=True), ["graph"]))
    assert (verdict, False) == (one["verdict"], one["kept"])


def test_a_machine_without_a_gpu_is_reported_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(certify_backends.torch.cuda, "is_available", lambda: False)
    done = CliRunner().invoke(main, [str(tmp_path / "out.json")])
    assert (done.exit_code, done.output) == (1, "Error: backends need a CUDA device, got a machine without one\n")
