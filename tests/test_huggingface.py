"""Any checkpoint of transformers, split and verified with no adapter."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from checkpoints import CHECKPOINTS, write_checkpoint
from click.testing import CliRunner
from packaging.version import Version

from stagebench import settings_of
from stagebench.backends.load import with_backend
from stagebench.cli import main
from stagebench.core.artifacts import Sample
from stagebench.core.errors import CheckpointError, ModelError, StagebenchError, StageError
from stagebench.models import processors, weights
from stagebench.models.registry import build_model
from stagebench.pipeline.encode import encode
from stagebench.pipeline.prefill import prefill
from stagebench.pipeline.remembered import fingerprint, varied
from stagebench.pipeline.run_stages import prepared, reference_generate, staged_generate
from stagebench.pipeline.verify import count_reference, verify_work

# InternVL's processor of transformers 5.15 and 5.17 hands tensors to numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
OPTIONS = {"max_new_tokens": 4, "do_sample": False}


OLD = Version(transformers.__version__) < Version("5.16")  # there torchvision is needed for the processor of gemma4


@pytest.fixture(scope="module", params=sorted(CHECKPOINTS.keys() - ({"gemma4"} if OLD else set())))
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    write_checkpoint(request.param, folder)
    return folder


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen")
    write_checkpoint("qwen2_5_vl", folder)
    return folder


def built(folder, **options):
    settings = settings_of(model=f"hf:{folder}", device="cpu", **options)
    return build_model(settings.models[0], settings.model)


def test_a_checkpoint_gives_the_tokens_and_the_work_of_generate(folder, synthetic):
    model = built(folder)
    found = verify_work(model, count_reference(model, Sample(synthetic.video), OPTIONS))
    assert str(found.tokens) == "equal"


def test_random_weights_need_the_config_and_the_processor_alone(folder, synthetic, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()
    model = built(tmp_path, profile="random")
    found = verify_work(model, count_reference(model, Sample(synthetic.video), OPTIONS))
    assert str(found.tokens) == "equal"


def test_the_table_of_a_checkpoint_is_printed(qwen, synthetic, tmp_path):
    out = tmp_path / "out.json"
    asked = ["run", "--model", f"hf:{qwen}", "--device", "cpu", "--new-tokens", "2", "--passes", "1", "--frames", "2"]
    result = CliRunner().invoke(main, [*asked, "--json", str(out)])
    counted = json.loads(out.read_text())["samples"][0]["work"]["encode"]["images_encoded"]
    assert (result.exit_code, counted) == (0, 2)


def test_two_samples_in_flight_do_not_disturb_each_other(qwen, synthetic):
    model = built(qwen)
    inputs = prepared(model, Sample(synthetic.video))
    other = prepared(model, Sample(synthetic.video, "And what else?"))
    alone = [staged_generate(model, each, OPTIONS).token_ids for each in (inputs, other)]
    features = [encode(model, each) for each in (other, inputs)]
    prefilled = [prefill(model, *each, OPTIONS) for each in zip((other, inputs), features, strict=True)]
    tokens = [each.sequences[:, each.prompt_tokens :].tolist()[0][0] for each in reversed(prefilled)]
    assert tokens == [rows[0][0] for rows in alone]


def test_features_of_images_are_put_together_without_a_copy(qwen, synthetic):
    model = built(qwen, frames=3)
    features = encode(model, prepared(model, Sample(synthetic.video)))
    parts = features.tape[0].output.pooler_output
    assert (len(parts), features.tokens.data_ptr()) == (3, parts[0].data_ptr())
    assert torch.equal(features.tokens[0], torch.cat(parts))


def test_features_serve_several_prompts(qwen, synthetic):
    model = built(qwen)
    inputs = prepared(model, Sample(synthetic.video))
    features = encode(model, inputs)
    first, second = (prefill(model, inputs, features, OPTIONS).sequences for _ in range(2))
    assert torch.equal(first, second)


def test_features_that_were_written_to_are_refused(qwen, synthetic):
    model = built(qwen)
    inputs = prepared(model, Sample(synthetic.video))
    features = encode(model, inputs)
    features.tape[0].output.pooler_output[0].mul_(2)
    with pytest.raises(StageError, match="the output of get_image_features was overwritten after encode"):
        prefill(model, inputs, features, OPTIONS)


def test_an_option_about_the_words_of_the_prompt_is_that_of_generate(qwen, synthetic):
    model, option = built(qwen), {"encoder_repetition_penalty": 1e3}
    inputs = prepared(model, Sample(synthetic.video))
    plain, expected = (reference_generate(model, inputs, OPTIONS | more)[0].tolist() for more in ({}, option))
    actual = list(staged_generate(model, inputs, OPTIONS | option).token_ids[0])
    assert (actual, expected == plain) == (expected, False)


def test_chunks_of_a_prompt_are_refused(qwen, synthetic):
    model = built(qwen)
    inputs = prepared(model, Sample(synthetic.video))
    with pytest.raises(StageError, match="prefill_chunk_size can't be split"):
        prefill(model, inputs, encode(model, inputs), OPTIONS | {"prefill_chunk_size": 8})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "elsewhere"}, "hf: must name the only model and its weights, got weights elsewhere too"),
        ({"backend": "graph"}, "backends on a CPU are eager, got graph"),
        ({"frames": 0}, "frames must be at least 1, got 0"),
        ({"preprocess": "torch"}, "preprocess must be pil for a model with its own processor, got torch for hf:here"),
        (
            {"profile": "random", "pickled_weights": True},
            "pickled weights need the profile pretrained, got random",
        ),
    ],
)
def test_options_that_a_checkpoint_can_not_take_are_refused(options, message):
    with pytest.raises(ModelError, match=message):
        settings_of(model="hf:here", device="cpu", **options)


@pytest.mark.parametrize("source", ["", "./nothere", "~nobody", "/nothere"])
def test_a_folder_that_is_not_there_is_refused(source):
    with pytest.raises(ModelError, match="hf: must be followed by an existing folder or a hub id, got"):
        settings_of(model=f"hf:{source}", device="cpu")


def test_a_comma_is_a_part_of_the_name_of_a_folder_that_is_there(tmp_path):
    (tmp_path / "a,b").mkdir()
    settings = settings_of(model=[f"hf:{tmp_path}/a,b"], device="cpu")
    assert (settings.models, settings.model.weights) == ((f"hf:{tmp_path}/a,b",), f"{tmp_path}/a,b")


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a,b").mkdir()
    assert settings_of(model="hf:~/a,b", device="cpu").model.weights == str(tmp_path / "a,b")


@pytest.fixture
def unreachable(monkeypatch):
    """Count the questions to a hub that nothing leads to."""
    asked = []

    def ask(url, **_):
        asked.append(url)
        raise ConnectionError("no route")

    monkeypatch.setattr(weights, "get_hf_file_metadata", ask)
    return asked


def test_an_id_that_can_not_be_had_is_one_question_and_one_line(unreachable):
    settings = settings_of(model="hf:nobody/nothing", device="cpu")
    with pytest.raises(CheckpointError) as error:
        build_model(settings.models[0], settings.model)
    where = "nobody/nothing must be a folder, in the hub's cache, or on a hub that can be reached"
    assert (str(error.value), len(unreachable)) == (f"{where}, got ConnectionError: no route", 1)


def test_what_the_cache_holds_serves_where_the_hub_can_not_be_reached(unreachable, qwen, synthetic, monkeypatch):
    monkeypatch.setattr(weights, "try_to_load_from_cache", lambda source, name: str(qwen / name))
    settings = settings_of(model="hf:nobody/qwen", device="cpu", frames=1)
    model = build_model(settings.models[0], settings.model)
    assert (model.name, len(prepared(model, Sample(synthetic.video)).input_ids)) == ("hf:nobody/qwen", 1)


def test_a_text_longer_than_the_positions_is_refused_before_generate_writes_it(qwen, synthetic, monkeypatch):
    model = built(qwen, frames=1)
    monkeypatch.setattr(model.hf_model, "forward", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(StageError, match="prompt and new tokens must fit the model's 2048 positions, got"):
        count_reference(model, Sample(synthetic.video), OPTIONS | {"max_new_tokens": 2048})


def test_frames_and_the_folder_are_part_of_the_identity(qwen):
    two, three = (settings_of(model=f"hf:{qwen}", device="cpu", profile="random", frames=n).identity() for n in (2, 3))
    assert (two["preprocess"], three["preprocess"], str(qwen) in two["weights"]) == (
        "the checkpoint's own processor, 2 images",
        "the checkpoint's own processor, 3 images",
        True,
    )


def test_varied_features_give_another_prompt(folder, synthetic):
    model = built(folder)
    inputs = prepared(model, Sample(synthetic.video))
    features = encode(model, inputs)
    made = [fingerprint(prefill(model, inputs, varied(features, n), OPTIONS)) for n in (0, 1, 2)]
    assert (made[0], len(set(made))) == (fingerprint(prefill(model, inputs, features, OPTIONS)), 3)


def test_encoding_first_leaves_the_network_as_generate_needs_it(folder, synthetic):
    model = built(folder)
    inputs = prepared(model, Sample(synthetic.video))
    encode(model, inputs)
    once = [len(module._forward_hooks) for module in model.hf_model.modules()]
    reference_generate(model, inputs, OPTIONS)
    assert [len(module._forward_hooks) for module in model.hf_model.modules()] == once


def changed(folder, tmp_path, name, **settings):
    """Copy a checkpoint, with other settings in one of its files."""
    if folder != tmp_path:
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    file = tmp_path / name
    said = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(said | settings))
    return tmp_path


def test_a_template_that_fails_is_one_line(qwen, synthetic, tmp_path):
    shutil.copytree(qwen, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('no\nsuch role') }}")
    with pytest.raises(StageError, match=r"the processor of hf:.* must take the sample, got TemplateError") as error:
        prepared(built(tmp_path), Sample(synthetic.video))
    assert "\n" not in str(error.value)


def test_a_template_that_begins_a_text_does_it_alone(qwen, synthetic, tmp_path):
    shutil.copytree(qwen, tmp_path, dirs_exist_ok=True)
    template = (tmp_path / "chat_template.jinja").read_text()
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}" + template)
    whole = json.loads((tmp_path / "tokenizer.json").read_text())
    begin = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    tokens = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    whole["post_processor"] = {"type": "TemplateProcessing", "single": begin, "pair": begin, "special_tokens": tokens}
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    inputs = prepared(built(tmp_path, frames=1), Sample(synthetic.video))
    assert int((inputs.input_ids == 1).sum()) == 1


@pytest.fixture
def without_torchvision(monkeypatch):
    monkeypatch.setattr(processors, "is_torchvision_available", lambda: False)


def test_the_image_processor_that_a_checkpoint_names_is_taken(tmp_path, without_torchvision):
    write_checkpoint("llava", tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({"image_processor_type": "SiglipImageProcessor", "size": {"height": 56, "width": 56}}))
    assert type(built(tmp_path).image_processor.image_processor).__name__ == "SiglipImageProcessorPil"


def test_another_processor_than_the_familys_is_refused(tmp_path, without_torchvision):
    write_checkpoint("llava", tmp_path)
    changed(tmp_path, tmp_path, "processor_config.json", processor_class="Qwen2VLProcessor")
    with pytest.raises(CheckpointError, match="must name LlavaProcessor as its processor, got Qwen2VLProcessor"):
        built(tmp_path)


@pytest.mark.parametrize("profile", ["pretrained", "random"])
def test_stop_tokens_are_the_checkpoints(qwen, tmp_path, profile):
    model = built(changed(qwen, tmp_path, "generation_config.json", eos_token_id=[2, 100]), profile=profile)
    assert model.hf_model.generation_config.eos_token_id == [2, 100]


def test_a_generation_config_that_can_not_be_read_is_refused(qwen, tmp_path):
    shutil.copytree(qwen, tmp_path, dirs_exist_ok=True)
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="can't read the checkpoint"):
        built(tmp_path)


def test_a_checkpoint_is_made_narrow_with_its_own_processor(folder, synthetic, tmp_path):
    text = json.loads((folder / "config.json").read_text())["text_config"] | {"intermediate_size": 4096}
    model = built(changed(folder, tmp_path, "config.json", text_config=text), profile="tiny")
    found = verify_work(model, count_reference(model, Sample(synthetic.video), OPTIONS))
    assert (str(found.tokens), model.hf_model.config.get_text_config().intermediate_size) == ("equal", 128)


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("graph", "the backend graph needs a CUDA device, got cpu"),
        ("compiled", "the backend compiled needs a CUDA device, got cpu"),
        ("fused", "the backend fused needs a CUDA device, got cpu"),
    ],
)
def test_a_backend_that_a_checkpoint_can_not_have_is_refused(qwen, backend, message):
    with pytest.raises(ModelError, match=message):
        with_backend(built(qwen), backend)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "llama"}, "must be a model of images and text, got model_type 'llama'"),
        ({"model_type": "lfm2_vl"}, "the processor of lfm2_vl needs torchvision"),
        ({"model_type": "nobody's"}, "can't read the checkpoint"),
    ],
)
def test_what_is_no_such_checkpoint_is_refused_in_one_line(config, message, tmp_path, without_torchvision):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(StagebenchError, match=message) as error:
        built(tmp_path)
    assert "\n" not in str(error.value)


def test_what_generate_itself_can_not_do_is_one_line(tmp_path, synthetic):
    write_checkpoint("llava", tmp_path)
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    (tmp_path / "processor_config.json").write_text(json.dumps(settings | {"num_additional_image_tokens": 0}))
    model = built(tmp_path)
    with pytest.raises(StageError, match="generate\\(\\) itself fails: ValueError: Image features and image tokens"):
        count_reference(model, Sample(Path(synthetic.video)), OPTIONS)
