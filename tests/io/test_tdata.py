"""tdata as cctbx writes it."""

import gemmi
import numpy as np
import pytest

from spreadflow.io import tdata
from spreadflow.physics import symmetry


@pytest.mark.parametrize(
    ("space_group", "symbol"),
    [
        ("P 1", "P-1"),
        ("C 1 2 1", "C12/m1"),
        ("P 1 1 21", "P112/m"),
        ("P 21 21 21", "Pmmm"),
        ("P 41 21 2", "P4/mmm"),
        ("P 31 2 1", "P6/mmm"),
        ("R 3:H", "R-3m:H"),
        ("P 63", "P6/mmm"),
        ("I 2 3", "Im-3m"),
    ],
)
def test_lines(tmp_path, space_group, symbol):
    cells = np.array(
        [[67.2, 59.8, 47.2, 90.0, 110.3, 90.0], [67.1234567, 59.8, 47.2, 90.0, 110.3, 90.0]]
    )
    tdata.write(tmp_path / "cells.tdata", cells, space_group)

    assert (tmp_path / "cells.tdata").read_text() == (
        f"67.200000 59.800000 47.200000 90.000000 110.300000 90.000000 {symbol}\n"
        f"67.123457 59.800000 47.200000 90.000000 110.300000 90.000000 {symbol}\n"
    )


def test_symbol_of_every_space_group_is_its_holohedry():
    """Same centring, same free cell parameters, and no rotation more would fit: gemmi's own group
    of that symbol.
    """
    n_symbols = 0
    for sg in gemmi.spacegroup_table():
        found = gemmi.find_spacegroup_by_name(symmetry.metric_symbol(sg.xhm()))
        if (
            found is None
        ):  # 8 unconventional settings such as C 1 1 2 have no symmorphic centric entry
            continue
        n_symbols += 1
        assert sorted(map(tuple, found.operations().cen_ops)) == sorted(
            map(tuple, sg.operations().cen_ops)
        )
        assert symmetry.metric_basis(found.xhm()).shape == symmetry.metric_basis(sg.xhm()).shape
        assert set(map(bytes, symmetry.point_group(sg.xhm()))) <= set(
            map(bytes, symmetry.point_group(found.xhm()))
        )

    assert n_symbols == len(list(gemmi.spacegroup_table())) - 8
