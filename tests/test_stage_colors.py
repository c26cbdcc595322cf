"""The colours of the stages: one table, which colour-blind people and a grey print keep apart."""

from itertools import combinations, pairwise

import numpy as np
import pytest

from stagebench.core.stages import STAGES

# What is left of linear RGB for those without one kind of cone (Machado, Oliveira and Fernandes 2009, severity 1).
SEEN = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(color):
    rgb = np.array(list(bytes.fromhex(color[1:]))) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def luminance(color):
    return TO_XYZ[1] @ linear(color)


def lab(rgb):
    x, y, z = np.cbrt(TO_XYZ @ rgb / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("matrix", SEEN.values(), ids=SEEN)
def test_no_two_stages_look_alike_whichever_cones_a_reader_has(matrix):
    seen = [lab(np.clip(matrix @ linear(stage.color), 0, 1)) for stage in STAGES]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 15


def test_each_stage_is_darker_than_the_one_before_so_that_grey_is_enough():
    lightness = [lab(linear(stage.color))[0] for stage in STAGES]
    assert min(before - after for before, after in pairwise(lightness)) > 10


def test_words_on_a_colour_have_the_contrast_that_people_need():
    for stage in STAGES:
        low, high = sorted([luminance(stage.color), luminance(stage.ink)])
        assert (high + 0.05) / (low + 0.05) > 4.5
