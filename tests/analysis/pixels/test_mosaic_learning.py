"""Distributions of domains planted in a triclinic crystal on two panels, learned from its pixels
alone.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lab import cached
from spreadflow.analysis.pixels import component_weights, lattice_fit, mosaic_learning
from spreadflow.config import for_stage, parse, section
from spreadflow.models import Mosaic, Noise
from spreadflow.physics import mosaic, rotation
from spreadflow.recipes import patch as patches
from spreadflow.recipes import still
from spreadflow.units import DEG

TREE = {
    "seed": 5,
    "runs": {"r": {"simulate": {"n_single": 1}}},
    "crystal": {
        "cell": [48.0, 52.0, 39.0, 80.0, 108.0, 95.0],
        "space_group": "P 1",
        "domain_ang": 4000.0,
        "mosaicity": "domains",
        "n_domains": 6,
        "domains_per_crystal": 300.0,
    },
    "structure_factors": {"d_min": 2.0},
    "beam": {
        "n_channels": 20,
        "first_channel_ev": 7091.0,
        "channel_ev": 3.0,
        "envelope_ev": 11.0,
        "photons": 4e11,
    },
    "detector": {
        "shape": [1000, 560],
        "pixel_mm": 0.18,
        "panels": [
            {"origin_mm": [-101.0, 90.0, -130.0]},
            {"origin_mm": [1.0, 89.0, -130.5], "fast": [1.0, 0.02, 0.01]},
        ],
        "water_mm": 0.002,
        "air_mm": 1.0,
        "bad_pixels": [[1, 160, 180, 0, 560]],
    },
    "simulate": {"oversample": 1},
}
NOISE = Noise(1.0, 0.01)
ETA = 0.05 * DEG
UNIT = 0.03 * DEG
"""about η of the lattices' continuous fits"""
TURN = rotation.from_vector(0.01 * DEG * np.array([0.6, 0.64, -0.48]))


@pytest.fixture(scope="module")
def simulated() -> list[patches.Patch]:
    """Two lattices that share the six domains."""

    def make() -> list[patches.Patch]:
        config = for_stage(section(parse(TREE), "simulate", "r"), "simulate")
        simulator = still.Simulator(config)
        return [patches.patch(simulator, number, d_min=2.2, d_max=3.5) for number in range(2)]

    return cached("lattices_that_share_domains", make, "spreadflow.recipes.patch", also=repr(TREE))


def problem_of(
    patch: patches.Patch, turn=TURN, domains: Mosaic | None = None, oversample: int = 1
) -> lattice_fit.Problem:
    """The truth turned, with another distribution and the nodes in reach."""
    p = patch.parameters
    crystal = p.crystal._replace(A=turn @ p.crystal.A, eta_rad=np.float64(ETA))
    p = p._replace(crystal=crystal, mosaic=mosaic.continuous() if domains is None else domains)
    rows = lattice_fit.reachable(p, patch.shoeboxes)
    p = p._replace(hkl=p.hkl[rows], f_squared=p.f_squared[rows])
    return lattice_fit.problem(p, "P 1", patch.shoeboxes, NOISE, oversample)


@pytest.fixture(scope="module")
def learned(simulated):
    """All lattices turned by the same 0.01°."""

    def make() -> mosaic_learning.LearnedMosaic:
        problems = [problem_of(patch) for patch in simulated]
        return mosaic_learning.learn(problems, eta_rad=UNIT, fine=0.6)

    names = ("mosaic_learning", "component_weights", "mixture_reduction")
    of_pixels = [f"spreadflow.analysis.pixels.{name}" for name in names]
    modules = ("spreadflow.recipes.patch", *of_pixels)
    return cached("learned_domains", make, *modules, also=Path(__file__).read_text())


@pytest.fixture(scope="module")
def refined(learned) -> list[lattice_fit.Problem]:
    """The lattices refined with the set."""
    return [refined_problem(problem) for problem in learned.problems]


def refined_problem(problem: lattice_fit.Problem) -> lattice_fit.Problem:
    """The problem that starts where its fit ends."""
    fit = lattice_fit.refine(problem, mosaic_learning.FREE, is_rough=False)
    return lattice_fit.problem(fit.parameters, "P 1", problem.boxes, NOISE)


def bragg_at_start(problem: lattice_fit.Problem) -> np.ndarray:
    """(valid pixel,) photons."""
    photons, _ = lattice_fit.Model(problem, ())(np.zeros(0))
    return photons


def pattern_error(patch: patches.Patch, problem: lattice_fit.Problem) -> np.ndarray:
    """Σ|model − truth| of the normalised Bragg photons of each shoebox with more than 300."""
    boxes = patch.shoeboxes
    n = len(boxes.panel)
    box = np.repeat(np.arange(n), boxes.n_pixels)[boxes.valid]
    truth = patch.bragg[boxes.valid]

    def normalised(photons: np.ndarray) -> np.ndarray:
        total = np.bincount(box, photons, n)
        return photons / np.maximum(total, 1e-9)[box]

    off = np.abs(normalised(bragg_at_start(problem)) - normalised(truth))
    is_bright = np.bincount(box, truth, n) > 300
    return np.bincount(box, off, n)[is_bright]


@pytest.mark.stage
def test_patterns_of_spots_are_learned(simulated, refined):
    smooth = [refined_problem(problem_of(patch)) for patch in simulated]
    before = np.concatenate(list(map(pattern_error, simulated, smooth)))
    after = np.concatenate(list(map(pattern_error, simulated, refined)))
    assert len(before) > 30
    assert np.median(after) < 0.35 * np.median(before)


def test_weight_lies_where_there_are_domains(simulated, learned):
    """Nodes of the grid are 0.01° apart; a Gaussian of UNIT about each axis has 20 % of its weight
    as near to domains.
    """
    true = simulated[0].parameters.mosaic.rotations
    inverse = np.swapaxes(true, 1, 2)
    away = rotation.angle(inverse[:, None] @ learned.mosaic.rotations)
    is_near = away.min(axis=0) < 0.02 * DEG
    assert is_near @ learned.mosaic.share > 0.8


def test_weights_are_a_distribution_and_its_mean_is_none(learned):
    share = learned.mosaic.share
    assert share.min() >= 0 and share.sum() == pytest.approx(1.0)
    weighted_sum = np.einsum("n,nij->ij", share, learned.mosaic.rotations)
    assert rotation.angle(rotation.nearest(weighted_sum)) < 1e-9


def test_held_out_shoeboxes_are_likelier_and_more_so_with_every_grid(learned):
    losses = [learned.continuous, *(one.held_out for one in learned.rounds)]
    assert learned.is_better and (np.diff(losses) < 0).all()


def test_components_are_few_and_held_out_shoeboxes_agree(learned):
    """Nodes of the last grid are merged; what is lost is a hundredth of what was gained."""
    n_components = len(learned.mosaic.share)
    assert n_components in mosaic_learning.FEWER
    assert n_components < learned.rounds[-1].n_nodes
    lost = learned.held_out - learned.rounds[-1].held_out
    assert lost < 0.01 * (learned.continuous - learned.held_out)


def test_the_rotation_all_lattices_share_goes_to_the_lattices(simulated, refined):
    """They began 0.01° off; A becomes the mean over the domains."""
    for patch, problem in zip(simulated, refined, strict=True):
        turned = problem.start.crystal.A @ np.linalg.inv(patch.parameters.crystal.A)
        assert rotation.angle(rotation.nearest(turned)) < 0.003 * DEG


@pytest.mark.stage
def test_two_ranks_learn_what_one_does(simulated):
    """Each sees its own lattices, sums are over both; and one that has none learns the same."""
    few = [cut(patch, 30) for patch in simulated]

    def learn(numbers: list[int], add=component_weights.sum_up) -> mosaic_learning.LearnedMosaic:
        problems = [few[n] for n in numbers]
        seeds = [(0, n) for n in numbers]
        return mosaic_learning.learn(problems, eta_rad=ETA, seeds=seeds, fine=2.0, add=add)

    together = learn([0, 1])
    for split in ([[0], [1]], [[0, 1], []]):
        for learned in threaded(lambda numbers, add: learn(numbers, add), split):
            for ours, theirs in zip(learned.mosaic, together.mosaic, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-15)
            assert learned.rounds == together.rounds and learned.continuous == together.continuous
    assert not np.allclose(learn([0]).mosaic.share[:16], together.mosaic.share[:16], rtol=0.01)


def threaded(work, split: list[list[int]]) -> list:
    """What `work(numbers, add)` returns on ranks that are threads."""
    meet = threading.Barrier(len(split))
    sent = [None] * len(split)

    def work_of(rank: int):
        def add(arrays):
            sent[rank] = arrays
            meet.wait(60)
            total = component_weights.sum_up([a for arrays in sent for a in arrays])
            meet.wait(60)
            return total

        return work(split[rank], add)

    with ThreadPoolExecutor(len(split)) as pool:
        return list(pool.map(work_of, range(len(split))))


def cut(patch: patches.Patch, n: int) -> lattice_fit.Problem:
    """The problem of the first n shoeboxes."""
    boxes = patch.shoeboxes
    n_pixels = boxes.n_pixels[:n].sum()
    first = boxes._replace(
        hkl=boxes.hkl[:n],
        panel=boxes.panel[:n],
        bbox=boxes.bbox[:n],
        photons=boxes.photons[:n_pixels],
        valid=boxes.valid[:n_pixels],
    )
    return problem_of(patch._replace(shoeboxes=first))


@pytest.mark.parametrize("oversample", [1, 2])
def test_templates_weighted_are_the_model(simulated, oversample):
    rng = np.random.default_rng(1)
    share = rng.dirichlet(np.ones(70))  # more than a batch
    domains = Mosaic(mosaic.domain_rotations(rng, 70, ETA), np.full(70, 0.2), share)
    problem = problem_of(simulated[0], np.eye(3), domains, oversample)
    model = bragg_at_start(problem)
    weighted = component_weights.templates(problem, domains) @ share
    # 3.5 σ away each has 0.002 of its peak
    np.testing.assert_allclose(weighted, model, atol=5e-3 * model.max())
    assert weighted.sum() == pytest.approx(model.sum(), rel=0.01)


@pytest.mark.stage
def test_nothing_is_believed_where_nothing_can_be_held_out(simulated):
    assert not mosaic_learning.learn([cut(simulated[0], 4)], eta_rad=ETA, fine=3.0).is_better


def test_a_learned_set_keeps_its_unit(simulated, learned):
    """η is no unknown of a lattice with a learned set; it is where the set is continuous."""
    assert learned.mosaic.eta_rad == UNIT and learned.problems[0].start.crystal.eta_rad == UNIT
    for problem, has_eta in ((learned.problems[0], False), (problem_of(simulated[0]), True)):
        names = lattice_fit.Model(problem, mosaic_learning.FREE).names()
        assert ("eta" in names) == has_eta


@pytest.mark.stage
def test_nodes_are_as_broad_for_every_lattice_in_every_round(simulated, monkeypatch):
    """Their widths are in units of the η that `learn` is called with, whatever η the lattice has
    with the continuous distribution.
    """
    units = []
    templates = component_weights.templates

    def spied(problem: lattice_fit.Problem, domains: Mosaic):
        units.append(problem.start.crystal.eta_rad)
        return templates(problem, domains)

    monkeypatch.setattr(component_weights, "templates", spied)
    learned = mosaic_learning.learn([cut(simulated[0], 30)], eta_rad=0.6 * ETA, fine=2.0)
    assert set(units) == {0.6 * ETA} and len(units) > len(learned.rounds)
