"""`spreadflow start`: from images to a configuration that works as it is written."""

import json
import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

from spreadflow import cli
from spreadflow.config import check_ready, for_stage, load, section
from spreadflow.errors import Outcome
from spreadflow.io import images, store
from spreadflow.io.lattices import dials
from spreadflow.parallel import World
from spreadflow.physics.symmetry import misorientation
from spreadflow.products import Index
from spreadflow.stages import index, level0

THERMOLYSIN = ["--cell", *["92.9", "92.9", "130.3", "90", "90", "120"], "--space-group", "P 61 2 2"]
RAYONIX = ["--cell", *["42.1", "76.1", "102.4", "90", "90", "90"], "--space-group", "P 21 21 21"]
TINY = ["--cell", *["78", "78", "38", "90", "90", "90"], "--space-group", "P 43 21 2"]
HEADER_MM = 130.107


def started(pattern: str, folder: Path, *words: str) -> Path:
    """Start a run `r` in a folder; return its configuration, checked as before the first job."""
    config = folder / "r.yaml"
    places = ["--run", "r", "--data", str(folder / "data"), "--config", str(config)]
    assert cli.main(["start", pattern, *words, *places]) == 0
    check_ready(load(config))
    return config


def indexed(config: Path) -> tuple[Path, Index]:
    """Index the images of a configuration, which is not touched; return the product and its
    tables.
    """
    product = config.with_suffix(".h5")
    manifest = load(config).runs["r"].images
    own = for_stage(section(load(config), "index", "r"), "index")
    index.run(own, images=manifest, geometry=None, out=product, world=World(1), word="index")
    return product, store.read(product, Index, [Index.shots, Index.lattices])


@pytest.fixture(scope="module")
def thermolysin(real_stills, tmp_path_factory):
    """Configuration, product and its tables of the two stills."""
    folder = tmp_path_factory.mktemp("thermolysin")
    config = started(str(real_stills / "thermolysin_cspad" / "*.cbf"), folder, *THERMOLYSIN)
    return config, *indexed(config)


@pytest.mark.stage
def test_both_lattices_of_thermolysin_are_found(thermolysin):
    """DIALS: 93.446 131.28 and 93.435 131.08 Å, at a gain set by hand."""
    config, _, tables = thermolysin
    manifest = images.read_manifest(load(config).runs["r"].images)
    assert 8.0 < manifest.adu_per_photon < 9.5, "the peak that one sees is at 8.5 to 9"
    assert tables.shots.outcome.tolist() == [Outcome.INDEXED] * 2
    assert set(tables.lattices.shot) == {0, 1}
    lengths = tables.lattices.cell[:, [0, 2]]
    np.testing.assert_allclose(lengths, [[93.44, 131.2]] * len(lengths), rtol=0.003)
    print("seconds of a still, the first with compilation:", tables.shots.seconds)


@pytest.mark.stage
def test_level0_keeps_the_distance_of_the_header(thermolysin, tmp_path):
    config, product, _ = thermolysin
    own = for_stage(section(load(config), "level0"), "level0")
    level0.run(own, index=[product], out=tmp_path / "level0.expt", world=World(1))
    refined = dials.read_expt(tmp_path / "level0.expt")
    distance_mm = -refined.origin_mm[:, 2].mean()
    assert distance_mm == pytest.approx(HEADER_MM, abs=0.3)


@pytest.mark.stage
def test_lattices_of_thermolysin_are_turned_as_those_of_dials(thermolysin, real_stills, tmp_path):
    """At the gain and threshold that DIALS' own test of these files sets."""
    program = shutil.which("dials.stills_process")
    if program is None:
        pytest.skip("no dials.stills_process on PATH")
    _, _, tables = thermolysin
    stub = "class bandpass_gaussian:\n    pass\n"
    (tmp_path / "xfel_mono_sim_ext.py").write_text(stub)
    (tmp_path / "still.phil").write_text(
        "spotfinder.filter.min_spot_size=2\n"
        "spotfinder.threshold.dispersion.gain=25\n"
        "spotfinder.threshold.dispersion.global_threshold=100\n"
        "indexing.known_symmetry.space_group=P6122\n"
        "indexing.known_symmetry.unit_cell=92.9,92.9,130.4,90,90,120\n"
        "indexing.stills.refine_candidates_with_known_symmetry=False\n"
    )
    stills = sorted((real_stills / "thermolysin_cspad").glob("*.cbf"))
    path = f"PYTHONPATH={tmp_path}:$PYTHONPATH"
    command = f"{path} exec {program} {' '.join(map(str, stills))} still.phil mp.nproc=1"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    of_dials = {}
    for found in tmp_path.glob("*_integrated.expt"):
        tree = json.loads(found.read_text())
        for experiment in tree["experiment"]:
            crystal = tree["crystal"][experiment["crystal"]]
            (image,) = tree["imageset"][experiment["imageset"]]["images"]
            axes = [crystal[f"real_space_{name}"] for name in "abc"]
            of_dials[stills.index(Path(image))] = np.linalg.inv(np.array(axes, float))
    assert of_dials.keys() == {0, 1}, done.stdout[-2000:] + done.stderr[-2000:]
    for number, A in of_dials.items():
        own = tables.lattices.A[tables.lattices.shot == number]
        turns = [misorientation(one, A, "P 61 2 2") for one in own]
        print(f"turned from DIALS: {np.degrees(min(turns)):.3f} degrees")
        assert np.degrees(min(turns)) < 0.1


@pytest.mark.stage
def test_the_weak_rayonix_still_is_indexed(real_stills, tmp_path):
    """DIALS: 42.06 76.12 102.39 Å with 51 spots, at a gain of 0.6 set by hand."""
    config = started(str(real_stills / "rayonix340" / "*.cbf"), tmp_path, *RAYONIX)
    _, tables = indexed(config)
    assert tables.shots.outcome.tolist() == [Outcome.INDEXED]
    assert tables.lattices.n_indexed[0] >= 25
    lengths = tables.lattices.cell[0, :3]
    np.testing.assert_allclose(lengths, [42.1, 76.1, 102.4], rtol=0.01)


@pytest.mark.long
def test_stills_of_another_simulator_are_indexed(shared_data, tmp_path):
    """Their pedestal of 10 is stated nowhere; a readout noise of 1 hides one of these."""
    cell = ["67.2", "59.8", "47.2", "90", "110.3", "90"]
    words = ["--cell", *cell, "--space-group", "C 1 2 1"]
    config = started(str(shared_data / "nanobragg_c2" / "*.nxs"), tmp_path, *words)
    manifest = images.read_manifest(load(config).runs["r"].images)
    assert manifest.offset_adu == pytest.approx(9.0, abs=0.5)
    assert manifest.adu_per_photon == 1.0
    assert manifest.bandwidth is None, "the files hold spectra"
    _, tables = indexed(config)
    assert np.mean(tables.shots.outcome == Outcome.INDEXED) > 0.9
    np.testing.assert_allclose(tables.lattices.cell[:, 1], 59.8, rtol=0.02)


@pytest.mark.stage
def test_small_stills_are_indexed_and_blanks_are_not(tiny_run, tmp_path):
    """Shots: lattice, blank, saturated, all zero, unreadable, without spectrum, two, lattice."""
    folder = tiny_run["manifest"].parent
    config = started(str(folder / "tiny.h5"), tmp_path, *TINY)
    _, tables = indexed(config)
    n_lattices = np.bincount(tables.lattices.shot, minlength=8)
    assert n_lattices.tolist() == [1, 0, 0, 0, 0, 0, 2, 1]
    assert load(config).cells.min_samples == 2, "the run has few shots"


GEOM = """photon_energy = 7120 eV
adu_per_photon = 1
clen = 0.09
res = 3333.3333333
data = /images
dim0 = %
dim1 = ss
dim2 = fs
p/min_fs = 0
p/max_fs = 511
p/min_ss = 0
p/max_ss = 511
p/corner_x = 256
p/corner_y = 256
p/fs = -x
p/ss = -y
"""
"""The detector of the small stills."""


@pytest.mark.stage
def test_cxi_stills_are_indexed_by_the_geometry_that_is_named(tiny_run, tmp_path):
    """Those of the small stills that have lattices; the header of an NXmx file is not there."""
    small = images.open_image(tiny_run["manifest"].parent / "tiny.h5")
    with h5py.File(tmp_path / "a.cxi", "w") as f:
        f["images"] = np.concatenate([small.frame(number) for number in (0, 6, 7)])
    (tmp_path / "a.geom").write_text(GEOM)
    words = [*TINY, "--geometry", str(tmp_path / "a.geom")]
    config = started(str(tmp_path / "a.cxi"), tmp_path, *words)
    manifest = load(config).runs["r"].images
    assert Path(images.read_manifest(manifest).geometry).name == "a.geom"
    detector = images.Source(manifest).detector
    np.testing.assert_allclose(detector.origin_mm, small.detector.origin_mm, atol=1e-6)
    _, tables = indexed(config)
    assert set(tables.lattices.shot) == {0, 1, 2}


@pytest.fixture(scope="module")
def plain(tiny_run, tmp_path_factory):
    """A folder with a file of the small stills."""
    folder = tmp_path_factory.mktemp("plain") / "beam time"
    folder.mkdir()
    shutil.copy(tiny_run["manifest"].parent / "tiny.h5", folder)
    return folder


@pytest.mark.stage
def test_what_is_missing_is_said_and_refused_before_the_first_job(
    plain, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["start", str(plain / "*.h5")]) == 0
    printed = capsys.readouterr().out
    assert "First set index.space_group and index.cell in beam_time.yaml" in printed
    assert "snakemake --cores all --configfile beam_time.yaml" in printed
    assert "# cell: SET THIS" in (tmp_path / "beam_time.yaml").read_text()
    assert cli.main(["start", str(plain / "*.h5")]) == 4, "nothing is overwritten"
    assert "no file of this name" in capsys.readouterr().err
    (tmp_path / "beam_time.yaml").unlink()
    shutil.copy(plain / "tiny.h5", tmp_path / "other.h5")
    assert cli.main(["start", str(tmp_path / "other.h5"), "--run", "beam_time"]) == 4
    assert "a run of this name is there" in capsys.readouterr().err
    assert cli.main(["start", str(plain / "*.h5")]) == 0, "the same images, once more"


@pytest.mark.parametrize("name", ["..", "a/b", ".hidden", "two words"])
def test_a_name_that_is_no_folder_is_refused_before_images_are_read(tmp_path, capsys, name):
    (tmp_path / "a.cbf").touch()
    assert cli.main(["start", str(tmp_path / "a.cbf"), "--run", name, "--data", "d"]) == 3
    assert "--run: trial: expected" in capsys.readouterr().err
    assert not Path("d").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--space-group", "P 1"], "both, or neither"),
        ([*TINY[:-1], "P 61 2 2"], "90 90 120"),
        ([*TINY[:-1], "P 7"], "a space group gemmi knows"),
    ],
)
def test_wrong_crystals_are_refused_before_images_are_read(
    plain, tmp_path, capsys, words, sentence
):
    places = ["--run", "r", "--data", str(tmp_path), "--config", str(tmp_path / "r.yaml")]
    assert cli.main(["start", str(plain / "*.h5"), *words, *places]) == 3
    assert sentence in capsys.readouterr().err


def test_no_image_is_one_sentence(tmp_path, capsys):
    assert cli.main(["start", str(tmp_path / "*.cbf")]) == 4
    assert "at least one image file" in capsys.readouterr().err
