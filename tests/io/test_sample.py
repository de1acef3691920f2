"""The shots from which a detector is judged: which are read, and what those that can't be cost."""

import h5py
import numpy as np
import pytest

import image_files
import nexus_file
from spreadflow.errors import FileError
from spreadflow.io import images
from spreadflow.io.images import sample


@pytest.mark.parametrize(("n_most", "chosen"), [(1, [0]), (2, [0, 4]), (3, [0, 2, 4])])
def test_few_shots_of_many_pixels_are_evenly_chosen(tmp_path, monkeypatch, n_most, chosen):
    pixels = [image_files.image(4, 6, dtype="uint16", seed=seed) for seed in range(5)]
    paths = [image_files.smv(tmp_path / f"{n}.img", one) for n, one in enumerate(pixels)]
    monkeypatch.setattr(sample, "MOST_PIXELS", n_most * pixels[0].size)
    frames = images.read_sample(paths).frames
    np.testing.assert_array_equal(np.array(frames)[:, 0], np.array(pixels)[chosen])


def test_a_shot_that_can_not_be_read_is_left_out(tmp_path):
    """Also where its mask is in its pixels."""
    pixels = image_files.image(2, 4, 6)
    good = image_files.full_cbf(tmp_path / "b.cbf", {"ARRAY": pixels})
    bad = tmp_path / "a.cbf"
    raw = bytearray(good.read_bytes())
    start = raw.index(b"\x0c\x1a\x04\xd5") + 4
    raw[start : start + 8] = b"\xff" * 8
    bad.write_bytes(raw)
    with pytest.raises(OSError, match="checksum"):
        images.open_image(bad).frame(0)
    chosen = images.read_sample([bad, good])
    assert len(chosen.frames) == 1
    with pytest.raises(FileError, match="a shot that can be read"):
        images.read_sample([bad])


def test_a_spectrum_that_makes_no_sense_is_none(tmp_path):
    nexus_file.write(tmp_path / "a.nxs")
    with h5py.File(tmp_path / "a.nxs", "r+") as f:
        f[f"{nexus_file.CHANNELS}_weights"][...] = np.nan
    chosen = images.read_sample([tmp_path / "a.nxs"])
    assert chosen.n_channels == 0 and np.isnan(chosen.energies_ev).all()
