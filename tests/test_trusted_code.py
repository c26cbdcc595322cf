"""Checkpoints that bring Python files: run where they are trusted, and refused in one line else."""

import json

import pytest
from checkpoints import write_checkpoint
from families import small_network
from safetensors.torch import save_file

from stagebench import settings_of
from stagebench.core.artifacts import Sample
from stagebench.core.errors import ModelError
from stagebench.models.registry import build_model
from stagebench.pipeline.load import load
from stagebench.pipeline.run_stages import prepared
from stagebench.pipeline.verify import count_reference, verify_work

MODELING = """
from transformers import LlavaConfig, LlavaForConditionalGeneration

class OwnConfig(LlavaConfig):
    model_type = "own_llava"

class OwnModel(LlavaForConditionalGeneration):
    config_class = OwnConfig
"""
PROCESSING = """
from transformers import LlavaProcessor

class OwnProcessor(LlavaProcessor):
    def __call__(self, images=None, text=None, **kwargs):
        return super().__call__(images, [text[0].replace("USER", "OWNER")], **kwargs)

    def check_argument_for_proper_class(self, name, argument):
        return type(argument)

    @classmethod
    def from_pretrained(cls, source, **kwargs):
        from transformers import AutoTokenizer
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=True)
        settings = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
        images = CLIPImageProcessorPil.from_pretrained(source)
        return cls(images, tokenizer, chat_template=tokenizer.chat_template, **settings)
"""
OF_VIDEOS = PROCESSING.replace(
    """    def __call__(self, images=None, text=None, **kwargs):
        return super().__call__(images, [text[0].replace("USER", "OWNER")], **kwargs)
""",
    """    def __call__(self, images=None, text=None, videos=None, video_metadata=None, **kwargs):
        times = "".join(f"<image>{time:.3f}" for time in video_metadata[0].timestamps)
        frames = [list(videos[0][:: 4 if kwargs.pop("do_sample_frames", True) else 1])]
        return super().__call__(frames, [text[0].replace("<video>", times)], **kwargs)
""",
)
MODEL = {"AutoConfig": "own.OwnConfig", "AutoModelForImageTextToText": "own.OwnModel"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Write a checkpoint of a class that only its own file has; what is made of that file stays here."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    write_checkpoint("llava", tmp_path / "own")
    (tmp_path / "own" / "own.py").write_text(MODELING)
    weights = {key: weight.contiguous() for key, weight in small_network("llava").state_dict().items()}
    save_file(weights, tmp_path / "own" / "model.safetensors")  # by its names in the class, not as transformers renames
    add(tmp_path / "own" / "config.json", model_type="own_llava", architectures=["OwnModel"], auto_map=MODEL)
    return tmp_path / "own"


def add(file, **settings):
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def built(folder, **options):
    settings = settings_of(model=f"hf:{folder}", device="cpu", frames=2, **options)
    return build_model(settings.models[0], settings.model)


def test_python_files_of_a_checkpoint_are_not_run_unasked(folder):
    (folder / "own.py").write_text("raise AssertionError('it ran')")
    with pytest.raises(ModelError) as error:
        built(folder)
    expected = f"hf:{folder} needs its own Python files: read them, then pass --trust-remote-code"
    assert str(error.value) == expected


def test_python_files_that_end_the_process_are_refused(folder):
    (folder / "own.py").write_text("import sys\nsys.exit(1)\n")
    with pytest.raises(ModelError, match="must define its classes, but exit the process"):
        built(folder, trust_remote_code=True)


@pytest.mark.parametrize("profile", ["pretrained", "random"])
def test_a_class_of_the_checkpoint_gives_the_tokens_and_the_work_of_generate(folder, synthetic, profile):
    model = built(folder, trust_remote_code=True, profile=profile)
    found = verify_work(model, count_reference(model, Sample(synthetic.video), {"max_new_tokens": 3}))
    assert (type(model.hf_model).__name__, str(found.tokens)) == ("OwnModel", "equal")


def test_a_processor_of_the_checkpoint_makes_the_prompt(folder, synthetic):
    plain = prepared(built(folder, trust_remote_code=True), Sample(synthetic.video))
    (folder / "processing_own.py").write_text(PROCESSING)
    add(folder / "processor_config.json", processor_class="OwnProcessor")
    add(folder / "processor_config.json", auto_map={"AutoProcessor": "processing_own.OwnProcessor"})
    own = prepared(built(folder, trust_remote_code=True), Sample(synthetic.video))
    longer = own.input_ids.shape[1] - plain.input_ids.shape[1]
    assert (longer, own.pixels[0].shape) == (len("OWNER") - len("USER"), plain.pixels[0].shape)


def test_a_processor_of_the_checkpoint_gets_one_video_with_the_times_of_its_frames(folder, synthetic):
    (folder / "processing_videos.py").write_text(OF_VIDEOS)
    add(folder / "processor_config.json", auto_map={"AutoProcessor": "processing_videos.OwnProcessor"})
    model = built(folder, trust_remote_code=True, as_="video")
    found = verify_work(model, count_reference(model, Sample(synthetic.video), {"max_new_tokens": 3}))
    text = model.tokenizer.decode(prepared(model, Sample(synthetic.video)).input_ids[0])
    times = [f"<image>{time:.3f}" in text for time in load(Sample(synthetic.video), 2).times]
    assert (str(found.tokens), found.work["encode"]["images_encoded"], times) == ("equal", 2, [True, True])


def test_a_processor_of_the_checkpoint_is_not_run_unasked(tmp_path):
    write_checkpoint("llava", tmp_path)
    add(tmp_path / "processor_config.json", processor_class="OwnProcessor")
    add(tmp_path / "processor_config.json", auto_map={"AutoProcessor": "processing_own.OwnProcessor"})
    with pytest.raises(ModelError, match=r"Python files.*--trust-remote-code"):
        built(tmp_path)


def test_a_class_for_another_task_names_the_option_too(tmp_path):
    said = {"model_type": "llama", "auto_map": {"AutoModelForCausalLM": "own.OwnModel"}}
    (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.raises(ModelError, match="got model_type 'llama' with its own Python files \\(--"):
        built(tmp_path)


def test_running_code_of_a_checkpoint_is_part_of_the_identity(folder):
    plain, trusting = (
        settings_of(model=f"hf:{folder}", device="cpu", trust_remote_code=trusted) for trusted in (False, True)
    )
    assert trusting.identity()["weights"] == f"{plain.identity()['weights']}, its own code"
    assert "code of the checkpoint" in trusting.describe()


def test_a_registered_model_has_no_code_to_trust():
    with pytest.raises(ModelError, match="trust_remote_code needs a checkpoint with"):
        settings_of(model="llava-1.5", device="cpu", trust_remote_code=True)
