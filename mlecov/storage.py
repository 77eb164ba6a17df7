"""Saving and loading of optima: arrays and JSON in one .npz file, no pickle."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from mlecov import kinds
from mlecov.covariance.sandwich import expected_where_known
from mlecov.data import Rows, Table, Weights
from mlecov.errors import DataError, SpecificationError
from mlecov.likelihood.base import Evaluation, Facts, Likelihood
from mlecov.likelihood.known import KnownLikelihood
from mlecov.likelihood.scores import DenseScores
from mlecov.optimum import Optimum, Record
from mlecov.parameters import LinearKind, ParameterSpace

VERSION = 1


def describe_kind(kind: kinds.Kind) -> dict[str, Any]:
    """Return a kind as plain JSON values."""
    found: dict[str, Any] = {"type": type(kind).__name__}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if not field.init:
            continue
        value = getattr(kind, field.name)
        found[field.name] = value.tolist() if isinstance(value, np.ndarray) else value
    return found


def restore_kind(described: dict[str, Any]) -> kinds.Kind:
    """Return the kind that `describe_kind` described."""
    values = dict(described)
    name = values.pop("type")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    if name == "LinearKind":
        return LinearKind(**values)
    values = {k: np.array(v) if isinstance(v, tuple) else v for k, v in values.items()}
    return getattr(kinds, name)(**values)  # type: ignore[no-any-return]


def save_optimum(optimum: Optimum, path: Any, *, scores: bool = True) -> None:
    """Write an optimum to `path` (.npz): theta, kinds, constraints, derivatives, record, scores.

    Scores of streamed data are not written: they can be read again from theta and the data.
    """
    likelihood, evaluation = optimum.likelihood, optimum.evaluation
    space = likelihood.space
    arrays: dict[str, Any] = {
        "theta": optimum.theta,
        "hessian": evaluation.hessian,
        "gradient": evaluation.gradient,
    }
    if space.matrix is not None:
        arrays |= {"matrix": space.matrix, "origin": space.origin}
    if scores and evaluation.scores is not None and evaluation.scores.in_memory:
        arrays["scores"] = evaluation.scores.to_dense()
        if likelihood.weights is not None:
            arrays["weights"] = likelihood.weights.values
    expected = expected_where_known(optimum)
    if expected is not None:
        arrays["expected"] = expected
    record = dataclasses.asdict(dataclasses.replace(optimum.record, steps=()))
    arrays["start"] = record.pop("start")
    meta = {
        "version": VERSION,
        "name": likelihood.facts.name,
        "engine": likelihood.facts.engine,
        "outcome": likelihood.facts.outcome,
        "kinds": {p.name: describe_kind(p.kind) for p in space},
        "restrictions": space.restrictions,
        "loglike": evaluation.loglike,
        "n_terms": likelihood.n_terms,
        "weight_kind": None if likelihood.weights is None else likelihood.weights.kind,
        "record": {k: v for k, v in record.items() if k != "steps"},
    }
    with Path(path).open("wb") as file:
        np.savez_compressed(file, meta=np.array(json.dumps(meta)), **arrays)


def load_optimum(path: Any, likelihood: Likelihood | None = None) -> Optimum:
    """Return the optimum saved at `path`, with `likelihood` reattached where it is given.

    Raises
    ------
    DataError
        Where the file is no saved fit.
    SpecificationError
        Where the likelihood has other parameters, or another value at the saved estimates.
    """
    try:
        with np.load(Path(path), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(str(arrays.pop("meta")))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} is not a fit saved by mlecov: {error}") from None
    space = ParameterSpace.of({name: restore_kind(kind) for name, kind in meta["kinds"].items()})
    if "matrix" in arrays:
        space = space.restrict(arrays["matrix"], arrays["origin"], meta["restrictions"])
    record = Record(**meta["record"], start=arrays["start"])
    if likelihood is not None:
        return _reattach(space, arrays, meta, record, likelihood)
    from_kind = meta["weight_kind"]
    weights = None
    if from_kind is not None and "weights" in arrays:
        weights = Weights(arrays["weights"], from_kind)
    scores = DenseScores(arrays["scores"], weights) if "scores" in arrays else None
    evaluation = Evaluation(arrays["theta"], meta["loglike"], arrays["gradient"], arrays["hessian"], scores)
    known = KnownLikelihood(
        space,
        Rows(Table({}, meta["n_terms"])),
        weights,
        Facts(meta["name"], meta["engine"], meta["outcome"]),
        evaluation,
        meta["n_terms"],
        arrays.get("expected"),
    )
    return Optimum(known, arrays["theta"], evaluation, record)


def _reattach(
    space: ParameterSpace,
    arrays: dict[str, Any],
    meta: dict[str, Any],
    record: Record,
    likelihood: Likelihood,
) -> Optimum:
    if likelihood.space.raw_labels != space.raw_labels:
        raise SpecificationError(
            f"the likelihood has parameters {', '.join(likelihood.space.raw_labels)}; the saved fit has "
            f"{', '.join(space.raw_labels)}."
        )
    if space.matrix is not None and likelihood.space.matrix is None:
        likelihood = likelihood.restricted(arrays["matrix"], arrays["origin"], tuple(meta["restrictions"]))
    evaluation = likelihood.evaluate(arrays["theta"], order=2, scores=True)
    if abs(evaluation.loglike - meta["loglike"]) > 1e-8 * (1 + abs(meta["loglike"])):
        raise SpecificationError(
            f"the likelihood is {evaluation.loglike:.12g} at the saved estimates, where the saved fit had "
            f"{meta['loglike']:.12g}: these are other data or another function."
        )
    return Optimum(likelihood, arrays["theta"], evaluation, record)
