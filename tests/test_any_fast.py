"""The backends `compiled` and `fused` of any model: the texts of `generate()` from other kernels, or a refusal."""

from dataclasses import replace

import pytest
import torch
from graphs_of_families import OPTIONS, inputs_for, plain_model, rows, scored, two_rows

from stagebench.backends.any_graph import AnyGraphBackend, Step
from stagebench.backends.graph import RECIPES
from stagebench.backends.load import refusal, with_backend
from stagebench.core.artifacts import Inputs
from stagebench.core.errors import ModelError, StageError
from stagebench.core.settings import ModelSettings
from stagebench.models.huggingface import HuggingFaceModel
from stagebench.pipeline.encode import encode
from stagebench.pipeline.prefill import prefill
from stagebench.pipeline.run_stages import reference_generate, staged_generate
from stagebench.pipeline.timing import pinned_runtime

LLAMA_LIKE = ("internvl", "llava", "llava_onevision", "qwen2_5_vl", "qwen2_vl", "qwen3_vl")


def fast(plain: HuggingFaceModel, name: str) -> HuggingFaceModel:
    return replace(plain, backend=AnyGraphBackend(plain, name, None, RECIPES[name]))


@pytest.fixture
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large tiles, because in Triton's interpreter every program costs."""
    pytest.importorskip("triton", reason="needs triton, which comes with torch's CUDA builds or the extra test")
    from stagebench.backends import fused

    for name, tiles in fused.TILES.items():
        monkeypatch.setitem(fused.TILES, name, tiles._replace(rows=128))
    monkeypatch.setattr(fused, "BLOCK_TOKENS", 64)


def assert_close(mine: HuggingFaceModel, plain: HuggingFaceModel, inputs: Inputs) -> None:
    expected, got = scored(reference_generate, plain, inputs), scored(staged_generate, mine, inputs)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    assert torch.equal(got.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_vl"])
def test_compiled_layers_give_the_scores_of_generate(name: str) -> None:
    plain = plain_model(name)
    compiled = fast(plain, "compiled")
    for words in ((), (30, 31, 32)):
        assert_close(compiled, plain, inputs_for(plain, words))
    ran = compiled.backend.stages
    assert (ran["prefill"], ran["decode"], compiled.backend.exact) == ("compiled", "compiled", False)


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize("name", LLAMA_LIKE)
def test_fused_steps_give_the_scores_of_generate(name: str) -> None:
    plain = plain_model(name)
    fused = fast(plain, "fused")
    with torch.compiler.set_stance("force_eager"):  # what is compiled, another test shows
        for words in ((), (30, 31, 32)):
            assert_close(fused, plain, inputs_for(plain, words))


@pytest.mark.parametrize("name", ["gemma3", "qwen3_5", "mistral3"])
def test_a_decoder_that_the_kernels_do_not_compute_is_refused(name: str) -> None:
    why = refusal(plain_model(name), "fused")
    assert why is not None
    assert why.startswith("the backend fused needs a decoder of LlamaModel, ")
    assert refusal(plain_model(name), "compiled") is None


@pytest.mark.usefixtures("few_programs")
def test_several_rows_are_refused_by_fused_steps() -> None:
    plain = plain_model("llava")
    with (
        torch.compiler.set_stance("force_eager"),
        pytest.raises(StageError, match=r"^the backend fused decodes one row, got 2$"),
    ):
        staged_generate(fast(plain, "fused"), two_rows(plain), OPTIONS)


@pytest.mark.usefixtures("few_programs")
def test_a_padded_row_is_refused_by_fused_steps_also_after_one_without_padding() -> None:
    plain = plain_model("llava")
    fused, whole = fast(plain, "fused"), inputs_for(plain)
    with torch.compiler.set_stance("force_eager"):
        staged_generate(fused, whole, OPTIONS)
        padded = replace(whole, attention_mask=whole.attention_mask.clone())
        padded.attention_mask[0, 0] = 0
        with pytest.raises(StageError, match=r"^the backend fused takes a prompt without padding, got a padded one$"):
            staged_generate(fused, padded, OPTIONS)


def test_a_token_at_several_positions_is_refused_by_fused_steps() -> None:
    plain = plain_model("qwen2_5_vl")
    inputs = inputs_for(plain)
    step = Step(prefill(plain, inputs, encode(plain, inputs), OPTIONS), 128)
    step.require_one_text()
    step.tensors["offset"] = torch.tensor([0, 5, 5, 6]).view(4, 1, 1)
    with pytest.raises(StageError, match=r"^the backend fused turns a token by one position, got \[5, 5, 6\]$"):
        step.require_one_text()


def test_layers_that_can_not_be_compiled_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = plain_model("llava")
    layer = plain.hf_model.get_decoder().layers[0]
    own = type(layer).forward

    def breaks(*args: object, **kwargs: object) -> object:
        torch._dynamo.graph_break()
        return own(*args, **kwargs)

    monkeypatch.setattr(type(layer), "forward", breaks)
    with pytest.raises(ModelError, match=r"can't run steps of a Llava.*: a LlamaDecoderLayer can't be compiled: "):
        staged_generate(fast(plain, "compiled"), inputs_for(plain), OPTIONS)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["compiled", "fused"])
@pytest.mark.parametrize("name", LLAMA_LIKE)
def test_on_a_gpu_the_texts_are_those_of_generate(name: str, backend: str, gpu: torch.device) -> None:
    plain = plain_model(name)
    several = [on(gpu, inputs_for(plain, words)) for words in ((), (30, 31, 32), ())]
    plain.hf_model.to(gpu)
    with pinned_runtime(ModelSettings(device="cuda")):
        expected = [reference_generate(plain, inputs, OPTIONS).tolist() for inputs in several]
        made = with_backend(plain, backend)
        assert [rows(staged_generate(made, inputs, OPTIONS)) for inputs in several] == expected


def on(device: torch.device, inputs: Inputs) -> Inputs:
    given = {name: tensor.to(device) for name, tensor in inputs.given.items()}
    return Inputs(inputs.input_ids.to(device), inputs.attention_mask.to(device), given, inputs.images)
