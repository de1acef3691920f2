"""spread: f′(E), f″(E) of every metal site, with error bars. Writes spread.h5, spread.csv and, by cycle, Gram matrices.

Lattices are refined against their pixels of the wider range and become Gram matrices, block by block; then the curves
are refined from these alone, and the lattices again with the new curves. The Gram matrices of a cycle are the product
`spread.gram/<cycle>.h5`: a killed run goes on with what there is.
"""

import time
from collections.abc import Callable
from logging import Logger
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spreadflow.analysis.curves import dispersion, expand
from spreadflow.analysis.curves.dispersion import Parametrisation
from spreadflow.analysis.curves.expand import RefinedCurves
from spreadflow.config import SpreadConfig
from spreadflow.errors import FileError, RefinedOutcome, SpreadOutcome
from spreadflow.io import schema, store
from spreadflow.log import Progress, logger
from spreadflow.parallel import World
from spreadflow.recipes import curves, factors
from spreadflow.recipes import gram as curvefit
from spreadflow.recipes import lattice as pixelfit
from spreadflow.recipes.lattices import Lattices
from spreadflow.stages import mosaicity
from spreadflow.stages import stage1 as before

Begin = Callable[[int], dict[tuple[int, int], tuple[SpreadOutcome, pixelfit.Start]]]
"""block → of its lattices, (shot_id, k) → whether to go on, and where they ended last"""


OF_PIXELS = {"d_min", "d_max", "model_error"}
"""keys of the section that matrices depend on, beside the curves they are made about"""
DECIMALS = 6
"""of these curves, e: rounding of sums makes no other ones"""
ENDS = [f"lattices/{name}" for name in ("shot_id", "k", "outcome", *pixelfit.Start._fields)]


class Setting(NamedTuple):
    """What the lattices of all cycles share."""

    config: SpreadConfig
    wide: Path
    blocks: list[before.Block]
    given: list[pixelfit.RunModel]
    mosaics: mosaicity.OfLattice
    names: list[str]
    """of the unknowns of stage 1"""
    log: Logger


def run(
    config: SpreadConfig,
    *,
    wide: Path,
    stage1: Path,
    mosaic: Path | None = None,
    out: Path,
    world: World,
    word: str = "spread",
) -> None:
    """Write <word>.h5 and <word>.csv. wide: packed shoeboxes; stage1: the lattices; mosaic: what stage 1 used."""
    log = logger(word, world)
    told = store.attributes(wide, "wide")
    blocks = before.blocks_of(wide, config.spread.block_lattices, "wide")
    given = _given(config, wide, told, word)
    mosaics = mosaicity.of_lattices(config.stage1, mosaic)
    names = _unknowns(config, stage1)
    setting = Setting(config, wide, blocks, given, mosaics, names, log)
    files = [
        wide,
        stage1,
        *factors.files(config.structure_factors),
        *filter(None, [mosaic, config.stage1.domains]),
    ]
    inputs = [config.seed, config.beam.size_mm, *map(store.identity, files)]
    p, refined, lattices, changes = _cycles(setting, out, inputs, _after(stage1), world)
    tables, attributes = _found(config, given[0], p, refined, lattices, log)
    attributes |= {
        "runs": told["runs"],
        "d_min": config.spread.d_min or told["config"]["d_min"],
        "changes": changes,
    }
    attributes["converged"] = changes[-1] < config.spread.converged
    if not attributes["converged"]:
        words = "the last of %d cycles moved the curves by %.3g σ: raise spread.max_cycles for less than %g"
        log.warning(words, len(changes), changes[-1], config.spread.converged)
    made = {
        f"{table}/{name}": column for table, part in tables.items() for name, column in part.items()
    }
    known = list(map(store.identity, factors.curve_files(config.spread.known or [])))
    key = store.digest(config.spread.model_dump(mode="json"), inputs, known)
    world.once(lambda: _write(out, made, key, attributes))


def _cycles(
    setting: Setting, out: Path, inputs: list, begin: Begin, world: World
) -> tuple[Parametrisation, RefinedCurves, Lattices, list[float]]:
    """Lattices and curves in turns, until the curves stay.

    The key of a cycle's matrices is that of the cycle before and the curves they are made about: the rest of the
    section acts through these, and may change while the matrices stay.
    """
    config = setting.config
    given = setting.given[0]
    section = setting.config.spread
    p = next(iter(curves.parametrisations(config, given.factors, given.energies_ev).values()))
    sections = [part.model_dump(mode="json") for part in (config.stage1, config.structure_factors)]
    key = store.digest(sections, section.model_dump(mode="json", include=OF_PIXELS), inputs)
    theta = np.zeros(len(p.names))
    changes = list[float]()
    while True:
        cycle = len(changes) + 1
        ids = [block.ids for block in setting.blocks]
        at = np.round(p.curves(theta), DECIMALS)
        key = store.digest(key, at)
        parts = store.Parts(out.with_suffix(".gram") / f"{cycle}.h5", "gram", key, ids)
        _expand(setting, parts, begin, at, world, cycle)
        lattices = Lattices(
            config, given, parts, [len(block.lattices) for block in setting.blocks], world
        )
        if not lattices.n:
            found = f"{len(lattices.rows['outcome'])} of which none can be"
            todo = "Look at stage1, and widen the range from spread.d_max to spread.d_min."
            raise FileError(setting.wide, "lattices of which one can be used", found, todo)
        refined = expand.refine(lattices.evaluator(p), p, theta)
        changes.append(curves.change(p, refined, theta, section.band_sigma_e))
        setting.log.info(
            "cycle %d: %d lattices, curves moved by %.3g σ at most", cycle, lattices.n, changes[-1]
        )
        if changes[-1] < section.converged or cycle == section.max_cycles:
            return p, refined, lattices, changes
        theta = refined.theta
        begin = _again(parts)


def _found(
    config: SpreadConfig,
    given: pixelfit.RunModel,
    p: Parametrisation,
    refined: RefinedCurves,
    lattices: Lattices,
    log: Logger,
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Any]]:
    """Tables and attributes of the product. Collective."""
    elements = factors.elements(config.structure_factors)
    fits = curves.all_fits(config, given.factors, refined, lattices)
    verdicts = (
        curves.verdicts(fits, lattices, given.factors, elements) if config.spread.controls else []
    )
    for verdict in verdicts:
        log.info(
            "control %s: %s (%.3g; %s)",
            verdict.name,
            "passed" if verdict.passed else "FAILED",
            *verdict[2:],
        )
    quoted = next(iter(fits.values()))
    if quoted.kind == "scaled":
        log.warning(
            "%d lattices for %d unknowns: one factor for their scatter", lattices.n, len(p.names)
        )
    edges = curves.edge_rows(fits, elements, p.energies_ev)
    sites = curves.site_names(config)
    weak = dispersion.weak_directions(p, refined.of_pixels, config.spread.band_sigma_e)
    for sentence in (lost := curves.without_edge(edges, sites)):
        log.warning(sentence)
    tables = {
        "curves": curves.columns(curves.curve_rows(fits)),
        "values": curves.value_rows(fits),
        "edges": curves.columns(edges),
        "channels": curves.channel_rows(quoted, lattices),
        "lattices": _told(lattices, p, refined),
    }
    return tables, {
        "config": config.spread.model_dump(mode="json"),
        "mosaicity": config.stage1.mosaicity,
        "fits": list(fits),
        "sites": sites,
        "elements": elements,
        "sigma_kinds": [fit.kind for fit in fits.values()],
        "n_parameters": len(p.names),
        "controls": [verdict._asdict() for verdict in verdicts],
        "n_undetermined": weak.n_undetermined,
        "weak": weak.sentences(p.nodes_ev) + lost,
        "lattices_for_goal": curves.outlook(quoted, elements),
    }


def _write(out: Path, made: dict[str, np.ndarray], key: str, attributes: dict) -> None:
    store.write(out, "spread", made, key=key, **attributes)
    table = {
        name.split("/")[1]: column for name, column in made.items() if name.startswith("curves/")
    }
    fits = dict(zip(attributes["fits"], attributes["sigma_kinds"], strict=True))
    curves.write_csv(out.with_suffix(".csv"), table, fits, attributes["sites"])


def _told(lattices: Lattices, p: Parametrisation, refined: RefinedCurves) -> dict[str, np.ndarray]:
    """The table `lattices`. Collective."""
    names = ("run", "shot_id", "k", "outcome", "model_error", "sigma_z", "seconds")
    out = {name: lattices.rows[name] for name in names}
    start = lattices.evaluator(p)(np.zeros(len(p.names)))
    for name, losses in (("loss_start", start.losses), ("loss", refined.losses)):
        out[name] = np.full(len(out["run"]), np.nan)
        out[name][lattices.used] = losses
    return out


def _given(config: SpreadConfig, wide: Path, told: dict, word: str) -> list[pixelfit.RunModel]:
    """What the lattices of each run share. Raises ConfigError where no site is named."""
    curves.check(config)
    return before.given_of(config, wide, told, word, "wide")


def _unknowns(config: SpreadConfig, stage1: Path) -> list[str]:
    """Of the lattices in stage 1. Raises FileError where it refined with other keys."""
    told = store.attributes(stage1, "stage1")
    if told["config"] != config.stage1.model_dump(mode="json"):
        raise FileError(
            stage1, "a product of the section `stage1` as it is now", "another", "Rerun stage1."
        )
    return told["unknowns"]


def _after(stage1: Path) -> Begin:
    """Where stage 1 left each lattice."""
    every = _ends(
        store.read(stage1, "stage1", ENDS),
        lambda end: SpreadOutcome(int(end != RefinedOutcome.REFINED)),
    )
    return lambda block: every


def _again(parts: store.Parts) -> Begin:
    """Where the cycle before left each lattice: what it could not use is not tried again."""
    return lambda block: _ends(parts.read(block, ENDS), SpreadOutcome)


def _ends(columns: dict, outcome: Callable[[int], SpreadOutcome]) -> dict:
    rows = zip(
        *(columns[name].tolist() if columns[name].ndim == 1 else columns[name] for name in ENDS),
        strict=True,
    )
    return {(i, k): (outcome(end), pixelfit.Start(*near)) for i, k, end, *near in rows}


def _expand(
    setting: Setting, parts: store.Parts, begin: Begin, at: np.ndarray, world: World, cycle: int
) -> None:
    """All parts of a cycle, with curves `at` (site, 2, channel)."""
    given = [g._replace(factors=curvefit.with_curves(g.factors, at)) for g in setting.given]
    with Progress(f"spread, cycle {cycle}", len(setting.blocks), world) as progress:

        def make(n: int) -> dict[str, np.ndarray]:
            progress.at(n)
            return _columns(setting, setting.blocks[n], given, begin(n))

        parts.each(world, make)
        progress.at(len(setting.blocks))
    told = {
        "energies_ev": given[0].energies_ev,
        "unknowns": setting.names,
        "cycle": cycle,
        "curves": at,
    }
    parts.finish(world, sites=curves.site_names(setting.config), **told)


def _columns(
    setting: Setting, block: before.Block, given: list[pixelfit.RunModel], ends: dict
) -> dict[str, np.ndarray]:
    """The part of one block."""
    section = setting.config.spread
    how = setting.config.stage1
    columns = store.read_part(setting.wide, "wide", block.part, block.key)
    pieces = []
    for i in block.lattices:
        began = time.process_time()
        named = {name: columns[f"lattices/{name}"][i] for name in ("run", "shot_id", "k")}
        run, shot_id, k = map(int, named.values())
        end, near = ends.get((shot_id, k), (SpreadOutcome.NOT_REFINED, None))
        tables = curvefit.blank(len(setting.names), len(given[run].energies_ev))
        row = tables["lattices"]
        if end == SpreadOutcome.USED:
            packed = pixelfit.unpack(columns, i, section.d_min or 0.0, section.d_max)
            end, why, made = curvefit.tables(
                packed, setting.mosaics(shot_id, k), given[run], how, section, near, setting.names
            )
            if why:
                setting.log.warning("shot %016x lattice %d: %s (%s)", shot_id, k, end.name, why)
            tables |= made
            row |= made.get("lattices", {})
        row |= named | {"outcome": end, "seconds": time.process_time() - began}
        tables["lattices"] = {name: np.array([value]) for name, value in row.items()}
        pieces.append(store.piece("gram", tables))
    return store.joined("gram", schema.FILES["gram"], pieces)
