"""SPREAD on arrays in memory, without a file, a rank or a log: python docs/spread_in_memory.py

Simulated lattices are refined against their pixels and reduced to Gram matrices, and from these the
curves f′, f″ of both irons are refined, in turns until the curves stay. To do so with lattices of
your own, fill a `PackedLattice` for each, and a `RunModel` for their detector and beam.
"""

import numpy as np

from spreadflow import config
from spreadflow.analysis.curves.expand import RefinedCurves
from spreadflow.config import SpreadConfig
from spreadflow.physics.mosaic import continuous
from spreadflow.products import spread
from spreadflow.recipes import curves, factors, gram, lattice, patch
from spreadflow.recipes.alternate import alternate
from spreadflow.recipes.lattice import PackedLattice
from spreadflow.recipes.lattice_sums import LatticeSums, Unknown
from spreadflow.recipes.still import Simulator

METAL = [{"atom": "FE1", "curve": "metallic"}, {"atom": "FE2", "curve": "metallic"}]
"""The curves that the refinement starts with. The true ones are of oxidized and reduced iron."""

KEYS = {
    "runs": {"demo": {"simulate": {"n_single": 1}}},
    "crystal": {
        "cell": [40.0, 36.0, 30.0, 80.0, 108.0, 95.0],
        "space_group": "P 1",
        "domain_ang": 1200.0,
        "domains_per_crystal": 5000.0,
        "mosaicity": "continuous",
    },
    "beam": {"n_channels": 20, "first_channel_ev": 7100.5, "channel_ev": 2.0, "photons": 4e13},
    "detector": {"shape": [360, 360], "pixel_mm": 0.3, "distance_mm": 60.0, "water_mm": 0.002},
    "simulate": {"oversample": 1, "precision": "float64"},
    "stage1": {"oversample": 1, "structure_factors": {"sites": METAL}},
    "spread": {"step_ev": 8.0},
}
"""What differs from config/config.yaml: a small crystal, and a small detector."""


def configured() -> tuple[Simulator, SpreadConfig]:
    """Return the simulator, and the sections that SPREAD reads."""
    parsed = config.parse(KEYS)
    simulated_run = config.section(parsed, "simulate", "demo")
    simulator = Simulator(config.for_stage(simulated_run, "simulate"))
    return simulator, config.for_stage(config.section(parsed, "spread"), "spread")


def simulated_lattices(simulator: Simulator, n_lattices: int) -> list[PackedLattice]:
    """Return the pixels of so many simulated lattices."""
    patches = [patch.patch(simulator, n, d_min=2.3, d_max=4.0) for n in range(n_lattices)]
    return [patch.packed_lattice(simulated) for simulated in patches]


def refined_curves(n_lattices: int) -> spread.Curves:
    """Return the table of the curves of so many simulated lattices."""
    simulator, sections = configured()

    # The model: structure factors with the curves of the start, detector and beam, mosaicity.
    energies_ev = simulator.energies
    mean_ev = simulator.beam.energy_ev
    rng = np.random.default_rng(sections.seed)
    start = factors.factors(sections.structure_factors, energies_ev, mean_ev, rng)
    model = patch.run_model(simulator, start)
    mosaic = continuous()

    # The lattices, each refined against its pixels.
    lattices = simulated_lattices(simulator, n_lattices)
    fits = [lattice.refine_lattice(one, mosaic, model, sections.stage1) for one in lattices]
    starts = [lattice.start_after(fit) for fit in fits]

    # The unknowns of the curves; of several fits the first is the one that is quoted.
    parametrisations = curves.parametrisations(sections, start, energies_ev)
    p = next(iter(parametrisations.values()))

    def refine_lattices(before: RefinedCurves | None) -> LatticeSums:
        rest = None if before is None else before.rest
        about = gram.with_curves(start, curves.curves_of(p, before))
        about = gram.with_rest(about, rest, model.space_group)
        model_about = model._replace(factors=about)
        expanded = [
            gram.expand_lattice(
                one, mosaic, model_about, sections.stage1, sections.spread, start_of_fit
            )
            for one, start_of_fit in zip(lattices, starts, strict=True)
        ]
        starts[:] = [one.start for one in expanded]
        unknown = Unknown(
            kind=sections.spread.unknown_f,
            cell=simulator.cell,
            space_group=model.space_group,
        )
        return LatticeSums(
            [one.gram for one in expanded],
            start,
            photons=np.array([one.photons for one in expanded]),
            energies_ev=energies_ev,
            unknowns=expanded[0].unknowns,
            unknown=unknown,
        )

    def refine_curves(
        sums: LatticeSums, before: RefinedCurves | None
    ) -> tuple[RefinedCurves, float]:
        return curves.refine(sums, p, before, sections.spread.band_sigma_e)

    def is_over(changes: list[float]) -> bool:
        return curves.has_converged(changes, sections.spread)

    turns = alternate(refine_lattices, refine_curves, is_over)
    scores = turns.expanded.unbiased_scores(p, turns.state)
    fit = curves.quoted_fit(p, turns.state._replace(scores=scores), sections.spread.uncertainty)
    return curves.curve_rows({"free": fit})


if __name__ == "__main__":
    for row in zip(*refined_curves(12).as_dict().values(), strict=True):
        print(row)
