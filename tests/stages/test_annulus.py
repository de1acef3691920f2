"""The stage annulus: its counts and pixels are those of a plain loop over reindex products and
images.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from spreadflow.config import STAGE_CONFIGS, IndexSection
from spreadflow.errors import ConfigError, FileError, LatticeOutcome, Outcome
from spreadflow.io import store
from spreadflow.models import Detector, Overlap, Shot, Spectrum
from spreadflow.parallel import World
from spreadflow.products import SHOEBOXES, Annulus, Cells, Reindex
from spreadflow.stages import annulus as stage

SHAPE = (2, 60, 80)
DETECTOR = Detector(
    origin_mm=np.array([[-10.0, 3.0, -60.0], [1.0, 3.0, -60.0]]),
    fast=np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]),
    slow=np.array([[0.0, -1.0, 0.0], [0.0, -1.0, 0.0]]),
    pixel_mm=np.float64(0.1),
    shape=SHAPE[1:],
)
RUNS = {"one": 20, "two": 7}
CHANNELS = {"one": 5, "two": 1}
CARRIED = ("fast_obs", "slow_obs", "energy_ev", "delta_psi_rad", "partiality", "background")


def shot(run: str, number: int) -> Shot:
    rng = np.random.default_rng([len(run), ord(run[0]), number])
    image = rng.poisson(5.0, SHAPE).astype(np.float32)
    mask = rng.random(SHAPE) > 0.05
    n = CHANNELS[run]
    return Shot(
        1000 * len(run) + ord(run[0]) * 7 + number,
        image,
        mask,
        Spectrum(7100.0 + np.arange(n), rng.random(n)),
        0.0,
    )


@pytest.fixture
def source(monkeypatch):
    """Images that need no files; `lost` names shots that can no longer be read, `opened` those that
    were.
    """
    state = SimpleNamespace(lost=set(), opened=[])

    class Source:
        def __init__(self, manifest, _):
            self.run = self.identity = manifest.parent.name
            self.polarization = {"one": 1.0, "two": 0.9}[self.run]
            self.spectra = None
            self.detector = DETECTOR

        def read(self, number: int):
            state.opened.append((self.run, number))
            return (
                Outcome.UNREADABLE if (self.run, number) in state.lost else shot(self.run, number)
            )

    monkeypatch.setattr(stage, "open_indexed", Source)
    return state


@pytest.fixture
def inputs(tmp_path, filled):
    """Manifests, reindex products in parts of 8 shots, and a cells product that accepts about half
    of the lattices.
    """
    rng = np.random.default_rng(1)
    images = []
    reindex = []
    rows = []
    for r, (run, n) in enumerate(RUNS.items()):
        images.append(tmp_path / run / "manifest.json")
        images[-1].parent.mkdir()
        images[-1].write_text(run)
        ids = np.array([shot(run, i).shot_id for i in range(n)])
        blocks = [range(i, min(i + 8, n)) for i in range(0, n, 8)]
        path = tmp_path / run / "reindex.h5"
        parts = store.Parts(path, Reindex, run, [ids[b] for b in blocks])
        for b, block in enumerate(blocks):
            # some shots have none, some two lattices
            of_shot = np.sort(rng.integers(0, len(block), len(block)))
            parts.write(b, reflections(filled, rng, ids[block], of_shot))
            rows += [
                (r, int(ids[block][s]), int((of_shot[:i] == s).sum()))
                for i, s in enumerate(of_shot)
            ]
        config = IndexSection().model_dump(mode="json")
        parts.finish(World(), run=run, config=config, detector={}, manifest=str(images[-1]))
        reindex.append(path)
    is_accepted = rng.random(len(rows)) < 0.5
    outcome = np.where(is_accepted, LatticeOutcome.ACCEPTED, LatticeOutcome.NOISE)
    first_run = [i for i, (r, *_) in enumerate(rows) if r == 0]
    outcome[first_run[:8]] = LatticeOutcome.NOISE  # a block without any
    planted = {
        f"lattices/{name}": [row[i] for row in rows]
        for i, name in enumerate(("run", "shot_id", "k"))
    }
    planted["lattices/outcome"] = outcome
    planted["lattices/setting"] = np.where(rng.random(len(rows))[:, None, None] < 0.3, OTHER, SAME)
    sizes = {"lattices": len(rows), "clusters": 1, "features": 1}
    product = filled("cells", sizes, planted)
    store.write(tmp_path / "cells.h5", product, key="cells", runs=list(RUNS))
    return images, reindex, tmp_path / "cells.h5"


SAME = np.eye(3)
OTHER = np.array([[-1, 0, 0], [0, -1, 0], [0, 0, 1]])
"""settings of lattices: Miller indices on the shared axes from those of reindex"""


def reflections(filled, rng, ids, of_shot) -> Reindex:
    """Return one reindex part: 30 reflections per lattice anywhere on the panels, d
    of 1.9 to 2.7 Å.
    """
    n = 30 * len(of_shot)
    corner = np.stack([rng.integers(0, 68, n), rng.integers(0, 48, n)], axis=1)
    size = rng.integers(9, 13, (n, 2))
    planted = {
        "shots/shot_id": ids,
        "lattices/shot": of_shot,
        "lattices/shot_id": ids[of_shot],
        "lattices/k": [(of_shot[:i] == s).sum() for i, s in enumerate(of_shot)],
        "lattices/A": rng.random((len(of_shot), 3, 3)),
        "reflections/lattice": np.repeat(np.arange(len(of_shot)), 30),
        "reflections/hkl": rng.integers(-9, 9, (n, 3)),
        "reflections/d": rng.uniform(1.9, 2.7, n),
        "reflections/panel": rng.integers(0, 2, n),
        "reflections/bbox": np.stack(
            [corner[:, 0], corner[:, 0] + size[:, 0], corner[:, 1], corner[:, 1] + size[:, 1]], 1
        ),
        "reflections/fast": corner[:, 0] + size[:, 0] * rng.random(n),
        "reflections/slow": corner[:, 1] + size[:, 1] * rng.random(n),
        **{f"reflections/{name}": rng.random(n) for name in CARRIED},
        "reflections/intensity": rng.normal(20, 10, n),
        "reflections/sigma": rng.uniform(2, 5, n),
        "reflections/half_px": rng.uniform(1.0, 4.0, (n, 2)),
    }
    sizes = {"shots": len(ids), "spots": 0, "lattices": len(of_shot), "reflections": n}
    return filled("reindex", sizes, planted)


def run(inputs, out, word="annulus", **section):
    images, reindex, cells = inputs
    config = STAGE_CONFIGS[word].model_validate({word: section})
    stage.run(
        config, images=images, reindex=reindex, cells=cells, out=out, world=World(), word=word
    )
    return store.read(out, SHOEBOXES[word])


def brute_force(inputs, border: int, min_i_over_sigma=None) -> list[tuple]:
    """Return (shot_id, k, hkl, photons, valid) of every reflection, by a loop over everything."""
    _, reindex, cells = inputs
    lattices = store.read(cells, Cells).lattices.as_dict()
    out = []
    names = ("run", "shot_id", "k", "outcome", "setting")
    accepted = {
        (int(r), int(i), int(k)): setting
        for r, i, k, end, setting in zip(*(lattices[name] for name in names), strict=True)
        if end == LatticeOutcome.ACCEPTED
    }
    for r, (name, path) in enumerate(zip(RUNS, reindex, strict=True)):
        c = store.read(path, Reindex)
        for j, lattice in enumerate(c.reflections.lattice):
            identity = (r, int(c.lattices.shot_id[lattice]), int(c.lattices.k[lattice]))
            weak = (
                c.reflections.intensity[j] < (min_i_over_sigma or -np.inf) * c.reflections.sigma[j]
            )
            if identity not in accepted or not 2.1 <= c.reflections.d[j] < 2.5 or weak:
                continue
            image = shot(name, int(c.lattices.shot[lattice]))
            f0, f1, s0, s1 = c.reflections.bbox[j]
            box = (
                c.reflections.panel[j],
                slice(max(s0 - border, 0), s1 + border),
                slice(max(f0 - border, 0), f1 + border),
            )
            out.append(
                (
                    *identity[1:],
                    tuple(accepted[identity] @ c.reflections.hkl[j]),
                    image.image[box].ravel(),
                    image.mask[box].ravel(),
                )
            )
    return out


@pytest.mark.parametrize(("border", "strong"), [(3, None), (0, 2.0)])
def test_counts_and_pixels_equal_brute_force(inputs, source, tmp_path, border, strong):
    c = run(inputs, tmp_path / "annulus.h5", border_px=border, min_i_over_sigma=strong)
    expected = brute_force(inputs, border, strong)
    assert len(c.reflections) == len(expected) > 50
    assert (np.diff(c.reflections.lattice) >= 0).all(), "in the order of their lattices"
    assert len(c.pixels.photons) == sum(len(e[3]) for e in expected)

    ends = [*c.reflections.first_pixel[1:], len(c.pixels.photons)]
    found = {}
    for j, lattice in enumerate(c.reflections.lattice):
        box = slice(c.reflections.first_pixel[j], ends[j])
        key = (
            int(c.lattices.shot_id[lattice]),
            int(c.lattices.k[lattice]),
            tuple(c.reflections.hkl[j]),
        )
        found.setdefault(key, []).append((c.pixels.photons[box], c.pixels.valid[box]))

    for shot_id, k, hkl, photons, valid in expected:
        assert any(
            np.array_equal(p, photons) and np.array_equal(v, valid)
            for p, v in found[(shot_id, k, hkl)]
        )


def test_reflections_are_those_of_reindex_and_pixels_count_once_a_lattice(inputs, source, tmp_path):
    c = run(inputs, tmp_path / "annulus.h5")
    assert store.attributes(tmp_path / "annulus.h5", Annulus)["polarizations"] == [1.0, 0.9]

    rows = {}
    for path in inputs[1]:
        predicted = store.read(path, Reindex)
        shot_ids = predicted.lattices.shot_id[predicted.reflections.lattice]
        for shot_id, hkl, *values in zip(
            shot_ids,
            predicted.reflections.hkl,
            *(predicted.reflections.as_dict()[name] for name in CARRIED),
            strict=True,
        ):
            rows.setdefault((int(shot_id), *np.abs(hkl)), []).append(values)
    for j, lattice in enumerate(c.reflections.lattice):
        key = (int(c.lattices.shot_id[lattice]), *np.abs(c.reflections.hkl[j]))
        assert [c.reflections.as_dict()[name][j] for name in CARRIED] in rows[key]

    bbox = c.reflections.bbox
    width, height = (bbox[:, i + 1] - bbox[:, i] for i in (0, 2))
    box = np.repeat(np.arange(len(width)), width * height)
    pixel_of_box = np.arange(len(box)) - c.reflections.first_pixel[box]
    slow, fast = np.divmod(pixel_of_box, width[box])
    fast = fast + bbox[box, 0]
    slow = slow + bbox[box, 2]
    lattice = c.reflections.lattice[box]
    panel = c.reflections.panel[box]
    pixels = np.stack([lattice, panel, slow, fast], axis=1)
    counts = c.pixels.overlap & Overlap.ELSEWHERE == 0

    assert (
        len(np.unique(pixels[counts], axis=0))
        == counts.sum()
        == len(np.unique(pixels, axis=0))
        < len(pixels)
    )
    assert (c.pixels.overlap & Overlap.FOREIGN).any(), "some shots have two lattices"


def test_a_wider_range_is_the_same_stage_with_another_section(inputs, source, tmp_path):
    narrow = run(inputs, tmp_path / "annulus.h5")
    wide = run(inputs, tmp_path / "wide.h5", "wide", d_max=2.7, d_min=1.9)
    d = wide.reflections.d
    assert len(d) > 1.5 * len(narrow.reflections.d)
    inside = (d >= 2.1) & (d < 2.5)
    np.testing.assert_array_equal(wide.reflections.hkl[inside], narrow.reflections.hkl)
    np.testing.assert_array_equal(wide.lattices.A, narrow.lattices.A)


@pytest.mark.parametrize("word", ["annulus", "wide"])
def test_reflections_that_reindex_did_not_predict_are_refused(inputs, source, tmp_path, word):
    with pytest.raises(ConfigError, match=rf"{word}\.d_min: expected at least 1\.9 Å.*found 1\.8"):
        run(inputs, tmp_path / f"{word}.h5", word, d_min=1.8)


def test_a_range_without_reflections_is_refused(inputs, source, tmp_path):
    with pytest.raises(FileError, match=r"reflections in the range; found none"):
        run(inputs, tmp_path / "annulus.h5", d_max=90.0, d_min=80.0)
    assert not (tmp_path / "annulus.h5").exists()


def test_spectra_go_with_their_lattices(inputs, source, tmp_path):
    """A run with fewer channels is padded with empty ones."""
    c = run(inputs, tmp_path / "annulus.h5")
    assert np.array_equal(c.spectra.shot_id[c.lattices.spectrum], c.lattices.shot_id)

    numbers = {shot(name, i).shot_id: (name, i) for name, n in RUNS.items() for i in range(n)}
    for shot_id, energies, photons in zip(
        c.spectra.shot_id, c.spectra.energies_ev, c.spectra.photons, strict=True
    ):
        name, number = numbers[int(shot_id)]
        spectrum = shot(name, number).spectrum
        assert np.array_equal(photons[: CHANNELS[name]], spectrum.photons)
        assert np.array_equal(energies[: CHANNELS[name]], spectrum.energies_ev)
        assert not photons[CHANNELS[name] :].any()


def test_only_shots_with_accepted_lattices_are_opened_and_finished_blocks_kept(
    inputs, source, tmp_path
):
    out = tmp_path / "annulus.h5"
    c = run(inputs, out)
    ids = {shot(name, number).shot_id for name, number in source.opened}
    assert ids == set(c.lattices.shot_id.tolist())

    source.opened.clear()
    store.part_path(out, 1).unlink()
    again = run(inputs, out)
    assert len(source.opened) <= 8 + len(RUNS)
    for name, column in c.datasets().items():
        np.testing.assert_array_equal(again.datasets()[name], column, err_msg=name)


def test_an_image_lost_since_reindex_is_said(inputs, source, tmp_path):
    source.lost = {("two", i) for i in range(7)}
    with pytest.raises(FileError, match=r"as in reindex; found unreadable"):
        run(inputs, tmp_path / "annulus.h5")


def test_cells_of_other_lattices_are_refused(inputs, source, tmp_path):
    images, reindex, cells = inputs
    with pytest.raises(FileError, match="Rerun cells"):
        others = store.read(cells, Cells)
        others.lattices.shot_id += np.uint64(1)
        store.write(tmp_path / "other.h5", others, key="other", runs=list(RUNS))
        run((images, reindex, tmp_path / "other.h5"), tmp_path / "annulus.h5")
