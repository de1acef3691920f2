"""Datasets that are mapped into memory: what was written is read, and what has changed since is
refused by name.
"""

import h5py
import numpy as np
import pytest

from spreadflow.errors import FileError
from spreadflow.io import checksums, mapped, store
from spreadflow.parallel import World
from spreadflow.products import Pack

N = 40_000
"""Pixels of the larger part."""


@pytest.fixture
def product(tmp_path, filled):
    """A product in two parts, of which the second is small; and the first as it was in memory."""
    mapped._sound.clear()
    rng = np.random.default_rng(0)
    parts = store.Parts(tmp_path / "pack.h5", Pack, "any", [[1], [2]])
    in_memory = []
    for block, n in enumerate((N, 5)):
        planted = {
            "pixels/photons": np.where(rng.random(n) < 0.9, rng.random(n), np.nan),
            "pixels/valid": rng.random(n) < 0.9,
            "pixels/overlap": rng.integers(0, 8, n),
            "reflections/hkl": rng.integers(-9, 9, (3, 3)),
            "lattices/shot_id": [block + 1],
        }
        sizes = {"lattices": 1, "spectra": 1, "channels": 4, "reflections": 3, "pixels": n}
        in_memory.append(filled("pack", sizes, planted))
        parts.write(block, in_memory[-1])
    parts.finish(World())
    return tmp_path / "pack.h5", in_memory[0]


def read(product, wanted=None) -> Pack:
    path, _ = product
    return store.parts_of(path, Pack)[0].read(wanted)


def test_what_was_written_is_mapped(product):
    found = read(product)
    datasets = found.datasets()
    for name, column in product[1].datasets().items():
        np.testing.assert_array_equal(datasets[name], column, err_msg=name)
        assert datasets[name].dtype == column.dtype
    assert isinstance(found.pixels.photons, np.memmap)
    assert not isinstance(found.reflections.hkl, np.memmap), "it is smaller than a few pages"
    with pytest.raises(ValueError, match="read-only"):
        found.pixels.photons[0] = 1.0


def test_parts_are_joined_as_those_of_other_products(product):
    whole = store.read(product[0], Pack)
    assert len(whole.pixels.photons) == N + 5
    np.testing.assert_array_equal(whole.reflections.lattice, [0, 0, 0, 1, 1, 1])


def test_nothing_is_compressed(product):
    with h5py.File(store.part_path(product[0], 0)) as f:
        photons = f["pixels/photons"]
        assert photons.chunks is None and photons.compression is None


def test_content_is_checked_once(product, monkeypatch):
    """And only that of what is read."""
    path, _ = product
    (part, _) = store.parts_of(path, Pack)
    checked = []
    checksum = checksums.checksum

    def counted(data: np.ndarray) -> str:
        checked.append(len(data))
        return checksum(data)

    monkeypatch.setattr(checksums, "checksum", counted)
    part.read([Pack.pixels.valid])
    assert checked == [N]
    part.read([Pack.pixels.valid])
    assert checked == [N]
    part.read([Pack.pixels.valid, Pack.pixels.overlap])
    assert checked == [N, N]


def test_a_changed_part_is_refused_by_name(product):
    """One bit of one pixel, in a file of the same length."""
    part = store.part_path(product[0], 0)
    with h5py.File(part) as f:
        offset = f["pixels/overlap"].id.get_offset()
    content = bytearray(part.read_bytes())
    content[offset + 7] ^= 1
    part.write_bytes(content)
    read(product, [Pack.pixels.photons])
    with pytest.raises(FileError, match=r"000000\.h5: pixels/overlap: expected checksum") as error:
        read(product)
    assert "Rerun the stage that makes it" in str(error.value)


def test_a_part_that_changes_after_it_was_read_is_refused(product):
    read(product)
    part = store.part_path(product[0], 0)
    with h5py.File(part, "r+") as f:
        f["reflections/hkl"][0] = 99
    with pytest.raises(FileError, match=r"000000\.h5: reflections/hkl"):
        read(product)


def test_a_truncated_part_is_refused_by_name(product):
    part = store.part_path(product[0], 0)
    part.write_bytes(part.read_bytes()[: N // 2])
    with pytest.raises(FileError, match=r"000000\.h5"):
        read(product)


def test_a_missing_part_is_refused_by_name(product):
    store.part_path(product[0], 0).unlink()
    with pytest.raises(FileError, match=r"000000\.h5: expected a finished part; found nothing"):
        read(product)
