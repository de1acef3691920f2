"""The layout of an output of correlate is what its documents say, item by item."""

from collections.abc import Iterator

import h5py
import pytest

from spreadflow.config.correlate import CorrelateSection
from spreadflow.io.g2_layout import ATTRIBUTES, ITEMS, TWO_TIME, XPCS_TWO_TIME, Item
from spreadflow.parallel import World
from spreadflow.stages import correlate
from spreadflow.stages.correlate import Request

SHAPE = (3, 4)


def datasets(group: h5py.Group, beginning: str = "") -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield all datasets by path, those with several names by each."""
    for name, item in group.items():
        if isinstance(item, h5py.Dataset):
            yield beginning + name, item
        else:
            yield from datasets(item, f"{beginning}{name}/")


def fits(item: Item, dataset: h5py.Dataset) -> bool:
    """Whether a dataset has the type and the dimensions that are stated."""
    if item.type == "any":
        return True
    dtype = "text" if dataset.dtype.kind == "O" else str(dataset.dtype)
    names = [name for name in item.dimensions.split(", ") if name]
    is_of_shape = dataset.shape == SHAPE if names == ["image"] else dataset.ndim == len(names)
    return dtype == item.type and is_of_shape


@pytest.mark.parametrize("two_time", [None, {"n_shots": 20, "n_ages": 2}])
def test_an_output_has_what_its_layout_says(tmp_path, two_time):
    section = {
        "simulated": {"n_shots": 50, "shape": list(SHAPE)},
        "delays": [1, 2],
        "buffer_shots": 40,
        "two_time": two_time,
        "user_params": {"any": 1},
        "out": str(tmp_path / "o.h5"),
    }
    correlate.run(Request(CorrelateSection.model_validate(section)), World())
    expected = set(ITEMS) if two_time else set(ITEMS) - {*TWO_TIME, *XPCS_TWO_TIME}
    seen = set()
    with h5py.File(tmp_path / "o.h5") as file:
        for path, dataset in datasets(file):
            (item,) = (one for one in ITEMS if one.has(path))
            assert fits(item, dataset), path
            seen.add(item)
        for group, attributes in ATTRIBUTES.items():
            names = set(file[f"/{group.replace('SHOT', '000049')}"].attrs)
            assert names == set(attributes) - {"merged_checksums"}
    assert seen == expected


def test_names_that_vary_do_not_reach_over_groups():
    item = Item("user/G2_results_at_SHOT/G2/delay_DELAY", "", "", "")
    assert item.has("user/G2_results_at_-000003/G2/delay_1000000")
    assert not item.has("user/G2_results_at_000003/IF/delay_000001")
