"""Monte Carlo studies: reproducible, honest about failures, right where theory says what must come out."""

import numpy as np
import pytest

import mlecov as ml
from mlecov.covariance.requests import HC, Cluster
from mlecov.errors import SpecificationError
from mlecov.montecarlo import MonteCarlo, monte_carlo, run_batch
from mlecov.montecarlo.study import generator


def probit(n: int = 200) -> ml.Fit:
    rng = np.random.default_rng(12)
    X = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])
    y = (X @ [0.2, 0.8, -0.5] + rng.normal(size=n) > 0).astype(float)
    return ml.fit(ml.models.probit(y, X))


@pytest.fixture(scope="module")
def study() -> MonteCarlo:
    return probit().monte_carlo(["oim", "eim", "opg", "robust", "HC1"], reps=2000, seed=4)


def test_correct_model_covers(study: MonteCarlo) -> None:
    oim = study.columns.index("oim")
    assert study.reps == 2000
    assert (np.abs(study.coverage[oim] - 0.95) < 4 * study.coverage_error[oim]).all()
    assert (np.abs(study.ratio[oim] - 1) < 0.08).all()
    np.testing.assert_allclose(study.size, 1 - study.coverage, atol=1e-12)
    np.testing.assert_allclose(study.coverage_error[oim], np.sqrt(0.95 * 0.05 / 2000), rtol=0.25)
    # n/(n-k) = 200/197 exactly
    robust, hc1 = (study.replications.std_errors[study.columns.index(c)] for c in ("robust", "HC1"))
    np.testing.assert_allclose(hc1 / robust, np.sqrt(200 / 197), rtol=1e-12)


def test_a_replication_is_the_fit_of_its_data(study: MonteCarlo) -> None:
    fit = probit()
    for r in (0, 7):
        drawn = fit.likelihood.simulate(generator(4, r), fit.theta)
        again = ml.fit(drawn)
        np.testing.assert_allclose(study.replications.estimates[r], again.params, atol=1e-8)
        for c, name in enumerate(study.columns):
            np.testing.assert_allclose(study.replications.std_errors[c, r], again.cov(name).bse, rtol=1e-6)


def test_seeds_do_not_depend_on_batches(study: MonteCarlo) -> None:
    fit = probit()
    other = fit.monte_carlo(["oim"], reps=30, seed=4)
    np.testing.assert_allclose(other.replications.estimates, study.replications.estimates[:30], atol=1e-10)
    different = fit.monte_carlo(["oim"], reps=30, seed=5)
    assert np.abs(different.replications.estimates - other.replications.estimates).max() > 0.01


def test_other_estimators_are_those_of_the_fit() -> None:
    fit = probit(80)
    firm = np.repeat(np.arange(20), 4)
    found = fit.monte_carlo(["oim", HC("HC3"), Cluster(firm)], reps=12, seed=1)
    assert found.columns == ("oim", "HC3", "cluster(group1)")
    again = ml.fit(fit.likelihood.simulate(generator(1, 3), fit.theta))
    for c, spec in enumerate(["oim", HC("HC3"), Cluster(firm)]):
        np.testing.assert_allclose(found.replications.std_errors[c, 3], again.cov(spec).bse, rtol=1e-6)


def test_wrong_variance_is_found_out() -> None:
    """Poisson fitted to overdispersed counts: oim is too small by sqrt(1 + alpha mu), robust is right."""
    n, mu, alpha = 400, 3.0, 1.0
    likelihood = ml.models.poisson(np.arange(n, dtype=float) % 5, np.ones((n, 1)))

    def simulate(rng: np.random.Generator) -> dict:
        return {"y": rng.poisson(mu * rng.gamma(1 / alpha, alpha, n)).astype(float)}

    found = monte_carlo(simulate, likelihood, ["oim", "opg", "robust"], 1500, 3, truth={"mu": np.log([mu])})
    assert found.ratio[0, 0] == pytest.approx(1 / np.sqrt(1 + alpha * mu), abs=0.03)
    assert found.ratio[2, 0] == pytest.approx(1.0, abs=0.05)
    assert found.coverage[0, 0] < 0.75 < 0.92 < found.coverage[2, 0] < 0.97
    assert found.verdict().index("robust") < found.verdict().index("oim")


def test_bounded_parameters_and_data_made_anew() -> None:
    rng = np.random.default_rng(0)
    frame = {"x": rng.normal(size=60)}

    def simulate(rng: np.random.Generator) -> dict:
        return {**frame, "y": 1 + 2 * frame["x"] + 0.5 * rng.normal(size=60)}

    found = monte_carlo(
        simulate,
        lambda data: ml.models.gaussian("y ~ x", data),
        ["oim"],
        400,
        1,
        truth={"mu": [1.0, 2.0], "sigma": 0.5},
    )
    assert found.labels[-1] == "sigma"
    # ML's sigma is too small by about sigma (k + 1/2) / (2 n), k = 2 coefficients
    assert found.bias[-1] == pytest.approx(-0.5 * 2.5 / 120, abs=4 * found.bias_error[-1])
    assert 0.88 < found.coverage[0, -1] < 0.97
    assert (found.size[0, -1], found.coverage[0, -1]) != (1.0, 0.0)


def test_failures_are_counted() -> None:
    likelihood = ml.models.logit(np.tile([0.0, 1.0], 4), np.column_stack([np.ones(8), np.arange(8.0)]))
    found = monte_carlo(None, likelihood, ["oim"], 200, 0, truth={"mu": [-3.5, 1.0]})
    assert sum(found.failures.values()) + found.reps == 200
    assert any("separation" in reason for reason in found.failures)
    assert "Left out" in str(found)


def test_stops_at_the_precision_asked_for() -> None:
    found = probit().monte_carlo(["oim"], reps=50_000, seed=2, precision=0.006)
    assert found.reps < 10_000
    assert found.coverage_error.max() <= 0.006
    assert "Ended after" in found.display().text()


def test_table_and_records(study: MonteCarlo) -> None:
    text = str(study)
    assert "coverage 95%" in text and "size 5%" in text and "replications: 2000" in text
    frame = study.frame()
    assert len(frame) == 3 * 5
    assert set(frame.columns) >= {"bias", "coverage", "coverage_error", "size", "ratio"}
    assert "<table" in study._repr_html_()


def test_refusals() -> None:
    fit = probit(50)
    with pytest.raises(SpecificationError, match="truth is missing"):
        monte_carlo(None, fit.likelihood)
    with pytest.raises(SpecificationError, match="missing: mu, not known: beta"):
        monte_carlo(None, fit.likelihood, truth={"beta": 1.0})
    with pytest.raises(SpecificationError, match="shape"):
        monte_carlo(None, fit.likelihood, truth=np.zeros(2))
    with pytest.raises(SpecificationError, match="at least 2"):
        fit.monte_carlo(reps=1)
    with pytest.raises(SpecificationError, match="precision"):
        fit.monte_carlo(precision=2.0)


@pytest.mark.filterwarnings("default")
def test_over_dask(study: MonteCarlo, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr("mlecov.montecarlo.study.ROWS", 20_000)
    with distributed.Client(
        processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None
    ) as client:
        found = probit().monte_carlo(["oim"], reps=300, seed=4, client=client)
    np.testing.assert_allclose(found.replications.estimates, study.replications.estimates[:300], atol=1e-10)
    assert callable(run_batch)


def test_no_replication_repeats_the_numbers_that_the_data_were_made_with() -> None:
    """default_rng([seed, 0]) is default_rng(seed), which users make their data with."""
    for seed in (0, 7):
        numbers = np.random.default_rng(seed).random(4)
        for r in range(3):
            assert not np.isin(numbers, generator(seed, r).random(4)).any()
