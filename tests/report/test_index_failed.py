"""The report of `index` where shots failed: its numbers, its words and the still that it shows."""

import json

import numpy as np
import pytest
from matplotlib import image as mpl_image

from spreadflow.config import IndexSection
from spreadflow.errors import Outcome, StageWarning
from spreadflow.io import store
from spreadflow.models import Detector
from spreadflow.parallel import World
from spreadflow.products import Index
from spreadflow.report import index, index_course, index_picture, index_sums, style, summary
from spreadflow.report.indexed_run import IndexedRun
from spreadflow.stages.shots import _outcome_warnings
from spreadflow.units import HC_EV_ANGSTROM

DETECTOR = Detector(
    origin_mm=np.array([[-10.0, 10.0, -60.0], [1.0, 10.0, -60.0]]),
    fast=np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]),
    slow=np.array([[0.0, -1.0, 0.0], [0.0, -1.0, 0.0]]),
    pixel_mm=np.float64(0.1),
    shape=(200, 90),
)
"""Two panels beside each other, normal to the beam, 60 mm away."""

ENERGY_EV = 9500.0
"""Photon energy of all shots."""


@pytest.fixture
def product(tmp_path, filled):
    """A function that writes a product of shots with these outcomes and numbers of spots, and
    returns its path.
    """

    def write(outcomes: list[Outcome], n_spots: list[int], energy_ev: float = ENERGY_EV):
        n = sum(n_spots)
        rng = np.random.default_rng(5)
        ids = np.arange(len(outcomes))
        reasons = [b"" if end == Outcome.INDEXED else b"because of this" for end in outcomes]
        planted = {
            "shots/shot_id": ids,
            "shots/outcome": outcomes,
            "shots/reason": reasons,
            "shots/n_spots": n_spots,
            "shots/mean_energy_ev": np.full(len(outcomes), energy_ev),
            "spots/shot": np.repeat(ids, n_spots),
            "spots/panel": np.arange(n) % 2,
            "spots/fast": rng.uniform(20, 70, n),
            "spots/slow": rng.uniform(20, 180, n),
            "spots/intensity": rng.uniform(10, 100, n),
            "spots/n_pixels": np.full(n, 5),
            "spots/lattice": np.full(n, -1),
        }
        sizes = {"shots": len(ids), "spots": n}
        path = tmp_path / "index.h5"
        parts = store.Parts(path, Index, "key", [ids.tolist()])
        parts.write(0, filled("index", sizes, planted))
        parts.finish(
            World(),
            run="r",
            config=IndexSection().model_dump(mode="json"),
            detector=DETECTOR._asdict(),
            manifest="nowhere",
        )
        return path

    return write


def run_of(path) -> IndexedRun:
    return IndexedRun("index", path, [])


def test_rates_over_shots(product):
    """100 shots in 40 bins, the first half indexed, then hits, then blanks."""
    outcomes = [Outcome.INDEXED] * 50 + [Outcome.OVERFLOW] * 25 + [Outcome.BLANK] * 25
    figures = index_course.figures_over_shots([run_of(product(outcomes, [3] * 100))])
    assert figures["hit_rate"] == 0.75
    assert (figures["energy_mean_ev"], figures["energy_sd_ev"]) == (ENERGY_EV, 0.0)
    bins = figures["by_shot"]
    assert (len(bins), bins[0]["first"], bins[-1]["last"]) == (40, 0, 99)
    assert [sum(of_bin[key] for of_bin in bins) for key in ("n_shots", "n_hits", "n_indexed")] == [
        100,
        75,
        50,
    ]
    assert all(of_bin["n_spots_median"] == 3 for of_bin in bins)


def test_spots_by_resolution_and_panel(product):
    """d of a spot straight from Bragg's law; as many spots are expected by area as there are."""
    run = run_of(product([Outcome.NO_LATTICE], [400]))
    counted = index_sums.together(index_sums.counted([run]))
    shells = index_course.figures_by_resolution(counted)
    assert sum(shell["n_spots"] for shell in shells) == 400
    assert sum(shell["n_by_area"] for shell in shells) == pytest.approx(400)
    assert (np.diff([shell["d_min"] for shell in shells]) < 0).all()

    spots = run.tables_of(0)[0].spots
    x = np.where(spots.panel == 0, -10.0, 1.0) + 0.1 * spots.fast
    y = 10.0 - 0.1 * spots.slow
    theta = 0.5 * np.arctan(np.hypot(x, y) / 60.0)
    d = HC_EV_ANGSTROM / ENERGY_EV / (2 * np.sin(theta))
    edges = np.array([shell["d_min"] for shell in shells[:-1]])
    in_shells = np.bincount((d[:, None] < edges).sum(axis=1), minlength=len(shells))
    assert [shell["n_spots"] for shell in shells] == in_shells.tolist()
    assert counted.sums.of_place.sum() == 400

    panels = index_course.figures_by_panel(counted.sums)
    assert [panel["n_spots"] for panel in panels] == [200, 200]
    assert panels[0]["radial_rmsd_px"] is None is panels[1]["transverse_rmsd_px"]


def test_the_shot_that_shows_the_failure(product):
    """The one with most spots among those that ended as most did."""
    outcomes = [Outcome.BLANK, Outcome.NO_LATTICE, Outcome.NO_LATTICE, Outcome.OVERFLOW]
    run = run_of(product(outcomes, [2, 20, 30, 90]))
    assert index_picture.failed_shot([run]) == (run, 2)
    run = run_of(product([Outcome.UNREADABLE] * 2, [0, 0], np.nan))
    assert index_picture.failed_shot([run]) == (run, 0)


@pytest.mark.parametrize(
    ("outcomes", "n_spots", "energy_ev", "words"),
    [
        ([Outcome.OVERFLOW] * 2, [4000, 3000], ENERGY_EV, "adu_per_photon"),
        ([Outcome.NO_LATTICE] * 3, [40, 50, 60], ENERGY_EV, "min_fraction_indexed"),
        ([Outcome.BLANK] * 3, [0, 1, 2], ENERGY_EV, "sigma_strong"),
        ([Outcome.UNREADABLE] * 2, [0, 0], np.nan, "spreadflow manifest --check"),
    ],
)
def test_a_failed_run_says_why(product, outcomes, n_spots, energy_ev, words):
    """The picture has the reasons, what would help and the shot with most spots."""
    figures, page = index.make("index", [product(outcomes, n_spots, energy_ev)], [])
    assert figures["advice"] and words in " ".join(figures["advice"])
    texts = [text.get_text() for axes in page.axes for text in axes.texts]
    assert any("because of this" in text for text in texts)
    assert words.split()[0] in " ".join(texts)
    titles = " ".join(axes.get_title() for axes in page.axes)
    assert f"run r, shot {np.argmax(n_spots)} (" in titles and "how shots ended" in titles
    index.headline(figures)


def test_a_failed_run_is_written(product, tmp_path):
    path = product([Outcome.UNREADABLE], [0], np.nan)
    summary.run("index", products=[path], images=[], out=tmp_path / "index.json")
    figures = json.loads((tmp_path / "index.json").read_text())
    assert figures["energy_mean_ev"] is None and figures["by_resolution"] == []
    assert mpl_image.imread(tmp_path / "index.png").std() > 0.02


def test_what_the_picture_advises_is_not_said_above_it_too(product, tmp_path, monkeypatch):
    """A warning whose remedy is no advice of the picture keeps it."""
    counts = {"overflow": 2}
    warnings = _outcome_warnings(counts, 2, IndexSection(), "index")
    warnings.append(StageWarning("another", 1.0, 0.1, "Look elsewhere."))
    kept = [warning._asdict() for warning in warnings]
    monkeypatch.setattr(summary, "warnings_of", lambda _: kept)
    pages = []
    monkeypatch.setattr(summary, "write", lambda figures, page, _: pages.append((figures, page)))
    path = product([Outcome.OVERFLOW] * 2, [4000, 3000])
    summary.run("index", products=[path], images=[], out=tmp_path / "index.json")
    ((figures, page),) = pages
    above = " ".join(text.get_text() for text in page.texts)
    assert "ended as overflow: 2 of 2" in above and "one-photon peak" not in above
    assert "Look elsewhere." in above
    assert "one-photon peak" in figures["warnings"][0]["todo"]


def test_warnings_stand_between_head_and_plots():
    """Titles stay as far from the top, in inches; the page grows by the lines of the warnings."""
    page = style.page("title", "subtitle", 10.0, 6.0)
    title = page.texts[0]
    before = 6.0 * (1 - title.get_position()[1])
    warning = StageWarning("the scales move", 1.0, 0.1, "Look.").sentence()
    style.warn(page, [])
    assert page.get_figheight() == 6.0
    style.warn(page, [warning] * (style.MOST_WARNINGS + 2))
    height = page.get_figheight()
    n_lines = style.MOST_WARNINGS + 1
    assert height == pytest.approx(6.0 + n_lines * style.LINE_IN)
    assert height * (1 - title.get_position()[1]) == pytest.approx(before)
    texts = [text.get_text() for text in page.texts]
    assert texts[2] == f"warning: {warning}" and texts[-1] == "and 2 more: see the summary"
    assert {text.get_color() for text in page.texts[2:]} == {style.RED}
