"""The table of digits beside other programs runs, and its peers are read rightly."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from tests import nist


def test_rows_beside_other_programs() -> None:
    ours, peer = nist.linear_row("norris")
    assert min(ours) > 13 and min(peer) > 11
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peers'
        row = nist.nonlinear_row("misra1a", "start2")
    assert min(row["mlecov"]) > 10
    assert 3 < row["curve_fit"][0] < 13 and 3 < row["curve_fit"][1] < 13


def test_every_problem_is_in_the_table() -> None:
    assert len(nist.problems(linear=True)) == 9 and len(nist.problems(linear=False)) == 16


@pytest.mark.parametrize(
    ("got", "certified", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], 15.0),
        ([1.001], [1.0], 3.0),
        ([1e-4], [0.0], 4.0),
        ([np.nan], [1.0], 0.0),
        ([9.0], [1.0], 0.0),
    ],
)
def test_log_relative_error(got: list[float], certified: list[float], expected: float) -> None:
    assert nist.digits(got, certified) == pytest.approx(expected, abs=1e-9)
