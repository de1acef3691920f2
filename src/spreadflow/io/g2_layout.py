"""What an output of `correlate` holds: its part of docs/files.md, which a test compares with files.

Names in capitals vary: SHOT and DELAY are in units of the shot id, six digits at least.
"""

import re
from typing import NamedTuple

from spreadflow.callbacks import ARRAYS


class Item(NamedTuple):
    """A dataset."""

    path: str
    type: str
    """as NumPy has it, or text; any = as it was configured"""
    dimensions: str
    """names, with commas between; of an image, as many as it has"""
    meaning: str

    def has(self, path: str) -> bool:
        """Whether a path in a file is one of this item's."""
        parts = re.split(f"({'|'.join(NAMES)})", self.path)
        pattern = "".join(NAMES.get(part, re.escape(part)) for part in parts)
        return re.fullmatch(pattern, path) is not None


NAMES = {"SHOT": r"-?\d{6,}", "DELAY": r"\d{6,}", "COLOUR": r"\d+", "NAME": ".+"}
"""What stands for names that vary, and which they are."""

UPDATE = "user/G2_results_at_SHOT"
"""The group of an update, of the shots up to one."""

ATTRIBUTES = {
    "": {
        "schema": "version of this layout",
        "software": "name and version of what wrote it",
        "NX_class": "`NXroot`",
        "default": "`entry`",
    },
    "system": {
        "calculator": "key of `correlate`",
        "rate_hz": "key of `correlate`",
        "not_zero": "key of `correlate`",
        "saturated": "key of `correlate`",
        "n_masked_in": "pixels of the mask, with those that have no colour",
        "merged_checksums": "of merged outputs alone: of the sums of each that was merged",
    },
    UPDATE: {
        "last_shot_id": "id of the last shot",
        "n_shots": "shots that reached the workers",
        "n_dropped": "shots that did not: refused, or not to be read",
        "n_duplicates": "of `n_shots`, those that came twice",
        "n_late": "of `n_shots`, those that came after the buffer had passed them",
        "n_disordered": "of `n_shots`, those that came after newer ones, and count",
    },
}
"""Attributes of groups: of the file, of how sums were formed, and of an update."""

SYSTEM = (
    Item(
        "system/system_params/NAME",
        "any",
        "",
        "what was configured; text where it is JSON, masks as images",
    ),
    Item("system/user_params/NAME", "any", "", "the same of the user's class, colours as images"),
    Item("system/image_shape", "int64", "axis", "shape of an image"),
    Item("system/pixels", "int64", "pixel", "where each pixel is in a flat image"),
    Item("system/colours", "int32", "pixel", "colour of each"),
    Item("system/fine_colours", "int32", "pixel", "fine colour of each"),
)
"""What all updates have in common."""

UPDATES = (
    Item(f"{UPDATE}/delays", "int64", "delay", "in units of the shot id"),
    Item(f"{UPDATE}/delay_counts", "int64", "delay", "partners"),
    Item(f"{UPDATE}/is_bad", "int8", "pixel", "1 = saturated once, or no number: in no curve"),
    Item(
        f"{UPDATE}/delay_curve_color_COLOUR",
        "float64",
        "delay",
        "g2 of a colour; 0 without partners",
    ),
    Item(
        f"{UPDATE}/delay_curve_sigma_color_COLOUR",
        "float64",
        "delay",
        "its σ, from the scatter over pixels",
    ),
    *(
        Item(f"{UPDATE}/sums/{name}", "float64", "delay, pixel", f"sum over partners of {what}")
        for name, what in zip(ARRAYS, ("products", "later values", "earlier values"), strict=True)
    ),
    *(
        Item(
            f"{UPDATE}/{name}/delay_DELAY",
            "float32",
            "image",
            "that sum over the number of partners; 0 elsewhere",
        )
        for name in ARRAYS
    ),
)
"""What an update has, unless the user's class publishes."""

TWO_TIME = (
    Item(f"{UPDATE}/two_time/shot_ids", "int64", "shot", "the last shots"),
    Item(f"{UPDATE}/two_time/colours", "int32", "colour", "numbers of the colours"),
    Item(f"{UPDATE}/two_time/correlation", "float64", "colour, shot, shot", "C(t₁, t₂)"),
    Item(f"{UPDATE}/two_time/ages", "float64", "age", "times in the middle between partners"),
    Item(f"{UPDATE}/two_time/delays", "int64", "delay", "in units of the shot id"),
    Item(f"{UPDATE}/two_time/delay_counts", "int64", "age, delay", "partners"),
    Item(f"{UPDATE}/two_time/g2", "float64", "colour, age, delay", "g2 by age"),
)
"""What it has where `two_time` is configured."""

UNKNOWN = "NaN: NXxpcs demands it, and a correlation does not know it"
"""Meaning of a field of the instrument."""

XPCS = (
    Item("entry/definition", "text", "", "NXxpcs"),
    Item("entry/entry_identifier", "text", "", "name of the output"),
    Item("entry/start_time", "text", "", "of the correlation, ISO 8601"),
    Item("entry/process/program", "text", "", "spreadflow correlate"),
    Item("entry/process/version", "text", "", "of spreadflow"),
    Item("entry/data/g2", "float64", "delay, colour", "curves of the last update"),
    Item("entry/data/g2_derr", "float64", "delay, colour", "their σ"),
    Item("entry/data/G2_unnormalized", "float64", "delay, colour", "mean product of a pixel"),
    Item("entry/data/delay_difference", "int64", "delay", "delays with partners, in frames"),
    Item("entry/instrument/detector_1/frame_time", "float64", "", "s, of a unit of the shot id"),
    Item("entry/instrument/detector_1/count_time", "float64", "", UNKNOWN),
    Item("entry/instrument/detector_1/beam_center_x", "float64", "", UNKNOWN),
    Item("entry/instrument/detector_1/beam_center_y", "float64", "", UNKNOWN),
    Item("entry/instrument/incident_beam/incident_energy", "float64", "", UNKNOWN),
    Item("entry/instrument/masks/dynamic_roi_map", "int32", "image", "colours"),
    Item("entry/instrument/masks/dynamic_q_list", "int32", "colour", "numbers of the colours"),
    Item("entry/instrument/masks/static_roi_map", "int32", "image", "fine colours"),
    Item("entry/instrument/masks/static_q_list", "int32", "fine colour", "their numbers"),
)
"""The entry of NeXus, which the last update writes."""

XPCS_TWO_TIME = (
    Item("entry/twotime/frame", "int64", "shot", "`two_time/shot_ids` of the last update"),
    Item("entry/twotime/two_time_corr_func", "float64", "colour, shot, shot", "`correlation`"),
    Item("entry/twotime/age", "float64", "age", "`ages`"),
    Item("entry/twotime/delay_difference", "int64", "delay", "`delays`"),
    Item(
        "entry/twotime/g2_from_two_time_corr_func_partials",
        "float64",
        "age, delay, colour",
        "`g2`",
    ),
)
"""What it has in addition where `two_time` is configured."""

ITEMS = (*SYSTEM, *UPDATES, *TWO_TIME, *XPCS, *XPCS_TWO_TIME)
"""All of them."""
