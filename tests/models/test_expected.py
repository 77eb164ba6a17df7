"""Expected information against integrals to 1e-8 and better, published matrices, and averages over samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
from scipy import integrate, special

import mlecov as ml
from mlecov.errors import CovarianceError
from mlecov.models.duration import Gompertz
from mlecov.models.duration_gamma import GeneralizedGamma
from mlecov.models.expectation import exponential, normal
from mlecov.models.extreme import GEV
from mlecov.models.inefficiency import ExponentialFrontier, HalfNormalFrontier
from mlecov.models.limited import Tobit
from mlecov.models.selection import Heckman

Array = npt.NDArray[np.float64]
MODELS = ml.models


def integral(model: Any, eta: Array, columns: Callable[[float], Any], points: Iterable[float]) -> Array:
    """Return the integral of d2l times f, f = exp(l) times columns' "jacobian", over [points], piece by piece."""

    def rows(x: float) -> Array:
        there = {key: np.array([value]) for key, value in columns(x).items()}
        value, _, second = model.derivatives(eta[:, None], there, 2)
        return np.asarray(second[:, 0] * np.exp(value[0]) * there.get("jacobian", np.ones(1))[0])

    total = 0.0
    for low, high in pairwise(sorted(set(points))):
        found = integrate.quad_vec(rows, low, high, epsabs=1e-13, epsrel=1e-12, limit=500)[0]
        total = total + found
    return np.asarray(total)


def expected(model: Any, eta: Array, columns: Any = None) -> Array:
    """Return the model's, each row the same: twice, once among rows whose other predictors differ."""
    alone = model.expected(eta[:, None], columns or {})[:, 0]
    among = np.column_stack([eta, eta + 0.05, eta])
    many = {key: np.repeat(value, 3) for key, value in (columns or {}).items()}
    np.testing.assert_allclose(
        model.expected(among, many)[:, [0, 2]].T, [alone, alone], rtol=1e-12, atol=1e-12
    )
    return np.asarray(alone)


def test_nodes_of_the_two_laws() -> None:
    for k in range(6):
        assert sum(w * u**k for u, w in exponential()) == pytest.approx(special.factorial(k), rel=1e-13)
        moment = special.poch(0.5, k) * 2**k  # (2k - 1)!!
        assert sum(w * t ** (2 * k) for t, w in normal()) == pytest.approx(moment, rel=1e-14)
    assert sum(w * np.log(u) ** 2 for u, w in exponential()) == pytest.approx(
        np.pi**2 / 6 + np.euler_gamma**2, rel=1e-14
    )


@pytest.mark.parametrize("s", [-0.45, -0.3, -0.11, -0.09, -1e-3, 0.0, 1e-8, 0.02, 0.0999, 0.1001, 0.4, 1.5])
def test_gev_by_integration(s: float) -> None:
    """Products of the scores over u = (1 + s z)^(-1/s) ~ Exp(1), in 40 digits."""
    found = -expected(GEV(), np.array([0.4, -0.3, s]))
    with mpmath.workdps(40):
        shape, scale = mpmath.mpf(s) or mpmath.mpf(10) ** -15, mpmath.exp(mpmath.mpf("0.3"))

        def scores(x: Any) -> list[Any]:
            u = mpmath.exp(x)
            r = mpmath.exp(shape * x)  # 1 / (1 + s z)
            z_r, slope = (1 - r) / shape, u - 1 - shape
            return [-scale * slope * r, -z_r * slope - 1, slope * (z_r + x) / shape + x]

        low = -45 / (1 + min(2 * s, 0.0))
        for place, (e, f) in enumerate([(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]):
            by_hand = mpmath.quad(
                lambda x, e=e, f=f: scores(x)[e] * scores(x)[f] * mpmath.exp(x - mpmath.exp(x)),
                [low, low / 2, low / 4, -6, -2, 0, 1.5, 3, 5],
            )
            assert found[place] == pytest.approx(float(by_hand), rel=1e-9, abs=1e-10)


def test_gev_is_continuous_where_the_forms_meet() -> None:
    """The quadrature and Prescott and Walden's closed form, where both hold; Gumbel's matrix of R's mev."""
    for s in (-0.0999999999, 0.0999999999):
        eta = np.array([[0.0], [0.0], [s]])
        by_sum, closed = GEV().expected(eta, {})[:, 0], GEV._prescott_walden(np.array([s]))[:, 0]
        np.testing.assert_allclose(by_sum, closed, rtol=1e-11, atol=1e-11)
    gumbel = GEV().expected(np.zeros((3, 1)), {})[:, 0]
    # gev.infomat(c(0, 1, 0), method = "exp") of R's mev, whose constants these are
    mev = [1.0, -0.422784335098467, 0.41184033042644, 1.82368066085288, 0.332484907160274, 2.42360605517703]
    np.testing.assert_allclose(-gumbel, mev, rtol=1e-13)


@pytest.mark.parametrize("k", [-2.5, -0.6, -0.1, 0.0, 1e-6, 0.1, 0.15, 0.5, 1.0, 3.0])
def test_generalized_gamma_by_integration(k: float) -> None:
    eta = np.array([0.7, -0.4, k])
    sigma, reach = np.exp(-0.4), 45 * max(1.0, abs(k))
    by_hand = integral(
        GeneralizedGamma(),
        eta,
        lambda w: {"log_y": 0.7 + sigma * w, "jacobian": sigma * np.exp(0.7 + sigma * w)},
        [-reach, -8, -2, 0, 2, 8, reach],
    )
    np.testing.assert_allclose(expected(GeneralizedGamma(), eta), by_hand, rtol=1e-10, atol=1e-12)


def test_generalized_gamma_holds_the_informations_of_its_members() -> None:
    """kappa = 1 is the Weibull, 0 the lognormal: their 2 x 2 blocks. Prentice (1974): at kappa = 0 the
    entry of kappa is 5/12, and kappa is correlated with the location alone.
    """
    eta = np.array([0.7, -0.4, 1.0])[:, None]
    found = GeneralizedGamma().expected(eta, {})[[0, 1, 3], 0]
    np.testing.assert_allclose(
        found, MODELS.weibull(np.ones(1), np.ones((1, 1))).model.expected(eta[:2], {})[:, 0], rtol=1e-13
    )
    eta[2] = 0.0
    found = GeneralizedGamma().expected(eta, {})[:, 0]
    np.testing.assert_allclose(
        found, [-np.exp(0.8), 0, 0.5 * np.exp(0.4), -2, 0, -5 / 12], rtol=1e-13, atol=1e-14
    )


@pytest.mark.parametrize("eta", [(0.0, 0.0), (0.3, 1e-7), (-0.5, 0.4), (-6.0, 0.1), (1.5, 3.0), (-20.0, 0.5)])
def test_gompertz_by_integration(eta: tuple[float, float]) -> None:
    rate, g = np.exp(eta[0]), eta[1]

    def at(u: float) -> dict[str, float]:
        t = np.log1p(g * u / rate) / g if g else u / rate
        return {"y": t, "jacobian": 1 / (rate * np.exp(g * t))}  # dt/du

    by_hand = integral(Gompertz(), np.array(eta), at, [1e-12, 1e-9, 1e-6, 1e-4, 0.01, 0.1, 1, 3, 10, 45])
    found = (
        expected(Gompertz(), np.array(eta))
        if g > 0
        else Gompertz().expected(np.array(eta)[:, None], {})[:, 0]
    )
    np.testing.assert_allclose(found, by_hand, rtol=1e-9)
    if not g:  # the exponential: E T^2 / 2, E T^3 / 3 of hazards rate
        np.testing.assert_allclose(found, [-1, -1 / rate, -2 / rate**2], rtol=1e-13)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("model", [HalfNormalFrontier, ExponentialFrontier])
@pytest.mark.parametrize("logs", [(0.0, 0.0), (-0.5, 0.7), (-3.0, 1.0), (1.0, -1.5), (0.0, -4.0)])
def test_frontier_by_integration(model: Any, sign: float, logs: tuple[float, float]) -> None:
    eta = np.array([0.8, *logs])
    v, u = np.exp(logs)
    points = [0.8 + k * v for k in (-9, -3, 0, 3, 9)] + [0.8 - sign * k * u for k in (0.5, 2, 8, 38)]
    points += [0.8 - sign * (38 * u + 9 * v)]
    by_hand = integral(model(sign=sign), eta, lambda y: {"y": y}, points)
    np.testing.assert_allclose(
        expected(model(sign=sign), eta), by_hand, rtol=1e-8, atol=1e-10 * np.abs(by_hand).max()
    )


@pytest.mark.parametrize("select", [-3.0, -0.4, 0.0, 1.5])
@pytest.mark.parametrize("twist", [0.0, 1.0, -2.5, 5.0])
def test_heckman_by_integration(select: float, twist: float) -> None:
    eta = np.array([0.6, select, 0.3, twist])
    points = [0.6 + np.exp(0.3) * k for k in (-12, -6, -2, 0, 2, 6, 12)]
    by_hand = integral(Heckman(), eta, lambda y: {"y": y, "selected": 1.0}, points)
    value, _, second = Heckman().derivatives(eta[:, None], {"y": np.zeros(1), "selected": np.zeros(1)}, 2)
    assert second is not None
    by_hand += np.exp(value) * second[:, 0]
    np.testing.assert_allclose(expected(Heckman(), eta), by_hand, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("left", "right"), [(0.0, np.inf), (-np.inf, 1.0), (-0.5, 0.9)])
def test_tobit_by_integration(left: float, right: float) -> None:
    """The rows between the limits by integration, the two masses at them as they are."""
    eta = np.array([0.3, 0.2])
    limits = {"left": np.array([left]), "right": np.array([right])}

    def between(y: float) -> dict[str, float]:
        return {"y": y, "lower": y, "upper": y}

    by_hand = integral(Tobit(), eta, between, [max(left, -14.0), 0.0, 0.5, min(right, 14.0)])
    for lower, upper in ((-np.inf, left), (right, np.inf)):
        if np.isfinite(lower) or np.isfinite(upper):
            ends = {"y": np.zeros(1), "lower": np.array([lower]), "upper": np.array([upper])}
            value, _, second = Tobit().derivatives(eta[:, None], ends, 2)
            assert second is not None
            by_hand += np.exp(value) * second[:, 0]
    np.testing.assert_allclose(expected(Tobit(), eta, limits), by_hand, rtol=1e-10)


# --- in fits -------------------------------------------------------------------------------------


def design(n: int) -> Array:
    rng = np.random.default_rng(2)
    return np.column_stack([np.ones(n), rng.standard_normal(n)])


def selection(n: int) -> Any:
    X = design(n)
    data = {"y": np.ones(n), "x": X[:, 1], "z": np.sin(np.arange(n)), "s": np.arange(n) % 2.0}
    return MODELS.heckman("y ~ x", data, select="s ~ x + z")


SAMPLES: dict[str, tuple[Callable[[int], Any], list[float]]] = {
    "gev": (lambda n: MODELS.gev(np.linspace(0, 1, n), design(n)), [0.3, 0.5, 0.2, -0.25]),
    "gev_near_gumbel": (lambda n: MODELS.gev(np.linspace(0, 1, n), design(n)), [0.3, 0.5, 0.2, 0.04]),
    "generalized_gamma": (
        lambda n: MODELS.generalized_gamma(np.ones(n), design(n)),
        [0.3, 0.5, -0.2, 0.6],
    ),
    "gompertz": (lambda n: MODELS.gompertz(np.ones(n), design(n)), [-0.3, 0.5, 0.4]),
    "half_normal": (lambda n: MODELS.frontier(np.ones(n), design(n)), [0.3, 0.5, -0.5, 0.4]),
    "exponential": (
        lambda n: MODELS.frontier(np.ones(n), design(n), inefficiency="exponential", cost=True),
        [0.3, 0.5, -0.5, 0.1],
    ),
    "heckman": (selection, [0.3, 0.5, 0.2, -0.6, 0.8, 0.1, 1.2]),
}


@pytest.mark.parametrize("name", list(SAMPLES))
def test_mean_of_the_observed_information_over_samples(name: str) -> None:
    """The average of -d2l over 400 samples of 250 rows, every entry within its own simulation error."""
    make, theta = SAMPLES[name]
    lik, at = make(250), np.array(theta)
    rng = np.random.default_rng(5)
    drawn = np.array([-lik.simulate(rng, at).evaluate(at, order=2).hessian for _ in range(400)])
    error = (drawn.mean(axis=0) - lik.information(at)) / (drawn.std(axis=0, ddof=1) / 20 + 1e-12)
    assert np.abs(error).max() < 4.5
    # and the check can tell: the information is known to a few per cent by these samples
    assert (drawn.std(axis=0, ddof=1) / 20)[0, 0] < 0.05 * lik.information(at)[0, 0]


@pytest.mark.parametrize("name", list(SAMPLES))
def test_eim_and_bw_are_estimators_like_the_others(name: str) -> None:
    make, theta = SAMPLES[name]
    fit = ml.fit(make(3000).simulate(np.random.default_rng(8), np.array(theta)))
    table = fit.compare().std_errors
    assert fit.compare().columns[:3] == ("oim", "eim", "opg") and table.shape[1] == 5
    np.testing.assert_allclose(table / table[:, :1], 1.0, atol=0.2)
    information = fit.likelihood.information(fit.theta)
    found = fit.cov("eim").matrix
    np.testing.assert_allclose(found @ information, np.eye(fit.k), atol=1e-9)


def test_censored_durations_know_no_expected_information() -> None:
    y, X = np.linspace(0.5, 3, 40), design(40)
    event, entry = (np.arange(40) % 3 > 0).astype(float), np.full(40, 0.1)
    for model in (MODELS.gompertz, MODELS.generalized_gamma):
        for options in ({"event": event}, {"entry": entry}, {"upper": y + event}):
            lik = model(y, X, **options)
            with pytest.raises(CovarianceError, match="knows no expected information"):
                lik.information(lik.space.start())


def test_no_information_where_there_is_none(tmp_path: Any) -> None:
    y, X = np.linspace(0.5, 3, 40), np.ones((40, 1))
    for lik, theta in (
        (MODELS.gev(y, X), np.array([2.0, 0.0, -0.5])),
        (MODELS.generalized_pareto(y, X), np.array([1.0, -0.6])),
    ):
        with pytest.raises(CovarianceError, match=r"exists where shape > -1/2; it is -0\.[56]\. Use 'oim'"):
            lik.information(theta)
    with pytest.raises(CovarianceError, match="some durations never end.*it is -0.1"):
        MODELS.gompertz(y, X).information(np.array([0.0, -0.1]))
    # a hazard that falls: everything that needs no expectation still works
    early = ml.fit(MODELS.gompertz(np.random.default_rng(3).weibull(0.5, 200), np.ones((200, 1))))
    assert early.params["gamma"] < 0
    assert early.compare().columns == ("oim", "opg", "robust")
    early.save(tmp_path / "fit.npz")
    again = ml.load_fit(tmp_path / "fit.npz")
    np.testing.assert_array_equal(again.params, early.params)
    with pytest.raises(CovarianceError, match="curvature='observed'"):
        early.cov("HC3")
    assert early.cov(ml.HC("HC3", curvature="observed")).bse.all()
