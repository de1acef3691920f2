"""A user's calculation inside `spreadflow correlate`: the methods of a class that is called back.

The names are those of ParCorAna, of its later and of its earlier revisions. A class may be any that
has some of these methods: those that it leaves out do what G2 needs. One that inherits from
`UserCorrelation` has all of them. Each rank has an object of its own, which knows nothing of those
of others; what is returned is checked, and an error names the method.
"""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

ARRAYS = ("G2", "IF", "IP")
"""Arrays that are calculated where a class does not say which."""


class RoleParams(NamedTuple):
    """What a user's object learns of its rank: `mpiParams` of its constructor."""

    logger: logging.Logger
    maskNdarrayCoords: np.ndarray
    """bool in the shape of an image: the pixels that are correlated"""

    def logInfo(self, msg: str, allWorkers: bool = False) -> None:
        """Log a message."""
        self.logger.info("%s", msg)

    def logDebug(self, msg: str, allWorkers: bool = False) -> None:
        """Log a message of little interest."""
        self.logger.debug("%s", msg)

    def logWarning(self, msg: str, allWorkers: bool = False) -> None:
        """Log a warning."""
        self.logger.warning("%s", msg)

    def logError(self, msg: str, allWorkers: bool = False) -> None:
        """Log an error."""
        self.logger.error("%s", msg)


class UserCorrelation:
    """All methods that are called back, with their defaults.

    Arrays of the constructor's arguments: user_params and system_params as they are configured,
    `system_params["delays"]` in units of the shot id, ascending.
    """

    calculator: str | None = None
    """which calculator forms G2 where there is no `workerCalc`: one that `correlate.calculator`
    names; None = the one that it does name
    """

    def __init__(
        self,
        user_params: Mapping[str, Any],
        system_params: Mapping[str, Any],
        mpiParams: RoleParams,
        testAlternate: bool,
    ):
        self.user_params = user_params
        self.system_params = system_params
        self.mp = mpiParams
        self.logger = mpiParams.logger
        self.maskNdarrayCoords = mpiParams.maskNdarrayCoords
        self.testAlternate = testAlternate
        self.delays = system_params["delays"]
        self.numDelays = len(self.delays)

    def fwArrayNames(self) -> list[str]:
        """Return the names of the arrays that workers calculate. On all ranks."""
        return list(ARRAYS)

    def serverInit(self) -> None:
        """Prepare a reader."""

    def serverEventOk(self, evt: Any) -> bool:
        """Whether a shot counts; evt has its `shot_id`, its `number` in order of arrival, and its
        `monitors` by name. The image has not been read yet. On readers.
        """
        return True

    def serverFinalDataArray(self, dataArray: np.ndarray, evt: Any) -> np.ndarray | None:
        """Return the image of a shot, or a changed copy of the same shape, or None to drop it. On
        readers. A pixel that is no number is not correlated any more.
        """
        return dataArray

    def workerInit(self, numElementsWorker: int) -> None:
        """Prepare a worker that owns so many pixels."""

    def workerAdjustData(self, data: np.ndarray) -> None:
        """Change the (pixel,) float32 values of a shot in place, before they are stored; return
        nothing. On workers.
        """

    def workerBeforeDataRemove(self, tm: int, row: int, workerData: Any) -> None:
        """Note that the shot of time `tm` is about to be removed from a row of `workerData.X`. On
        workers with a `workerCalc`, as the next two.
        """

    def workerAfterDataInsert(self, tm: int, row: int, workerData: Any) -> None:
        """Note that the shot of time `tm` was stored in a row of `workerData.X`."""

    def workerAdjustTerms(
        self, mode: int, dataIdx: int, pivotIndex: int, lenT: int, T: np.ndarray, X: np.ndarray
    ) -> None:
        """Do as the two before, by their earlier name: mode 1 = was stored, −1 = is about to be
        removed; dataIdx: row; pivotIndex: row of the oldest shot; lenT: rows that are filled.
        """

    def workerCalc(self, workerData: Any) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Return the arrays (delay, pixel) by name, (delay,) whole numbers of partners, and flags
        (pixel,) that fit into int8. Of the earlier form with three arguments, these are times,
        their number, and values (time, pixel). On workers.

        A class that has this method sees shot after shot; without it a calculator forms G2 of
        blocks of shots, which is much faster.
        """
        raise NotImplementedError("leave `workerCalc` out: G2 is formed by a calculator")

    def viewerInit(self, mask: np.ndarray, h5GroupUser: Any) -> None:
        """Prepare the viewer. h5GroupUser: group of the output; None where there is none."""

    def viewerPublish(
        self,
        counts: np.ndarray,
        lastEventTime: dict[str, int],
        name2delay2ndarray: dict[str, dict[int, np.ndarray]],
        int8array: np.ndarray,
        h5GroupUser: Any,
    ) -> None:
        """Publish what the workers have: arrays by name and delay, and flags, in the shape of an
        image and 0 where a pixel is not correlated. They are sums over partners, of which `counts`
        has the number. A class without this method has g2 written.
        """
        raise NotImplementedError("leave `viewerPublish` out: g2 is written")

    def calcAndPublishForTestAlt(
        self, sortedEventIds: np.ndarray, sortedData: np.ndarray, h5GroupUser: Any
    ) -> None:
        """Calculate the same in another way, for `--test_alt`, and publish it. sortedEventIds:
        (shot,) with the field `counter`; sortedData: (shot, pixel). A class without this method
        has G2 formed by a double loop.
        """
        raise NotImplementedError("leave `calcAndPublishForTestAlt` out: a double loop is done")

    def logInfo(self, msg: str, allWorkers: bool = False) -> None:
        """Log a message."""
        self.mp.logInfo(msg)

    def logDebug(self, msg: str, allWorkers: bool = False) -> None:
        """Log a message of little interest."""
        self.mp.logDebug(msg)

    def logWarning(self, msg: str, allWorkers: bool = False) -> None:
        """Log a warning."""
        self.mp.logWarning(msg)

    def logError(self, msg: str, allWorkers: bool = False) -> None:
        """Log an error."""
        self.mp.logError(msg)


CALLBACKS = tuple(
    name
    for name in vars(UserCorrelation)
    if name.startswith(("fw", "server", "worker", "viewer", "calc"))
    and callable(vars(UserCorrelation)[name])
)
"""Names of the methods that are called back."""
