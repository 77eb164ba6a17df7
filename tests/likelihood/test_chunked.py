"""Streamed likelihoods are the ones in memory: same estimates, same covariances, from files and from Dask."""

import os
import signal
import warnings

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import mlecov as ml
from mlecov.covariance.requests import HAC, Cluster, DriscollKraay, Survey
from mlecov.errors import (
    CovarianceError,
    DataError,
    MissingDataWarning,
    SeparabilityError,
    SpecificationError,
    SupportError,
)
from mlecov.likelihood import chunked, chunked_survey
from mlecov.likelihood.chunked_rows import FileVector
from mlecov.likelihood.chunked_source import FileSource, open_files, read_ahead

N = 900
SPECS = [
    "oim", "opg", "robust", "HC1", "eim", "HC2", "HC3",
    Cluster("firm"), Cluster("firm", "clock"), Cluster("firm", type="CR2"), HAC("bartlett", lags=3),
    HAC("parzen", lags=5), HAC("bartlett", lags=2, order_by="clock"), DriscollKraay("year", lags=2),
    Survey(psu="firm"),
]  # fmt: skip


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    x, z = rng.normal(size=(2, N))
    region = rng.choice(["north", "south", "east"], N)
    region[[850, 851, 852, 853, 854, 855]] = "rare"  # a category of one block alone
    data = pd.DataFrame({"x": x, "z": z, "region": region, "grade": rng.integers(1, 5, N)})
    data["firm"] = [f"firm {i}" for i in rng.integers(0, 45, N)]
    data["year"] = 1980 + np.arange(N) // 60
    data["clock"] = rng.permutation(N)
    data["w"] = rng.integers(1, 4, N)
    data["time"] = rng.uniform(0.5, 2.0, N)
    eta = 0.3 + 0.8 * x - 0.4 * z + 0.5 * (region == "south")
    data["y"] = (eta + rng.logistic(size=N) > 0).astype(float)
    data["count"] = rng.poisson(data.time * np.exp(0.2 + 0.3 * x) * rng.gamma(2.0, 0.5, N))
    data["wage"] = 1 + 0.5 * x + rng.normal(size=N)
    return data


@pytest.fixture(scope="module")
def path(frame: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> str:
    found = tmp_path_factory.mktemp("data") / "data.parquet"
    pq.write_table(pa.Table.from_pandas(frame), found, row_group_size=210)
    return str(found)


@pytest.fixture(autouse=True)
def small_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A template of a few hundred rows, so that it is never the whole data."""
    monkeypatch.setattr(chunked_survey, "SAMPLE", 300)


def blocks(path: str, rows: int = 128) -> FileSource:
    return open_files(path, rows)


def same(streamed: ml.Fit, whole: ml.Fit, specs: list = SPECS) -> None:
    assert isinstance(streamed.likelihood.unrestricted, chunked.ChunkedLikelihood)
    np.testing.assert_allclose(streamed.params, whole.params, rtol=0, atol=1e-10)
    assert streamed.llf == pytest.approx(whole.llf, rel=1e-12)
    assert streamed.nobs == whole.nobs
    for spec in specs:
        ours, theirs = streamed.cov(spec), whole.cov(spec)
        size = np.sqrt(np.diag(theirs.matrix))
        np.testing.assert_allclose(
            ours.matrix / np.outer(size, size), theirs.matrix / np.outer(size, size), atol=1e-10
        )
        assert ours.label == theirs.label


def test_every_covariance_as_in_memory(frame: pd.DataFrame, path: str) -> None:
    formula = "y ~ x + np.exp(z/4) + region + C(grade)"
    streamed = ml.models.logit(formula, blocks(path))
    assert streamed.survey.kept == (128, 82) * 4 + (60,)
    assert streamed.template.n_terms < 400
    same(ml.fit(streamed), ml.fit(ml.models.logit(formula, frame)))


@pytest.mark.parametrize("kind", ["frequency", "probability", "analytic"])
def test_weights(frame: pd.DataFrame, path: str, kind: str) -> None:
    weights = {f"{kind}_weights": "w"}
    specs = [
        "opg",
        "robust",
        "HC1",
        Cluster("firm"),
        *([] if kind == "frequency" else [HAC("bartlett", lags=3)]),
    ]
    streamed = ml.fit(ml.models.probit("y ~ x + region", blocks(path), **weights))
    same(streamed, ml.fit(ml.models.probit("y ~ x + region", frame, **weights)), specs)
    np.testing.assert_allclose(
        np.asarray(streamed.likelihood.weights.values).mean(), 1.0 if kind == "analytic" else frame.w.mean()
    )


def test_weights_must_be_a_column(path: str) -> None:
    with pytest.raises(SpecificationError, match="name a column"):
        ml.models.probit("y ~ x", path, analytic_weights=np.ones(N))


MODELS = {
    "poisson": ("count ~ x + region + exposure(time)", {}),
    "nb1": ("count ~ x + exposure(time)", {"alpha": "z"}),
    "tobit": ("wage ~ x + region", {"lower": 0.0}),
    "gaussian": ("wage ~ x + region", {"sigma": "z"}),
    "ordered_logit": ("grade ~ x + z", {}),
    "weibull": ("time ~ x + region", {"event": "y"}),
}


@pytest.mark.parametrize("name", MODELS)
def test_models(frame: pd.DataFrame, path: str, name: str) -> None:
    formula, options = MODELS[name]
    model = getattr(ml.models, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the models themselves
        streamed, whole = (
            ml.fit(model(formula, blocks(path), **options)),
            ml.fit(model(formula, frame, **options)),
        )
    same(streamed, whole, ["oim", "opg", "robust", Cluster("firm")])


def test_many_categories_stay_sparse(path: str, frame: pd.DataFrame) -> None:
    streamed = ml.models.logit("y ~ x + firm", blocks(path, 400))
    assert not streamed.template.design.is_dense
    same(
        ml.fit(streamed), ml.fit(ml.models.logit("y ~ x + firm", frame)), ["opg", "robust", Cluster("clock")]
    )


def test_constraints(frame: pd.DataFrame, path: str) -> None:
    tie = ["mu[x] = 2 * mu[z]"]
    streamed = ml.fit(ml.models.logit("y ~ x + z", blocks(path)), constraints=tie)
    same(
        streamed,
        ml.fit(ml.models.logit("y ~ x + z", frame), constraints=tie),
        ["opg", "robust", Cluster("firm")],
    )


def normal(wage, mu, sigma):
    return -0.5 * ((wage - mu) / sigma) ** 2 - jnp.log(sigma)


def many(wage, x, z, beta, sigma):
    mean = sum(beta[j] * jnp.cos(j * x + z) for j in range(12))
    return -0.5 * ((wage - mean) / sigma) ** 2 - jnp.log(sigma)


def test_users_function(frame: pd.DataFrame, path: str) -> None:
    params = {"mu": ml.linear("x + region"), "sigma": ml.positive()}
    streamed = ml.likelihood(normal, blocks(path), params, analytic_weights="w")
    assert streamed.facts.engine == "index, autodiff, streamed"
    whole = ml.likelihood(normal, frame, params, analytic_weights="w")
    same(ml.fit(streamed), ml.fit(whole), ["opg", "robust", Cluster("firm"), HAC("bartlett", lags=3)])


def test_users_function_of_whole_parameters(frame: pd.DataFrame, path: str) -> None:
    params = {"beta": np.zeros(12), "sigma": ml.positive()}
    streamed = ml.likelihood(many, blocks(path, 500), params)
    assert streamed.facts.engine == "autodiff, streamed"
    specs = ["opg", "robust", Cluster("firm"), HAC("bartlett", lags=3)]
    same(ml.fit(streamed), ml.fit(ml.likelihood(many, frame, params)), specs)


def test_numpy_function_by_differences(frame: pd.DataFrame, path: str) -> None:
    def loglike(y, mu):
        return y * mu - np.logaddexp(0, mu)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pair = [
            ml.fit(ml.likelihood(loglike, data, {"mu": ml.linear("x + region")}))
            for data in (blocks(path), frame)
        ]
    same(*pair, ["oim", "opg"])


# --- the door ------------------------------------------------------------------------------------------


def test_missing_values(frame: pd.DataFrame, tmp_path) -> None:
    holes = frame.copy()
    rng = np.random.default_rng(1)
    holes.loc[rng.choice(N, 60, replace=False), "x"] = np.nan
    holes.loc[rng.choice(N, 40, replace=False), "region"] = None
    holes.loc[:127, "z"] = np.nan  # a block without a complete row
    holes.to_parquet(tmp_path / "holes.parquet", row_group_size=128)
    with pytest.raises(DataError, match=r"missing values in 'x' \(60\), 'z' \(128\), 'region' \(40\)"):
        ml.models.logit("y ~ x + z + region", blocks(tmp_path / "holes.parquet"))
    with pytest.warns(MissingDataWarning, match="of 900 rows dropped"):
        streamed = ml.models.logit("y ~ x + z + region", blocks(tmp_path / "holes.parquet"), missing="drop")
    with pytest.warns(MissingDataWarning):
        whole = ml.models.logit("y ~ x + z + region", holes, missing="drop")
    same(ml.fit(streamed), ml.fit(whole), ["opg", "robust", Cluster("firm"), HAC("bartlett", lags=3)])


def test_folders_partitions_and_dictionaries(frame: pd.DataFrame, tmp_path) -> None:
    coded = frame.assign(region=frame.region.astype("category"))
    ds.write_dataset(pa.Table.from_pandas(coded), tmp_path / "parts", format="parquet", partitioning=["grade"],
                     partitioning_flavor="hive")  # fmt: skip
    folder = tmp_path / "parts"
    whole = pd.read_parquet(folder).assign(grade=lambda d: d.grade.astype(int))
    fit = ml.fit(ml.models.logit("y ~ x + region + C(grade)", folder))
    same(fit, ml.fit(ml.models.logit("y ~ x + region + C(grade)", whole)), ["opg", Cluster("firm")])
    again = ml.fit(ml.models.logit("y ~ x + region + C(grade)", ds.dataset(folder, partitioning="hive")))
    assert np.array_equal(again.theta, fit.theta)


def test_groups_by_array_and_missing_ids(path: str, frame: pd.DataFrame, tmp_path) -> None:
    fit = ml.fit(ml.models.logit("y ~ x", blocks(path)))
    by_array = fit.cov(Cluster(frame.firm.to_numpy()))
    np.testing.assert_allclose(by_array.matrix, fit.cov(Cluster("firm")).matrix, rtol=1e-12)
    frame.assign(firm=frame.firm.where(frame.index != 500)).to_parquet(
        tmp_path / "m.parquet", row_group_size=128
    )
    other = ml.fit(ml.models.logit("y ~ x", blocks(tmp_path / "m.parquet")))
    with pytest.raises(DataError, match="first 500"):
        other.cov(Cluster("firm"))
    with pytest.raises(DataError, match="no column 'frim'.*firm"):
        other.cov(Cluster("frim"))


def test_refusals(path: str, frame: pd.DataFrame, tmp_path) -> None:
    with pytest.raises(DataError, match="no file or folder"):
        ml.models.logit("y ~ x", "nowhere.parquet")
    with pytest.raises(SpecificationError, match="reads whole columns"):
        ml.models.logit("y ~ center(x)", blocks(path))
    with pytest.raises(SpecificationError, match="reads whole columns"):
        ml.models.logit("y ~ np.subtract(x, x.mean())", blocks(path))
    with pytest.raises(SpecificationError, match="unit="):
        ml.likelihood(normal, blocks(path), {"mu": ml.linear("x"), "sigma": ml.positive()}, unit="firm")
    with pytest.raises(SeparabilityError, match="block by block"):
        ml.likelihood(lambda wage, mu: -((wage - jnp.mean(wage) - mu) ** 2), blocks(path), {"mu": 0.0})
    frame.assign(y=np.where(frame.index == 700, 2.0, frame.y)).to_parquet(
        tmp_path / "two.parquet", row_group_size=128
    )
    with pytest.raises(SupportError, match="must be 0 or 1"):
        ml.models.logit("y ~ x", blocks(tmp_path / "two.parquet"))
    with pytest.raises(SpecificationError, match="not simulated"):
        ml.models.logit("y ~ x", blocks(path)).simulate(np.random.default_rng(0), np.zeros(2))


def test_scores_stay_in_the_file(
    path: str, frame: pd.DataFrame, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = ml.fit(ml.models.logit("y ~ x + z", blocks(path)))
    whole = ml.fit(ml.models.logit("y ~ x + z", frame))
    assert not fit.scores.in_memory
    terms = np.array([899, 3, 3, 500])
    np.testing.assert_allclose(fit.scores.take(terms).to_dense(), whole.scores.to_dense()[terms], atol=1e-9)
    V, W = np.random.default_rng(0).normal(size=(3, 2)), np.random.default_rng(1).normal(size=(4, N))
    np.testing.assert_allclose(fit.scores.right(V), whole.scores.right(V), atol=1e-9)
    np.testing.assert_allclose(fit.scores.left(W), whole.scores.left(W), atol=1e-8)
    part = fit.likelihood.subset(terms)
    assert part.evaluate(fit.theta).loglike_obs == pytest.approx(
        whole.likelihood.evaluate(whole.theta).loglike_obs[terms], rel=1e-9
    )
    fit.save(tmp_path / "fit.npz")
    assert ml.load_fit(tmp_path / "fit.npz").llf == fit.llf
    monkeypatch.setattr(chunked, "DENSE_ENTRIES", 100)
    with pytest.raises(CovarianceError, match="Sort the file"):
        fit.cov(HAC("bartlett", lags=2, order_by="clock"))


def test_interrupted_fit_goes_on(path: str, tmp_path) -> None:
    likelihood = ml.models.logit("y ~ x + z + region", blocks(path))
    state = tmp_path / "state.json"

    def interrupt(step) -> None:
        if step.iteration == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ml.fit(likelihood, trace=interrupt, resume=state)
    whole = ml.fit(likelihood)
    resumed = ml.fit(likelihood, resume=state)
    assert resumed.record.iterations == whole.record.iterations - 2
    np.testing.assert_allclose(resumed.theta, whole.theta, atol=1e-12)
    with pytest.raises(SpecificationError, match="belongs to a fit of 6 parameters"):
        ml.fit(ml.models.logit("y ~ x", blocks(path)), resume=state)
    with pytest.raises(SpecificationError, match="have changed"):
        ml.fit(ml.models.probit("y ~ x + z + region", blocks(path)), resume=state)
    state.write_text("{}")
    with pytest.raises(DataError, match="not the state"):
        ml.fit(likelihood, resume=state)


def test_read_ahead_passes_errors_on_and_stops() -> None:
    def items():
        yield 1
        raise ValueError("broken block")

    with pytest.raises(ValueError, match="broken block"):
        list(read_ahead(items()))
    endless = read_ahead(iter(range(10**9)))
    assert next(endless) == 0
    endless.close()


def test_file_vectors_act_as_arrays() -> None:
    vector = FileVector(lambda: [np.array([1.0, 2.0]), np.array([3.0])], 3, float)
    assert (vector.sum(), len(vector), vector[1]) == (6.0, 3, 2.0)
    np.testing.assert_array_equal(2 * vector, [2.0, 4.0, 6.0])
    np.testing.assert_array_equal(
        np.array([5, 6, 7, 8])[FileVector(lambda: [np.array([2, 0])], 2, np.intp)], [7, 5]
    )


# --- Dask ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("default")
def test_dask_in_this_process(frame: pd.DataFrame, path: str) -> None:
    dd = pytest.importorskip("dask.dataframe")
    distributed = pytest.importorskip("distributed")
    formula = "y ~ x + z + region"
    with pytest.raises(SpecificationError, match="no Dask client"):
        ml.distributed(path)
    whole = ml.fit(ml.models.logit(formula, frame, analytic_weights="w"))
    with distributed.Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None):
        parted = dd.from_pandas(frame, npartitions=6)
        fit = ml.fit(ml.models.logit(formula, parted, analytic_weights="w"))
        same(fit, whole, ["opg", "robust", Cluster("firm"), HAC("bartlett", lags=3)])
        files = ml.fit(ml.models.logit(formula, ml.distributed(blocks(path)), analytic_weights="w"))
        same(files, whole, ["robust", Cluster("firm")])


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_killed_worker_changes_nothing(path: str, frame: pd.DataFrame) -> None:
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with cluster, distributed.Client(cluster) as client:
        likelihood = ml.models.logit("y ~ x + z + region", ml.distributed(blocks(path)))
        whole = ml.fit(likelihood)
        params = {"mu": ml.linear("x + region"), "sigma": ml.positive()}
        traced = ml.fit(ml.likelihood(normal, ml.distributed(blocks(path)), params))
        same(traced, ml.fit(ml.likelihood(normal, frame, params)), ["robust"])
        victim = next(iter(client.run(os.getpid).values()))

        def kill(step) -> None:
            if step.iteration == 1:
                os.kill(victim, signal.SIGKILL)

        again = ml.fit(likelihood, trace=kill)
        assert np.array_equal(again.theta, whole.theta)
        assert again.llf == whole.llf
        assert np.array_equal(again.cov(Cluster("firm")).matrix, whole.cov(Cluster("firm")).matrix)
