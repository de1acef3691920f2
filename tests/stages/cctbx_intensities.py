"""Intensities of files as cctbx reads them, run by its own Python: cctbx_intensities.py <out.json>
<merged file>... <unmerged MTZ file>.

out: for each merged file its arrays in order: labels, kind of observation, whether mates are apart,
number of values, and hkl, data and sigmas of intensities; for the unmerged one, intensities merged
by cctbx, mates apart, and numbers by iotbx.merging_statistics.
"""

import json
import sys
from pathlib import Path

from iotbx import merging_statistics, reflection_file_reader


def values(array) -> dict:
    """Intensities in what JSON has."""
    return {
        "hkl": list(array.indices()),
        "intensity": list(array.data()),
        "sigma": list(array.sigmas()),
    }


def described(array) -> dict:
    """An array, with its values where it is one of intensities."""
    head = {
        "labels": array.info().labels,
        "kind": str(array.observation_type()),
        "is_anomalous": array.anomalous_flag(),
        "n": array.size(),
    }
    return head | (values(array) if array.is_xray_intensity_array() else {})


*merged, unmerged = sys.argv[2:]
result = {}
for path in merged:
    file = reflection_file_reader.any_reflection_file(path)
    result[Path(path).name] = [described(array) for array in file.as_miller_arrays()]

observations = merging_statistics.select_data(unmerged, data_labels=None)
apart = observations.customized_copy(anomalous_flag=True)
statistics = merging_statistics.dataset_statistics(i_obs=observations, anomalous=True)
result[Path(unmerged).name] = values(apart.merge_equivalents().array()) | {
    "n_observations": statistics.overall.n_obs,
    "n_unique": statistics.overall.n_uniq,
    "wavelength": observations.info().wavelength,
}
Path(sys.argv[1]).write_text(json.dumps(result))
