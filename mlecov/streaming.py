"""From a file to a streamed likelihood: survey the data once, build a template, make blocks alike.

The doors (`likelihood(...)`, the ready-made models) stay what they are: they build the template from
a random sample and every block from a block's rows, and never know that the rest is in a file.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from mlecov.data import Rows, Table, WeightKind
from mlecov.errors import DataError, MlecovError, SeparabilityError, SpecificationError
from mlecov.likelihood import chunked_survey
from mlecov.likelihood.base import Likelihood
from mlecov.likelihood.chunked import ChunkedLikelihood
from mlecov.likelihood.chunked_blocks import BlockMaker, Door
from mlecov.likelihood.chunked_dask import is_dask, open_dask
from mlecov.likelihood.chunked_source import Source, complete, concatenate, is_dataset, open_files, take
from mlecov.likelihood.chunked_survey import Survey, survey
from mlecov.likelihood.general import GeneralLikelihood
from mlecov.likelihood.index import IndexLikelihood

PROBED = 5_000
"""First rows on which it is found out which columns a door uses."""

WEIGHTS: dict[str, WeightKind] = {
    "frequency_weights": "frequency",
    "probability_weights": "probability",
    "analytic_weights": "analytic",
}


def open_source(data: Any) -> Source | None:
    """Return the source of a path, a pyarrow dataset or a Dask frame; None for data in memory."""
    if isinstance(data, Source):
        return data
    if isinstance(data, str | os.PathLike) or is_dataset(data):
        return open_files(data)
    return open_dask(data) if is_dask(data) else None


def texts(value: Any) -> Iterator[str]:
    """Yield every string inside options: formulas and names of columns."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from texts(part)
    elif isinstance(value, list | tuple | set):
        for part in value:
            yield from texts(part)
    else:
        formula = getattr(value, "formula", None)
        yield from texts([formula, getattr(value, "offset", None)] if formula is not None else [])


def mentioned(names: tuple[str, ...], words: list[str]) -> tuple[str, ...]:
    """Return the columns whose names occur in the texts."""
    whole = "\n".join(words)
    return tuple(name for name in names if re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", whole))


def weight_column(options: Mapping[str, Any]) -> tuple[str, WeightKind] | None:
    """Return the column of weights and their kind.

    Raises
    ------
    SpecificationError
        Where an array of weights is given beside data in a file.
    """
    for key, kind in WEIGHTS.items():
        value = options.get(key)
        if value is None:
            continue
        if not isinstance(value, str):
            raise SpecificationError(
                f"{key}: with data in a file or on a cluster, name a column of the data."
            )
        return value, kind
    return None


def stream(
    source: Source,
    words: list[str],
    door: Door,
    weight: tuple[str, WeightKind] | None,
    missing: str,
    block_door: Callable[[Likelihood], Door] | None = None,
    probe: Callable[[Table], Rows] | None = None,
) -> ChunkedLikelihood:
    """Return the streamed likelihood of a source.

    Parameters
    ----------
    words :
        Texts in which columns are named: formulas, options, arguments.
    door :
        Builds a likelihood of a table without missing values.
    block_door :
        From the template, a quicker door for blocks; None: the same.
    probe :
        Screens a table as the door does, without building; None: the door builds.

    Raises
    ------
    DataError, SpecificationError, SeparabilityError
        For columns that do not fit, formulas that read whole columns, terms of several rows.
    """
    used = _used(source, words, probe or (lambda table: door(table).rows))
    coded = tuple(name for name in used if re.search(rf"C\(\s*{re.escape(name)}\b", "\n".join(words)))
    found = survey(source, used, coded, None if weight is None else weight[0], missing, chunked_survey.SAMPLE)
    whole = found.sample.n_rows == found.n_kept
    rows = [found.sample] if whole else [found.sample, found.cover]
    template = door(concatenate(rows, found.categories))
    if not isinstance(template, IndexLikelihood | GeneralLikelihood) or template.rows.unit is not None:
        raise SpecificationError(
            f"{template.facts.name}: terms that span rows (units) can not be streamed: their rows may lie in different "
            "blocks. Read the columns needed into memory."
        )
    if not template.separable:
        raise SeparabilityError(
            f"{template.facts.name} is not separable (a term depends on other rows), so it can not be evaluated block "
            "by block. Read the data into memory."
        )
    maker = BlockMaker(
        door if block_door is None else block_door(template),
        used,
        found.cover,
        found.categories,
        template.space.labels,
        bool(found.lost),
        None if weight is None else (*weight, _scale(found, weight)),
        isinstance(template, IndexLikelihood) and template.model.thread_safe,
    )
    _verify_blocks(template, maker, found)
    held = source.hold(maker, used)
    return ChunkedLikelihood(template, source, maker, found, held, weight)


def _used(source: Source, words: list[str], probe: Callable[[Table], Rows]) -> tuple[str, ...]:
    """Return the columns that the door uses, found out on the first rows; else all that are mentioned."""
    names = mentioned(source.names, words)
    if not names:
        raise DataError(
            "none of the columns of the data is named by the formula or the function. Columns: "
            f"{', '.join(source.names)}."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            head = complete(source.head(names, PROBED), names)
            used = probe(head).used
    except MlecovError:
        return names
    return tuple(name for name in names if name in used) or names


def _scale(found: Survey, weight: tuple[str, WeightKind]) -> float:
    """Return the factor of analytic weights, whose mean over all rows is one; 1 for other kinds."""
    if not found.total > 0:
        raise DataError(f"{weight[1]}_weights: all weights are zero.")
    return found.n_kept / found.total if weight[1] == "analytic" else 1.0


def _verify_blocks(template: Likelihood, maker: BlockMaker, found: Survey) -> None:
    """Raise unless a part of the sample, made into a block, is that part of the template.

    It is not where a formula reads whole columns: center(x), scale(x), bs(x), x - x.mean().
    """
    half = max(found.sample.n_rows // 2, 1)
    count = min(half, 2_000)
    part = maker.make(take(found.sample, slice(0, count)))
    theta = template.start()
    theta = theta + 0.05 * np.random.default_rng(3).standard_normal(len(theta)) * np.maximum(
        np.abs(theta), 0.1
    )
    left = part.evaluate(theta, order=0).loglike_obs
    right = template.subset(np.arange(count)).evaluate(theta, order=0).loglike_obs
    assert left is not None and right is not None
    both = np.isfinite(left) & np.isfinite(right)
    different = np.abs(left - right)[both] > 1e-9 * (1 + np.abs(right[both]))
    if different.any():
        raise SpecificationError(
            "a row's regressors depend on other rows: a formula such as center(x), scale(x), bs(x) or x - x.mean() "
            "reads whole columns, which a block is not. Compute that column into the file first."
        )


__all__ = ["Table", "mentioned", "open_source", "stream", "texts", "weight_column"]
