"""Shoeboxes against loops over pixels."""

import numpy as np

from spreadflow.analysis import shoeboxes
from spreadflow.models import ReflectionFlag

SHAPE = (2, 30, 40)


def test_pack_equals_a_loop_over_pixels():
    rng = np.random.default_rng(0)
    image, mask = rng.random(SHAPE).astype(np.float32), rng.random(SHAPE) > 0.1
    panel = np.array([0, 1, 1, 0])
    bbox = np.array([[10, 14, 10, 13], [0, 3, 28, 30], [37, 40, 0, 5], [20, 21, 20, 21]])
    packed = shoeboxes.pack(image, mask, panel, bbox, border=2)
    photons, valid, foreground, first = [], [], [], []
    for p, (f0, f1, s0, s1) in zip(panel, bbox, strict=True):
        first.append(len(photons))
        for slow in range(s0 - 2, s1 + 2):
            for fast in range(f0 - 2, f1 + 2):
                if 0 <= slow < SHAPE[1] and 0 <= fast < SHAPE[2]:
                    photons.append(image[p, slow, fast])
                    valid.append(mask[p, slow, fast])
                    foreground.append(f0 <= fast < f1 and s0 <= slow < s1)
    assert np.array_equal(packed["photons"], photons)
    assert np.array_equal(packed["valid"], valid)
    assert np.array_equal(packed["foreground"], foreground)
    assert np.array_equal(packed["first_pixel"], first)
    assert packed["bbox"].tolist() == [[8, 16, 8, 15], [0, 5, 26, 30], [35, 40, 0, 7], [18, 23, 18, 23]]


def test_nothing_to_pack():
    packed = shoeboxes.pack(np.zeros(SHAPE), np.ones(SHAPE, bool), np.empty(0, int), np.empty((0, 4), int), 3)
    assert packed["photons"].shape == (0,) and packed["bbox"].shape == (0, 4)


def test_chosen_is_half_open_and_strong_needs_an_intensity():
    d = np.array([2.0, 2.1, 2.3, 2.3, 2.3, 2.5])
    strength = np.array([9.0, 9.0, 1.0, 9.0, 9.0, 9.0])
    flags = np.array([0, 0, 0, ReflectionFlag.SATURATED, ReflectionFlag.EDGE, 0])
    every = shoeboxes.chosen(d, strength, flags, d_min=2.1, d_max=2.5)
    assert every.tolist() == [False, True, True, True, True, False]
    strong = shoeboxes.chosen(d, strength, flags, d_min=2.1, d_max=2.5, min_i_over_sigma=2.0)
    assert strong.tolist() == [False, True, False, False, True, False]
