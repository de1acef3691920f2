"""spread: f′(E), f″(E) of every metal site, with error bars. Writes spread.h5, spread.csv and the
Gram matrices of each cycle.

Lattices are refined against their pixels of the wider range and reduced to Gram matrices, block by
block; then the curves are refined from these alone, and the lattices once more with the new curves
(`curve_cycles`).
"""

from logging import Logger
from pathlib import Path
from typing import Any

import numpy as np

from spreadflow.analysis import identity_hash
from spreadflow.analysis.curves import controls, dispersion
from spreadflow.analysis.curves.controls import Verdict
from spreadflow.config import SpreadConfig, SpreadSection
from spreadflow.errors import StageWarning
from spreadflow.io import factor_files, shoebox_blocks, store
from spreadflow.io.mosaic import mosaic_of_lattices
from spreadflow.log import logger, warn
from spreadflow.parallel import World
from spreadflow.products import Spread
from spreadflow.products.spread import Lattices
from spreadflow.recipes import curves, factors
from spreadflow.recipes.constants import constant_rows, cost_of_x
from spreadflow.recipes.rest_rows import rest_rows
from spreadflow.recipes.run_model import run_models
from spreadflow.recipes.site_rows import site_rows, site_warnings
from spreadflow.stages.curve_cycles import Context, Result, alternated
from spreadflow.stages.expansions import starts_from, unknowns_of
from spreadflow.stages.factors import read_files
from spreadflow.stages.pixel_models import inputs_of

TODO_OF_CONTROL = {
    "scale": "f′ and f″ are too large or too small by half of it, relatively. Are there enough "
    "lattices? Is the model whole?",
    "model": "This is no model of the crystal. Look at the structure, the cell and the indexing.",
    "at rest": "Curves and X still move. Take more lattices, or a larger spread.step_ev.",
}
"""What to do about controls of X that fail."""

LOOK = "Look at spread.png before any curve is believed."
"""The same of the others."""

LARGE_SCATTER = 0.25
"""Scatter of spots about their models, beyond which the mosaicity is likely another one."""


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
    known_curves = section.known or []
    files = read_files(config.structure_factors, log, known_curves)
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
    result = alternated(context, out, inputs, starts_from(stage1))
    product, attributes = _product(context, result)
    attributes |= {
        "runs": recording.attributes["runs"],
        "d_min": section.d_min or recording.attributes["config"]["d_min"],
        "changes": result.changes,
        "converged": result.changes[-1] < section.converged,
    }
    of_sites = site_warnings(product.sites, attributes["sites"], attributes["site_unknowns"])
    late = warn(log, _warnings(section, attributes) + of_sites)
    attributes["warnings"] = result.warnings + late
    identities = [store.identity(path) for path in factor_files.curve_paths(known_curves)]
    key = store.digest(section.model_dump(mode="json"), inputs, identities)
    world.once(lambda: _write(out, product, key, attributes))


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
            f"control failed ({control['name']}), {control['what']}",
            float(control["figure"]),
            control["bar"],
            TODO_OF_CONTROL.get(control["name"], LOOK),
        )
        for control in attributes["controls"]
        if not control["passed"]
    ]
    warnings += _moved_scale(attributes["log_scale"])
    warnings += _wrong_spots(attributes["scatter"])
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


def _wrong_spots(scatter: float | None) -> list[StageWarning]:
    """Return a warning where spots are far off their models; None = X is that of the model."""
    if scatter is None or scatter <= LARGE_SCATTER:
        return []
    return [
        StageWarning(
            "spots are brighter or dimmer than their models, relatively by",
            scatter,
            f"at most {LARGE_SCATTER}",
            "σ has it. It would be smaller with the right mosaicity: stage1.mosaicity: learned.",
        )
    ]


def _product(context: Context, result: Result) -> tuple[Spread, dict[str, Any]]:
    """Return the product and its attributes. Collective."""
    config = context.config
    section = config.spread
    log = context.log
    model = context.models[0]
    sums = result.cycle.sums
    p = result.p
    elements = factors.elements(config.structure_factors, context.files)
    sites = curves.site_names(config)
    fits = curves.all_fits(config, model.factors, result.refined, sums, context.files)
    verdicts = controls.of_rest(result.refined)
    if section.controls:
        half = identity_hash.half_sets(result.cycle.lattices.shot_id[result.cycle.used])
        verdicts = curves.verdicts(fits, sums, model.factors, elements, half)
    _log_verdicts(log, verdicts)
    quoted = next(iter(fits.values()))
    edges = curves.edge_rows(fits, elements, p.energies_ev)
    weak = dispersion.weak_directions(p, result.refined.of_pixels, section.band_sigma_e)
    without_edge = curves.without_edge(edges, sites)
    reflections, shells = rest_rows(quoted, sums)
    product = Spread(
        curves=curves.curve_rows(fits),
        values=curves.value_rows(fits),
        constants=constant_rows(fits, elements[0]),
        edges=edges,
        channels=curves.channel_rows(quoted, sums),
        lattices=_lattices(result),
        reflections=reflections,
        shells=shells,
        sites=site_rows(quoted, sums.unknown.sites),
    )
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
    return product, attributes


def _of_x(section: SpreadSection, result: Result) -> dict[str, Any]:
    """Return the attributes that say what became of X, and whose scatter σ are from."""
    rest = result.refined.rest
    return {
        "sigma_over": "lattices" if rest is None else "reflections",
        "unknown_f": section.unknown_f,
        "log_scale": result.log_scales,
        "scatter": None if rest is None else rest.scatter,
        "x_at_rest": None if rest is None else bool(rest.has_converged),
    }


def _log_verdicts(log: Logger, verdicts: list[Verdict]) -> None:
    """Log which controls the curves pass."""
    for verdict in verdicts:
        judged = "passed" if verdict.passed else "FAILED"
        figure = f"{verdict.what}: {verdict.figure:.3g}, should be {verdict.bar}"
        log.info("control %s: %s (%s)", verdict.name, judged, figure)


def _lattices(result: Result) -> Lattices:
    """Return the table `lattices`. Collective."""
    rows = result.cycle.lattices
    p = result.p
    at_start = result.cycle.sums.losses_at(p, np.zeros(len(p.names)))
    losses = np.full((2, len(rows)), np.nan)
    losses[:, result.cycle.used] = at_start, result.refined.losses
    return Spread.lattices(
        run=rows.run,
        shot_id=rows.shot_id,
        k=rows.k,
        outcome=rows.outcome,
        loss_start=losses[0],
        loss=losses[1],
        model_error=rows.model_error,
        sigma_z=rows.sigma_z,
        seconds=rows.seconds,
    )


def _write(out: Path, product: Spread, key: str, attributes: dict) -> None:
    """Write spread.h5, and its table `curves` as spread.csv."""
    store.write(out, product, key=key, **attributes)
    table: dict[str, Any] = dict(product.curves.as_dict())
    fits = attributes["fits"]
    kinds = attributes["sigma_kinds"]
    sites = attributes["sites"]
    table["sigma_kind"] = [kinds[fit] for fit in table["fit"]]
    table |= {
        "fit": [fits[fit] for fit in table["fit"]],
        "site": [sites[site] for site in table["site"]],
    }
    store.write_csv(out.with_suffix(".csv"), table)
