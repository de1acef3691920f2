"""level0 on a product of index: a planted shift found again, a frozen file kept, wrong input
refused, ranks alike.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spreadflow import cli
from spreadflow.config import (
    IndexConfig,
    IndexSection,
    Level0Config,
    Level0Section,
    NoiseSection,
    RigidGroupsSection,
)
from spreadflow.errors import ConfigError, FileError
from spreadflow.io import images, store
from spreadflow.io.images import Source
from spreadflow.io.lattices import dials, dials_writer
from spreadflow.io.lattices.indexed import IndexedReflections
from spreadflow.parallel import World
from spreadflow.physics import geometry
from spreadflow.products import Index
from spreadflow.recipes import imported
from spreadflow.recipes.level0_checks import warnings_of
from spreadflow.stages import index, level0

pytestmark = pytest.mark.stage

PLANTED = (0.12, -0.09, 0.0)
"""the file's geometry is this far off, mm"""
LAUNCHER = Path(sys.prefix) / "bin" / "mpiexec"


@pytest.fixture(scope="module")
def product(tiny_run, tmp_path_factory) -> Path:
    """index.h5 of the tiny run, beside a manifest that has a shifted detector; one lattice a block
    at most.
    """
    folder = tmp_path_factory.mktemp("level0")
    wrong = geometry.shifted(Source(tiny_run["manifest"]).detector, *(-x for x in PLANTED))
    dials_writer.write_expt(folder / "wrong.expt", wrong, wavelength=1.74)
    how = {
        "cell": tiny_run["cell"],
        "space_group": tiny_run["space_group"],
        "d_min": 2.4,
        "domain_ang": 1500.0,
    }
    config = IndexConfig(
        index=IndexSection(**how, block_shots=2, n_directions=4096), recording=NoiseSection()
    )
    out = folder / "index.h5"
    files = [tiny_run["manifest"].parent / "tiny.h5"]
    images.write_manifest(folder / "manifest.json", "tiny", files, geometry=folder / "wrong.expt")
    index.run(config, images=folder / "manifest.json", geometry=None, out=out, world=World(1))
    return out


def refined(product, out, **changes) -> dict:
    config = Level0Config(level0=Level0Section(refine=["shift"], **changes))
    level0.run(config, index=[product], out=out, world=World(1))
    return json.loads(out.with_suffix(".fit.json").read_text())


def test_planted_shift_is_found(product, tiny_run, tmp_path):
    figures = refined(product, tmp_path / "level0.expt")
    off = np.array(figures["shift_mm"]) - PLANTED[:2]
    assert np.all(np.abs(off) < 0.01)
    assert figures["n_lattices"] == 4
    assert np.all(np.array(figures["shift_sigma_mm"]) < 0.01)
    assert figures["distance_sigma_mm"] == 0
    assert figures["n_in"] == sum(figures["outcomes"].values()) == 4
    assert figures["outcomes"]["used"] == 4 and figures["left_out"] == []
    header = geometry.distances_mm(Source(tiny_run["manifest"]).detector)[0]
    assert figures["header_distance_mm"] == pytest.approx(header)
    assert figures["distance_change_mm"] == 0

    true = Source(tiny_run["manifest"]).detector
    found = dials.read_expt(tmp_path / "level0.expt")
    np.testing.assert_allclose(found.origin_mm, true.origin_mm, atol=0.01)

    before = figures["rmsd_before"]
    after = figures["rmsd_after"]
    assert before["n"] == after["n"] > 50
    assert after["transverse_mm"] < before["transverse_mm"]


def test_only_as_many_lattices_as_told(product, tmp_path):
    figures = refined(product, tmp_path / "level0.expt", max_lattices=3)
    assert figures["n_lattices"] == figures["outcomes"]["used"] == 3
    assert figures["outcomes"]["surplus"] == 1


GROUPS = RigidGroupsSection(which="quadrants", refine=["shift", "turn"])
TARGET = [92.9, 92.9, 130.3, 90.0, 90.0, 120.0]
"""Cell that lattices were searched with: half a per cent from theirs."""


@pytest.fixture
def sound() -> dict:
    """Figures that nothing is said about: half a pixel of shift, and 30 µm at 100 mm."""
    rmsd = {"radial_px": 0.4, "transverse_px": 0.2}
    return {
        "rmsd_before": {"radial_px": 0.5, "transverse_px": 0.6},
        "rmsd_after": rmsd,
        "chi2_reduced": 0.8,
        "steps": 12,
        "is_converged": True,
        "distance_change_mm": 0.03,
        "distance_sigma_mm": 0.005,
        "header_distance_mm": 100.0,
        "cell": [93.3, 93.3, 131.0, 90.0, 90.0, 120.0],
        "cell_growth": 3e-4,
        "cell_growth_sigma": 1e-5,
        "n_reflections": 1000,
        "n_outliers": 40,
        "n_lattices": 30,
        "outcomes": {"used": 30, "unlike": 2},
        "panel_share": 0.02,
        "rigid_groups": [group(0), group(1)],
    }


def group(number: int, n: int = 200, radial_px: float = 0.4, **moves) -> dict:
    """Figures of a rigid group that moved by a tenth of a millimetre."""
    still = {"shift_mm": [0.08, -0.06], "distance_change_mm": 0, "tilt_rad": [0, 0], "turn_rad": 0}
    return still | {
        "panels": [2 * number, 2 * number + 1],
        "rmsd_before": {"radial_px": 0.5, "transverse_px": 0.6, "n": n},
        "rmsd_after": {"radial_px": radial_px, "transverse_px": 0.2, "n": n},
        **moves,
    }


def test_sound_figures_need_no_words(sound):
    assert warnings_of(sound, TARGET, GROUPS) == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"rmsd_after": {"radial_px": 0.6, "transverse_px": 0.2}}, "radial r.m.s.d."),
        ({"rmsd_after": {"radial_px": 0.4, "transverse_px": 0.7}}, "transverse r.m.s.d."),
        ({"is_converged": False}, "did not come to rest"),
        ({"chi2_reduced": 5.0}, "χ²"),
        ({"chi2_reduced": 0.1}, "χ²"),
        ({"distance_change_mm": 1.17, "distance_sigma_mm": 0.25}, "the distance moved"),
        ({"cell_growth": 0.009}, "the cells changed"),
        ({"cell": [94.14, 92.9, 130.3, 90.0, 90.0, 120.0]}, "a of the mean cell is not that of"),
        ({"cell": [92.9, 92.9, 130.3, 90.0, 90.0, 118.8]}, "gamma of the mean cell is not that of"),
        ({"n_outliers": 200}, "rejected"),
        ({"outcomes": {"used": 30, "unlike": 5}}, "unlike the others"),
        ({"panel_share": 0.2}, "panels are not where they are refined to"),
        ({"rigid_groups": [group(0), group(3, n=8)]}, "too few spots"),
        ({"rigid_groups": [group(0), group(3, shift_mm=[0.0, 1.0])]}, "moved far"),
        ({"rigid_groups": [group(0), group(3, turn_rad=0.02)]}, "moved far"),
        ({"rigid_groups": [group(0), group(3, radial_px=0.8)]}, "on rigid groups rose"),
    ],
)
def test_each_trouble_has_its_warning(sound, change, what):
    (warning,) = warnings_of(sound | change, TARGET, GROUPS)
    assert what in warning.sentence()


def test_a_far_header_that_is_hardly_known_is_no_trouble(sound):
    """The distance moved by 1 %, but by two σ only."""
    change = {"distance_change_mm": 1.0, "distance_sigma_mm": 0.5}
    assert warnings_of(sound | change, TARGET, GROUPS) == []


def test_the_sigma_of_the_distance_travels_with_the_detector(product, tmp_path):
    out = tmp_path / "level0.expt"
    config = Level0Config(level0=Level0Section(refine=["shift", "distance"]))
    level0.run(config, index=[product], out=out, world=World(1))
    figures = json.loads(out.with_suffix(".fit.json").read_text())
    relative = figures["distance_sigma_mm"] / figures["distance_mm"]
    assert dials.read_length_sigma(out) == pytest.approx(relative)
    assert dials.read_length_sigma(product.parent / "wrong.expt") is None


def test_frozen_file_is_kept(product, tmp_path):
    frozen = product.parent / "wrong.expt"
    config = Level0Config(level0=Level0Section(from_file=frozen))
    level0.run(config, index=[product], out=tmp_path / "level0.expt", world=World(1))
    assert (tmp_path / "level0.expt").read_bytes() == frozen.read_bytes()


def test_no_lattice_with_enough_spots_is_an_error(product, tmp_path):
    with pytest.raises(FileError, match=r"none with 10000 spots.*Lower level0.min_reflections"):
        refined(product, tmp_path / "level0.expt", min_reflections=10000)


@pytest.mark.parametrize(
    ("setting", "shots", "todo"),
    [
        ({"max_spots": 13}, "overflow", "adu_per_photon"),
        ({"min_pixels": 190}, "blank", "index.spots.sigma_strong"),
    ],
)
def test_shots_without_lattices_are_an_error_by_their_outcome(
    tiny_run, tmp_path, setting, shots, todo
):
    """What would help depends on how the shots ended."""
    how = {name: tiny_run[name] for name in ("cell", "space_group")}
    config = IndexConfig(index=IndexSection(**how, spots=setting), recording=NoiseSection())
    out = tmp_path / "index.h5"
    index.run(config, images=tiny_run["manifest"], geometry=None, out=out, world=World(1))
    (warning,) = store.attributes(out, Index)["warnings"]
    assert shots in warning["what"] and todo in warning["todo"]
    with pytest.raises(FileError, match=rf"shots: .*{shots}.*{todo}"):
        refined(out, tmp_path / "level0.expt")


def test_runs_of_different_detectors_are_refused(product, tiny_run, tmp_path):
    how = {
        "cell": tiny_run["cell"],
        "space_group": tiny_run["space_group"],
        "d_min": 2.4,
        "n_directions": 4096,
    }
    other = tmp_path / "index.h5"
    config = IndexConfig(index=IndexSection(**how), recording=NoiseSection())
    index.run(config, images=tiny_run["manifest"], geometry=None, out=other, world=World(1))
    config = Level0Config(level0=Level0Section())

    with pytest.raises(FileError, match="the detector of"):
        level0.run(config, index=[product, other], out=tmp_path / "level0.expt", world=World(1))


@pytest.mark.chain
def test_ranks_agree(product, tmp_path):
    """The same bytes on one rank and on two."""
    if not LAUNCHER.exists():
        pytest.skip(f"no MPI launcher at {LAUNCHER}")
    config = json.dumps({"level0": {"max_lattices": 3}})
    for ranks in (1, 2):
        words = [
            sys.executable,
            "-m",
            "spreadflow.cli",
            "level0",
            "--config",
            config,
            "--ranks",
            str(ranks),
        ]
        words += ["--index", str(product), "--out", str(tmp_path / f"{ranks}.expt")]
        launch = [str(LAUNCHER), "-n", str(ranks)] if ranks > 1 else []
        subprocess.run([*launch, *words], check=True, timeout=200)

    for name in ("{}.expt", "{}.fit.json"):
        assert (tmp_path / name.format(1)).read_bytes() == (tmp_path / name.format(2)).read_bytes()


def test_nothing_to_refine_is_an_error(tmp_path):
    with pytest.raises(FileError, match=r"level0\.imported"):
        config = Level0Config(level0=Level0Section())
        level0.run(config, index=None, out=tmp_path / "level0.expt", world=World(1))


def test_groups_that_the_file_does_not_state_are_refused(product, tmp_path):
    with pytest.raises(ConfigError, match="quadrants of a detector with groups"):
        refined(product, tmp_path / "level0.expt", rigid_groups={"which": "quadrants"})


# ---------------------------------------------------------------- lattices of another program


@pytest.fixture(scope="module", params=["a.expt", "a.stream"])
def exported(request, product, tmp_path_factory) -> Path:
    """The lattices of `index` as DIALS or CrystFEL would write them."""
    path = tmp_path_factory.mktemp("exported") / request.param
    form = {".expt": "dials", ".stream": "crystfel"}[path.suffix]
    words = ["export", str(product), "--to", form, "--out", str(path.with_suffix(""))]
    assert cli.main([*words, "--images", str(product.with_name("manifest.json"))]) == 0
    return path


def of_others(path: Path, out: Path, **changes) -> dict:
    """Return the figures of a refinement of imported lattices, with a bandwidth in place of the
    spectra.
    """
    imported = {"files": [str(path)], "bandwidth": 0.003, "domain_ang": 1500.0} | changes
    section = Level0Section(refine=["shift"], imported=imported)
    level0.run(Level0Config(level0=section), index=None, out=out, world=World(1))
    return json.loads(out.with_suffix(".fit.json").read_text())


def test_lattices_of_another_program_find_the_same_shift(exported, tmp_path):
    """Without images."""
    figures = of_others(exported, tmp_path / "level0.expt", space_group="P 43 21 2")
    assert np.all(np.abs(np.array(figures["shift_mm"]) - PLANTED[:2]) < 0.02)
    assert figures["outcomes"]["used"] == figures["n_in"] == 4
    assert figures["rmsd_after"]["transverse_px"] < figures["rmsd_before"]["transverse_px"]


def test_the_space_group_is_that_of_the_files(exported, tmp_path, tiny_run):
    """Streams state a centring alone; a group that lattices do not share has to be named."""
    figures = of_others(exported, tmp_path / "level0.expt")
    assert figures["n_lattices"] == 4
    halls = {" P 4nw 2abw", " P 1"}
    with pytest.raises(FileError, match=r"P 1,  ?P 4nw 2abw.*imported\.space_group"):
        imported.space_group_of("a.expt", halls)


def test_reflections_of_another_detector_are_refused(product):
    detector = Source(product.with_name("manifest.json")).detector
    rows = IndexedReflections(hkl=np.ones((2, 3), int), panel=np.array([0, 7]))
    with pytest.raises(FileError, match="panels 0 to 0; found 0 to 7"):
        imported.check_panels("a.refl", rows, detector)
