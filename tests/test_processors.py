"""Processors of many kinds: without a chat template, for one image alone, in tiles."""

import pytest
import torch
from checkpoints import write_checkpoint

from stagebench import settings_of
from stagebench.cli.run import _encoded
from stagebench.core.artifacts import Sample
from stagebench.core.errors import StageError
from stagebench.models.registry import build_model
from stagebench.models.tape import Encoders
from stagebench.pipeline.run_stages import prepared
from stagebench.pipeline.verify import count_reference, verify_work

# PaliGemma's processor hands lists of tensors to numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")


def built(folder, family, frames=1):
    write_checkpoint(family, folder)
    settings = settings_of(model=f"hf:{folder}", device="cpu", frames=frames)
    return build_model(settings.models[0], settings.model)


@pytest.mark.parametrize("family", ["paligemma", "florence2", "blip-2"])
def test_a_processor_that_puts_the_image_itself_needs_no_template(family, tmp_path, synthetic):
    model = built(tmp_path, family)
    found = verify_work(model, count_reference(model, Sample(synthetic.video), {"max_new_tokens": 4}))
    assert (str(found.tokens), found.work["encode"]["images_encoded"]) == ("equal", 1)


def test_without_a_template_more_images_than_one_are_refused(tmp_path, synthetic):
    with pytest.raises(StageError, match="got without a chat template a prompt must hold one image, got 2 images"):
        prepared(built(tmp_path, "paligemma", frames=2), Sample(synthetic.video))


def test_a_processor_that_needs_a_template_is_refused_without(tmp_path, synthetic):
    with pytest.raises(StageError, match="got it has no chat template, and puts no <imgpad> into a prompt"):
        prepared(built(tmp_path, "got_ocr2"), Sample(synthetic.video))


def test_attention_is_plain_where_a_family_has_no_other(tmp_path):
    assert built(tmp_path, "got_ocr2").hf_model.config._attn_implementation == "eager"


def test_tiles_of_images_give_the_tokens_and_the_work_of_generate(tmp_path, synthetic):
    model = built(tmp_path, "idefics2")
    found = verify_work(model, count_reference(model, Sample(synthetic.video), {"max_new_tokens": 4}))
    images, rows = found.work["preprocess"]["images"], found.work["encode"]["images_encoded"]
    assert (str(found.tokens), images, rows) == ("equal", 1, 5)


@pytest.mark.parametrize(("images", "rows", "said"), [(2, 2, 2), (2, 10, "2 in 10 tiles"), (4, 1, "4 in 1")])
def test_images_are_distinguished_from_rows_of_the_tower(images, rows, said):
    assert _encoded(images, rows) == said


def test_a_module_that_encode_does_not_run_is_no_tower(tmp_path, synthetic):
    model = built(tmp_path, "llava")
    model.hf_model.draws = torch.nn.Linear(3000, 3000)
    encoders = Encoders(model.hf_model)
    encoders.record(model.reference_inputs(prepared(model, Sample(synthetic.video))))
    assert ("draws" in encoders.modules, encoders.ran) == (
        True,
        {"model.vision_tower", "model.multi_modal_projector"},
    )
