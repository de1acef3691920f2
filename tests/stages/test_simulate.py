"""The stage simulate: what it writes is what was asked for, and a rerun does only what is
missing.
"""

import os
import threading
from contextlib import closing
from functools import partial

import numpy as np
import pytest

from lab import simulation_of
from spreadflow.config import SimulateConfig
from spreadflow.errors import ConfigError, Outcome
from spreadflow.io import images
from spreadflow.io.truth import read_truth, true_curves
from spreadflow.parallel import World
from spreadflow.physics import anomalous, geometry, mosaic, rotation, symmetry, unit_cell
from spreadflow.products import Children, Truth
from spreadflow.recipes import still
from spreadflow.stages import simulate

pytestmark = pytest.mark.stage

TREE = {
    "seed": 5,
    "runs": {
        "r": {
            "simulate": {
                "n_single": 2,
                "n_blank": 1,
                "n_double": 1,
                "n_saturated": 1,
                "n_unreadable": 1,
            }
        }
    },
    "crystal": {
        "cell": [40.0, 36.0, 30.0, 90.0, 108.0, 90.0],
        "n_domains": 6,
        "domain_ang": 1500.0,
    },
    "structure_factors": {"d_min": 2.5},
    "beam": {"n_channels": 20, "first_channel_ev": 7100.5, "channel_ev": 2.0, "envelope_ev": 6.0},
    "detector": {
        "shape": [220, 240],
        "pixel_mm": 0.4,
        "distance_mm": 60.0,
        "water_mm": 0.001,
        "air_mm": 0.0,
        "header_error_mm": [0.2, -0.1, 0.3],
        "bad_pixels": [[0, 10, 12, 0, 240]],
    },
    "simulate": {"block_shots": 4},
}


def staged(**changes) -> SimulateConfig:
    return simulation_of(TREE, changes)


def simulated(folder, config: SimulateConfig, shots: str | None = None):
    simulate.run(config, run="r", out=folder / "manifest.json", world=World(1), shots=shots)
    return folder / "manifest.json"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return simulated(tmp_path_factory.mktemp("simulate"), staged())


def test_kinds_in_order_and_what_a_reader_makes_of_them(manifest):
    source = images.Source(manifest, saturation_photons=None)
    truth = read_truth(manifest)
    assert [simulate.KINDS[k] for k in truth.shots.kind] == [
        "single", "single", "blank", "double", "saturated", "unreadable",
    ]  # fmt: skip
    np.testing.assert_array_equal(truth.shots.shot_id, source.shots["shot_id"])

    shots = [source.read(i) for i in range(6)]
    assert shots[5] is Outcome.UNREADABLE
    assert [s.saturated_fraction > 0.002 for s in shots[:5]] == [False, False, False, False, True]
    assert np.bincount(truth.lattices.shot, minlength=6).tolist() == [1, 1, 0, 2, 1, 1]
    assert not shots[0].mask[0, 10:12].any()
    assert shots[0].mask[0, 12:].all()
    assert not np.array_equal(shots[0].spectrum.photons, shots[1].spectrum.photons)


def test_the_header_is_wrong_by_what_was_asked(manifest):
    source = images.Source(manifest)
    true = geometry.shifted(source.detector, 0.2, -0.1, 0.3)
    assert geometry.beam_center(true)[0] == pytest.approx([120.5])
    assert geometry.beam_center(true)[1] == pytest.approx([110.5])
    assert geometry.distances_mm(true) == pytest.approx([60.0])


def test_truth_lies_where_the_photons_are(manifest):
    """Background-subtracted photons around the strong true spots of the first shot add up to what
    truth says.
    """
    source = images.Source(manifest)
    truth = read_truth(manifest)
    image = source.read(0).image[0]
    reflections = truth.reflections
    strong = reflections[(reflections.lattice == 0) & (reflections.photons > 2000)]
    fast = strong.fast.astype(int)
    slow = strong.slow.astype(int)
    inside = (fast > 8) & (fast < 232) & (slow > 20) & (slow < 212)
    found = []
    for f, s in zip(fast[inside], slow[inside], strict=True):
        box = image[s - 8 : s + 9, f - 8 : f + 9]
        found.append((box - np.median(box)).sum())
    photons = strong.photons[inside]
    sigma = np.sqrt(17**2 * np.median(image))

    assert len(photons) >= 5
    assert np.sum(found) == pytest.approx(photons.sum(), rel=0.05)
    np.testing.assert_allclose(found, photons, atol=5 * sigma + 0.02 * photons.max())

    A = truth.lattices.A[0]
    np.testing.assert_allclose(
        unit_cell.cell_of(A), unit_cell.radians(TREE["crystal"]["cell"]), rtol=1e-6
    )
    assert not symmetry.is_centring_absent(truth.reflections.hkl, "C 1 2 1").any()


def test_a_rerun_makes_only_what_is_missing_and_another_config_everything(tmp_path):
    config = staged(runs={"r": {"simulate": {"n_single": 3}}}, simulate={"block_shots": 1})
    out = simulated(tmp_path, config)
    files = sorted(tmp_path.glob("images/*.nxs"))
    assert len(files) == 3

    before = [f.read_bytes() for f in files]
    files[1].unlink()
    times = [os.stat(f).st_mtime_ns for f in (files[0], files[2])]
    simulated(tmp_path, config)

    assert [os.stat(f).st_mtime_ns for f in (files[0], files[2])] == times
    assert [f.read_bytes() for f in files] == before

    longer = staged(runs={"r": {"simulate": {"n_single": 2}}}, simulate={"block_shots": 1})
    simulated(tmp_path, longer)
    assert sorted(tmp_path.glob("images/*.nxs")) == files[:2]
    assert os.stat(files[0]).st_mtime_ns == times[0]

    simulated(
        tmp_path, staged(runs=longer_runs(2), simulate={"block_shots": 1}, beam={"photons": 2e12})
    )
    assert os.stat(files[0]).st_mtime_ns != times[0]
    assert images.read_manifest(out).files[0].n_frames == 1


def test_some_shots_are_those_of_the_whole_run(tmp_path):
    """Every file that holds one of the shots is written whole, and the manifest names these files
    alone; the run of all shots finds them finished.
    """
    config = staged(runs=longer_runs(7), simulate={"block_shots": 2})
    out = simulated(tmp_path, config, shots="3:5")
    files = sorted(tmp_path.glob("images/*.nxs"))
    assert [f.name for f in files] == ["r_00001.nxs", "r_00002.nxs"]
    assert [f.path for f in images.read_manifest(out).files] == [
        "images/r_00001.nxs",
        "images/r_00002.nxs",
    ]

    times = [os.stat(f).st_mtime_ns for f in files]
    simulated(tmp_path, config)
    assert [os.stat(f).st_mtime_ns for f in files] == times
    assert [f.n_frames for f in images.read_manifest(out).files] == [2, 2, 2, 1]

    whole = {f.name: f.read_bytes() for f in tmp_path.glob("images/*.nxs")}
    simulated(tmp_path, config, shots="6:")
    assert [f.n_frames for f in images.read_manifest(out).files] == [1]
    assert {f.name: f.read_bytes() for f in tmp_path.glob("images/*.nxs")} == whole


@pytest.mark.parametrize("shots", ["3", "a:b", "2:2", "0:8", "-1:3", "0:4:2", ""])
def test_shots_that_are_no_slice_of_the_run(tmp_path, shots):
    with pytest.raises(
        ConfigError, match=r"--shots: expected FIRST:END with 0 <= FIRST < END <= 7"
    ):
        simulated(tmp_path, staged(runs=longer_runs(7)), shots=shots)
    assert not list(tmp_path.iterdir())


def test_pulses_have_the_recorded_spectra(tmp_path, manifest):
    """The spectra of another run, on channels of half the width, shot by shot, and from the first
    again.
    """
    channels = {
        "n_channels": 40,
        "first_channel_ev": 7100.0,
        "channel_ev": 1.0,
        "spectra": str(manifest),
    }
    config = staged(
        runs=longer_runs(7), simulate={"block_shots": 3}, beam=channels | {"photons": None}
    )
    source = images.Source(simulated(tmp_path, config))
    bank = images.Source(manifest)
    for shot in range(7):
        taken = source.spectrum(shot)
        recorded = bank.spectrum(shot % 6)
        np.testing.assert_allclose(taken.photons.reshape(20, 2).sum(1), recorded.photons, rtol=1e-9)
        np.testing.assert_allclose(taken.photons[::2], taken.photons[1::2], rtol=1e-6)


def test_one_behind_keeps_the_order_and_passes_on_what_went_wrong():
    """Results in order, made in another thread, which ends; errors of both sides come out."""
    here = threading.get_ident()
    thread_ids = []
    n_threads = threading.active_count()

    def work(i: int) -> int:
        thread_ids.append(threading.get_ident())
        return 1 // (3 - i)

    def works(fails_at: int):
        for i in range(6):
            if i == fails_at:
                raise OSError("made wrong")
            yield partial(work, i)

    assert list(simulate.one_behind(partial(int, i) for i in range(9))) == list(range(9))
    with pytest.raises(ZeroDivisionError):
        list(simulate.one_behind(works(9)))
    with pytest.raises(OSError, match="made wrong"):
        list(simulate.one_behind(works(2)))
    assert here not in thread_ids
    assert threading.active_count() == n_threads


def longer_runs(n: int) -> dict:
    return {"r": {"simulate": {"n_single": n}}}


def test_a_tilted_multi_panel_detector_and_the_closed_form(tmp_path):
    panels = [
        {"origin_mm": [-40.0 + 41 * i, 20.0, -60.0], "fast": [1.0, 0.01, 0.02 * i]}
        for i in range(2)
    ]
    config = staged(
        runs=longer_runs(1),
        detector={"panels": panels, "shape": [100, 100], "bad_pixels": [[1, 0, 100, 50, 51]]},
        crystal={"mosaicity": "continuous"},
    )
    source = images.Source(simulated(tmp_path, config))
    shot = source.read(0)

    assert shot.image.shape == (2, 100, 100)

    truth = read_truth(source.path)
    assert set(truth.reflections.panel) == {0, 1}


def domain_rotations(truth: Truth) -> list[np.ndarray]:
    """Return the rotations (domain, 3, 3) of the domains of each lattice."""
    of_lattices = Children(truth.domains.lattice)
    return [truth.domains.rotation[of_lattices[n]] for n in range(len(truth.lattices))]


def test_every_lattice_of_every_shot_has_its_own_domains(tmp_path):
    """A lattice has as many domains as are in the beam, with an r.m.s. rotation angle of η about
    their mean, to which A belongs.
    """
    crystal = {
        "mosaicity": "per_shot",
        "n_domains": None,
        "mosaic_spread_deg": 0.2,
        "domains_per_crystal": 93.75,
    }
    runs = {"r": {"simulate": {"n_single": 4, "n_double": 2}}}
    config = staged(runs=runs, crystal=crystal, simulate={"block_shots": 3})
    path = simulated(tmp_path, config)
    truth = read_truth(path)
    source = images.Source(path)
    turns = domain_rotations(truth)

    assert [len(t) for t in turns] == [94] * 8
    assert not any(np.allclose(one, other) for i, one in enumerate(turns) for other in turns[:i])
    for each in turns:
        assert rotation.angle(rotation.mean(each)) < 1e-12

    rms = np.sqrt(np.mean([rotation.angle(each) ** 2 for each in turns]))
    sd = np.deg2rad(0.2) / np.sqrt(2 * 8 * 94)
    assert abs(rms - np.deg2rad(0.2)) < 3 * sd, "normal angles: σ/√2n"

    simulator = still.Simulator(config)
    shot_id = int(source.shots["shot_id"][4])
    own, _ = simulator.mosaics(int(source.shots["shot_id"][4]), 2)
    np.testing.assert_allclose(turns[4] @ rotation.mean(own.rotations), own.rotations, atol=1e-12)

    setting = rotation.random(simulator.rng(still.ORIENTATION, shot_id)) @ unit_cell.reciprocal(
        simulator.cell
    )
    np.testing.assert_allclose(turns[4] @ truth.lattices.A[4], own.rotations @ setting, atol=1e-12)


def test_truth_of_a_lattice_is_what_its_photons_are_of(tmp_path):
    """The photons that truth tells are those of its A, domains, N, η and scale; also after an open
    shutter.
    """
    runs = {"r": {"simulate": {"n_single": 1, "n_saturated": 1}}}
    config = staged(runs=runs, crystal={"n_domains": 3})
    path = simulated(tmp_path, config)
    truth = read_truth(path)
    source = images.Source(path)
    simulator = still.Simulator(config)
    for row, turns in enumerate(domain_rotations(truth)):
        assert len(turns) == 3
        pulse = source.spectrum(row)
        p = simulator.parameters(pulse, truth.lattices.A[row], mosaic.domains(turns))
        crystal = p.crystal._replace(
            n_cells=truth.lattices.n_cells[row], eta_rad=truth.lattices.eta_rad[row]
        )
        lattice = p._replace(crystal=crystal, scale=truth.lattices.scale[row])
        _, (spots,) = simulator.expected(pulse, [lattice])
        rows = truth.reflections.lattice == row
        photons = truth.reflections.photons[rows].sum()
        np.testing.assert_allclose(spots.photons.sum(), photons, rtol=1e-3)

    assert truth.lattices.scale[1] > 2 * truth.lattices.scale[0] == 2 * 93.75


def test_one_set_of_domains_for_all_and_none_of_a_distribution(tmp_path, manifest):
    turns = domain_rotations(read_truth(manifest))
    assert len(turns) == 6
    assert all(np.array_equal(turns[0], other) for other in turns)
    assert len(turns[0]) == TREE["crystal"]["n_domains"]

    config = staged(runs=longer_runs(1), crystal={"mosaicity": "continuous"})
    smooth = simulated(tmp_path, config)
    assert [len(each) for each in domain_rotations(read_truth(smooth))] == [0]


@pytest.mark.parametrize("psf", ["fiber", "gauss"])
def test_point_spread_and_curves_from_a_table(tmp_path, psf):
    table = tmp_path / "curve.dat"
    table.write_text("7000 -5 1\n7300 -4 3\n")
    sites = [{"atom": "FE1", "curve": str(table)}, {"atom": "FE2", "curve": "reduced"}]
    config = staged(
        runs=longer_runs(1),
        structure_factors={"sites": sites},
        recording={"psf": psf, "psf_fwhm_mm": 0.5},
    )
    sharp = staged(runs=longer_runs(1), structure_factors={"sites": sites})
    blurred = images.Source(simulated(tmp_path / "a", config)).read(0).image[0, 20:]
    plain = images.Source(simulated(tmp_path / "b", sharp)).read(0).image[0, 20:]

    assert blurred[20:-20].mean() == pytest.approx(plain[20:-20].mean(), rel=0.02)

    curves = true_curves(tmp_path / "b" / "manifest.json")
    energies = 7100.5 + 2.0 * np.arange(20)
    assert list(curves) == ["FE1", "FE2"], "what is true of the sites is told, to reports"
    np.testing.assert_allclose(
        curves["FE1"].at(energies), [-5 + (energies - 7000) / 300, 1 + (energies - 7000) / 150]
    )

    reduced = anomalous.site("Fe", "reduced", energies)
    np.testing.assert_allclose(curves["FE2"].at(energies), [reduced.real, reduced.imag])
    np.testing.assert_allclose(
        curves["FE2"].at(energies[:1] + 0.5)[0], 0.75 * reduced[0].real + 0.25 * reduced[1].real
    )

    def step(image):
        return np.diff(image[50:60, 30:60]).std()

    assert step(blurred) < 0.7 * step(plain)


def test_whatever_the_gain_a_reader_gets_photons(tmp_path):
    """2.5 ADU per photon: the same photons as with 1, but for rounding; the trusted range ends 2.5
    times earlier.
    """
    exact = {"readout_photons": 0.0, "calibration_error": 0.0}
    plain, amplified = (
        images.Source(
            simulated(
                tmp_path / str(gain),
                staged(recording=exact, detector={"quantum_gain": gain, "saturation_adu": 50_000}),
            )
        )
        for gain in (1.0, 2.5)
    )

    assert amplified.manifest.adu_per_photon == 2.5

    for i in range(4):
        one = plain.read(i)
        other = amplified.read(i)
        both = one.mask & other.mask
        assert both.mean() > 0.95
        assert one.image[both].max() > 20
        np.testing.assert_allclose(other.image[both], one.image[both], atol=0.201)  # half an ADU
        assert other.saturation_photons == (50_000 - 10) / 2.5

    assert amplified.read(4).saturated_fraction == pytest.approx(
        plain.read(4).saturated_fraction, rel=0.1
    )


def test_impossible_configurations(tmp_path):
    with pytest.raises(ConfigError, match=r"structure_factors.sites.0.atom"):
        simulated(
            tmp_path, staged(structure_factors={"sites": [{"atom": "ZN", "curve": "reduced"}]})
        )
    with pytest.raises(ConfigError, match="at least one shot"):
        simulated(tmp_path, staged(runs={"r": {"simulate": {"n_single": 0}}}))
    with pytest.raises(ConfigError, match=r"beam.jitter_ev: expected pulses within the channels"):
        simulated(tmp_path, staged(beam={"envelope_ev": 0.01, "jitter_ev": 1e4}))
    with pytest.raises(ConfigError, match=r"detector.water_mm: expected light in 5% of the pixels"):
        dark = {
            "runs": {"r": {"simulate": {"n_single": 0, "n_saturated": 1}}},
            "detector": {"water_mm": 0.0},
        }
        simulated(tmp_path, staged(**dark))
    with pytest.raises(
        ConfigError,
        match=r"crystal.domain_ang: expected a domain of 5 unit cells .* found 4 in 180",
    ):
        simulated(tmp_path, staged(crystal={"domain_ang": 180.0}))
    assert not list(tmp_path.rglob("*.nxs"))


def test_frames_are_stored_as_integers_with_the_trusted_range(manifest):
    with closing(images.open_image(manifest.parent / "images" / "r_00000.nxs")) as f:
        assert f.frame(0).dtype == np.int32
        assert f.trusted_range[1] == 2_000_000_000
        assert f.pedestal == (10.0, 1.0)
