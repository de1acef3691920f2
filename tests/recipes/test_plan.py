"""A plan, and what a refinement of the same lattices makes of it."""

import json
from itertools import pairwise

import numpy as np
import pytest

from lab import TRICLINIC
from spreadflow import build
from spreadflow.analysis.curves import columns, dispersion, expand, gram, planning
from spreadflow.analysis.pixels import lattice_fit
from spreadflow.cli import main
from spreadflow.config import parse, setting
from spreadflow.errors import ConfigError
from spreadflow.recipes import patch as patches
from spreadflow.recipes import plan
from spreadflow.recipes.curves import start_curves
from spreadflow.recipes.still import Simulator

pytestmark = pytest.mark.stage

TREE = TRICLINIC | {
    "seed": 5,
    "beam": {"n_channels": 24, "first_channel_ev": 7097.0, "channel_ev": 2.0, "envelope_ev": 12.0},
    "annulus": {"d_min": 2.3, "d_max": 3.0},
    "stage1": {"oversample": 1},
}


@pytest.fixture(scope="module")
def figures() -> dict:
    question = plan.Question(n_lattices=4, grids_ev=[4.0, 8.0], model_errors=[])
    return plan.run(parse(TREE), question)


def test_ranges_and_grids(figures):
    """A wider range is never worse, nor is a coarser grid; σ goes as 1/√n where there are lattices
    enough.
    """
    rows = {(row["d_max"], row["grid_ev"], row["restraint"]): row for row in figures["rows"]}
    assert {key[0] for key in rows} == {3.0, 4.0, 20.0}
    assert len(rows) == 12

    for (d_max, grid, restraint), row in rows.items():
        for wider_d_max in (other for other in (4.0, 20.0) if other > d_max):
            wider = rows[wider_d_max, grid, restraint]
            assert wider["n_reflections"] >= row["n_reflections"]
            for key in ("sigma_fp_e", "sigma_fdp_e", "sigma_edge_difference_ev"):
                assert (wider[key] <= row[key] * 1.001).all()
        coarser = rows[d_max, 8.0, restraint]
        assert (coarser["sigma_fp_e"] <= row["sigma_fp_e"]).all()

    wide = rows[20.0, 8.0, "free"]["sigma_fp_e"]

    assert wide[-3] / wide[-1] == pytest.approx(np.sqrt(10), rel=0.02)
    assert figures["sites"] == ["FE1", "FE2"]
    assert figures["bands_ev"][0] == [7100.0, 7140.0]


def test_unknown_x():
    """The more the model is wrong, the less is known: of the constant of f′ much less, as it rests
    on the model and stays where it is, while the shape and f″ become nearly as good as with X
    known. Where `spread` takes X for known there is nothing to ask.
    """
    few = plan.Question(n_lattices=2, d_max=[3.0], grids_ev=[8.0], model_errors=[0.4, 0.1])
    figures = plan.run(parse(TREE), few)["rows"]
    assert [row["model_error"] for row in figures] == [None, 0.1, 0.4, None, 0.1, 0.4]
    for rows in (figures[:3], figures[3:]):
        for less_wrong, more_wrong in pairwise(rows):
            for name in planning.QUANTITIES:
                key = f"sigma_{name}_e"
                assert (more_wrong[key] > 0.999 * less_wrong[key]).all()
            key = "sigma_edge_difference_ev"
            assert (more_wrong[key] > 0.999 * less_wrong[key]).all()
        of_last = {
            name: rows[2][f"sigma_{name}_e"][-1] / rows[0][f"sigma_{name}_e"][-1]
            for name in planning.QUANTITIES
        }
        assert of_last["shape_fp"] < 1.3 and of_last["shape_fdp"] < 1.3
        assert of_last["constant_fp"] > 1.5 * of_last["shape_fp"]

    config = parse(TREE | {"spread": {"unknown_f": "none"}})
    assert [row["model_error"] for row in plan.run(config, few)["rows"]] == [None, None]


def test_refinement():
    """The plan's σ are within 5 % of those of a refinement of noisy shoeboxes of the same lattices
    that starts from other curves.
    """
    config = parse({"stage1": {"oversample": 1}})
    n = 8
    d_min = 2.1
    d_max = 4.0
    (case,) = plan._cases(config, [], [])
    simulator = Simulator(case.config)
    group = simulator.crystal.space_group
    free = tuple(config.stage1.refine)
    true = simulator.factors
    noise = build.noise(simulator.recording)

    planned_lattices = []
    grams = []
    for k in range(n):
        place = patches.outline(simulator, k, d_min=d_min, d_max=d_max)
        every = np.ones(len(place.panel), dtype=bool)
        ranges = [(d_min, d_max)]
        planned_lattices.append(plan._lattice(simulator, place, every, ranges, config.stage1))
        patch = patches.patch(simulator, k, d_min=d_min, d_max=d_max)
        true_parameters = patch.parameters
        rows = lattice_fit.reachable(true_parameters, patch.shoeboxes)
        parameters = true_parameters._replace(
            hkl=true_parameters.hkl[rows], f_squared=true_parameters.f_squared[rows]
        )
        problem = lattice_fit.problem(parameters, group, patch.shoeboxes, noise)
        fitted = lattice_fit.refine(problem, free, is_rough=False)
        model = lattice_fit.Model(lattice_fit.moved(problem, fitted.parameters), free)
        grams.append(gram.gram(model, fitted.fit.point.planes))
    halves = plan._information(simulator, planned_lattices, 0, start_curves(true))
    information = halves.mean(axis=0)
    lattices = columns.of_lattices(grams, true)

    mean_curve = start_curves(true).mean(axis=0, keepdims=True)
    start = np.repeat(mean_curve, 2, axis=0)
    p = dispersion.free(start, simulator.energies, planning.nodes(simulator.energies, 4.0))
    refined = expand.refine(
        lambda theta: expand.normal(lattices, p, theta), p, np.zeros(len(p.names))
    )
    band = np.array([7100.0, 7140.0])
    inside = planning.inside(p, band)[:, 0]
    variance = np.square(p.sigma(refined.fisher)).transpose(1, 0, 2)
    found = variance[:, inside].mean(axis=1)
    planned = planning.outlook(p.basis.T @ information @ p.basis, p, band).sigma(n)[:2]

    assert (planned < 0.25 * dispersion.PRIOR_E).all()
    assert len(refined.steps) > 1
    np.testing.assert_allclose(planned, np.sqrt(found), rtol=0.05)


def test_reflections_say_the_same_in_two_lots_as_together():
    """What two lots say about |F|² and the lattice adds up, restraints included."""
    (case,) = plan._cases(parse(TREE), [], [])
    simulator = Simulator(case.config)
    place = patches.outline(simulator, 0, d_min=2.3, d_max=20.0)
    of_first = np.arange(len(place.panel)) % 3 == 0
    every = np.ones(len(place.panel), dtype=bool)
    first, second, whole = (
        plan._lattice(simulator, place, chosen, [(2.3, 20.0)], parse(TREE).stage1)
        for chosen in (of_first, ~of_first, every)
    )
    assert first.n_reflections == second.n_reflections == whole.n_reflections == len(every)
    (one,), (other,), (both,) = (lattice.grams for lattice in (first, second, whole))
    assert len(one.slope) + len(other.slope) == len(both.slope)
    assert len(one.slope) < 0.6 * len(both.slope)
    assert one.n_pixels + other.n_pixels == both.n_pixels
    largest = np.abs(both.nuisance).max()
    np.testing.assert_allclose(one.nuisance + other.nuisance, both.nuisance, atol=1e-6 * largest)


def test_a_share_of_the_reflections_stands_for_all(monkeypatch):
    """σ from half of 45 reflections are those from all, but for chance."""
    question = plan.Question(n_lattices=6, d_max=[20.0], grids_ev=[8.0])
    monkeypatch.setattr(plan, "MAX_REFLECTIONS", 10_000)
    every = plan.run(parse(TREE), question)["rows"]
    monkeypatch.setattr(plan, "MAX_REFLECTIONS", 0.5 * every[0]["n_reflections"])
    half = plan.run(parse(TREE), question)["rows"]
    assert [row["model_error"] for row in every] == [None, 0.3, None, 0.3]
    for row, of_half in zip(every, half, strict=True):
        assert row["share_computed"] == 1.0
        assert of_half["share_computed"] == pytest.approx(0.5)
        assert of_half["n_reflections"] == row["n_reflections"]
        for name in ("sigma_shape_fp_e", "sigma_shape_fdp_e"):
            assert 0.9 < of_half[name][-1] / row[name][-1] < 1.9


def test_information_of_a_share_is_that_of_all(monkeypatch):
    """Lots of half of the reflections say on average what all say, to 2 % with an error of 8 %.
    Were what the lattice takes from each shoebox not put back, it would be 43 % less.
    """
    config = parse(TREE)
    (case,) = plan._cases(config, [], [])
    simulator = Simulator(case.config)
    curves = start_curves(simulator.factors)
    places = [patches.outline(simulator, k, d_min=2.3, d_max=20.0) for k in range(4)]

    def said_by(masks):
        each = zip(places, masks, strict=True)
        lattices = [
            plan._lattice(simulator, place, mask, [(2.3, 20.0)], config.stage1)
            for place, mask in each
        ]
        return np.trace(plan._information(simulator, lattices, 0, curves).mean(axis=0))

    def said_by_halves(n_lots=8):
        rng = np.random.default_rng(0)
        sums = 0.0
        for _ in range(n_lots):
            sizes = [len(place.panel) for place in places]
            lots = [rng.choice(size, size // 2, replace=False) for size in sizes]
            each = zip(sizes, lots, strict=True)
            sums += said_by([np.isin(np.arange(size), lot) for size, lot in each])
        return sums / n_lots / 0.5

    whole = said_by([np.ones(len(place.panel), dtype=bool) for place in places])
    assert said_by_halves() / whole == pytest.approx(1.0, abs=0.16)
    monkeypatch.setattr(gram, "of_a_share", lambda one, left_out: one)
    assert said_by_halves() / whole < 0.75


def test_cases():
    """A blurred detector is worse; domains of other sizes fill the same crystal."""
    question = plan.Question(
        n_lattices=2,
        d_max=[20.0],
        grids_ev=[8.0],
        n_cells=[20, 33],
        psf_fwhm_mm=[0.0, 0.4],
        model_errors=[],
    )
    figures = plan.run(parse(TREE), question)
    free = {
        (row["n_cells"], row["psf_fwhm_mm"]): row["sigma_fp_e"]
        for row in figures["rows"]
        if row["restraint"] == "free"
    }

    assert list(free) == [(20, 0.0), (20, 0.4), (33, 0.0), (33, 0.4)]
    for n in (20, 33):
        assert (free[n, 0.4] > free[n, 0.0]).all()

    small, large = (case.config.crystal for case in plan._cases(parse(TREE), [20, 40], []))
    assert small.domains_per_crystal == pytest.approx(8 * large.domains_per_crystal)
    assert large.domain_ang == pytest.approx(2 * small.domain_ang)
    assert next(plan._cases(parse(TREE), [], [])).config.crystal == parse(TREE).crystal


def test_door(tmp_path, capsys):
    """The command writes figures and a picture, and prints a sentence."""
    (tmp_path / "c.yaml").write_text(json.dumps(TREE))
    words = [
        "plan",
        "--config",
        str(tmp_path / "c.yaml"),
        "--out",
        str(tmp_path / "plan.json"),
        "--lattices",
        "2",
    ]

    words += ["--grid", "4", "8", "--d-max", "3", "--set", "beam.photons=5e11", "--set", "seed=6"]
    assert main([*words, "--model-error", "none", "0.25"]) == 0

    out = capsys.readouterr().out
    figures = json.loads((tmp_path / "plan.json").read_text())
    assert "reaches 0.1 e at" in out
    assert figures["sentence"].split("(")[0] in out
    assert figures["n_simulated"] == 2
    assert [row["model_error"] for row in figures["rows"]] == 4 * [None, 0.25]
    assert len(figures["rows"][0]["sigma_fp_e"]) == 7
    assert (tmp_path / "plan.png").stat().st_size > 20_000


@pytest.mark.parametrize(
    ("changes", "how", "expected"),
    [
        ({"structure_factors": {"sites": []}}, {}, "structure_factors.sites"),
        ({}, {"n_lattices": 3}, "--lattices"),
        ({}, {"d_min": [1.5]}, "--d-min: expected at least structure_factors.d_min, 2 Å"),
        ({}, {"d_min": [5.0]}, "--d-min: .* less than --d-max, 3 Å; found 5"),
        ({}, {"grids_ev": [1.0]}, "--grid: expected at least beam.channel_ev, 2 eV"),
        ({}, {"band_ev": (7300.0, 7340.0)}, "--band: expected nodes"),
        (
            {"beam": TREE["beam"] | {"first_channel_ev": 7000.0, "energy_ev": 7020.0}},
            {},
            "--band: expected nodes",
        ),
        ({}, {"d_min": [19.9], "d_max": [20.0]}, "no reflection from 19.9 to 20 Å"),
        ({}, {"n_cells": [2]}, "crystal.domain_ang: expected a domain of 5"),
        ({}, {"psf_fwhm_mm": [-1.0]}, "recording.psf_fwhm_mm"),
        ({}, {"model_errors": [0.0]}, "--model-error: expected more than 0"),
    ],
)
def test_bad_input(changes, how, expected):
    with pytest.raises(ConfigError, match=expected) as error:
        plan.run(
            parse(TREE | changes), plan.Question(**({"n_lattices": 2, "grids_ev": [8.0]} | how))
        )
    assert "\n" not in str(error.value)


def test_setting():
    assert setting("beam.photons=5e11") == {"beam": {"photons": "5e11"}}
    assert setting("detector.shape=[10, 20]") == {"detector": {"shape": [10, 20]}}
    for wrong in ("beam.photons", "=3", "beam..photons=3", "a=[1"):
        with pytest.raises(ConfigError, match="--set"):
            setting(wrong)
