"""Speckle visibility: the contrast of shots that are added up, against how many they are."""

import numpy as np

from spreadflow.callbacks import UserCorrelation


class Visibility(UserCorrelation):
    """Sums over as many consecutive shots as `delays` says, and their squares."""

    def fwArrayNames(self):
        return ["sum", "square"]

    def workerCalc(self, workerData):
        times = np.array(workerData.timesForStoredData())
        shots = np.stack([workerData.X[workerData.tm2idx(time)] for time in times]).astype(float)
        until = np.cumsum(np.vstack([np.zeros_like(shots[:1]), shots]), axis=0)
        rows = []
        for n in self.delays:
            spans = times[n - 1 :] - times[: max(len(times) - n + 1, 0)]
            first = np.flatnonzero(spans == n - 1)  # without a gap
            sums = until[first + n] - until[first]
            rows.append((sums.sum(axis=0), (sums**2).sum(axis=0), len(first)))
        total, square, counts = map(np.array, zip(*rows, strict=True))
        return {"sum": total, "square": square}, counts, np.zeros(shots.shape[1], np.int8)

    def viewerPublish(self, counts, lastEventTime, name2delay2ndarray, int8array, h5GroupUser):
        group = h5GroupUser.create_group(f"visibility_at_{lastEventTime['counter']:06d}")
        images = (name2delay2ndarray["sum"], name2delay2ndarray["square"])
        means = [[one[n][self.maskNdarrayCoords].mean() for n in self.delays] for one in images]
        mean, square = np.array(means) / counts
        group["shots_added"] = self.delays
        group["contrast"] = (square - mean) / mean**2 - 1  # without that of counting photons
