"""index, and reindex: spots → lattices → refined lattices → predicted and integrated reflections,
shot by shot.

The two words are one stage: the section of `reindex` overlays that of `index`, and its geometry is
refined.
"""

from pathlib import Path

from spreadflow.config import IndexConfig, ReindexConfig
from spreadflow.io import store
from spreadflow.io.images import open_source
from spreadflow.io.lattices import dials
from spreadflow.parallel import World
from spreadflow.products import Index, Reindex
from spreadflow.stages import shots


def run(
    config: IndexConfig | ReindexConfig,
    *,
    images: Path,
    geometry: Path | None,
    out: Path,
    world: World,
    word: str = "index",
) -> None:
    """Write <word>.h5 with its parts.

    images: the run's manifest; geometry: .expt to use in place of the headers, which may be off by
    a pixel or two.
    """
    section = getattr(config, word)
    detector = None
    length_sigma = None
    inputs = {"images": "", "geometry": None}
    if geometry is not None:
        detector = dials.read_expt(geometry)
        length_sigma = dials.read_length_sigma(geometry)
        inputs["geometry"] = store.identity(geometry)
    source = open_source(images, section, detector)
    inputs["images"] = source.identity
    tables = Reindex if word == Reindex.kind else Index
    product = shots.ShotProduct(out, tables, word, length_sigma)
    is_refined = geometry is not None
    shots.index_shots(
        product, section, config.recording, source, inputs, world, is_refined=is_refined
    )
