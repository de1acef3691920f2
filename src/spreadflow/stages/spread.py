"""spread: f′(E), f″(E) of every metal site, with error bars. Writes spread.h5, spread.csv and the
Gram matrices of each cycle.

Lattices are refined against their pixels of the wider range and reduced to Gram matrices, block by
block; then the curves are refined from these alone, and the lattices once more with the new curves.
The Gram matrices of a cycle are the product `spread.gram/<cycle>.h5`, so that a run that was killed
continues from the blocks that are finished.
"""

from logging import Logger
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spreadflow import build
from spreadflow.analysis.curves import controls, dispersion
from spreadflow.analysis.curves.columns import NO_SITE_UNKNOWNS
from spreadflow.analysis.curves.controls import Verdict
from spreadflow.analysis.curves.dispersion import Parametrisation
from spreadflow.analysis.curves.expand import FittedRest, RefinedCurves
from spreadflow.analysis.curves.gram import Gram
from spreadflow.config import SpreadConfig, SpreadSection
from spreadflow.errors import FileError, SpreadOutcome, StageWarning
from spreadflow.io import factor_files, shoebox_blocks, store
from spreadflow.io.factor_files import FactorFiles
from spreadflow.io.mosaic import mosaic_of_lattices
from spreadflow.io.rows import columns_of
from spreadflow.io.shoebox_blocks import ShoeboxBlock
from spreadflow.log import logger, warn
from spreadflow.models import MosaicOfLattice
from spreadflow.parallel import World
from spreadflow.physics.structure_factors import StructureFactors
from spreadflow.recipes import curves, factors, gram_rows
from spreadflow.recipes.alternate import alternate
from spreadflow.recipes.constants import constant_rows, cost_of_x
from spreadflow.recipes.factors import MovedSites
from spreadflow.recipes.gram import (
    ExpandedLattice,
    expand_lattice,
    with_curves,
    with_rest,
)
from spreadflow.recipes.lattice import RunModel, Start, unpack
from spreadflow.recipes.lattice_sums import LatticeSums, Ranks, Unknown
from spreadflow.recipes.rest_rows import rest_rows
from spreadflow.recipes.run_model import run_models
from spreadflow.recipes.site_rows import site_rows, site_warnings
from spreadflow.recipes.still import PERTURBATION
from spreadflow.stages import blocks as skeleton
from spreadflow.stages.expansions import (
    Expansion,
    LatticeRow,
    StartsOfBlock,
    expanded_block,
    starts_again,
    starts_from,
    unknowns_of,
)
from spreadflow.stages.pixel_models import inputs_of, sections_of

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

TODO_OF_CONTROL = {
    "scale": "f′ and f″ are too large or too small by half of it, relatively. Are there enough "
    "lattices? Is the model whole?",
    "model": "This is no model of the crystal. Look at the structure, the cell and the indexing.",
    "at rest": "Curves and X still move. Take more lattices, or a larger spread.step_ev.",
}
"""What to do about controls of X that fail."""

LOOK = "Look at spread.png before any curve is believed."
"""The same of the others."""

LATTICE_COLUMNS = ("run", "shot_id", "k", "outcome", "model_error", "sigma_z", "seconds")
"""Columns of `lattices` that the product takes over from the last cycle."""


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

    rows: dict[str, np.ndarray]
    """columns of `lattices`, of all lattices"""
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
    log_scales: list[float]
    """ln of Σ|F|² over Σ(|M|² + S), M the F of the start, in each cycle; none where X is that of
    the model
    """


def run(
    config: SpreadConfig,
    *,
    shoeboxes: Path,
    stage1: Path,
    mosaic: Path | None = None,
    out: Path,
    world: World,
    word: str = "spread",
) -> None:
    """Write <word>.h5 and <word>.csv.

    shoeboxes: product of `wide` or `pack`, as `spread.shoeboxes` says; stage1: the refined
    lattices; mosaic: the mosaicity that stage 1 used, where that was learned.
    """
    section = config.spread
    log = logger(word, world)
    curves.check(config)
    attributes = store.attributes(shoeboxes, section.shoeboxes)
    known_curves = section.known or []
    files = factor_files.read(config.structure_factors, known_curves)
    recording = shoebox_blocks.read_recording(shoeboxes, section.shoeboxes)
    context = Context(
        config=config,
        shoeboxes=shoeboxes,
        blocks=shoebox_blocks.blocks_of(shoeboxes, section.shoeboxes, section.block_lattices),
        models=run_models(config, recording, word, files),
        mosaic_of=mosaic_of_lattices(config.stage1, mosaic),
        unknowns=unknowns_of(stage1, config.stage1),
        files=files,
        log=log,
        world=world,
    )
    inputs = inputs_of(config, [shoeboxes, stage1, mosaic, config.stage1.domains])
    result = _cycles(context, out, inputs, starts_from(stage1))
    tables, product_attributes = _tables(context, result)
    product_attributes |= {
        "runs": attributes["runs"],
        "d_min": section.d_min or attributes["config"]["d_min"],
        "changes": result.changes,
        "converged": result.changes[-1] < section.converged,
    }
    names = product_attributes["sites"]
    of_sites = site_warnings(tables["sites"], names, product_attributes["site_unknowns"])
    product_attributes["warnings"] = warn(log, _warnings(section, product_attributes) + of_sites)
    columns: dict[str, np.ndarray] = {}
    for table, of_table in tables.items():
        columns |= {f"{table}/{name}": column for name, column in of_table.items()}
    identities = [store.identity(path) for path in factor_files.curve_paths(known_curves)]
    key = store.digest(section.model_dump(mode="json"), inputs, identities)
    world.once(lambda: _write(out, columns, key, product_attributes))


def _warnings(section: SpreadSection, attributes: dict[str, Any]) -> list[StageWarning]:
    """Return what to know before the curves are trusted.

    attributes: of the product, from which those that only warnings need are taken.
    """
    without_edge = attributes.pop("without_edge")
    bias = attributes.pop("largest_bias")
    warnings = []
    if not attributes["converged"]:
        warnings.append(
            StageWarning(
                f"the last of {len(attributes['changes'])} cycles still moved the curves, by σ",
                attributes["changes"][-1],
                section.converged,
                "Raise spread.max_cycles.",
            )
        )
    if attributes["sigma_kinds"][0] == "scaled":
        warnings.append(
            StageWarning(
                f"too few {attributes['sigma_over']} to tell the scatter of each of so many "
                "unknowns; all σ have one common factor",
                f"{attributes['n_parameters']} unknowns",
                f"fewer than {attributes['sigma_over']}",
                "Take more lattices, or a larger spread.step_ev.",
            )
        )
    if bias > 1.0:
        warnings.append(
            StageWarning(
                "smoothness has likely moved the quoted curves, at the worst node by σ",
                bias,
                1.0,
                "It is in their σ. Quote curves without it: spread.restraint none or "
                "kramers_kronig.",
            )
        )
    warnings += [
        StageWarning(
            f"control failed ({control['name']})",
            float(control["figure"]),
            control["bar"],
            TODO_OF_CONTROL.get(control["name"], LOOK),
        )
        for control in attributes["controls"]
        if not control["passed"]
    ]
    warnings += _moved_scale(attributes["log_scale"])
    todo = "Is the range of channels right? Are there enough lattices?"
    warnings += [StageWarning(sentence, "none", "an edge", todo) for sentence in without_edge]
    return warnings


def _moved_scale(log_scales: list[float]) -> list[StageWarning]:
    """Return a warning where the common scale was lost on the way; the control `scale` judges the
    last cycle, and the first one is held.

    log_scales: ln of Σ|F|² over that of the model, in each cycle.
    """
    between = log_scales[1:-1]
    worst = max(between, key=abs, default=0.0)
    if abs(worst) <= controls.SAME_SCALE or abs(log_scales[-1]) > controls.SAME_SCALE:
        return []
    return [
        StageWarning(
            f"the common scale of X and curves was lost in cycle {log_scales.index(worst) + 1}: "
            "ln Σ|F|²/Σ(|M|² + S)",
            worst,
            f"±{controls.SAME_SCALE}",
            "It has come back. Raise spread.max_cycles, and see whether the curves stay.",
        )
    ]


# ---------------------------------------------------------------- cycles


def _cycles(context: Context, out: Path, inputs: list, starts: StartsOfBlock) -> Result:
    """Refine lattices and curves in turns, until the curves no longer change.

    The key of a cycle's matrices is made of the key of the cycle before and of the curves that they
    are expanded about. The rest of the section acts through these curves alone: where they stay the
    same, the matrices are kept.
    """
    config = context.config
    section = config.spread
    model = context.models[0]
    sites = _moved_sites(context, None)
    unknowns = NO_SITE_UNKNOWNS if sites is None else sites.unknowns
    fits = curves.parametrisations(
        config, model.factors, model.energies_ev, context.files, unknowns
    )
    p = next(iter(fits.values()))
    sections = sections_of(config, config.stage1)
    key = store.digest(sections, section.model_dump(mode="json", include=KEYS_OF_PIXELS), inputs)
    ids = [block.ids for block in context.blocks]
    n_cycles = 0
    log_scales: list[float] = []

    def refine_lattices(before: RefinedCurves | None) -> Cycle:
        nonlocal key, n_cycles, starts
        n_cycles += 1
        expansion_curves = np.round(curves.curves_of(p, before), DECIMALS)
        rest = None if before is None or before.rest is None else before.rest.rounded(X_DECIMALS)
        n_other = len(p.names) - len(unknowns.names)
        sites = _moved_sites(context, None if before is None else before.theta[n_other:])
        key = store.digest(key, expansion_curves)
        if rest is not None:
            key = store.digest(key, rest.hkl, rest.x)
        if sites is not None:
            key = store.digest(key, sites.unknowns.origin)
        path = out.with_suffix(".gram") / f"{n_cycles}.h5"
        parts = store.Parts(path, "gram", key, ids)
        about = About(expansion_curves, rest, sites)
        _expand(context, parts, starts, about, n_cycles)
        cycle = _read_cycle(context, parts, about, is_first=n_cycles == 1)
        starts = starts_again(parts)
        return cycle

    def refine_curves(cycle: Cycle, before: RefinedCurves | None) -> tuple[RefinedCurves, float]:
        refined, change = curves.refine(cycle.sums, p, before, section.band_sigma_e)
        words = "cycle %d: %d lattices, curves moved by %.3g σ at most"
        context.log.info(words, n_cycles, cycle.sums.n, change)
        if refined.rest is not None:
            log_scales.append(refined.rest.log_scale)
            words = "cycle %d: ln Σ|F|²/Σ(|M|² + S) = %+.4f, M of the start; √S of shells %s e"
            widths = " ".join(f"{width:.3g}" for width in np.sqrt(refined.rest.variance))
            context.log.info(words, n_cycles, refined.rest.log_scale, widths)
        return refined, change

    def is_over(changes: list[float]) -> bool:
        return curves.has_converged(changes, section)

    turns = alternate(refine_lattices, refine_curves, is_over)
    return Result(p, turns.state, turns.expanded, turns.changes, log_scales)


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
    parts: store.Parts,
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

    def expand(columns: dict[str, np.ndarray], row: LatticeRow, start: Start) -> ExpandedLattice:
        lattice = unpack(columns, row.row, section.d_min or 0.0, section.d_max)
        mosaic = context.mosaic_of(row.shot_id, row.k)
        model = models[row.run]
        return expand_lattice(lattice, mosaic, model, context.config.stage1, section, start)

    def make(block: int) -> dict[str, np.ndarray]:
        return expanded_block(expansion, block, starts(block), expand)

    skeleton.run(parts, make, f"spread, cycle {cycle}", context.world)
    parts.finish(
        context.world,
        sites=curves.site_names(context.config),
        energies_ev=models[0].energies_ev,
        unknowns=context.unknowns,
        cycle=cycle,
        curves=about.curves,
    )


def _read_cycle(context: Context, parts: store.Parts, about: About, is_first: bool) -> Cycle:
    """Return the lattices of a finished cycle, of which this rank holds those of its blocks.
    Collective.

    is_first: `about` is the start. Raises FileError where none can be used.
    """
    world = context.world
    model = context.models[0]
    section = context.config.spread
    rows = skeleton.all_rows(parts, "lattices")
    used = np.flatnonzero(rows["outcome"] == SpreadOutcome.USED)
    if not len(used):
        n_lattices = len(rows["outcome"])
        found = f"{n_lattices} of which none can be"
        todo = "Look at stage1, and widen the range from spread.d_max to spread.d_min."
        raise FileError(context.shoeboxes, "lattices of which one can be used", found, todo)
    numbers: list[int] = []
    grams: list[Gram] = []
    sizes = np.array([len(block.lattices) for block in context.blocks])
    first_rows = np.cumsum(sizes) - sizes
    for block in range(world.rank, len(sizes), world.size):
        for row, lattice_gram in gram_rows.grams_of(parts.read(block)):
            numbers.append(int(np.searchsorted(used, first_rows[block] + row)))
            grams.append(lattice_gram)
    sums = LatticeSums(
        grams,
        about.moved(model.factors),
        rows["photons"][used],
        model.energies_ev,
        numbers=np.array(numbers, dtype=int),
        unknowns=context.unknowns,
        unknown=Unknown(
            kind=section.unknown_f,
            cell=build.cell(context.config.structure_factors),
            space_group=model.space_group,
            sigma=section.f0_sigma,
            sites=NO_SITE_UNKNOWNS if about.sites is None else about.sites.unknowns,
            is_held=is_first,
        ),
        ranks=Ranks(world.total, world.gather),
    )
    return Cycle(rows, used, sums)


# ---------------------------------------------------------------- the product


def _tables(
    context: Context, result: Result
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Any]]:
    """Return tables and attributes of the product. Collective."""
    config = context.config
    section = config.spread
    log = context.log
    model = context.models[0]
    lattices = result.cycle.sums
    p = result.p
    elements = factors.elements(config.structure_factors, context.files)
    sites = curves.site_names(config)
    fits = curves.all_fits(config, model.factors, result.refined, lattices, context.files)
    verdicts = controls.of_rest(result.refined)
    if section.controls:
        verdicts = curves.verdicts(fits, lattices, model.factors, elements)
    _log_verdicts(log, verdicts)
    quoted = next(iter(fits.values()))
    edges = curves.edge_rows(fits, elements, p.energies_ev)
    weak = dispersion.weak_directions(p, result.refined.of_pixels, section.band_sigma_e)
    without_edge = curves.without_edge(edges, sites)
    reflections, shells = rest_rows(quoted, lattices)
    tables = {
        "curves": columns_of(curves.curve_rows(fits)),
        "values": curves.value_rows(fits),
        "constants": columns_of(constant_rows(fits, elements[0])),
        "edges": columns_of(edges),
        "channels": curves.channel_rows(quoted, lattices),
        "lattices": _lattice_columns(result),
        "reflections": reflections,
        "shells": shells,
        "sites": site_rows(quoted, lattices.unknown.sites),
    }
    attributes = {
        "config": section.model_dump(mode="json"),
        "mosaicity": config.stage1.mosaicity,
        "fits": list(fits),
        "sites": sites,
        "site_unknowns": factors.site_unknown_names(section.refine_sites),
        "elements": elements,
        "sigma_kinds": [fit.kind for fit in fits.values()],
        **_of_x(section, result),
        "cost_of_x": cost_of_x(quoted, elements[0]),
        "n_parameters": len(p.names),
        "controls": [verdict._asdict() for verdict in verdicts],
        "n_undetermined": weak.n_undetermined,
        "weak": weak.sentences(p.nodes_ev) + without_edge,
        "without_edge": without_edge,
        "largest_bias": quoted.largest_bias,
        "lattices_for_goal": curves.outlook(fits, elements),
    }
    return tables, attributes


def _of_x(section: SpreadSection, result: Result) -> dict[str, Any]:
    """Return the attributes that say what became of X, and whose scatter σ are from."""
    rest = result.refined.rest
    return {
        "sigma_over": "lattices" if rest is None else "reflections",
        "unknown_f": section.unknown_f,
        "log_scale": result.log_scales,
        "x_at_rest": None if rest is None else bool(rest.has_converged),
    }


def _log_verdicts(log: Logger, verdicts: list[Verdict]) -> None:
    """Log which controls the curves pass."""
    for verdict in verdicts:
        judged = "passed" if verdict.passed else "FAILED"
        log.info("control %s: %s (%.3g; %s)", verdict.name, judged, verdict.figure, verdict.bar)


def _lattice_columns(result: Result) -> dict[str, np.ndarray]:
    """Return the columns of the table `lattices`. Collective."""
    rows = result.cycle.rows
    p = result.p
    at_start = result.cycle.sums.losses_at(p, np.zeros(len(p.names)))
    columns = {name: rows[name] for name in LATTICE_COLUMNS}
    for name, losses in (("loss_start", at_start), ("loss", result.refined.losses)):
        columns[name] = np.full(len(rows["run"]), np.nan)
        columns[name][result.cycle.used] = losses
    return columns


def _write(out: Path, columns: dict[str, np.ndarray], key: str, attributes: dict) -> None:
    """Write spread.h5, and its table `curves` as spread.csv."""
    store.write(out, "spread", columns, key=key, **attributes)
    table: dict[str, Any] = {
        name.split("/")[1]: column for name, column in columns.items() if name.startswith("curves/")
    }
    fits = attributes["fits"]
    kinds = attributes["sigma_kinds"]
    sites = attributes["sites"]
    table["sigma_kind"] = [kinds[fit] for fit in table["fit"]]
    table |= {
        "fit": [fits[fit] for fit in table["fit"]],
        "site": [sites[site] for site in table["site"]],
    }
    store.write_csv(out.with_suffix(".csv"), table)
