"""Shoeboxes against loops over pixels."""

from itertools import pairwise

import numpy as np

from spreadflow.analysis.pixels import shoeboxes
from spreadflow.analysis.still import integration
from spreadflow.analysis.still.footprints import Footprints
from spreadflow.analysis.still.prediction import Predicted
from spreadflow.models import Detector, Noise, Overlap, ReflectionFlag
from spreadflow.physics.geometry import radial_axes

SHAPE = (2, 30, 40)


def boxes(bbox, panel, lattice=None, centroid=None) -> shoeboxes.Boxes:
    """Integration boxes; of one lattice and with centroids in their middles unless given."""
    bbox = np.asarray(bbox)
    if lattice is None:
        lattice = np.zeros(len(bbox), int)
    if centroid is None:
        centroid = (bbox[:, ::2] + bbox[:, 1::2]).T / 2
    fast, slow = centroid
    return shoeboxes.Boxes(lattice, panel, fast, slow, bbox)


def rectangles(every: shoeboxes.Boxes, frame: float) -> Footprints:
    """Foregrounds along rows and columns about the middles, which leave a frame of their boxes."""
    n = len(every.bbox)
    size = every.bbox[:, 1::2] - every.bbox[:, ::2]
    return Footprints(np.tile(np.eye(2), (n, 1, 1)), np.maximum(size / 2 - frame, 0.1))


def is_within(every: shoeboxes.Boxes, foregrounds: Footprints, i: int, fast, slow) -> bool:
    """Whether a pixel is in the foreground of box i."""
    offset = np.array([fast + 0.5 - every.fast[i], slow + 0.5 - every.slow[i]])
    return bool((np.abs(foregrounds.axes[i] @ offset) <= foregrounds.half_px[i]).all())


def test_pack_equals_a_loop_over_pixels():
    rng = np.random.default_rng(0)
    image = rng.random(SHAPE).astype(np.float32)
    mask = rng.random(SHAPE) > 0.1
    panel = np.array([0, 1, 1, 0])
    bbox = np.array([[10, 14, 10, 13], [0, 3, 28, 30], [37, 40, 0, 5], [20, 21, 20, 21]])
    every = boxes(bbox, panel)
    angle = np.deg2rad([0.0, 30.0, 45.0, 90.0])
    along = np.array([np.cos(angle), np.sin(angle)]).T
    across = np.array([-np.sin(angle), np.cos(angle)]).T
    foregrounds = Footprints(np.stack([along, across], axis=1), np.tile([1.9, 0.8], (4, 1)))
    packed = shoeboxes.pack(image, mask, every, foregrounds, np.ones(4, bool), border=2)
    photons = []
    valid = []
    foreground = []
    first = []
    for i, (p, (f0, f1, s0, s1)) in enumerate(zip(panel, bbox, strict=True)):
        first.append(len(photons))
        for slow in range(s0 - 2, s1 + 2):
            for fast in range(f0 - 2, f1 + 2):
                if 0 <= slow < SHAPE[1] and 0 <= fast < SHAPE[2]:
                    photons.append(image[p, slow, fast])
                    valid.append(mask[p, slow, fast])
                    in_box = f0 <= fast < f1 and s0 <= slow < s1
                    foreground.append(in_box and is_within(every, foregrounds, i, fast, slow))
    assert np.array_equal(packed.photons, photons)
    assert np.array_equal(packed.valid, valid)
    assert np.array_equal(packed.foreground, foreground)
    assert np.array_equal(packed.first_pixel, first)
    assert not packed.overlap.any()
    assert packed.bbox.tolist() == [
        [8, 16, 8, 15],
        [0, 5, 26, 30],
        [35, 40, 0, 7],
        [18, 23, 18, 23],
    ]


def test_nothing_to_pack():
    one = boxes([[1, 4, 1, 4]], np.zeros(1, int))
    packed = shoeboxes.pack(
        np.zeros(SHAPE),
        np.ones(SHAPE, bool),
        one,
        rectangles(one, 1.0),
        np.zeros(1, bool),
        border=3,
    )
    assert packed.photons.shape == (0,) and packed.bbox.shape == (0, 4)


def test_chosen_is_half_open_and_strong_needs_an_intensity():
    d = np.array([2.0, 2.1, 2.3, 2.3, 2.3, 2.5])
    strength = np.array([9.0, 9.0, 1.0, 9.0, 9.0, 9.0])
    flags = np.array([0, 0, 0, ReflectionFlag.SATURATED, ReflectionFlag.EDGE, 0])
    inside = shoeboxes.chosen(d, strength, flags, d_min=2.1, d_max=2.5)
    assert inside.tolist() == [False, True, True, True, True, False]
    strong = shoeboxes.chosen(d, strength, flags, d_min=2.1, d_max=2.5, min_i_over_sigma=2.0)
    assert strong.tolist() == [False, True, False, False, True, False]


def drawn_boxes(n: int) -> shoeboxes.Boxes:
    """Boxes of three lattices, of which many overlap."""
    rng = np.random.default_rng(4)
    corner = np.stack([rng.integers(0, 33, n), rng.integers(0, 23, n)])
    size = rng.integers(3, 8, (2, n))
    low_fast, low_slow = corner
    high_fast, high_slow = corner + size
    return boxes(
        np.stack([low_fast, high_fast, low_slow, high_slow], axis=1),
        panel=rng.integers(0, 2, n),
        lattice=rng.choice(3, n, p=[0.6, 0.3, 0.1]),
        centroid=corner + rng.random((2, n)) * size,
    )


def test_overlaps_equal_a_loop_over_pixels():
    """The third lattice has no shoebox, but its reflections are there."""
    n = 60
    every = drawn_boxes(n)
    lattice = every.lattice
    selected = (lattice < 2) & (np.random.default_rng(5).random(n) < 0.8)
    foregrounds = rectangles(every, 1.0)
    packed = shoeboxes.pack(
        np.zeros(SHAPE), np.ones(SHAPE, bool), every, foregrounds, selected, border=1
    )
    rows = np.flatnonzero(selected)
    grown = shoeboxes.widened(every.bbox, 1, SHAPE[1:])

    def is_inside(box, fast, slow):
        return box[0] <= fast < box[1] and box[2] <= slow < box[3]

    def overlap(i: int, fast: int, slow: int) -> int:
        """The bits of a pixel of shoebox i."""
        on_panel = [j for j in range(n) if every.panel[j] == every.panel[i]]
        covering = [
            j
            for j in on_panel
            if j in rows and lattice[j] == lattice[i] and is_inside(grown[j], fast, slow)
        ]
        away = [np.hypot(fast + 0.5 - every.fast[j], slow + 0.5 - every.slow[j]) for j in covering]
        foreign = [
            j
            for j in on_panel
            if lattice[j] != lattice[i]
            and is_inside(every.bbox[j], fast, slow)
            and is_within(every, foregrounds, j, fast, slow)
        ]
        bits = Overlap.SHARED if len(covering) > 1 else 0
        bits |= Overlap.ELSEWHERE if covering[int(np.argmin(away))] != i else 0
        return bits | (Overlap.FOREIGN if foreign else 0)

    expected = [
        overlap(i, fast, slow)
        for i in rows
        for slow in range(grown[i][2], grown[i][3])
        for fast in range(grown[i][0], grown[i][1])
    ]
    np.testing.assert_array_equal(packed.overlap, expected)
    assert set(expected) == {0, 1, 3, 4, 5, 7}


def test_a_pixel_counts_once_where_centroids_are_equally_near():
    every = boxes([[10, 14, 10, 14], [10, 14, 10, 14]], np.zeros(2, int))
    packed = shoeboxes.pack(
        np.zeros(SHAPE),
        np.ones(SHAPE, bool),
        every,
        rectangles(every, 1.0),
        np.ones(2, bool),
        border=0,
    )
    first = [Overlap.SHARED] * 16
    second = [Overlap.SHARED | Overlap.ELSEWHERE] * 16
    assert packed.overlap.tolist() == first + second


def test_foregrounds_are_what_integration_summed():
    """Spots lie on each other, some pixels are masked, and two lattices share the image."""
    rng = np.random.default_rng(8)
    mask = rng.random((1, 200, 220)) > 0.05
    image = rng.poisson(4.0, mask.shape).astype(np.float32)
    n = 80
    detector = Detector(
        origin_mm=np.array([[-11.0, 10.0, -100.0]]),
        fast=np.array([[1.0, 0.0, 0.0]]),
        slow=np.array([[0.0, -1.0, 0.0]]),
        pixel_mm=np.float64(0.1),
        shape=mask.shape[1:],
    )
    zeros = dict.fromkeys(Predicted._fields, np.zeros(n))
    predicted = Predicted(
        **zeros
        | {
            "panel": np.zeros(n, int),
            "fast": rng.uniform(5, 215, n),
            "slow": rng.uniform(5, 195, n),
            "radial_px": rng.uniform(1.0, 4.0, n),
            "transverse_px": rng.uniform(0.5, 2.0, n),
        }
    )
    noise = Noise(readout_photons=1.0, calibration_error=0.0)
    reflections = integration.integrate(image, mask, predicted, detector, noise=noise)
    every = shoeboxes.Boxes(
        lattice=np.arange(n) % 2,
        panel=reflections.panel,
        fast=reflections.fast,
        slow=reflections.slow,
        bbox=reflections.bbox,
    )
    axes = radial_axes(detector, reflections.panel, reflections.fast, reflections.slow)
    foregrounds = Footprints(axes, reflections.half_px)
    packed = shoeboxes.pack(image, mask, every, foregrounds, np.ones(n, bool), border=2)
    first = np.append(packed.first_pixel, len(packed.photons))
    is_summed = packed.foreground & packed.valid
    n_summed = [is_summed[i:j].sum() for i, j in pairwise(first)]

    assert n_summed == reflections.n_foreground.tolist()
    assert (packed.foreground & (packed.overlap & Overlap.FOREIGN > 0)).any(), "spots meet"
