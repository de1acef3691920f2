"""The cycles of `spread`: lattices are refined and reduced to Gram matrices with the curves of the
cycle before, then the curves, and X where it is unknown, from these alone, until they stay.

The Gram matrices of a cycle are the product `spread.gram/<cycle>.h5`, so that a run that was killed
continues from the blocks that are finished.
"""

from logging import Logger
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow import build, products
from spreadflow.analysis.curves.columns import NO_SITE_UNKNOWNS
from spreadflow.analysis.curves.dispersion import Parametrisation
from spreadflow.analysis.curves.expand import FittedRest, RefinedCurves
from spreadflow.analysis.curves.gram import Gram
from spreadflow.config import SpreadConfig
from spreadflow.errors import FileError, SpreadOutcome, StageWarning
from spreadflow.io import store
from spreadflow.io.factor_files import FactorFiles
from spreadflow.io.pieces import Piece
from spreadflow.io.shoebox_blocks import ShoeboxBlock
from spreadflow.log import warn
from spreadflow.models import MosaicOfLattice
from spreadflow.parallel import World
from spreadflow.physics.structure_factors import StructureFactors
from spreadflow.products import Annulus
from spreadflow.products.gram import Lattices
from spreadflow.recipes import curves, factors, gram_rows
from spreadflow.recipes.alternate import alternate
from spreadflow.recipes.factors import MovedSites
from spreadflow.recipes.gram import (
    ExpandedLattice,
    expand_lattice,
    with_curves,
    with_rest,
)
from spreadflow.recipes.lattice import RunModel, Start, unpack
from spreadflow.recipes.lattice_sums import LatticeSums, Ranks, Unknown
from spreadflow.recipes.still import PERTURBATION
from spreadflow.stages import blocks as skeleton
from spreadflow.stages.expansions import (
    Expansion,
    LatticeRow,
    StartsOfBlock,
    expanded,
    starts_again,
)
from spreadflow.stages.pixel_models import sections_of

KEYS_OF_PIXELS = {"d_min", "d_max", "model_error"}
"""Keys of the section on which Gram matrices depend, beside the curves that they are expanded
about.
"""

DECIMALS = 6
"""Decimals, e, to which the curves of an expansion are rounded: rounding errors of sums must not
change the key of a cycle.
"""

X_DECIMALS = 3
"""The same of X."""

LEAST_SHOEBOXES = 1.25
"""Shoeboxes of a reflection, on average over those that were recorded, with fewer of which X takes
up what curves do: 16 lattices of the demo have 1.1, and 50, which give curves within their σ, 1.3.
"""


class Context(NamedTuple):
    """What all cycles share."""

    config: SpreadConfig
    shoeboxes: Path
    blocks: list[ShoeboxBlock]
    models: list[RunModel]
    """of each run"""
    mosaic_of: MosaicOfLattice
    unknowns: list[str]
    """of the lattices of stage 1"""
    files: FactorFiles
    log: Logger
    world: World


class About(NamedTuple):
    """What the Gram matrices of a cycle are expanded about."""

    curves: np.ndarray
    """(site, 2, channel) f′, f″"""
    rest: FittedRest | None
    """X, where it is unknown; None = that of the model"""
    sites: MovedSites | None
    """the sites, where more than their curves is unknown of them"""

    def moved(self, factors: StructureFactors) -> StructureFactors:
        """Return structure factors with the sites where they are."""
        if self.sites is None:
            return factors
        others = factors.groups[factors.n_sites :]
        return factors._replace(groups=np.concatenate([self.sites.groups, others]))

    def factors(self, model: RunModel) -> StructureFactors:
        """Return the structure factors that lattices are refined with."""
        with_sites = with_curves(self.moved(model.factors), self.curves)
        return with_rest(with_sites, self.rest, model.space_group)


class Cycle(NamedTuple):
    """The lattices of a finished cycle."""

    lattices: Lattices
    """all of them"""
    used: np.ndarray
    """(used lattice,) rows of the lattices that are used"""
    sums: LatticeSums


class Result(NamedTuple):
    """Curves from the lattices of the last cycle."""

    p: Parametrisation
    refined: RefinedCurves
    cycle: Cycle
    changes: list[float]
    """largest change of the curves in each cycle, in σ"""
    warnings: list[dict]
    """given before the curves were refined"""
    log_scales: list[float]
    """ln of Σ|F|² over Σ(|M|² + S), M the F of the start, in each cycle; none where X is that of
    the model
    """


def alternated(context: Context, out: Path, inputs: list, starts: StartsOfBlock) -> Result:
    """Refine lattices and curves in turns, until the curves no longer change.

    out: path of the product; inputs: what the matrices depend on beside the section; starts: of the
    lattices of the first cycle.
    """
    turns = _Turns(context, out, inputs, starts)
    end = alternate(turns.refine_lattices, turns.refine_curves, turns.are_over)
    return Result(turns.p, end.state, end.expanded, end.changes, turns.warnings, turns.log_scales)


class _Turns:
    """The turns of lattices and curves, and what they leave for the product.

    The key of a cycle's matrices is made of the key of the cycle before and of the curves that they
    are expanded about. The rest of the section acts through these curves alone: where they stay the
    same, the matrices are kept.
    """

    def __init__(self, context: Context, out: Path, inputs: list, starts: StartsOfBlock):
        config = context.config
        model = context.models[0]
        sites = _moved_sites(context, None)
        self._unknowns = NO_SITE_UNKNOWNS if sites is None else sites.unknowns
        fits = curves.parametrisations(
            config, model.factors, model.energies_ev, context.files, self._unknowns
        )
        self.p = next(iter(fits.values()))
        self.warnings: list[dict] = []
        self.log_scales: list[float] = []
        sections = sections_of(config, config.stage1)
        of_pixels = config.spread.model_dump(mode="json", include=KEYS_OF_PIXELS)
        self._key = store.digest(sections, of_pixels, inputs)
        self._context = context
        self._folder = out.with_suffix(".gram")
        self._starts = starts
        self._number = 0

    def refine_lattices(self, before: RefinedCurves | None) -> Cycle:
        """Return the lattices, expanded about the curves of the cycle before. Collective."""
        context = self._context
        self._number += 1
        about = self._about(before)
        self._key = store.digest(self._key, about.curves)
        if about.rest is not None:
            self._key = store.digest(self._key, about.rest.hkl, about.rest.x)
        if about.sites is not None:
            self._key = store.digest(self._key, about.sites.unknowns.origin)
        path = self._folder / f"{self._number}.h5"
        ids = [block.ids for block in context.blocks]
        parts = store.Parts(path, products.Gram, self._key, ids)
        _expand(context, parts, self._starts, about, self._number)
        cycle = _read_cycle(context, parts, about)
        if self._number == 1:
            self.warnings += warn(context.log, _too_few(cycle.sums))
        self._starts = starts_again(parts)
        return cycle

    def _about(self, before: RefinedCurves | None) -> About:
        """Return what the lattices of a cycle are expanded about."""
        expansion_curves = np.round(curves.curves_of(self.p, before), DECIMALS)
        if before is None:
            return About(expansion_curves, None, _moved_sites(self._context, None))
        rest = None if before.rest is None else before.rest.rounded(X_DECIMALS)
        n_other = len(self.p.names) - len(self._unknowns.names)
        return About(expansion_curves, rest, _moved_sites(self._context, before.theta[n_other:]))

    def refine_curves(
        self, cycle: Cycle, before: RefinedCurves | None
    ) -> tuple[RefinedCurves, float]:
        """Return the curves, and how far they moved from those before, in σ. Collective."""
        log = self._context.log
        band_sigma = self._context.config.spread.band_sigma_e
        refined, change = curves.refine(cycle.sums, self.p, before, band_sigma)
        words = "cycle %d: %d lattices, curves moved by %.3g σ at most"
        log.info(words, self._number, cycle.sums.n, change)
        if refined.rest is not None:
            self.log_scales.append(refined.rest.log_scale)
            words = "cycle %d: ln Σ|F|²/Σ(|M|² + S) = %+.4f, M of the start; √S of shells %s e"
            widths = " ".join(f"{width:.3g}" for width in np.sqrt(refined.rest.variance))
            log.info(words, self._number, refined.rest.log_scale, widths)
            words = "cycle %d: spots are brighter or dimmer than their models by %.3g %%"
            log.info(words, self._number, 100.0 * refined.rest.scatter)
        return refined, change

    def are_over(self, changes: list[float]) -> bool:
        """Whether the curves stay as they are, or cycles are used up."""
        return curves.has_converged(changes, self._context.config.spread)


def _too_few(lattices: LatticeSums) -> list[StageWarning]:
    """Return a warning where lattices say too little of X. Collective."""
    if lattices.rest is None:
        return []
    mean = float(lattices.n_shoeboxes().mean())
    if mean >= LEAST_SHOEBOXES:
        return []
    return [
        StageWarning(
            f"too little is known of X of {lattices.rest.n} reflections; shoeboxes of each",
            mean,
            f"at least {LEAST_SHOEBOXES}",
            "Take more lattices, or X of a model that you are sure of: spread.unknown_f: none.",
        )
    ]


def _moved_sites(context: Context, values: np.ndarray | None) -> MovedSites | None:
    """Return the sites at values of what is unknown of them beside their curves (site unknown,),
    None = as the model has them; None where nothing is.
    """
    section = context.config.spread
    sigmas: dict[str, float] = {
        "place": section.place_sigma_ang,
        "b": section.b_sigma_ang2,
        "occupancy": section.occupancy_sigma,
    }
    chosen = {str(kind): sigmas[kind] for kind in section.refine_sites}
    if not chosen:
        return None
    origin = None if values is None else np.round(values, DECIMALS)
    rng = np.random.default_rng([context.config.seed, 0, PERTURBATION])
    return factors.moved_sites(
        context.config.structure_factors,
        context.models[0].factors,
        chosen,
        rng,
        context.files,
        origin,
    )


def _expand(
    context: Context,
    parts: store.Parts[products.Gram],
    starts: StartsOfBlock,
    about: About,
    cycle: int,
) -> None:
    """Make all parts of a cycle."""
    models = [model._replace(factors=about.factors(model)) for model in context.models]

    section = context.config.spread
    expansion = Expansion(
        shoeboxes=context.shoeboxes,
        kind=section.shoeboxes,
        blocks=context.blocks,
        unknowns=context.unknowns,
        n_channels=len(models[0].energies_ev),
        log=context.log,
    )

    def expand(shoeboxes: Annulus, row: LatticeRow, start: Start) -> ExpandedLattice:
        lattice = unpack(shoeboxes, row.row, section.d_min or 0.0, section.d_max)
        mosaic = context.mosaic_of(row.shot_id, row.k)
        model = models[row.run]
        return expand_lattice(lattice, mosaic, model, context.config.stage1, section, start)

    def make(piece: Piece) -> products.Gram:
        return expanded(expansion, piece, starts(piece.block), expand)

    work = skeleton.PieceWork(make, section.block_lattices, "lattices")
    n_lattices = [len(block.lattices) for block in context.blocks]
    skeleton.run(parts, n_lattices, work, f"spread, cycle {cycle}", context.world)
    parts.finish(
        context.world,
        sites=curves.site_names(context.config),
        energies_ev=models[0].energies_ev,
        unknowns=context.unknowns,
        cycle=cycle,
        curves=about.curves,
    )


def _read_cycle(context: Context, parts: store.Parts[products.Gram], about: About) -> Cycle:
    """Return the lattices of a finished cycle, of which this rank holds those of the blocks that it
    is dealt. Collective.

    Raises FileError where none can be used.
    """
    world = context.world
    model = context.models[0]
    section = context.config.spread
    lattices = skeleton.all_rows(parts, products.Gram.lattices, world)
    used = np.flatnonzero(lattices.outcome == SpreadOutcome.USED)
    if not len(used):
        found = f"{len(lattices)} of which none can be"
        todo = "Look at stage1, and widen the range from spread.d_max to spread.d_min."
        raise FileError(context.shoeboxes, "lattices of which one can be used", found, todo)
    numbers: list[int] = []
    grams: list[Gram] = []
    sizes = np.array([len(block.lattices) for block in context.blocks])
    first_rows = np.cumsum(sizes) - sizes
    for block in skeleton.deal(parts, products.Gram.triangles, world):
        for row, lattice_gram in gram_rows.grams_of(parts.read(block)):
            numbers.append(int(np.searchsorted(used, first_rows[block] + row)))
            grams.append(lattice_gram)
    world.count("lattices held", len(grams))
    sums = LatticeSums(
        grams,
        about.moved(model.factors),
        lattices.photons[used],
        model.energies_ev,
        numbers=np.array(numbers, dtype=int),
        unknowns=context.unknowns,
        unknown=Unknown(
            kind=section.unknown_f,
            cell=build.cell(context.config.structure_factors),
            space_group=model.space_group,
            sigma=section.f0_sigma,
            sites=NO_SITE_UNKNOWNS if about.sites is None else about.sites.unknowns,
        ),
        ranks=Ranks(world.total, world.gather),
    )
    return Cycle(lattices, used, sums)
