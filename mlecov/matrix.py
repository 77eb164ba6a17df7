"""Matrix calculus: vec and vech, the matrices between them, differentials and gradients.

`vec` stacks columns, `vech` stacks the columns of the lower triangle, as in Magnus & Neudecker
(2019), *Matrix Differential Calculus*, 3rd ed. (cited below as MN).
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@functools.cache
def vech_indices(d: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return rows and columns of the d(d+1)/2 lower entries, column by column (read-only, cached).

    >>> [index.tolist() for index in vech_indices(2)]
    [[0, 1, 1], [0, 0, 1]]
    """
    columns, rows = np.triu_indices(d)
    rows.flags.writeable = columns.flags.writeable = False
    return rows, columns
