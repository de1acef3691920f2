"""The files that an HDF5 image file leads to: its pixels, masks or spectra may lie in others."""

from collections.abc import Iterator
from glob import glob
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
    places = {path.resolve()}
    files: list[Path] = []
    pending = [path]
    while pending:
        for target in _targets(pending.pop()):
            place = target.resolve()
            if place not in places:
                places.add(place)
                files.append(target)
                pending.append(target)
    return sorted(files)


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
    """Return the files that a file leads to directly; none where it is no HDF5."""
    targets: list[Path] = []
    for name in _names(path):
        if ANY_NUMBER in name:
            pattern = name.replace(ANY_NUMBER, "*")
            targets += [path.parent / block for block in glob(pattern, root_dir=path.parent)]
        elif name != ITSELF:
            target = source_file(path.parent, name)
            targets += [] if target is None else [target]
    return targets


def _names(path: Path) -> list[str]:
    """Return the names of the files that a file needs, none twice: those before the place at which
    it is damaged.
    """
    names: list[str] = []
    if h5py.is_hdf5(path):
        try:
            with h5py.File(path, "r", locking=False) as file:
                names += _names_in(file)
        except BROKEN:
            pass
    return list(dict.fromkeys(names))


def _names_in(file: h5py.File) -> Iterator[str]:
    """Yield the names of the files that links and datasets of a file need; groups may hold each
    other.
    """
    root = file["/"]
    known = {root}
    pending = [root]
    while pending:
        group = pending.pop()
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                yield link.filename
            item = item_of(group, name) if isinstance(link, h5py.HardLink) else None
            if isinstance(item, h5py.Dataset):
                yield from _sources(item)
            elif isinstance(item, h5py.Group) and item not in known:
                known.add(item)
                pending.append(item)


def _sources(item: h5py.Dataset) -> list[str]:
    """Return the names of the files that a dataset needs."""
    if item.is_virtual:
        return [source.file_name for source in item.virtual_sources()]
    return [name for name, _, _ in item.external or ()]
