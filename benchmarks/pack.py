"""How much faster are packed pixels read back than cut out of images?

A finished trial's images are cut out as the stage `pack` does, shot by shot, and read back lattice
by lattice as the stages that model pixels do, in blocks of 16: once with the check of checksums, as
every process does first, and once more. Both in one run, on one thread; files are in the cache of
the system either way.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from spreadflow.trial.threads import THREAD_CAPS

os.environ |= dict.fromkeys(THREAD_CAPS, "1")  # before NumPy and XLA start

import recorded
from spreadflow.config import PackConfig, PackSection
from spreadflow.io import shoebox_blocks, store
from spreadflow.parallel import World
from spreadflow.products import Pack
from spreadflow.recipes.lattice import unpack
from spreadflow.stages import pack

BLOCK_LATTICES = 16
"""Lattices that are read at a time, as in stage 1 and spread."""

BAR = 20.0
"""Least ratio of the rates."""


def read_back(product: Path) -> int:
    """Hand every lattice its pixels; return their number."""
    n_pixels = 0
    for block in shoebox_blocks.blocks_of(product, "pack", BLOCK_LATTICES):
        part = block.read()
        for row in block.lattices:
            n_pixels += len(unpack(part, row).boxes.photons)
    return n_pixels


def measure(images: list[Path], reindex: list[Path], predict: Path, folder: Path) -> dict[str, Any]:
    """Return shots per second of cutting, and of reading back."""
    product = folder / "pack.h5"
    seconds = {}
    start = time.perf_counter()
    config = PackConfig(pack=PackSection())
    pack.run(
        config,
        images=images,
        reindex=reindex,
        predict=predict,
        out=product,
        world=World(),
    )
    seconds["cut out of images"] = time.perf_counter() - start
    for name in ("read back, checked", "read back again"):
        start = time.perf_counter()
        n_pixels = read_back(product)
        seconds[name] = time.perf_counter() - start

    n_shots = len(store.read(product, Pack, [Pack.spectra.shot_id]).spectra)
    size = sum(path.stat().st_size for path in product.with_suffix(".parts").iterdir())
    return {
        "n_shots": n_shots,
        "n_pixels": n_pixels,
        "megabytes": size / 1e6,
        "shots_per_second": {name: n_shots / spent for name, spent in seconds.items()},
        "ratio": seconds["cut out of images"] / seconds["read back, checked"],
        "ratio_again": seconds["cut out of images"] / seconds["read back again"],
    }


def main() -> None:
    """Print the rates and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="manifests")
    parser.add_argument("--reindex", type=Path, nargs="+", required=True, help="products")
    parser.add_argument("--predict", type=Path, required=True, help="product of predict")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(arguments.images, arguments.reindex, arguments.predict, Path(folder))
    print(
        f"{figures['n_shots']} shots, {figures['n_pixels']} pixels, {figures['megabytes']:.1f} MB"
    )
    for name, rate in figures["shots_per_second"].items():
        print(f"  {name}: {rate:.1f} shots/s")
    print(
        f"reading back is {figures['ratio']:.0f} times faster (bar {BAR:.0f}), "
        f"{figures['ratio_again']:.0f} times once checked"
    )
    if arguments.json:
        recorded.save(arguments.json, "pack", figures)


if __name__ == "__main__":
    main()
