"""Miller indices on the axes that all lattices share."""

import numpy as np

from spreadflow.io.accepted import brought


def test_only_lattices_on_other_axes_are_brought():
    other = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]])
    hkl = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], dtype=np.int32)
    setting = np.array([np.eye(3), other])
    lattice = np.array([1, 0, 1])
    found = brought(hkl, setting, lattice)

    assert found.dtype == np.int32
    assert found.tolist() == [[2, 3, 1], [4, 5, 6], [8, 9, 7]]
    assert hkl.tolist()[0] == [1, 2, 3]
    assert brought(hkl, setting[:1], np.zeros(3, int)) is hkl
