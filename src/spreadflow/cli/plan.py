"""`spreadflow plan --config FILE --out plan.json`: before the beam time, how many lattices the
curves will need.
"""

import argparse
from functools import reduce
from pathlib import Path


def add_to(words: argparse._SubParsersAction) -> None:
    """Add the word."""
    help_of_plan = "σ of f′, f″ and edges against the number of lattices, before the beam time"
    p = words.add_parser("plan", help=help_of_plan)
    help_of_config = "a YAML file: crystal, beam, detector, structure_factors"
    p.add_argument("--config", type=Path, required=True, help=help_of_config)
    help_of_set = "over the file: beam.photons=5e11"
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=help_of_set)
    p.add_argument("--out", type=Path, required=True, help="the JSON; the PNG lies beside it")
    help_of_lattices = "simulated ones that all figures are scaled from"
    p.add_argument("--lattices", type=int, default=24, help=help_of_lattices)
    help_of_d_min = "Å (default: that of `annulus`)"
    p.add_argument("--d-min", type=float, nargs="+", default=[], help=help_of_d_min)
    help_of_d_max = "Å (default: of `annulus`, `spread` and `wide`)"
    p.add_argument("--d-max", type=float, nargs="+", default=[], help=help_of_d_max)
    help_of_grid = "eV from node to node (default 1 2 4)"
    p.add_argument("--grid", type=float, nargs="+", default=[1.0, 2.0, 4.0], help=help_of_grid)
    help_of_band = "eV (default: about the sites' edges)"
    p.add_argument("--band", type=float, nargs=2, metavar=("LOW", "HIGH"), help=help_of_band)
    help_of_cells = "cells along an edge of a mosaic domain"
    p.add_argument("--n-cells", type=int, nargs="+", default=[], help=help_of_cells)
    help_of_psf = "widths of the point spread"
    p.add_argument("--psf-fwhm-mm", type=float, nargs="+", default=[], help=help_of_psf)
    p.set_defaults(do=run)


def run(arguments: argparse.Namespace) -> None:
    """Compute a plan, and write its figures and picture."""
    from spreadflow import config
    from spreadflow.io import factor_files
    from spreadflow.log import Progress
    from spreadflow.parallel import World
    from spreadflow.recipes import plan
    from spreadflow.report import plan as report

    changes: dict = reduce(config.overlay, map(config.setting, arguments.set), {})
    configured = config.load(arguments.config, changes=changes)
    question = plan.Question(
        n_lattices=arguments.lattices,
        d_min=arguments.d_min,
        d_max=arguments.d_max,
        grids_ev=arguments.grid,
        band_ev=arguments.band,
        n_cells=arguments.n_cells,
        psf_fwhm_mm=arguments.psf_fwhm_mm,
    )
    n_cases = max(1, len(question.n_cells)) * max(1, len(question.psf_fwhm_mm))
    total = n_cases * question.n_lattices
    files = factor_files.read(configured.resolved("structure_factors"))
    with Progress("plan", total, World(), "lattices") as progress:
        figures = plan.run(configured, question, files, lambda done, _total: progress.at(done))
    report.run(figures, arguments.out)
