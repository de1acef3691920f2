"""Products on disk: whole or in parts, resumed, joined, and refused where they do not belong
together.
"""

import ast
from pathlib import Path

import h5py
import numpy as np
import pytest

import spreadflow
from spreadflow.errors import FileError
from spreadflow.io import datasets, store
from spreadflow.parallel import World
from spreadflow.products import BY_KIND, VERSION, Annulus, Index, Merge, Reindex

SIZES = {"shots": 3, "spots": 4, "lattices": 2, "reflections": 5}
BLOCKS = [[1, 2, 3], [4, 5, 6]]


class TwoRanks(World):
    """One of two ranks, alone."""

    def __init__(self, rank: int):
        super().__init__()
        self.rank = rank
        self.size = 2

    def gather(self, value):
        self.own = value
        return [value]


@pytest.fixture
def block(filled):
    """One block of an index product: rows refer to rows of the same block, -1 refers to none."""

    def part(ids: list[int]) -> Index:
        values = {
            "shots/shot_id": np.array(ids),
            "spots/shot": np.array([0, 0, 1, 2]),
            "spots/lattice": np.array([0, -1, 1, -1]),
            "lattices/shot": np.array([0, 1]),
            "lattices/shot_id": np.array(ids[:2]),
            "reflections/lattice": np.array([0, 0, 1, 1, 1]),
        }
        return filled("index", SIZES, values)

    return part


def make(path, block, base="base", blocks=BLOCKS) -> store.Parts[Index]:
    parts = store.Parts(path, Index, base, blocks)
    for k in parts.missing(World()):
        parts.write(k, block(blocks[k]))
    parts.finish(World(), run="r", shape=np.array([1, 2]))
    return parts


def test_parts_read_as_one_with_rows_shifted(tmp_path, block):
    make(tmp_path / "index.h5", block)
    read = store.read(tmp_path / "index.h5", Index)
    assert read.shots.shot_id.tolist() == [1, 2, 3, 4, 5, 6]
    assert read.shots.shot_id.dtype == np.uint64
    assert read.spots.shot.tolist() == [0, 0, 1, 2, 3, 3, 4, 5]
    assert read.spots.lattice.tolist() == [0, -1, 1, -1, 2, -1, 3, -1]
    assert read.lattices.shot.tolist() == [0, 1, 3, 4]
    assert read.reflections.lattice.tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]


def test_named_columns_and_tables_are_shifted_alike(tmp_path, block):
    make(tmp_path / "index.h5", block)
    whole = store.read(tmp_path / "index.h5", Index)
    named = store.read(tmp_path / "index.h5", Index, [Index.spots, Index.reflections.lattice])
    assert named.datasets().keys() == {
        "reflections/lattice",
        *(column.path for column in Index.spots.described().values()),
    }
    for name, column in named.datasets().items():
        np.testing.assert_array_equal(column, whole.datasets()[name])
    with pytest.raises(KeyError, match="product index has no merged/n"):
        store.read(tmp_path / "index.h5", Index, [Merge.merged.n])


def test_a_product_without_blocks_has_no_rows(tmp_path, block):
    make(tmp_path / "index.h5", block, blocks=[])
    read = store.read(tmp_path / "index.h5", Index)
    assert read.n_rows() == dict.fromkeys(SIZES, 0)
    assert read.lattices.A.shape == (0, 3, 3)


def test_done_parts_are_left_untouched(tmp_path, block):
    """A killed stage: one part is there, the manifest is not. The rerun makes the other and touches
    nothing else.
    """
    first = store.Parts(tmp_path / "index.h5", Index, "base", BLOCKS)
    first.write(0, block(BLOCKS[0]))
    done = store.part_path(tmp_path / "index.h5", 0)
    before = done.stat()

    again = store.Parts(tmp_path / "index.h5", Index, "base", BLOCKS)
    assert again.missing(World()) == [1]
    again.write(1, block(BLOCKS[1]))
    again.finish(World())

    assert (done.stat().st_mtime_ns, done.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert len(store.read(tmp_path / "index.h5", Index).shots.shot_id) == 6


def test_a_part_is_read_once_however_often_it_is_asked_for(tmp_path, block, monkeypatch):
    make(tmp_path / "index.h5", block)
    parts = store.Parts(tmp_path / "index.h5", Index, "base", BLOCKS)
    blocks_read = []
    read = store.Parts.read
    monkeypatch.setattr(
        store.Parts, "read", lambda parts, k: blocks_read.append(k) or read(parts, k)
    )
    assert parts.are_done(World())
    assert parts.missing(World()) == []
    assert blocks_read == [0, 1]


def _other_base(parts):
    return store.Parts(parts.path, Index, "another", BLOCKS)


def _other_shots(parts):
    return store.Parts(parts.path, Index, "base", [[1, 2, 7], [4, 5, 6]])


def _damaged(parts):
    path = store.part_path(parts.path, 0)
    path.write_bytes(path.read_bytes()[:1000])
    return store.Parts(parts.path, Index, "base", BLOCKS)


@pytest.mark.parametrize("change", [_other_base, _other_shots, _damaged])
def test_parts_of_something_else_are_made_again(tmp_path, block, change):
    parts = change(make(tmp_path / "index.h5", block))
    assert not parts.done(0)
    assert parts.done(1) == (change is not _other_base)


def test_foreign_part_is_refused(tmp_path, block):
    make(tmp_path / "index.h5", block)
    store.Parts(tmp_path / "index.h5", Index, "another", BLOCKS).write(1, block(BLOCKS[1]))
    with pytest.raises(FileError, match=r"000001\.h5: expected key .* found key"):
        store.read(tmp_path / "index.h5", Index)


def test_missing_or_damaged_part_is_refused(tmp_path, block):
    make(tmp_path / "index.h5", block)
    part = store.part_path(tmp_path / "index.h5", 1)
    part.write_bytes(part.read_bytes()[:1000])
    with pytest.raises(FileError, match=r"000001\.h5"):
        store.read(tmp_path / "index.h5", Index)

    part.unlink()
    with pytest.raises(FileError, match="a finished part"):
        store.read(tmp_path / "index.h5", Index)


def test_the_manifest_answers_without_any_part(tmp_path, block):
    """Keys, rows of each part, and the small columns, counted over all parts."""
    path = tmp_path / "index.h5"
    make(path, block)
    whole = store.read(path, Index)
    for part in (tmp_path / "index.parts").iterdir():
        part.unlink()
    parts = store.parts_of(path, Index)
    assert [part.rows("spots") for part in parts] == [slice(0, 4), slice(4, 8)]
    assert [part.n_rows("lattices") for part in parts] == [2, 2]
    in_manifest = {name: item for name, item in Index.described().items() if item.in_manifest}
    assert {"shots/shot_id", "shots/outcome", "lattices/shot", "lattices/cell"} < set(in_manifest)
    for name, item in in_manifest.items():
        found = store.read(path, Index, [item]).datasets()[name]
        expected = whole.datasets()[name]
        np.testing.assert_array_equal(found, expected, err_msg=name)
        assert found.dtype == expected.dtype
    with pytest.raises(FileError, match=r"000000\.h5: expected a finished part; found nothing"):
        store.read(path, Index, [Index.lattices.shot, Index.lattices.d_min])


def test_a_part_that_is_short_is_named_and_made_again(tmp_path, block):
    """Of the same key, with fewer rows than the manifest says."""
    parts = make(tmp_path / "index.h5", block)
    short = block(BLOCKS[1])
    short.spots = short.spots[:-1]
    parts.write(1, short)
    with pytest.raises(FileError, match=r"000001\.h5: expected rows .*'spots': 4.*'spots': 3"):
        store.read(tmp_path / "index.h5", Index)


def test_a_part_that_is_wrong_about_its_rows_is_made_again(tmp_path, block):
    """Text of attributes is the one thing that HDF5 keeps without a checksum."""
    parts = make(tmp_path / "index.h5", block)
    path = store.part_path(parts.path, 1)
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"spots": 4', b'"spots": 5'))
    assert path.read_bytes() != content
    with pytest.raises(FileError, match=r"000001\.h5"):
        store.parts_of(parts.path, Index)[1].read([Index.shots.shot_id])
    again = store.Parts(tmp_path / "index.h5", Index, "base", BLOCKS)
    assert again.missing(World()) == [1]


def test_one_column_costs_one_column(tmp_path, block, monkeypatch):
    """Nothing but what is asked for is read of a part, and its rows are known without."""
    make(tmp_path / "index.h5", block)
    parts = store.parts_of(tmp_path / "index.h5", Index)
    names_read = []
    opened = h5py.h5d.open

    def counted(group, name: bytes):
        names_read.append(name)
        return opened(group, name)

    monkeypatch.setattr(h5py.h5d, "open", counted)
    part = parts[1].read([Index.reflections.d])
    assert names_read == [b"reflections/d"]
    assert part.n_rows() == SIZES


def test_each_rank_reads_its_share_of_finished_parts(tmp_path, block, monkeypatch):
    """And learns of the others', so that one damaged part is made once."""
    blocks = [[3 * n + 1, 3 * n + 2, 3 * n + 3] for n in range(5)]
    make(tmp_path / "index.h5", block, blocks=blocks)
    path = store.part_path(tmp_path / "index.h5", 3)
    path.write_bytes(path.read_bytes()[:2000])
    ranks = [TwoRanks(rank) for rank in range(2)]
    blocks_read: dict[int, list[int]] = {}
    read = store.Parts.read
    for world in ranks:
        parts = store.Parts(tmp_path / "index.h5", Index, "base", blocks)
        monkeypatch.setattr(
            store.Parts,
            "read",
            lambda parts, k, rank=world.rank: (
                blocks_read.setdefault(rank, []).append(k) or read(parts, k)
            ),
        )
        parts.missing(world)
    assert blocks_read == {0: [0, 2, 4], 1: [1, 3]}
    assert [world.own for world in ranks] == [[0, 2, 4], [1]]


def test_doubles_of_a_shot_or_a_lattice_are_refused(tmp_path, block):
    make(tmp_path / "index.h5", block, blocks=[[1, 2, 3], [4, 2, 6]])
    with pytest.raises(FileError, match="shots: expected each shot once; found 1 more often") as e:
        store.read(tmp_path / "index.h5", Index, [Index.shots.shot_id])
    assert "shot 0000000000000002" in str(e.value)
    with pytest.raises(FileError, match="lattices: expected each shot once"):
        store.read(tmp_path / "index.h5", Index, [Index.lattices.shot_id, Index.lattices.k])


KINDS_OF_PARTS = ("index", "annulus", "pack", "stage1", "gram")
"""Kinds whose parts are damaged."""

N_FLIPS = 30
"""Bits that are turned, one at a time, in a part of each kind."""


@pytest.mark.stage
@pytest.mark.parametrize("kind", KINDS_OF_PARTS)
def test_a_flipped_bit_is_named_or_changes_nothing(tmp_path, filled, kind):
    """In the numbers as in the structure of the file; a rerun makes the part again."""
    rng = np.random.default_rng(5)
    shared = {"channel": 8, "channels": 8, "unknown": 8}
    product = BY_KIND[kind]
    sizes = dict.fromkeys(product.declared(), 700) | shared
    values = {
        name: rng.integers(0, 99, [sizes.get(dim, dim) for dim in column.dims])
        for name, column in product.described().items()
    }
    parts = store.Parts(tmp_path / "product.h5", product, "base", [[1]])
    parts.write(0, filled(kind, sizes, values))
    parts.finish(World())
    whole = parts.read(0)
    path = store.part_path(parts.path, 0)
    content = path.read_bytes()
    n_named = 0
    for at in rng.choice(len(content), N_FLIPS, replace=False):
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            found = store.parts_of(parts.path, product)[0].read()
        except FileError as error:
            n_named += 1
            assert str(path) in str(error)
            assert not parts.done(0)
        else:
            for name, column in whole.datasets().items():
                np.testing.assert_array_equal(found.datasets()[name], column, err_msg=name)
            assert parts.done(0)

    assert n_named > N_FLIPS // 2, "most of a file is numbers"
    parts.write(0, whole)
    assert parts.done(0)


def test_parts_of_unlike_channels_are_refused(tmp_path, filled):
    parts = store.Parts(tmp_path / "annulus.h5", Annulus, "base", BLOCKS)
    for k in range(2):
        sizes = dict.fromkeys(("lattices", "spectra", "reflections", "pixels"), 1)
        parts.write(k, filled("annulus", sizes | {"channels": 5 + k}, {}))
    parts.finish(World())
    with pytest.raises(FileError, match="energies_ev"):
        store.read(tmp_path / "annulus.h5", Annulus)


def test_finish_removes_parts_beyond_the_product(tmp_path, block):
    make(tmp_path / "index.h5", block)
    make(tmp_path / "index.h5", block, blocks=BLOCKS[:1])
    assert [p.name for p in (tmp_path / "index.parts").iterdir()] == ["000000.h5"]


def _without_a_column(product: Index) -> None:
    del product.spots.as_dict()["fast"]


def _other_matrices(product: Index) -> None:
    product.lattices.A = np.zeros((2, 9))


def _other_cells(product: Index) -> None:
    product.lattices.cell = np.zeros((2, 5))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_without_a_column, "spots/fast"),
        (_other_matrices, "lattices/A"),
        (_other_cells, "lattices/cell"),
    ],
)
def test_columns_that_are_not_the_schemas_are_refused(tmp_path, block, change, named):
    product = block(BLOCKS[0])
    change(product)
    with pytest.raises(FileError, match=named):
        store.write(tmp_path / "a.h5", product, key="k")
    assert list(tmp_path.iterdir()) == []


def test_file_of_another_kind_or_schema_is_refused(tmp_path, block):
    store.write(tmp_path / "a.h5", block(BLOCKS[0]), key="k")
    with pytest.raises(FileError, match="expected kind 'reindex'"):
        store.read(tmp_path / "a.h5", Reindex)

    with h5py.File(tmp_path / "a.h5", "r+") as f:
        f.attrs["schema"] = VERSION + 1
    with pytest.raises(FileError, match=f"schema {VERSION + 1}"):
        store.read(tmp_path / "a.h5", Index)

    (tmp_path / "text.h5").write_text("text")
    for name in ("text.h5", "missing.h5"):
        with pytest.raises(FileError, match=name):
            store.read(tmp_path / name, Index)


def test_values_that_do_not_fit_the_type_are_refused(tmp_path, block):
    product = block(BLOCKS[0])
    product.shots.n_spots = np.array([1, 2, 2**40])
    with pytest.raises(FileError, match="shots/n_spots"):
        store.write(tmp_path / "a.h5", product, key="k")


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_product_that_is_not_finite_is_refused(tmp_path, block, number):
    """Nothing is written; columns in which NaN means something say so and may hold it."""
    product = block(BLOCKS[0])
    product.shots.mean_energy_ev = np.array([1.0, np.nan, 2.0])
    store.write(tmp_path / "a.h5", product, key="k")

    product.shots.seconds = np.array([1.0, number, 2.0])
    with pytest.raises(FileError, match=r"b\.h5: shots/seconds.*1 of 3"):
        store.write(tmp_path / "b.h5", product, key="k")
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_figures_that_are_not_finite_are_refused(tmp_path, block):
    product = block(BLOCKS[0])
    warnings = [{"value": np.inf}]
    store.write(tmp_path / "a.h5", product, key="k", warnings=warnings, n=None)
    with pytest.raises(FileError, match=r"index: scales: of_run.*nan"):
        figures = {"of_run": [1.0, np.array([np.nan])]}
        store.write(tmp_path / "b.h5", product, key="k", scales=figures)
    assert not (tmp_path / "b.h5").exists()


def test_datasets_have_type_unit_and_meaning(tmp_path, block):
    store.write(tmp_path / "a.h5", block(BLOCKS[0]), key="k")
    with h5py.File(tmp_path / "a.h5") as f:
        for name, column in Index.described().items():
            dataset = f[name]
            assert dataset.dtype == column.dtype
            assert dataset.attrs["units"] == column.unit
            assert dataset.attrs["meaning"] == column.whole_meaning


def test_attributes_come_back(tmp_path, block):
    attributes = {
        "run": "42",
        "runs": ["a", "b"],
        "none": None,
        "n": 3,
        "x": 0.5,
        "m": {"a": [1]},
        "v": np.arange(2),
    }
    store.write(tmp_path / "a.h5", block(BLOCKS[0]), key="1234567890123456", **attributes)
    read = store.attributes(tmp_path / "a.h5", Index)

    for name, value in attributes.items():
        assert name == "v" or read[name] == value
    assert read["v"] == [0, 1]
    assert read["key"] == "1234567890123456"
    assert read["kind"] == "index"


def test_replacing_is_all_or_nothing(tmp_path):
    target = tmp_path / "deep" / "a.txt"
    with store.replacing(target) as temporary:
        temporary.write_text("one")
        assert not target.exists()

    with pytest.raises(RuntimeError), store.replacing(target) as temporary:
        temporary.write_text("two")
        raise RuntimeError
    assert target.read_text() == "one"
    assert list(target.parent.iterdir()) == [target]


def test_what_killed_runs_left_of_a_product_is_removed_and_nothing_else(tmp_path):
    left = [".merge.h5.12.tmp", ".merge.mtz.7.tmp"]
    others = ["merge.h5", "merge.mtz", ".merge2.h5.9.tmp", ".annulus.h5.3.tmp", "merge.tmp"]
    for name in [*left, *others]:
        (tmp_path / name).touch()
    store.remove_unfinished(tmp_path / "merge.h5")
    assert {path.name for path in tmp_path.iterdir()} == set(others)


def test_identity_is_key_or_checksum(tmp_path, block):
    make(tmp_path / "index.h5", block)
    first = store.identity(tmp_path / "index.h5")
    make(tmp_path / "index.h5", block)  # from the same: the same, whatever the time
    assert store.identity(tmp_path / "index.h5") == first

    make(tmp_path / "index.h5", block, base="another")
    assert store.identity(tmp_path / "index.h5") != first

    (tmp_path / "a.txt").write_text("abc")  # FIPS 180-2, example B.1
    assert store.checksum(tmp_path / "a.txt").startswith(
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9c"
    )
    assert store.identity(tmp_path / "a.txt") == "ba7816bf8f01cfea"
    with pytest.raises(FileError, match="an existing file"):
        store.identity(tmp_path / "missing")


def test_no_file_is_opened_with_locks():
    """Shared file systems may refuse them; products are renamed into place when they are whole."""
    with_locks = []
    for module in Path(spreadflow.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if not isinstance(node, ast.Call) or ast.unparse(node.func) != "h5py.File":
                continue
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if keywords.get("locking") != "False":
                with_locks.append(f"{module.name}:{node.lineno}")
    assert with_locks == []


def test_large_datasets_are_compressed_in_large_chunks_of_whole_rows(tmp_path, block):
    product = block(BLOCKS[0])
    n = 50_000
    product.spots = Index.spots(
        **{
            name: np.zeros((n, *column.empty().shape[1:]), column.dtype)
            for name, column in Index.spots.described().items()
        }
    )
    store.write(tmp_path / "a.h5", product, key="k")
    with h5py.File(tmp_path / "a.h5") as f:
        hkl = f["spots/hkl"]
        assert hkl.chunks[1:] == (3,)
        chunk = np.prod(hkl.chunks) * hkl.dtype.itemsize
    assert 0.9 * datasets.CHUNK_BYTES < chunk <= datasets.CHUNK_BYTES


def test_rows_of_a_part_are_read_where_they_are_wanted(tmp_path, block):
    """Into the middle of a table; one that has another number of rows is refused."""
    make(tmp_path / "index.h5", block)
    part = store.parts_of(tmp_path / "index.h5", Index)[1]
    expected = part.read([Index.reflections]).reflections
    n = len(expected)
    names = expected.as_dict()
    table = Index.reflections(
        **{name: np.full((n + 5, *rows.shape[1:]), 77, rows.dtype) for name, rows in names.items()}
    )
    read = part.read([Index.reflections], into=table[3 : n + 3]).reflections

    for name, rows in table.as_dict().items():
        np.testing.assert_array_equal(rows[3 : n + 3], names[name])
        assert np.shares_memory(rows, read.as_dict()[name])
        assert (rows[:3] == 77).all() and (rows[n + 3 :] == 77).all()
    with pytest.raises(FileError, match=r"000001\.h5: reflections/.*expected shape"):
        part.read([Index.reflections], into=table)
