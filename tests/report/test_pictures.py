"""What pictures say and draw, read from the figures themselves: texts, colours and numbers."""

from itertools import combinations

import matplotlib
import numpy as np
import pytest
from matplotlib import image
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spreadflow.io import store
from spreadflow.products import Merge, Stage2
from spreadflow.report import (
    ladder,
    level0,
    merge,
    spread,
    spread_picture,
    spread_product,
    stage2,
    stage2_picture,
    style,
)
from spreadflow.report.stage1_picture import why_worse

pytestmark = pytest.mark.stage


@pytest.fixture(autouse=True)
def look():
    """The settings that all pictures are drawn with."""
    with matplotlib.rc_context(style.STYLE):
        yield


def texts_of(page) -> dict[str, str]:
    """Text in the panels of a page → its colour."""
    return {text.get_text(): text.get_color() for axes in page.axes for text in axes.texts}


def panel_of(page, title: str):
    """The panel whose title begins so."""
    return next(axes for axes in page.axes if axes.get_title("left").startswith(title))


def test_distance_of_level0_stands_beside_the_header(trial):
    """Each in a line of its own, with its number; nothing else looks like a point."""
    _, page = level0.make("level0", [trial.level0], trial.manifests)
    panel = panel_of(page, "distance: +40.0 ± 10.0 µm from the header's")
    names = [label.get_text() for label in panel.get_yticklabels()]
    assert names == ["header", "refined, 3 σ", "truth"]
    numbers = [text.get_text() for text in panel.texts]
    assert numbers == ["60.0000 mm", "60.0400 mm", "60.0500 mm"]
    assert panel.get_legend() is None


def test_shells_of_few_pairs_are_not_joined(trial):
    """40, 10 and 2 pairs: the line has the first, the second is hollow, the third has no CC."""
    product = store.read(trial.merge, Merge)
    product.bins.n_pairs = [40, 10, 2]
    figures = merge._figures(product, store.attributes(trial.merge, Merge))
    page = merge._picture(product, figures)
    panel = panel_of(page, "half sets")
    line, hollow = panel.lines[0], panel.lines[1]
    joined = [np.isfinite(curve.get_ydata()).tolist() for curve in (line, hollow)]
    assert joined == [[True, False, False], [False, True, False]]
    assert hollow.get_markerfacecolor() == "none"
    panel = panel_of(page, "intensity in the two half sets")
    assert panel.get_xlabel() == "I of half set 0, on the merge's scale"
    (points, _) = panel.lines
    assert points.get_markersize() >= 2 and points.get_alpha() > 0.5


def test_table_of_shells(trial):
    figures, _ = merge.make("merge", [trial.merge], [])
    head, first, *_, overall = merge.shell_table(figures)
    row = dict(zip(head, first, strict=True))
    assert (row["to Å"], row["obs."], row["unique"], row["% of all"]) == (
        "3.00",
        "600",
        "110",
        f"{100 * 110 / 120:.1f}",
    )
    assert (row["mult."], row["I/σ"], row["CC½"], row["CC ano"]) == ("5.45", "9", "0.9", "0.2")
    assert overall[0] == "all" and overall[1] == style.say(figures["n_observations"])
    assert list(figures["bins"][0]) == list(merge.SHELL_KEYS)


@pytest.mark.parametrize(
    "limits", [(50, 400), (35, 560), (1e4, 3e4), (0.99, 1.01), (30, 2000), (0.02, 5e4)]
)
def test_labels_of_logarithmic_axes_do_not_collide(limits):
    """On axes two inches wide, as in the pictures, whatever is on them."""
    page = Figure(figsize=(2.5, 2.5))
    axes = page.subplots()
    axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits)
    style.log_ticks(axes.xaxis, axes.yaxis)
    renderer = FigureCanvasAgg(page).get_renderer()
    page.draw(renderer)
    for axis in (axes.xaxis, axes.yaxis):
        labels = [*axis.get_ticklabels(), *axis.get_ticklabels(minor=True)]
        place = int(axis is axes.yaxis)
        boxes = {
            label.get_text(): label.get_window_extent(renderer)
            for label in labels
            if label.get_text() and limits[0] <= label.get_position()[place] <= limits[1]
        }
        assert len(boxes) >= 2
        assert not any(a.overlaps(b) for a, b in combinations(boxes.values(), 2))


def test_a_merge_without_reflections_is_drawn(trial, filled):
    edges = {"bins/d_min": [3.0, 2.3, 2.0], "bins/d_max": [np.inf, 3.0, 2.3]}
    product = filled("merge", {"bins": 3, "lattices": 2}, edges)
    figures = merge._figures(product, {"runs": []})
    assert figures["i_over_sigma"] is None is figures["multiplicity"]
    page = merge._picture(product, figures)
    page.canvas.draw()
    assert "no reflection is in both half sets" in texts_of(page)
    assert merge.shell_table(figures)[-1][:4] == ("all", "0", "0", "–")


def test_spread_that_has_not_converged_is_loud(trial):
    """In red, first of all; each control with what its figure has to be."""
    product = spread_product.read(trial.spread, [])
    figures, page = spread.make("spread", [trial.spread], [])
    assert not any("not converged" in text for text in texts_of(page))
    texts = texts_of(page)
    of_controls = " ".join(text.strip() for text in texts if "✓" not in text)
    figure = "standard deviation of their difference over its σ = 2.5, should be 0.6 to 1.4"
    assert f"✗ half sets: {figure}" in of_controls
    colors = {text[:13]: color for text, color in texts.items()}
    assert colors["✗ half sets: "] == style.RED and colors["✓ start swapp"] == style.GREEN

    moving = figures | {"converged": False, "changes": [3.0, 1.8]}
    page = spread_picture.draw("spread", product, moving, spread._sentences(moving))
    words = "not converged: the last of 2 cycles moved f′, f″ by 1.8 σ"
    assert texts_of(page)[words] == style.RED
    assert spread.headline(moving)[0] == words


@pytest.mark.parametrize(
    ("sigma_z", "limits"),
    [([1.12, 1.03], (0.8, 1.2)), ([0.5, np.nan], (0.45, 1.55)), ([9.0, 1.0], (0.0, 9.8))],
)
def test_deviations_of_pixels_are_drawn_about_the_one_that_they_should_be(trial, sigma_z, limits):
    product = store.read(trial.stage2, Stage2)
    product.shells.sigma_z = np.resize(sigma_z, len(product.shells))
    figures, _ = stage2.make("stage2", [trial.stage2], [])
    page = stage2_picture.draw(product, figures)
    assert panel_of(page, "Z of the pixels").get_ylim() == pytest.approx(limits)


def test_the_legend_of_cycles_covers_no_line(trial):
    _, page = stage2.make("stage2", [trial.stage2], [])
    page.canvas.draw()
    panel = panel_of(page, "cycles")
    legend = panel.get_legend().get_window_extent()
    tops = [line.get_window_extent().y1 for line in panel.lines]
    assert max(tops) < legend.y0


def test_rungs_do_not_collide(trial):
    """No two texts of the list cover one another."""
    _, page = ladder.make("ladder", [trial.ladder], [])
    page.canvas.draw()
    panel = next(axes for axes in page.axes if any(text.get_text() == "3A" for text in axes.texts))
    boxes = [text.get_window_extent() for text in panel.texts]
    assert len(boxes) == 21
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)
        assert one.x1 < panel.bbox.x1 + 5


def test_why_pixels_look_worse():
    """Said of what is worse, and of nothing else."""
    figures = {
        "radial_rmsd_mm": 0.054,
        "radial_rmsd_mm_before": 0.040,
        "misorientation_deg_median": 0.0042,
        "misorientation_deg_before_median": 0.0025,
        "mosaicity": "continuous",
    }
    words = why_worse(figures)
    assert "Centroids" in words and "Orientations" in words and "learned" in words
    closer = figures | {"radial_rmsd_mm": 0.03}
    assert "Centroids" not in why_worse(closer) and "Orientations" in why_worse(closer)
    unknown = closer | {"misorientation_deg_median": None}
    assert why_worse(unknown) == ""
    assert why_worse(unknown | {"radial_rmsd_mm": None, "radial_rmsd_mm_before": None}) == ""
    assert "learned" not in why_worse(figures | {"mosaicity": "learned"})


def test_powers_on_logarithmic_axes_are_plain_text():
    """Formulas would be set by matplotlib's parser, which takes long to start."""
    page = Figure()
    wide, narrow = page.subplots(2, 1)
    wide.set(yscale="log", ylim=(0.05, 2e4))
    narrow.set(yscale="log", ylim=(1.5e3, 6e3))
    style.plain_ticks(page)
    wide_labels, narrow_labels = (
        dict(zip(axis.get_ticklocs(minor=minor), texts(axis, minor), strict=True))
        for axis, minor in ((wide.yaxis, False), (narrow.yaxis, True))
    )
    assert [wide_labels[y] for y in (0.1, 1.0, 1e3)] == ["10⁻¹", "10⁰", "10³"]
    assert narrow_labels[2e3] == "2×10³"


def texts(axis, minor: bool) -> list[str]:
    """The labels of an axis, empty ones too."""
    formatter = axis.get_minor_formatter() if minor else axis.get_major_formatter()
    return formatter.format_ticks(axis.get_ticklocs(minor=minor))


def a_page() -> Figure:
    """A page with a curve, its labels, and an image without axes."""
    page = style.page("a title", "and what is beneath")
    left, right = page.subplots(1, 2)
    left.plot([1, 3, 2], label="a curve")
    left.set(title="left", xlabel="x, mm", ylabel="a label\nof two lines")
    left.legend()
    style.without_axes(right)
    right.imshow(np.eye(4))
    return page


def test_a_picture_that_is_drawn_once_is_as_matplotlib_saves_it(tmp_path):
    saved_page = a_page()
    style.plain_ticks(saved_page)
    saved_page.savefig(tmp_path / "saved.png", dpi=style.DPI)
    style.save(a_page(), tmp_path / "once.png")
    saved, once = (image.imread(tmp_path / f"{name}.png") for name in ("saved", "once"))
    np.testing.assert_array_equal(once, saved)
