"""`spreadflow export PRODUCT --to FORMAT`: a product as files of other programs."""

import argparse
import importlib
from pathlib import Path

WRITERS = {
    "dials": "spreadflow.io.lattices.stills",
    "crystfel": "spreadflow.io.lattices.crystfel_product",
    "mtz": "spreadflow.stages.unmerged",
    "mmcif": "spreadflow.stages.deposition",
    "json": "spreadflow.io.frozen_cells",
}
"""Format → the module whose function `export` writes it."""


def add_to(words: argparse._SubParsersAction) -> None:
    """Add the word."""
    p = words.add_parser("export", help="write a product as files of other programs")
    p.add_argument("product", type=Path, metavar="PRODUCT", help="such as results/tiny/predict.h5")
    p.add_argument("--to", required=True, choices=WRITERS, help="whose files are written")
    out_help = "the files, without their endings (default: the product's name, beside it)"
    p.add_argument("--out", type=Path, metavar="NAME", help=out_help)
    images_help = "manifests of the product's runs in order (default: those that it was made from)"
    p.add_argument("--images", type=Path, nargs="+", default=[], metavar="FILE", help=images_help)
    p.set_defaults(do=run)


def run(arguments: argparse.Namespace) -> None:
    """Write the files, and say which."""
    writer = importlib.import_module(WRITERS[arguments.to])
    out = arguments.out or arguments.product.with_suffix("")
    for path in writer.export(arguments.product, out, arguments.images):
        print(path)
