"""The stage spread on lattices whose truth is known: every figure follows from its Gram matrices,
and it goes on.
"""

import csv
import shutil
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from spreadflow.analysis.curves import columns, dispersion, expand
from spreadflow.analysis.curves.expand import FittedRest
from spreadflow.config import for_stage, parse, section
from spreadflow.errors import ConfigError, FileError, SpreadOutcome
from spreadflow.io import shoebox_blocks, store
from spreadflow.io.shoebox_blocks import read_recording
from spreadflow.parallel import World
from spreadflow.products import Gram, Pack, Spread, Wide
from spreadflow.recipes import gram_rows
from spreadflow.recipes.run_model import run_models
from spreadflow.stages import spread as stage

pytestmark = pytest.mark.stage


def configured(wide_run, more=None, **keys):
    tree = wide_run.tree | (more or {})
    return for_stage(section(parse(tree | {"spread": tree["spread"] | keys}), "spread"), "spread")


def run(wide_run, out, more=None, **keys):
    config = configured(wide_run, more, **keys)
    stage.run(config, shoeboxes=wide_run.wide, stage1=wide_run.stage1, out=out, world=World())
    return store.read(out, Spread)


def assert_same(ours: Spread, theirs: Spread) -> None:
    """Assert that two products are equal but for their clocks."""
    datasets = ours.datasets()
    for name, column in theirs.datasets().items():
        if name != "lattices/seconds":
            np.testing.assert_array_equal(datasets[name], column, err_msg=name)


@pytest.fixture(scope="module")
def product(wide_run, tmp_path_factory) -> SimpleNamespace:
    """The product: its path and tables, its lattices' Gram matrices read again, the structure
    factors of the model, and the parametrisation of the quoted fit.
    """
    out = tmp_path_factory.mktemp("spread") / "spread.h5"
    found = run(wide_run, out)
    config = configured(wide_run)
    factors = run_models(config, read_recording(wide_run.wide, "wide"), "spread")[0].factors
    path = out.with_suffix(".gram") / "2.h5"
    grams = []
    for part in store.parts_of(path, Gram):
        of_part = gram_rows.grams_of(part.read())
        grams += [lattice_gram for _, lattice_gram in of_part]

    anomalous = factors.anomalous[:2]
    start = np.stack([anomalous.real, anomalous.imag], axis=1)
    energies = found.channels.energy_ev
    nodes = np.unique(found.curves.energy_ev)
    assert np.isin(nodes, energies).all()
    assert np.all(np.diff(nodes) == 6.0)
    p = dispersion.free(start, energies, nodes)
    return SimpleNamespace(out=out, found=found, grams=grams, factors=factors, p=p)


def test_shoeboxes_of_pack_give_the_same_curves(wide_run, product, tmp_path):
    """The same pixels, stored as `pack` stores them."""
    attributes = store.attributes(wide_run.wide, Wide)
    parts = store.Parts(tmp_path / "pack.h5", Pack, "packed", [[1, 2], [3, 4]])
    for n, part in enumerate(store.parts_of(wide_run.wide, Wide)):
        parts.write(n, Pack(**part.read().tables))
    names = ("runs", "space_group", "detectors", "polarizations", "config")
    recorded = shoebox_blocks.recorded(parts, World())
    parts.finish(World(), **recorded, **{name: attributes[name] for name in names})

    packed = SimpleNamespace(wide=tmp_path / "pack.h5", stage1=wide_run.stage1, tree=wide_run.tree)
    found = run(packed, tmp_path / "spread.h5", shoeboxes="pack")
    assert_same(found, product.found)


def _values(product, name: str, fit: int = 0) -> np.ndarray:
    """Return a column of f′ and f″ at the nodes of a fit, (site · 2 · node,)."""
    curves = product.found.curves
    rows = curves[curves.fit == fit].as_dict()
    pair = [rows[f"{kind}{name}"].reshape(2, -1) for kind in ("fp", "fdp")]
    return np.stack(pair, axis=1).ravel()


def test_each_lattice_has_one_end(wide_run, product, tmp_path):
    lattices = product.found.lattices
    ends = lattices.outcome
    assert lattices.shot_id.tolist() == [1, 2, 3, 4]
    assert ends.tolist() == [SpreadOutcome.USED] * 3 + [SpreadOutcome.NOT_REFINED]

    for figure in (lattices.loss, lattices.loss_start, lattices.sigma_z, lattices.model_error):
        assert np.isfinite(figure).tolist() == [True, True, True, False]

    used = lattices[ends == SpreadOutcome.USED]
    assert used.loss.sum() < used.loss_start.sum()
    np.testing.assert_allclose(used.sigma_z, 1.0, atol=0.1)


def test_curves_are_where_their_gram_matrices_are_least(product):
    """Slopes of pixels and prior cancel; σ and covariances are those of the matrices."""
    attributes = store.attributes(product.out, Spread)
    p = product.p
    assert attributes["fits"] == ["free", "kramers_kronig", "smooth"]
    assert attributes["n_parameters"] == len(p.names)

    theta = _values(product, "") - _values(product, "_start")
    lattices = columns.of_lattices(product.grams, product.factors)
    normal = expand.normal(lattices, p, theta)
    gradient = normal.scores.sum(axis=0) + p.restraints @ theta
    covariance = np.linalg.inv(normal.hessian + p.restraints)
    is_undetermined = np.linalg.eigvalsh(normal.hessian) < 1 / dispersion.PRIOR_E**2

    assert attributes["n_undetermined"] == is_undetermined.sum()
    assert 0.5 * gradient @ covariance @ gradient < 1e-5
    assert np.abs(theta).max() > 0.1
    np.testing.assert_allclose(normal.losses, product.found.lattices.loss[:3], rtol=1e-9)
    np.testing.assert_allclose(_values(product, "_fisher"), np.sqrt(np.diag(covariance)), rtol=1e-6)
    np.testing.assert_allclose(_values(product, "_start"), p.reference_at_nodes.ravel())

    rows = product.found.values.fit == 0
    fisher = product.found.values.fisher[rows]
    np.testing.assert_allclose(fisher, covariance, atol=1e-6 * covariance.max())

    scores = []
    for lattice_gram, score in zip(product.grams, normal.scores, strict=True):
        one = columns.of_lattices([lattice_gram], product.factors)
        information = expand.normal(one, p, theta).hessian
        scores.append(expand.unbiased(score, information, covariance))
    scatter = np.transpose(scores) @ scores + p.restraints
    expected = covariance @ scatter @ covariance
    sandwich = product.found.values.sandwich[rows]
    np.testing.assert_allclose(sandwich, expected, atol=1e-5 * np.abs(expected).max())


def test_with_few_lattices_errors_are_fishers_by_one_factor(product):
    """The factor multiplies the variance of the pixels; the share of the prior stays as it is."""
    attributes = store.attributes(product.out, Spread)
    p = product.p
    assert attributes["sigma_kinds"] == ["scaled"] * 3

    fisher = product.found.values.fisher[product.found.values.fit == 0]
    prior = np.diag(fisher @ p.restraints @ fisher)
    ratio = (_values(product, "_sigma") ** 2 - prior) / (np.diag(fisher) - prior)
    assert np.ptp(ratio) < 1e-6 * ratio[0]
    assert ratio[0] >= 1.0 - 1e-9  # but for rounding


def test_what_is_told_of_the_curves(product):
    attributes = store.attributes(product.out, Spread)
    t = product.found
    assert not attributes["converged"], "two cycles are not enough for 1e-9 σ"
    assert attributes["sites"] == ["FE1", "FE2"]
    assert attributes["elements"] == ["Fe", "Fe"]
    assert len(attributes["changes"]) == 2

    names = [verdict["name"] for verdict in attributes["controls"]]
    assert {
        "half sets",
        "h, k, l + 1",
        "spectra shuffled",
        "sites 1, 2 swapped",
        "start swapped",
    } <= set(names)
    assert t.edges.fit.tolist() == [0, 0, 1, 1], "smoothed curves have no edges"

    e0 = t.edges.energy_ev
    np.testing.assert_allclose(t.edges.difference_ev[0], [0.0, e0[0] - e0[1]], atol=1e-9)

    photons = t.channels.photons
    assert len(photons) == 20
    assert photons.sum() == pytest.approx(4e11, rel=0.8)


def test_the_table_says_the_same(product):
    rows = list(csv.DictReader(product.out.with_suffix(".csv").open()))
    n = len(product.p.nodes_ev)
    fits = [row["fit"] for row in rows[:: 2 * n]]
    sites = [row["site"] for row in rows[: 2 * n]]

    assert fits == ["free", "kramers_kronig", "smooth"]
    assert sites == ["FE1"] * n + ["FE2"] * n
    assert {row["sigma_kind"] for row in rows} == {"scaled"}

    for name in ("energy_ev", "fp", "fdp", "fp_sigma", "fdp_fisher"):
        listed = [float(row[name]) for row in rows]
        np.testing.assert_allclose(listed, product.found.curves.as_dict()[name], rtol=1e-12)


def test_a_killed_run_goes_on_where_it_was(wide_run, product, tmp_path):
    """A lattice of the first cycle and the whole second one are missing: no other part is made
    again.
    """
    folder = tmp_path / "spread.gram"
    shutil.copytree(product.out.with_suffix(".gram"), folder)
    for name in ("1.h5", "2.h5", "1.parts/000002.h5"):
        (folder / name).unlink()
    shutil.rmtree(folder / "2.parts")
    before = {path: path.stat().st_mtime_ns for path in folder.glob("1.parts/*")}

    assert len(before) == 3

    again = run(wide_run, tmp_path / "spread.h5")
    after = {path: path.stat().st_mtime_ns for path in folder.glob("1.parts/*")}
    assert before.items() <= after.items()
    assert_same(again, product.found)


def test_matrices_stay_where_nothing_they_depend_on_has_changed(wide_run, product, tmp_path):
    """Matrices depend neither on what is reported nor on how long cycles go on. From the second
    cycle on they depend on the curve of the restraint.
    """
    folder = tmp_path / "spread.gram"
    known_curve = tmp_path / "known.txt"
    shutil.copytree(product.out.with_suffix(".gram"), folder)

    def times(cycle):
        return {path: path.stat().st_mtime_ns for path in folder.glob(f"{cycle}.parts/*")}

    before = [times(1), times(2)]
    other_keys = {
        "controls": False,
        "uncertainty": "fisher",
        "converged": 1e-8,
        "smooth_sigma_e": [0.2, 0.2],
    }
    run(wide_run, tmp_path / "spread.h5", **other_keys)

    assert [times(1), times(2)] == before

    keys = {
        "restraint": "known",
        "known": ["oxidized", str(known_curve)],
        "known_sigma_e": 0.5,
        "controls": False,
    }
    states = []
    for level in (-8.0, -8.0, -6.0):
        np.savetxt(known_curve, [[6000.0, level, 1.0], [9000.0, level, 4.0]])
        run(wide_run, tmp_path / "spread.h5", **keys)
        states.append((times(2), store.identity(tmp_path / "spread.h5")))

    assert states[0][1] == states[1][1] != states[2][1]
    assert states[0][0] == states[1][0]
    assert not states[1][0].items() & states[2][0].items()
    assert not before[1].items() & states[0][0].items()
    assert times(1) == before[0]


def test_cycles_come_to_rest_and_stay_there(wide_run, tmp_path):
    """Changes shrink from cycle to cycle; the published refinement was stable for one."""
    run(wide_run, tmp_path / "spread.h5", controls=False, max_cycles=6, converged=1e-9)
    changes = store.attributes(tmp_path / "spread.h5", Spread)["changes"]
    assert len(changes) == 6 or (len(changes) == 5 and changes[-1] == 0.0)

    falling = [
        (before, after) for before, after in pairwise(changes) if before > 0.01
    ]  # of σ; then it is rounding
    assert len(falling) >= 2 and all(after < 0.6 * before for before, after in falling), changes
    assert changes[-1] < 0.01


def test_blocks_do_not_matter(wide_run, product, tmp_path):
    again = run(wide_run, tmp_path / "spread.h5", block_lattices=2, controls=False).datasets()
    for name, column in product.found.datasets().items():
        if name != "lattices/seconds":
            np.testing.assert_allclose(again[name], column, rtol=1e-7, atol=1e-7, err_msg=name)
    assert store.attributes(tmp_path / "spread.h5", Spread)["controls"] == []


def test_a_quoted_restraint_comes_first(wide_run, tmp_path):
    keys = {
        "restraint": "known",
        "known": ["oxidized", "reduced"],
        "known_sigma_e": 0.01,
        "uncertainty": "fisher",
    }
    found = run(
        wide_run, tmp_path / "spread.h5", controls=False, max_cycles=1, converged=1e3, **keys
    )
    attributes = store.attributes(tmp_path / "spread.h5", Spread)

    assert attributes["fits"] == ["known", "free", "kramers_kronig", "smooth"]
    assert attributes["sigma_kinds"] == ["fisher"] * 4
    assert attributes["converged"]

    rows = found.curves.fit == 0
    assert np.all(found.curves.fp_sigma[rows] < 0.011)

    sigma = found.curves.fp_sigma
    fisher = found.curves.fp_fisher
    is_smooth = found.curves.fit == attributes["fits"].index("smooth")
    np.testing.assert_allclose(sigma[~is_smooth], fisher[~is_smooth], rtol=1e-12)
    assert np.all(sigma[is_smooth] >= fisher[is_smooth]), "with the bias of smoothness"


NO_SITES = {"stage1": {"structure_factors": {"sites": []}}}


@pytest.mark.parametrize(
    ("more", "keys", "words"),
    [
        (NO_SITES, {}, "sites.*none"),
        ({}, {"known": ["oxidized"]}, "spread.known.*2 curves"),
        ({}, {"step_ev": 60.0}, "spread.step_ev.*two nodes"),
        ({}, {"step_ev": 0.5}, "spread.step_ev.*the distance of channels, . eV"),
    ],
    ids=["no sites", "one curve of two", "a step too wide", "a step too small"],
)
def test_what_cannot_be_refined_is_said(wide_run, tmp_path, more, keys, words):
    with pytest.raises(ConfigError, match=words):
        run(wide_run, tmp_path / "spread.h5", more, **keys)


def test_a_stage1_of_other_keys_is_refused(wide_run, tmp_path):
    more = {"stage1": wide_run.tree["stage1"] | {"oversample": 2}}
    with pytest.raises(FileError, match="Rerun stage1"):
        run(wide_run, tmp_path / "spread.h5", more)


def test_no_lattice_at_all_is_said(wide_run, tmp_path):
    """The range is one in which no lattice has enough shoeboxes."""
    with pytest.raises(FileError, match="none can be"):
        run(wide_run, tmp_path / "spread.h5", d_max=2.31)


def _parts(out, cycle):
    """Path → time of the last change, of the parts of a cycle."""
    parts = out.with_suffix(".gram").glob(f"{cycle}.parts/[0-9]*.h5")
    return {path.name: path.stat().st_mtime_ns for path in parts}


@pytest.fixture(scope="module")
def with_rest(wide_run, tmp_path_factory) -> SimpleNamespace:
    """The product where X is unknown: its path and tables."""
    out = tmp_path_factory.mktemp("spread") / "spread.h5"
    found = run(wide_run, out, unknown_f="complex")
    return SimpleNamespace(out=out, found=found)


def test_with_x_unknown_all_is_there(product, with_rest):
    """Three lattices meet hardly any reflection twice: σ are larger, and all figures finite."""
    ours = store.attributes(with_rest.out, Spread)
    theirs = store.attributes(product.out, Spread)
    assert ours.keys() >= theirs.keys()
    assert ours["config"]["unknown_f"] == "complex"
    assert ours["fits"] == theirs["fits"] and ours["sites"] == theirs["sites"]
    names = [verdict["name"] for verdict in ours["controls"]]
    of_model = [verdict["name"] for verdict in theirs["controls"]]
    assert [name for name in names if name in of_model] == of_model
    assert set(names) - set(of_model) == {"scale", "model", "at rest"}
    assert all(np.isfinite(verdict["figure"]) for verdict in ours["controls"])

    for table in (with_rest.found.curves, with_rest.found.values):
        for name, column in table.as_dict().items():
            assert np.isfinite(column).all(), name
    is_free = with_rest.found.curves.fit == 0
    larger = with_rest.found.curves.fp_fisher / product.found.curves.fp_fisher
    assert np.all(larger[is_free] > 0.99) and np.median(larger[is_free]) > 1.1
    used = with_rest.found.lattices.outcome == SpreadOutcome.USED
    assert np.isfinite(with_rest.found.lattices.loss[used]).all()


def test_with_x_unknown_a_killed_run_goes_on_where_it_was(wide_run, with_rest, tmp_path):
    """To the same curves, though X of the cycle before is found again."""
    out = tmp_path / "spread.h5"
    folder = tmp_path / "spread.gram"
    shutil.copytree(with_rest.out.with_suffix(".gram"), folder)
    for name in ("2.h5", "2.parts/000002.h5"):
        (folder / name).unlink()
    before = [_parts(out, cycle) for cycle in (1, 2)]
    assert [len(parts) for parts in before] == [4, 3]
    again = run(wide_run, out, unknown_f="complex")
    assert _parts(out, 1) == before[0]
    assert before[1].items() <= _parts(out, 2).items()
    assert_same(again, with_rest.found)


def test_lattices_of_a_cycle_depend_on_x_of_the_one_before(
    wide_run, with_rest, tmp_path, monkeypatch
):
    """The same curves with another X make other matrices, and only from the second cycle on."""
    out = tmp_path / "spread.h5"
    shutil.copytree(with_rest.out.with_suffix(".gram"), out.with_suffix(".gram"))
    before = [_parts(out, cycle) for cycle in (1, 2)]
    rounded = FittedRest.rounded

    def another(rest, decimals):
        x = rest.x.copy()
        x[0, 0] += 2.0
        return rounded(rest._replace(x=x), decimals)

    monkeypatch.setattr(FittedRest, "rounded", another)
    run(wide_run, out, unknown_f="complex", controls=False)
    assert _parts(out, 1) == before[0]
    after = _parts(out, 2)
    assert after.keys() == before[1].keys()
    assert not after.items() & before[1].items()


def test_the_second_cycle_is_expanded_about_x_of_the_first(wide_run, with_rest):
    """|F|² of its columns is that of the curves and X that the first cycle ended with."""
    config = configured(wide_run, unknown_f="complex")
    recording = read_recording(wide_run.wide, "wide")
    factors = run_models(config, recording, "spread")[0].factors
    path = with_rest.out.with_suffix(".gram") / "2.h5"
    curves = store.attributes(path, Gram)["curves"]
    about = factors._replace(
        anomalous=np.concatenate(
            [np.array(curves)[:, 0] + 1j * np.array(curves)[:, 1], factors.anomalous[2:]]
        )
    )
    part = store.parts_of(path, Gram)[0]
    ((_, lattice_gram),) = gram_rows.grams_of(part.read())
    node = about.rows(lattice_gram.hkl)
    of_model = np.abs(about.at(node)[np.arange(len(node)), lattice_gram.channel]) ** 2
    change = np.abs(lattice_gram.intensity / of_model - 1.0)
    assert np.median(change) > 1e-3, "X has moved"
    assert np.median(change) < 0.5


def test_real_x_keeps_the_curves_of_a_right_model(wide_run, product, tmp_path):
    """Moduli that are known to 0.1 % are those of the model; in one cycle from the matrices that
    are there.
    """
    out = tmp_path / "spread.h5"
    shutil.copytree(product.out.with_suffix(".gram"), out.with_suffix(".gram"))
    keys = {"controls": False, "max_cycles": 1}
    alone = run(wide_run, tmp_path / "alone" / "spread.h5", **keys)
    found = run(wide_run, out, unknown_f="real", f0_sigma=1e-3, **keys)
    free = found.curves[found.curves.fit == 0].as_dict()
    of_model = alone.curves[alone.curves.fit == 0].as_dict()
    for name in ("fp", "fdp"):
        sigma = of_model[f"{name}_fisher"]
        moved = (free[name] - of_model[name]) / sigma
        assert np.abs(moved).max() < 1.0
        assert np.abs(moved).max() > 1e-3
        larger = free[f"{name}_fisher"] / sigma
        assert np.all(larger > 0.999) and np.all(larger < 1.5)
