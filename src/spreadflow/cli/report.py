"""What people look at: `summary` of a stage, `report` of a trial, `table` for the terminal."""

import argparse
from pathlib import Path

from spreadflow.trial import BY_WORD


def add_to(words: argparse._SubParsersAction) -> None:
    """Add the three words."""
    summary_help = "figures (JSON) and picture (PNG) of a stage's finished products"
    p = words.add_parser("summary", help=summary_help)
    p.add_argument("stage", choices=list(BY_WORD))
    products_help = "one file of the trial, or one per run"
    p.add_argument("--products", type=Path, nargs="+", required=True, help=products_help)
    images_help = "manifests of the runs, for stills and truth"
    p.add_argument("--images", type=Path, nargs="*", default=[], help=images_help)
    p.add_argument("--out", type=Path, required=True, help="the JSON; the PNG lies beside it")
    p.set_defaults(do=summary)

    report_help = "figures and pictures of all stages that have none yet, and one HTML page of all"
    p = words.add_parser("report", help=report_help)
    p.add_argument("--products", type=Path, nargs="+", required=True, help="those of all stages")
    p.add_argument("--images", type=Path, nargs="*", default=[], help=images_help)
    p.add_argument("--out", type=Path, required=True, help="the page; summaries lie beside it")
    p.set_defaults(do=report)

    p = words.add_parser("table", help="how a trial went, as a table")
    p.add_argument("trial", type=Path, help="folder of the trial")
    p.set_defaults(do=table)


def summary(arguments: argparse.Namespace) -> None:
    """Write figures and picture of a stage."""
    from spreadflow.report import summary

    summary.run(
        arguments.stage,
        products=arguments.products,
        images=arguments.images,
        out=arguments.out,
    )


def report(arguments: argparse.Namespace) -> None:
    """Write what is missing of the summaries of a trial, and its page."""
    from spreadflow.report import page, summary

    out = arguments.out
    page.run(summary.write_missing(arguments.products, arguments.images, out.parent), out)


def table(arguments: argparse.Namespace) -> None:
    """Print the table of a trial."""
    from spreadflow.report import table

    table.run(arguments.trial)
