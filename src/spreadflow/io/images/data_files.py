"""The files that an HDF5 image file leads to: its pixels, masks or spectra may lie in others."""

from collections.abc import Iterable
from pathlib import Path

import h5py

from spreadflow.io.images.nexus_items import BROKEN, item_of

ANY_NUMBER = "%b"
"""What stands for the number of a block in the names of sources that may grow."""

ITSELF = "."
"""What a virtual dataset calls the file that it is in."""


def data_files(path: Path) -> list[Path]:
    """Return the files that an image file leads to, and those that these lead to, sorted, none
    twice: where external links point, virtual datasets have their sources, and datasets their
    bytes. What is not there is left out; only HDF5 leads to files.
    """
    found: dict[Path, Path] = {}
    seen = {path.resolve()}
    pending = [path]
    while pending:
        for target in _targets(pending.pop()):
            place = target.resolve()
            if place not in seen:
                seen.add(place)
                found[place] = target
                pending.append(target)
    return sorted(found.values())


def source_file(folder: Path, name: str) -> Path | None:
    """Return the file that HDF5 opens by its name in a file in `folder`; None where there is none.
    An absolute name that leads nowhere is looked for beside the file, which may have been moved.
    """
    path = Path(name)
    beside = path.name if path.is_absolute() else name
    candidates = [path, folder / beside, Path(beside)]
    if not path.is_absolute():
        candidates = candidates[1:]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _targets(path: Path) -> list[Path]:
    """Return the files that a file leads to directly; none where it is no HDF5, or damaged."""
    names: list[str] = []
    if not h5py.is_hdf5(path):
        return []
    try:
        with h5py.File(path, "r", locking=False) as file:
            file.visititems_links(lambda place, link: names.extend(_names(file, place, link)))
    except BROKEN:
        return []
    targets: list[Path] = []
    for name in dict.fromkeys(names):
        if ANY_NUMBER in name:
            targets += path.parent.glob(name.replace(ANY_NUMBER, "*").lstrip("/"))
        elif name != ITSELF:
            target = source_file(path.parent, name)
            targets += [] if target is None else [target]
    return targets


def _names(file: h5py.File, place: str, link: object) -> Iterable[str]:
    """Return the names of the files that a link, or the dataset that it leads to, needs."""
    if isinstance(link, h5py.ExternalLink):
        return [link.filename]
    if not isinstance(link, h5py.HardLink):
        return []
    item = item_of(file, place)
    if not isinstance(item, h5py.Dataset):
        return []
    if item.is_virtual:
        return [source.file_name for source in item.virtual_sources()]
    return [name for name, _, _ in item.external or ()]
