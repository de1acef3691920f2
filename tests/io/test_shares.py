"""What each rank had of the work, in a file beside the product."""

import pytest

from spreadflow.errors import FileError
from spreadflow.io import shares
from spreadflow.parallel import Shares

OF_TWO = Shares(items={"shots": [3, 5]}, seconds=[1.5, 1.25])


def test_what_is_written_is_read_until_it_is_removed(tmp_path):
    product = tmp_path / "index.h5"
    assert shares.read(product) is None
    shares.remove(product)
    shares.write(product, OF_TWO)
    assert [path.name for path in tmp_path.iterdir()] == ["index.ranks.json"]
    assert shares.read(product) == OF_TWO
    shares.remove(product)
    assert shares.read(product) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"items": {}}'])
def test_another_file_is_refused(tmp_path, text):
    product = tmp_path / "index.h5"
    product.with_suffix(shares.SUFFIX).write_text(text)
    with pytest.raises(FileError, match=r"index\.ranks\.json: expected the shares of ranks"):
        shares.read(product)
