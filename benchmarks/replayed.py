"""A finished trial, replayed: its stages run on as many shots as wanted, and what takes a shot's
pixels is replaced by what it returned in the trial, each time with the identities of another shot.

No script: `size.py` starts it, a program for each stage, `python benchmarks/replayed.py WORD N`.
Everything but the pixels is as it is: start, parts, sums, products, summaries.
"""

import argparse
import bisect
import importlib
import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from spreadflow import config
from spreadflow.io import images, store
from spreadflow.parallel import World
from spreadflow.products import (
    BY_KIND,
    Annulus,
    Gram,
    Index,
    Mosaic,
    Predict,
    Product,
    Stage1,
    Table,
)
from spreadflow.trial import BY_WORD, facts

if TYPE_CHECKING:  # a program imports its own stage alone, so that others take no memory
    from spreadflow.io.pieces import Piece
    from spreadflow.stages.cutting import Cutting
    from spreadflow.stages.expansions import Expansion

CONFIG = Path(__file__).parents[1] / "config"

P = TypeVar("P", bound=Product)

CELL_SIGMA = 5e-4
"""Scatter of the axes of a cell about those of the trial, relatively: lattices that are all the
same would be no cluster.
"""

BELOW = {
    "index": (("spots", "shot"), ("lattices", "shot"), ("reflections", "lattice")),
    "reindex": (("spots", "shot"), ("lattices", "shot"), ("reflections", "lattice")),
    "annulus": (("reflections", "lattice"),),
    "wide": (("reflections", "lattice"),),
    "pack": (("reflections", "lattice"),),
    "predict": (("reflections", "lattice"),),
    "stage1": (("reflections", "lattice"), ("samples", "reflection")),
    "gram": (("boxes", "lattice"), ("columns", "lattice")),
}
"""Kind of a product → its tables that follow each other as the rows do that they refer to."""


class Trial(NamedTuple):
    """What is replayed, and where."""

    folder: Path
    """of the finished trial, `results/NAME`"""
    manifest: Path
    """of its images"""
    overlays: list[Path]
    """files of its configuration, beside the defaults"""
    out: Path
    """of what is made"""
    n_shots: int


class Shots:
    """The shots of a replayed trial: those of its images, again and again."""

    def __init__(self, trial: Trial):
        self.trial = trial
        base = json.loads(trial.manifest.read_text())
        self.run = base["run"]
        self.n_base = sum(entry["n_frames"] for entry in base["files"])
        self.manifest = trial.out / "manifest.json"

    def write(self) -> None:
        """Write the manifest, and links to the images, each under as many names as it is needed."""
        base = json.loads(self.trial.manifest.read_text())
        self.trial.out.mkdir(parents=True, exist_ok=True)
        files = []
        n = copy = 0
        while n < self.trial.n_shots:
            for entry in base["files"]:
                if n >= self.trial.n_shots:
                    break
                path = (self.trial.manifest.parent / entry["path"]).resolve()
                link = self.trial.out / f"{copy:05d}_{path.name}"
                if not link.exists():
                    link.symlink_to(path)
                files.append(entry | {"path": link.name})
                n += entry["n_frames"]
            copy += 1
        self.manifest.write_text(json.dumps(base | {"files": files}))

    @cached_property
    def ids(self) -> np.ndarray:
        """(shot,) identities, in the order of the shots."""
        run = self.run
        return np.array(
            [
                images.shot_id(run, entry.path, frame)
                for entry in images.read_manifest(self.manifest).files
                for frame in range(entry.n_frames)
            ],
            dtype=np.uint64,
        )

    @cached_property
    def _order(self) -> np.ndarray:
        """Shots in the order of their identities."""
        return np.argsort(self.ids)

    def number(self, shot_id: int) -> int:
        """Return the number of a shot."""
        place = np.searchsorted(self.ids, np.uint64(shot_id), sorter=self._order)
        return int(self._order[place])


class Recorded:
    """A product of the trial, shot by shot. One part of it is in memory at a time: Gram matrices
    of a hundred lattices would be more than what is measured.
    """

    def __init__(self, trial: Trial, path: Path, kind: str):
        self.kind = kind
        product = BY_KIND[kind]
        self._table = _first_table(product)
        described = product.declared()[self._table].described()
        identity = [described[name] for name in ("shot_id", "k") if name in described]
        self._identities = store.read(path, product, identity).tables[self._table].as_dict()
        self._base = images.Source(trial.manifest).shots["shot_id"]
        self._parts = store.parts_of(path, product)
        self._ends = [part.rows(self._table).stop for part in self._parts]
        self._reader: store.PartReader[Product] = store.PartReader(product.described().values())
        self._rows: dict[int, list[int]] = {}
        for row, shot_id in enumerate(self._identities["shot_id"].tolist()):
            self._rows.setdefault(shot_id, []).append(row)

    def of_shot(self, number: int, shot_id: int, k: int | None = None) -> Any:
        """Return the rows of a shot, or of one of its lattices, under another identity.

        number: of the shot, from 0 on.
        """
        rows = self._rows.get(int(self._base[number % len(self._base)]), [])
        first, end = (rows[0], rows[-1] + 1) if rows else (0, 0)
        if k is not None:
            first += self._identities["k"][first:end].tolist().index(k)
            end = first + 1
        part = self._parts[bisect.bisect_right(self._ends, first)]
        before = part.rows(self._table).start
        own = slice(first - before, end - before) if rows else slice(0, 0)
        cut = _cut(self._reader.read(part), self.kind, own)
        for table in cut.tables.values():
            if "shot_id" in table.as_dict():
                table.put("shot_id", np.full(len(table), shot_id, dtype=np.uint64))
        return cut

    def of_lattices(self, shots: Shots, ids: list[tuple[int, int]]) -> list[Any]:
        """Return the rows of some lattices, each. ids: shot_id and k of each."""
        return [self.of_shot(shots.number(shot_id), shot_id, k) for shot_id, k in ids]


def _first_table(product: type[Product]) -> str:
    """Return the name of the table that all others of a product refer to."""
    return "shots" if "shots" in product.declared() else "lattices"


def _cut(product: P, kind: str, rows: slice) -> P:
    """Return some rows of the first table of a product, and those that refer to them."""
    cuts = {_first_table(type(product)): rows}
    for name, column in BELOW[kind]:
        described = product.declared()[name].described()[column]
        above = cuts[described.refers]
        refers = product.tables[name].as_dict()[column]
        first, end = np.searchsorted(refers, [above.start, above.stop])
        cuts[name] = slice(int(first), int(end))
    cuts |= _pixels(product, cuts)
    tables = {}
    for name, table in product.tables.items():
        own = table[cuts[name]]
        for column, described in table.described().items():
            if described.refers and column in own.as_dict():
                start = cuts[described.refers].start
                values = own.as_dict()[column]
                own.put(column, np.where(values < 0, values, values - start))
        tables[name] = own
    return type(product)(**tables)


def _pixels(product: Product, cuts: Mapping[str, slice]) -> dict[str, slice]:
    """Return which rows are cut of tables that others point to: pixels, spectra, triangles."""
    tables = product.tables

    def pointed(name: str, column: str, target: str) -> slice:
        starts = np.append(tables[name].as_dict()[column], len(tables[target]))
        return slice(int(starts[cuts[name].start]), int(starts[cuts[name].stop]))

    more = {}
    if "pixels" in tables:
        more["pixels"] = pointed("reflections", "first_pixel", "pixels")
        first = int(tables["lattices"].as_dict()["spectrum"][cuts["lattices"].start])
        more["spectra"] = slice(first, first + 1)
    if "sample_pixels" in tables:
        more["sample_pixels"] = pointed("samples", "first_pixel", "sample_pixels")
    if "triangles" in tables:
        n = tables["boxes"].as_dict()["n_columns"].astype(np.int64)
        ends = np.concatenate([[0], np.cumsum(n * (n + 1) // 2)])
        boxes = cuts["boxes"]
        more["triangles"] = slice(int(ends[boxes.start]), int(ends[boxes.stop]))
    return more


def _scatter(lattices: Table, number: int) -> None:
    """Scatter the cells of the lattices of a shot. number: of the shot."""
    cell = lattices.as_dict()["cell"].copy()
    draws = np.random.default_rng(number).standard_normal((len(cell), 3))
    cell[:, :3] *= 1.0 + CELL_SIGMA * draws
    lattices.put("cell", cell)


# ---------------------------------------------------------------- stages


def module_of(name: str) -> ModuleType:
    """Return a module of the stages."""
    return importlib.import_module(f"spreadflow.stages.{name}")


class Replay:
    """The stages of a trial on many shots."""

    def __init__(self, trial: Trial):
        self.trial = trial
        self.shots = Shots(trial)
        stated = config.load(CONFIG / "config.yaml", *trial.overlays)
        own_runs = {self.shots.run: stated.runs[self.shots.run]}
        self.config = stated.model_copy(update={"runs": own_runs})

    def path(self, word: str) -> Path:
        """Return the path of a product."""
        return self.trial.out / Path(BY_WORD[word].summarized).name

    def recorded(self, word: str, kind: str | None = None) -> Recorded:
        """Return a product of the trial."""
        stated = BY_WORD[word].summarized.format(run=self.shots.run)
        return Recorded(self.trial, self.trial.folder / stated, kind or word)

    def run(self, word: str) -> None:
        """Run a stage."""
        getattr(self, f"_{word}")()

    def _stage(self, word: str, module: ModuleType, **inputs: Any) -> None:
        """Run the module of a stage."""
        text = config.section(self.config, word, self.shots.run)
        stage = config.for_stage(text, word, self.shots.run)
        module.run(stage, **inputs, out=self.path(word), world=World(), word=word)

    def _index(self, word: str = "index", geometry: Path | None = None) -> None:
        recorded = self.recorded(word)

        def replayed(product: type[Index], *context: Any, **_: Any) -> Index:
            source, number = context[2], context[3]
            rows = recorded.of_shot(number, int(source.shots["shot_id"][number]))
            for name in ("file", "frame"):
                rows.tables["shots"].put(name, source.shots[name][number : number + 1])
            _scatter(rows.tables["lattices"], number)
            return rows

        vars(module_of("shots"))["_index_shot"] = replayed
        self._stage(word, module_of("index"), images=self.shots.manifest, geometry=geometry)

    def _reindex(self) -> None:
        self._index("reindex", self.trial.folder / "level0.expt")

    def _level0(self) -> None:
        self._stage("level0", module_of("level0"), index=[self.path("index")])

    def _cells(self) -> None:
        self._stage("cells", module_of("cells"), reindex=[self.path("reindex")])

    def _merge(self) -> None:
        indexed = {"reindex": [self.path("reindex")], "cells": self.path("cells")}
        self._stage("merge", module_of("merge"), **indexed)

    def _cut_out(self, word: str) -> None:
        """Have shoeboxes cut out of the trial's, not of images."""
        recorded = self.recorded(word)

        def replayed(wanted: "Cutting", product: type[Annulus]) -> Annulus:
            lattices = wanted.lattices[wanted.chosen_lattices]
            of_shots = []
            for shot_id in dict.fromkeys(lattices.shot_id.tolist()):
                of_shots.append(recorded.of_shot(self.shots.number(shot_id), shot_id))
            return product.joined(of_shots)

        vars(module_of("cutting"))["cut_out"] = replayed

    def _mosaic(self) -> Path | None:
        """Return the mosaicity that all lattices of the trial share, said of each of these; None
        where none was learned.
        """
        if not facts.learns_mosaicity(self.config):
            return None
        path = self.path("mosaic")
        if not path.exists():
            described = Annulus.lattices
            identity = [described.run, described.shot_id, described.k]
            shoeboxes = self.path(self.config.stage1.range)
            rows = store.read(shoeboxes, BY_KIND[self.config.stage1.range], identity)
            identities = rows.tables["lattices"].as_dict()
            learned = store.read(self.trial.folder / path.name, Mosaic)
            learned.lattices = Mosaic.lattices.blank(len(identities["k"]))
            for name, values in identities.items():
                learned.lattices.put(name, values)
            learned.lattices.seconds = np.zeros(len(learned.lattices))
            parts = store.Parts(path, Mosaic, "replayed", [[0]])
            parts.write(0, learned)
            parts.finish(World())
        return path

    def _annulus(self, word: str = "annulus") -> None:
        self._cut_out(word)
        indexed = {"reindex": [self.path("reindex")], "cells": self.path("cells")}
        self._stage(word, module_of("annulus"), images=[self.shots.manifest], **indexed)

    def _wide(self) -> None:
        self._annulus("wide")

    def _stage1(self) -> None:
        recorded = self.recorded("stage1")

        def replayed(_: Any, group: list[Any], piece: "Piece") -> Stage1:
            ids = [identity for block in group for identity in block.identities()]
            own = ids[piece.first : piece.end]
            return Stage1.joined(recorded.of_lattices(self.shots, own))

        module = module_of("stage1")
        vars(module)["_piece"] = replayed
        shoeboxes = self.path(self.config.stage1.range)
        self._stage("stage1", module, shoeboxes=shoeboxes, mosaic=self._mosaic())

    def _predict(self) -> None:
        recorded = self.recorded("predict")

        def replayed(_: Any, block: Any, part: Any, shot: int) -> Predict:
            shot_id = int(part.reindex.shots.shot_id[shot])
            number = block.part.rows("shots").start + shot
            rows = recorded.of_shot(number, shot_id)
            lattices = rows.tables["lattices"]
            lattices.put("shot", np.full(len(lattices), number))
            return rows

        module = module_of("predict")
        vars(module)["_of_shot"] = replayed
        inputs = {"reindex": [self.path("reindex")], "stage1": self.path("stage1")}
        self._stage("predict", module, images=[self.shots.manifest], **inputs)

    def _pack(self) -> None:
        self._cut_out("pack")
        inputs = {"reindex": [self.path("reindex")], "predict": self.path("predict")}
        self._stage("pack", module_of("pack"), images=[self.shots.manifest], **inputs)

    def _expanded(self, module: ModuleType, word: str) -> None:
        """Have Gram matrices be those of the first cycle of the trial. The first lattice is
        expanded all the same: programs and pixels of a lattice are in memory too.
        """
        recorded = Recorded(self.trial, self.trial.folder / f"{word}.gram" / "1.h5", "gram")
        expanded = vars(module)["expanded"]

        def replayed(expansion: "Expansion", piece: "Piece", *how: Any) -> Gram:
            own = expansion.blocks[piece.block].identities()[piece.first : piece.end]
            if piece.block == 0 and piece.first == 0:
                expanded(expansion, piece._replace(end=1), *how)
            return Gram.joined(recorded.of_lattices(self.shots, own))

        vars(module)["expanded"] = replayed

    def _spread(self) -> None:
        self._expanded(module_of("curve_cycles"), "spread")
        shoeboxes = self.path(self.config.spread.shoeboxes)
        inputs = {"stage1": self.path("stage1"), "mosaic": self._mosaic()}
        self._stage("spread", module_of("spread"), shoeboxes=shoeboxes, **inputs)

    def _stage2(self) -> None:
        module = module_of("stage2")
        self._expanded(module_of("intensity_cycles"), "stage2")
        inputs = {"stage1": self.path("stage1"), "merge": self.path("merge")}
        self._stage("stage2", module, pack=self.path("pack"), mosaic=self._mosaic(), **inputs)

    def summary(self, word: str, *, is_simulated: bool) -> None:
        """Write the summary of a stage. is_simulated: with images and truth."""
        from spreadflow.report import summary

        manifests = [self.shots.manifest] if is_simulated else []
        out = self.trial.out / f"{word}.json"
        summary.run(word, products=[self.path(word)], images=manifests, out=out)


def main() -> None:
    """Run one stage, or write one summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", help="images, the word of a stage, or `summary of WORD`")
    parser.add_argument("--trial", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--overlays", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shots", type=int, required=True)
    args = parser.parse_args()
    trial = Trial(args.trial, args.manifest, args.overlays, args.out, args.shots)
    replay = Replay(trial)
    what = args.what.split()
    actions: dict[str, Callable[[], None]] = {
        "images": replay.shots.write,
        "summary": lambda: replay.summary(what[2], is_simulated="simulated" in what),
    }
    actions.get(what[0], lambda: replay.run(what[0]))()


if __name__ == "__main__":
    main()
