"""Shoeboxes against loops over pixels."""

import numpy as np

from spreadflow.analysis.pixels import shoeboxes
from spreadflow.models import Overlap, ReflectionFlag

SHAPE = (2, 30, 40)


def boxes(bbox, panel, lattice=None, centroid=None) -> shoeboxes.Boxes:
    bbox = np.asarray(bbox)
    fast, slow = (bbox[:, ::2] + bbox[:, 1::2]).T / 2 if centroid is None else centroid
    return shoeboxes.Boxes(
        np.zeros(len(bbox), int) if lattice is None else lattice, panel, fast, slow, bbox
    )


def test_pack_equals_a_loop_over_pixels():
    rng = np.random.default_rng(0)
    image = rng.random(SHAPE).astype(np.float32)
    mask = rng.random(SHAPE) > 0.1
    panel = np.array([0, 1, 1, 0])
    bbox = np.array([[10, 14, 10, 13], [0, 3, 28, 30], [37, 40, 0, 5], [20, 21, 20, 21]])
    packed = shoeboxes.pack(image, mask, boxes(bbox, panel), np.ones(4, bool), border=2, frame=1)
    photons = []
    valid = []
    foreground = []
    first = []
    for p, (f0, f1, s0, s1) in zip(panel, bbox, strict=True):
        first.append(len(photons))
        for slow in range(s0 - 2, s1 + 2):
            for fast in range(f0 - 2, f1 + 2):
                if 0 <= slow < SHAPE[1] and 0 <= fast < SHAPE[2]:
                    photons.append(image[p, slow, fast])
                    valid.append(mask[p, slow, fast])
                    core = (
                        range(f0 + (f0 > 0), f1 - (f1 < 40)),
                        range(s0 + (s0 > 0), s1 - (s1 < 30)),
                    )
                    foreground.append(fast in core[0] and slow in core[1])
    assert np.array_equal(packed["photons"], photons)
    assert np.array_equal(packed["valid"], valid)
    assert np.array_equal(packed["foreground"], foreground)
    assert np.array_equal(packed["first_pixel"], first)
    assert not packed["overlap"].any()
    assert packed["bbox"].tolist() == [
        [8, 16, 8, 15],
        [0, 5, 26, 30],
        [35, 40, 0, 7],
        [18, 23, 18, 23],
    ]


def test_nothing_to_pack():
    every = boxes([[1, 4, 1, 4]], np.zeros(1, int))
    packed = shoeboxes.pack(
        np.zeros(SHAPE), np.ones(SHAPE, bool), every, np.zeros(1, bool), border=3, frame=4
    )
    assert packed["photons"].shape == (0,) and packed["bbox"].shape == (0, 4)


def test_chosen_is_half_open_and_strong_needs_an_intensity():
    d = np.array([2.0, 2.1, 2.3, 2.3, 2.3, 2.5])
    strength = np.array([9.0, 9.0, 1.0, 9.0, 9.0, 9.0])
    flags = np.array([0, 0, 0, ReflectionFlag.SATURATED, ReflectionFlag.EDGE, 0])
    every = shoeboxes.chosen(d, strength, flags, d_min=2.1, d_max=2.5)
    assert every.tolist() == [False, True, True, True, True, False]
    strong = shoeboxes.chosen(d, strength, flags, d_min=2.1, d_max=2.5, min_i_over_sigma=2.0)
    assert strong.tolist() == [False, True, False, False, True, False]


def test_overlaps_equal_a_loop_over_pixels():
    """Three lattices, the third of which gives no shoebox but is there; many boxes overlap."""
    rng = np.random.default_rng(4)
    n = 60
    corner = np.stack([rng.integers(0, 33, n), rng.integers(0, 23, n)])
    size = rng.integers(3, 8, (2, n))
    bbox = np.stack([corner[0], corner[0] + size[0], corner[1], corner[1] + size[1]], axis=1)
    every = boxes(
        bbox,
        rng.integers(0, 2, n),
        rng.choice(3, n, p=[0.6, 0.3, 0.1]),
        corner + rng.random((2, n)) * size,
    )
    mine = (every.lattice < 2) & (rng.random(n) < 0.8)
    packed = shoeboxes.pack(np.zeros(SHAPE), np.ones(SHAPE, bool), every, mine, border=1, frame=1)
    rows = np.flatnonzero(mine)
    at = 0

    def inside(box, fast, slow):
        return box[0] <= fast < box[1] and box[2] <= slow < box[3]

    grown = {i: shoeboxes.widened(bbox[i : i + 1], 1, SHAPE[1:])[0] for i in rows}
    limits = np.array([0, 40, 0, 30])
    core = np.where(bbox == limits, bbox, bbox + np.array([1, -1, 1, -1]))
    seen = set()
    for i in rows:
        for slow in range(grown[i][2], grown[i][3]):
            for fast in range(grown[i][0], grown[i][1]):
                same = [
                    j
                    for j in rows
                    if every.lattice[j] == every.lattice[i] and every.panel[j] == every.panel[i]
                ]
                covering = [j for j in same if inside(grown[j], fast, slow)]
                away = [
                    np.hypot(fast + 0.5 - every.fast[j], slow + 0.5 - every.slow[j])
                    for j in covering
                ]
                expected = Overlap.SHARED if len(covering) > 1 else 0
                expected |= Overlap.ELSEWHERE if covering[int(np.argmin(away))] != i else 0
                others = [j for j in range(n) if every.lattice[j] != every.lattice[i]]
                if any(
                    every.panel[j] == every.panel[i] and inside(core[j], fast, slow) for j in others
                ):
                    expected |= Overlap.FOREIGN
                assert packed["overlap"][at] == expected
                seen.add(expected)
                at += 1
    assert at == len(packed["overlap"]) and seen == {0, 1, 3, 4, 5, 7}


def test_a_pixel_counts_once_where_centroids_are_equally_near():
    every = boxes([[10, 14, 10, 14], [10, 14, 10, 14]], np.zeros(2, int))
    packed = shoeboxes.pack(
        np.zeros(SHAPE), np.ones(SHAPE, bool), every, np.ones(2, bool), border=0, frame=0
    )
    assert (
        packed["overlap"].tolist()
        == [Overlap.SHARED] * 16 + [Overlap.SHARED | Overlap.ELSEWHERE] * 16
    )
