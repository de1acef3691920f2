"""The files that structure factors are made from, as every stage that needs them reads them."""

import logging
from collections.abc import Iterable

from spreadflow.config import StructureFactorsSection
from spreadflow.io import factor_files
from spreadflow.io.factor_files import FactorFiles


def read_files(
    section: StructureFactorsSection, log: logging.Logger, more_curves: Iterable[str] = ()
) -> FactorFiles:
    """Return what the files hold that a section names, and log what was repaired or chosen in them;
    more_curves: files of curves beside. Raises FileError.
    """
    files = factor_files.read(section, more_curves)
    for remark in files.remarks:
        log.info("%s", remark)
    return files
