"""`spreadflow plan --config FILE --out plan.json`: before the beam time, how many lattices the
curves will need.
"""

import argparse
from pathlib import Path


def add_to(words: argparse._SubParsersAction) -> None:
    """Add the word."""
    plan_help = "σ of f′, f″ and edges against the number of lattices, before the beam time"
    p = words.add_parser("plan", help=plan_help)
    config_help = "a YAML file: crystal, beam, detector, structure_factors"
    p.add_argument("--config", type=Path, required=True, help=config_help)
    set_help = "over the file: beam.photons=5e11"
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=set_help)
    p.add_argument("--out", type=Path, required=True, help="the JSON; the PNG lies beside it")
    lattices_help = "simulated ones that all figures are scaled from"
    p.add_argument("--lattices", type=int, default=24, help=lattices_help)
    d_min_help = "Å (default: that of `annulus`)"
    p.add_argument("--d-min", type=float, nargs="+", default=[], help=d_min_help)
    d_max_help = "Å (default: of `annulus`, `spread` and `wide`)"
    p.add_argument("--d-max", type=float, nargs="+", default=[], help=d_max_help)
    grid_help = "eV from node to node (default 1 2 4)"
    p.add_argument("--grid", type=float, nargs="+", default=[1.0, 2.0, 4.0], help=grid_help)
    band_help = "eV (default: about the sites' edges)"
    p.add_argument("--band", type=float, nargs=2, metavar=("LOW", "HIGH"), help=band_help)
    cells_help = "cells along an edge of a mosaic domain"
    p.add_argument("--n-cells", type=int, nargs="+", default=[], help=cells_help)
    psf_help = "widths of the point spread"
    p.add_argument("--psf-fwhm-mm", type=float, nargs="+", default=[], help=psf_help)
    error_help = (
        "what the model of F is wrong by beside the sites' f′, f″: standard deviation relative to "
        "the r.m.s. of a shell, some 1.6 times the R of its atoms; several for several; none = it "
        "is right (default 0.3)"
    )
    p.add_argument("--model-error", type=_error, nargs="+", default=[0.3], help=error_help)
    p.set_defaults(do=run)


def _error(text: str) -> float | None:
    """Return an error of the model; None for `none`."""
    return None if text == "none" else float(text)


def run(arguments: argparse.Namespace) -> None:
    """Compute a plan, and write its figures and picture."""
    from spreadflow import config
    from spreadflow.log import Progress, logger
    from spreadflow.parallel import World
    from spreadflow.recipes import plan
    from spreadflow.report import plan as report
    from spreadflow.stages.factors import read_files

    changes: dict = {}
    for text in arguments.set:
        changes = config.overlay(changes, config.setting(text))
    configured = config.load(arguments.config, changes=changes)
    question = plan.Question(
        n_lattices=arguments.lattices,
        d_min=arguments.d_min,
        d_max=arguments.d_max,
        grids_ev=arguments.grid,
        band_ev=arguments.band,
        n_cells=arguments.n_cells,
        psf_fwhm_mm=arguments.psf_fwhm_mm,
        model_errors=[error for error in arguments.model_error if error is not None],
    )
    n_sizes = max(1, len(question.n_cells))
    n_widths = max(1, len(question.psf_fwhm_mm))
    total = n_sizes * n_widths * question.n_lattices
    world = World()
    files = read_files(configured.resolved("structure_factors"), logger("plan", world))
    with Progress("plan", total, world, "lattices") as progress:
        figures = plan.run(configured, question, files, lambda done, _total: progress.at(done))
    report.run(figures, arguments.out)
