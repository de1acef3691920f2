"""The product of `spread` on X: every figure of its tables follows from others of them."""

from types import SimpleNamespace

import numpy as np
import pytest

from spreadflow.config import for_stage, parse, section
from spreadflow.io import store
from spreadflow.parallel import World
from spreadflow.products import Spread
from spreadflow.stages import spread as stage

pytestmark = pytest.mark.stage


@pytest.fixture(scope="module")
def product(wide_run, tmp_path_factory) -> SimpleNamespace:
    """Tables and attributes of a product of one cycle, without controls."""
    asked = {"unknown_f": "complex", "max_cycles": 1, "controls": False}
    keys = wide_run.tree["spread"] | asked
    config = for_stage(section(parse(wide_run.tree | {"spread": keys}), "spread"), "spread")
    out = tmp_path_factory.mktemp("spread") / "spread.h5"
    stage.run(config, shoeboxes=wide_run.wide, stage1=wide_run.stage1, out=out, world=World())
    found = store.read(out, Spread)
    return SimpleNamespace(found=found, attributes=store.attributes(out, Spread))


def test_constants_and_shapes_are_those_of_the_curves(product):
    """Means and covariances of the nodes in the band, from the tables `curves` and `values`."""
    curves = product.found.curves
    values = product.found.values
    constants = product.found.constants
    assert product.attributes["sigma_kinds"] == ["sandwich"] * 3
    assert product.attributes["sigma_over"] == "reflections"
    for row, fit in enumerate(constants.fit):
        sandwich = values.sandwich[values.fit == fit]
        n_nodes = len(sandwich) // 4
        blocks = sandwich.reshape(4, n_nodes, 4, n_nodes)
        site = constants.site[row]
        own = curves[(curves.fit == fit) & (curves.site == site)]
        inside = (own.energy_ev >= 7100) & (own.energy_ev <= 7140)
        in_band = own[inside].as_dict()
        for kind, name in enumerate(("fp", "fdp")):
            of_curve = blocks[2 * site + kind, :, 2 * site + kind][np.ix_(inside, inside)]
            constant = of_curve.mean()
            shape = np.trace(of_curve) / inside.sum() - constant
            value = in_band[name].mean()
            start = in_band[f"{name}_start"].mean()
            figures = {"": value, "_start": start, "_sigma": constant**0.5}
            figures["_shape_sigma"] = shape**0.5
            for suffix, expected in figures.items():
                figure = constants.as_dict()[f"{name}{suffix}"][row]
                assert figure == pytest.approx(expected, rel=1e-6)


def test_reflections_are_those_of_the_lattices_and_shells_sum_them_up(product):
    reflections = product.found.reflections
    shells = product.found.shells
    assert len(np.unique(reflections.hkl, axis=0)) == len(reflections) > 50
    assert reflections.n_shoeboxes.min() >= 1
    assert np.all((reflections.d >= 2.29) & (reflections.d <= 4.0))
    assert not reflections.is_centric.any(), "P 1 has none"
    assert np.all(reflections.a_sigma <= reflections.prior_sigma / np.sqrt(2) * (1 + 1e-9))
    assert np.all(reflections.b_sigma <= reflections.prior_sigma / np.sqrt(2) * (1 + 1e-9))
    assert shells.n.tolist() == [len(reflections)]
    for rms, values in (
        (shells.model_rms, reflections.f_model),
        (shells.a_rms, reflections.a),
        (shells.b_rms, reflections.b),
        (shells.prior_rms, reflections.prior_sigma),
    ):
        assert rms[0] == pytest.approx(np.sqrt(np.mean(values**2)))
    assert shells.first_rms[0] == pytest.approx(0.15 * shells.model_rms[0])
    assert shells.correlation[0] > 0.95, "the model is right"
    assert shells.phase_moved_deg[0] < 3.0


def test_x_is_judged_without_controls(product):
    names = [control["name"] for control in product.attributes["controls"]]
    assert names == ["scale", "model", "at rest"]
    assert product.attributes["unknown_f"] == "complex"
    (log_scale,) = product.attributes["log_scale"]
    assert abs(log_scale) < 0.005, "it is held in the first cycle"
    assert product.attributes["x_at_rest"]


def test_sites_are_refined_where_it_is_asked_for(wide_run, tmp_path):
    """Place and B, in two cycles. The model is right, so that they stay."""
    asked = {"unknown_f": "complex", "max_cycles": 2, "controls": False}
    asked |= {"refine_sites": ["b", "place"], "place_sigma_ang": 0.02}
    tree = wide_run.tree | {"spread": wide_run.tree["spread"] | asked}
    config = for_stage(section(parse(tree), "spread"), "spread")
    out = tmp_path / "spread.h5"
    stage.run(config, shoeboxes=wide_run.wide, stage1=wide_run.stage1, out=out, world=World())
    attributes = store.attributes(out, Spread)
    rows = store.read(out, Spread, [Spread.sites]).sites
    assert attributes["site_unknowns"] == ["x", "y", "z", "B"]
    np.testing.assert_array_equal(rows.site, np.repeat([0, 1], 4))
    np.testing.assert_array_equal(rows.prior_sigma, np.tile([0.02, 0.02, 0.02, 1.0], 2))
    assert np.all((rows.sigma > 0.0) & (rows.sigma < 1.5 * rows.prior_sigma))
    assert rows.value.any() and np.all(np.abs(rows.value) < 3.0 * rows.prior_sigma)
    assert not any("of FE" in warning["what"] for warning in attributes["warnings"])


def test_no_sites_are_refined_unless_asked_for(product):
    assert product.attributes["site_unknowns"] == []
    assert len(product.found.sites) == 0
