"""Markov switching autoregression by the Hamilton filter, derivatives carried through it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mlecov.errors import SpecificationError, listing
from mlecov.kinds import Kind, interval, positive, real, simplex
from mlecov.likelihood.base import Evaluation, Facts
from mlecov.models.jets import Jets
from mlecov.models.predicted import Ahead, Declared, OfSample, Sampled, of_params, psi_weights
from mlecov.models.whole import (
    Columns,
    Derivatives,
    LastPass,
    WholeLikelihood,
    WholeModel,
    count,
    hannan_rissanen,
    read_series,
    refuse_constant,
)
from mlecov.parameters import ParameterSpace

Array = npt.NDArray[np.float64]
LOG_2PI = float(np.log(2 * np.pi))

BLOCK = 256
"""Periods whose densities, with derivatives, are held at a time."""

NEVER = 1e-4
"""Moves between two regimes expected in a whole sample below which there are none."""


@dataclass(frozen=True)
class Switching(WholeModel):
    """y_t - mu(s_t) = sum phi_j (y_{t-j} - mu(s_{t-j})) + sigma(s_t) e_t, s_t a Markov chain.

    Parameters: transition probabilities, mu (M,), sigma (1 or M), phi (p,). Joint states
    (s_t, ..., s_{t-lags}) are numbered with s_t slowest.
    """

    regimes: int
    p: int
    own_sigma: bool
    last: LastPass = field(default_factory=LastPass, repr=False, compare=False)
    name = "markov_switching"
    has_forecast: ClassVar[bool] = True

    @property
    def n_moves(self) -> int:
        """Number of reported transition probabilities."""
        return 2 if self.regimes == 2 else self.regimes**2

    @property
    def lags(self) -> int:
        """Past regimes in the joint state: at least one, by which the chain moves."""
        return max(self.p, 1)

    @cached_property
    def states(self) -> npt.NDArray[np.intp]:
        """Regimes (lags + 1, S) of each joint state."""
        axes = [range(self.regimes)] * (self.lags + 1)
        return np.array(list(itertools.product(*axes)), dtype=np.intp).T

    def transition(self, params: Array, jets: Jets) -> Array:
        """Return the jet T (D, M, M): T[j, i] = P(s_t = j | s_{t-1} = i)."""
        M = self.regimes
        found = np.zeros((jets.size, M, M))
        if M == 2:
            found[0] = [params[:2], 1.0 - params[:2]]
            if jets.order:
                for i in range(2):
                    found[1 + i, :, i] = [1.0, -1.0]
            return found
        found[0] = params[: M * M].reshape(M, M).T
        if jets.order:
            for i, j in itertools.product(range(M), range(M)):
                found[1 + i * M + j, j, i] = 1.0
        return found

    def ergodic(self, T: Array, jets: Jets) -> Array:
        """Return the jet (D, M) of pi = T pi, sum pi = 1; T is linear in the parameters."""
        M = self.regimes
        A = np.eye(M) - T[0]
        A[-1] = 1.0
        found = np.zeros((jets.size, M))
        found[0] = np.linalg.solve(A, np.eye(M)[-1])
        if not jets.order:
            return found
        moves = T[1 : 1 + jets.k].copy()
        moves[:, -1] = 0.0
        slopes = np.linalg.solve(A, (moves @ found[0]).T).T
        found[1 : 1 + jets.k] = slopes
        if jets.order > 1:
            left, right = jets.pairs
            second = np.einsum("pij,pj->pi", moves[left], slopes[right])
            second += np.einsum("pij,pj->pi", moves[right], slopes[left])
            found[1 + jets.k :] = np.linalg.solve(A, second.T).T
        return found

    def first(self, T: Array, jets: Jets) -> Array:
        """Return the jet (D, S) of the joint state's distribution before the first term."""
        found = self.ergodic(T, jets)
        for _ in range(self.lags):
            found = self._move(found.reshape(jets.size, self.regimes, -1), T, jets)
        return found

    def _move(self, past: Array, T: Array, jets: Jets) -> Array:
        """Return the distribution one period on from that of (s_t, the rest): (D, M, R) to (D, M M R)."""
        return jets.multiply(T[:, :, :, None], past[:, None, :, :]).reshape(jets.size, -1)

    def densities(self, params: Array, y: Array, jets: Jets, start: int, stop: int) -> tuple[Array, Array]:
        """Return the jet f (D, b, S) over its largest value in each term, and the log of that (b,)."""
        M, p, s = self.regimes, self.p, self.states
        at = self.n_moves
        mu, sigma, phi = params[at : at + M], params[at + M : len(params) - p], params[len(params) - p :]
        past = [y[p - j + start : p - j + stop, None] for j in range(1, p + 1)]
        level = mu[s[0]] - sum(phi[j] * mu[s[j + 1]] for j in range(p))
        e = y[p + start : p + stop, None] - sum(phi[j] * past[j] for j in range(p)) - level
        scale = sigma[s[0]] if self.own_sigma else np.full(s.shape[1], sigma[0])
        value = -0.5 * (LOG_2PI + (e / scale) ** 2) - np.log(scale)
        top = value.max(axis=1)
        f = np.exp(value - top[:, None])
        if not jets.order:
            return f[None], top
        k = jets.k
        de, dl = np.zeros((k, *e.shape)), np.zeros((k, *e.shape))
        for i in range(M):
            de[at + i] = -1.0 * (s[0] == i) + sum(phi[j] * (s[j + 1] == i) for j in range(p))
        for j in range(p):
            de[k - p + j] = mu[s[j + 1]] - past[j]
        le, ls = -e / scale**2, ((e / scale) ** 2 - 1.0) / scale
        dl += de * le
        which = [
            (at + M + i, (s[0] == i) if self.own_sigma else np.ones(s.shape[1])) for i in range(len(sigma))
        ]
        for row, member in which:
            dl[row] += ls * member
        if jets.order < 2:
            return np.concatenate([f[None], f * dl]), top
        left, right = jets.pairs
        second = dl[left] * dl[right] - de[left] * de[right] / scale**2
        place = np.zeros((k, k), dtype=np.intp)
        place[left, right] = place[right, left] = np.arange(len(left))
        for i, j in itertools.product(range(M), range(p)):
            second[place[at + i, k - p + j]] += le * (s[j + 1] == i)
        for row, member in which:
            for other in (*range(at, at + M), *range(k - p, k)):
                second[place[row, other]] += 2.0 * e / scale**3 * member * de[other]
            second[place[row, row]] += (1.0 - 3.0 * (e / scale) ** 2) / scale**2 * member
        return np.concatenate([f[None], f * dl, f * second]), top

    def _steps(self, params: Array, y: Array, jets: Jets) -> Iterator[tuple[int, float, Array, Array, Array]]:
        """Yield each term with the log of a scale and jets: P(state | past) (D, S), P(state, y_t | past) over
        the scale (D, S), and its sum (D,).
        """
        n = len(y) - self.p
        T = self.transition(params, jets)
        ahead = self.first(T, jets)
        for start in range(0, n, BLOCK):
            stop = min(start + BLOCK, n)
            f, logs = self.densities(params, y, jets, start, stop)
            for t in range(start, stop):
                joint = jets.multiply(ahead, f[:, t - start])
                total = joint.sum(axis=1)
                yield t, logs[t - start], ahead, joint, total
                reduced = joint.reshape(jets.size, -1, self.regimes).sum(axis=2)
                reduced = jets.multiply(reduced, jets.reciprocal(total)[:, None])
                ahead = self._move(reduced.reshape(jets.size, self.regimes, -1), T, jets)

    def _filter(self, params: Array, y: Array, jets: Jets) -> tuple[Array, Array]:
        """Return the jet (D, n) of f(y_t | past) over a scale, and the log of the scale (n,)."""
        n = len(y) - self.p
        likelihoods, logs = np.empty((jets.size, n)), np.empty(n)
        for t, log_scale, _, _, total in self._steps(params, y, jets):
            likelihoods[:, t], logs[t] = total, log_scale
        return likelihoods, logs

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """predicted, filtered, smoothed: P(s_t = j | past; and y_t; all y); mean: E(y_t | past); residual.

        duration: 1 / (1 - p_jj), expected periods in a regime.
        """
        labels = tuple(map(str, range(self.regimes)))
        found: dict[str, Declared] = {
            name: OfSample(of_params(self._regimes(name)), labels)
            for name in ("predicted", "filtered", "smoothed")
        }
        found |= {name: OfSample(of_params(self._mean(name))) for name in ("mean", "residual")}
        return found | {"duration": OfSample(of_params(self._duration), index=labels)}

    def _duration(self, params: Array, columns: Columns, order: int) -> Sampled:
        jets = Jets(len(params), min(order, 1))
        T = self.transition(params, jets)
        left = -np.diagonal(T, axis1=1, axis2=2)
        left[0] += 1.0
        found = jets.reciprocal(left)
        return Sampled(found[0], found[1:].T if order else None)

    def _states(self, params: Array, y: Array, jets: Jets) -> tuple[Array, Array]:
        """Return the jets P(joint state | past) and P(joint state | past and y_t), (D, n, S) each."""
        ahead, now = np.empty((2, jets.size, len(y) - self.p, self.states.shape[1]))
        for t, _, before, joint, total in self._steps(params, y, jets):
            ahead[:, t] = before
            now[:, t] = jets.multiply(joint, jets.reciprocal(total)[:, None])
        return ahead, now

    def smooth(self, now: Array, jets: Jets) -> Array:
        """Return the jet P(joint state | all y) (D, n, S) from the filtered one.

        Given (s_t, ..., s_{t-lags+1}) and y up to t the oldest regime s_{t-lags} does not depend on later
        outcomes: P(state_t | all) = P(state_t | t) P(recent_t | all) / P(recent_t | t), and recent_t is a part
        of state_{t+1}. Reference: Kim (1994), J. Econometrics 60.
        """
        found, M = now.copy(), self.regimes
        for t in range(now.shape[1] - 2, -1, -1):
            later = found[:, t + 1].reshape(jets.size, M, -1).sum(axis=1)
            recent = now[:, t].reshape(jets.size, -1, M).sum(axis=2)
            recent[0] = np.maximum(recent[0], 1e-100)  # regimes that can not be: zero over zero is zero
            share = jets.multiply(later, jets.reciprocal(recent))
            found[:, t] = jets.multiply(now[:, t], np.repeat(share, M, axis=1))
        return found

    def _regimes(self, name: str) -> Callable[[Array, Columns, int], Sampled]:
        """Return the function (params, columns, order) of the regimes' probabilities (M, n)."""

        def path(params: Array, columns: Columns, order: int) -> Sampled:
            jets = Jets(len(params), min(order, 1))
            ahead, now = self._states(params, columns["y"], jets)
            joint = {"predicted": ahead, "filtered": now}.get(name)
            joint = self.smooth(now, jets) if joint is None else joint
            found = joint.reshape(*joint.shape[:2], self.regimes, -1).sum(axis=3)
            return Sampled(found[0].T, np.moveaxis(found[1:], 0, -1).swapaxes(0, 1) if order else None)

        return path

    def _mean(self, name: str) -> Callable[[Array, Columns, int], Sampled]:
        """Return the function (params, columns, order) of E(y_t | past) (n,), or of y_t less that."""

        def path(params: Array, columns: Columns, order: int) -> Sampled:
            jets, y, M, p, s = (
                Jets(len(params), min(order, 1)),
                columns["y"],
                self.regimes,
                self.p,
                self.states,
            )
            ahead = self._states(params, y, jets)[0]
            at, ar = self.n_moves, len(params) - p
            mu, phi = params[at : at + M], params[ar:]
            past = [y[p - j : len(y) - j, None] - mu[s[j]] for j in range(1, p + 1)]  # (n, S) each
            level = mu[s[0]] + sum(phi[j] * past[j] for j in range(p)) + np.zeros((len(y) - p, 1))
            value, sign = (ahead[0] * level).sum(axis=1), 1.0
            if name == "residual":
                value, sign = y[p:] - value, -1.0
            if not order:
                return Sampled(value)
            slope = (ahead[1:] * level).sum(axis=2)
            for i in range(M):
                moved = (s[0] == i) - sum(phi[j] * (s[j + 1] == i) for j in range(p))
                slope[at + i] += ahead[0] @ moved
            for j in range(p):
                slope[ar + j] += (ahead[0] * past[j]).sum(axis=1)
            return Sampled(value, sign * slope.T)

        return path

    def ahead(self, params: Array, columns: Columns, steps: int, X: Array) -> Ahead:
        """Return mean and variance of y and the regimes' probabilities (steps,) ahead, in closed form.

            y_{T+k} = mu(s_{T+k}) + z_{T+k},   z_t = sum phi_j z_{t-j} + sigma(s_t) e_t

        Given the joint state at T the past z are known and the regimes to come independent of e: the
        mean is E mu(s_{T+k}) + E z_{T+k}, the variance that of mu(s_{T+k}), plus
        sum_{i<k} psi_i^2 E sigma^2(s_{T+k-i}), plus that of the conditional mean between states.
        """
        y, M, p, jets = columns["y"], self.regimes, self.p, Jets(len(params), 0)
        at = self.n_moves
        mu, phi = params[at : at + M], params[len(params) - p :]
        sigma2 = np.broadcast_to(params[at + M : len(params) - p] ** 2, M)
        T = self.transition(params, jets)[0]
        weight, s = self._states(params, y, jets)[1][0, -1], self.states
        z = [y[len(y) - 1 - j] - mu[s[j]] for j in range(p)][::-1]  # (S,) each, the last newest
        psi, move, spreads = psi_weights(phi, np.zeros(0), steps) ** 2, np.eye(M), []
        mean, variance, chance = np.empty(steps), np.empty(steps), np.empty((M, steps))
        for k in range(steps):
            move = T @ move  # P(s_{T+k+1} | s_T), columns by s_T
            spreads.append(sigma2 @ move)
            z.append(sum((phi[j] * z[-1 - j] for j in range(p)), np.zeros(len(weight))))
            middle = mu @ move
            noise = sum(psi[i] * spreads[k - i] for i in range(k + 1))
            inner = (mu**2 @ move - middle**2 + noise)[s[0]]
            conditional = middle[s[0]] + z[-1]
            mean[k] = weight @ conditional
            variance[k] = weight @ (inner + (conditional - mean[k]) ** 2)
            chance[:, k] = move[:, s[0]] @ weight
        return Ahead(mean, variance, {f"regime {i}": chance[i] for i in range(M)})

    def derivatives(self, params: Array, columns: Columns, order: int, w: Array | None) -> Derivatives:
        y, jets = columns["y"], Jets(len(params), order)
        likelihoods, logs = self.last.get(params, order, y, lambda: self._filter(params, y, jets))
        n = len(logs)
        value = logs + np.log(likelihoods[0])
        if not order:
            return value, None, None
        k = jets.k
        scores = (likelihoods[1 : 1 + k] / likelihoods[0]).T
        if order < 2:
            return value, scores, None
        one = np.ones(n) if w is None else w
        hessian = jets.symmetric(likelihoods[1 + k :] @ (one / likelihoods[0]))
        return value, scores, hessian - (scores * one[:, None]).T @ scores

    def boundary(self, likelihood: WholeLikelihood, evaluation: Evaluation) -> str | None:
        """Say which moves between regimes never happen."""
        T = self.transition(likelihood.space.report(evaluation.theta), Jets(len(evaluation.theta), 0))[0]
        never = [
            f"{i} to {j}"
            for j, i in itertools.product(*[range(self.regimes)] * 2)
            if T[j, i] * likelihood.count < NEVER
        ]
        if not never:
            return None
        return (
            f"a transition probability is at its bound: the sample holds no move from regime {listing(never)}. "
            "Its standard error has no meaning, and the others hold given that it is zero; fix it, or look "
            "whether a regime is an outlier or a break that never ends (other start values, fewer regimes)."
        )

    def start(self, likelihood: WholeLikelihood) -> Array:
        """Return the best of a grid of regimes' means and persistences, means in increasing order."""
        y, M = likelihood.columns["y"], self.regimes
        centre, spread = float(y.mean()), float(y.std())
        ar, _ = hannan_rissanen(y - centre, tuple(range(1, self.p + 1)), ())
        places = (np.arange(M) - 0.5 * (M - 1)) * 2.0 / max(M - 1, 1)
        best, value = likelihood.space.start(), -np.inf
        grid = itertools.product((0.6, 1.2, 2.0), (-0.5, 0.0, 0.5), (0.7, 0.9), (0.7, 0.9), (0.0, 0.5))
        for width, aside, low, high, share in grid:
            mu = centre + spread * (width * places - aside * width * 0.5)
            stay = np.linspace(low, high, M)
            moves = np.full((M, M), (1.0 - stay[:, None]) / max(M - 1, 1))
            np.fill_diagonal(moves, stay)
            sigma = np.full(M if self.own_sigma else 1, spread * (1.0 - 0.15 * width))
            first = moves[:, 0] if M == 2 else moves.ravel()
            params = np.concatenate([first, mu, sigma, share * ar])
            found = float(self.derivatives(params, likelihood.columns, 0, None)[0].sum())
            if found > value:
                best, value = self._theta(likelihood.space, params), found
        return best

    def _theta(self, space: ParameterSpace, params: Array) -> Array:
        parts = [p.kind.free(params[p.reported] if p.kind.shape else params[p.reported][0]) for p in space]
        return np.concatenate(parts)

    def simulate(self, rng: np.random.Generator, params: Array, columns: Columns) -> dict[str, Array]:
        """Return y drawn after a run-in of 200 periods."""
        M, p, jets = self.regimes, self.p, Jets(len(params), 0)
        at, n = self.n_moves, len(columns["y"]) + 200
        mu, sigma, phi = params[at : at + M], params[at + M : len(params) - p], params[len(params) - p :]
        T = self.transition(params, jets)[0]
        cumulated, u = np.cumsum(T, axis=0), rng.random(n)
        regime = np.empty(n, dtype=np.intp)
        now = int(rng.choice(M, p=self.ergodic(T[None], jets)[0]))
        for t in range(n):
            regime[t] = now
            now = min(int(np.searchsorted(cumulated[:, now], u[t])), M - 1)
        e = (sigma[regime] if self.own_sigma else sigma[0]) * rng.standard_normal(n)
        x = np.zeros(n)
        for t in range(n):
            x[t] = e[t] + sum(phi[j] * x[t - 1 - j] for j in range(min(p, t)))
        return {"y": (mu[regime] + x)[200:]}


def markov_switching(
    y: Any, data: Any = None, *, p: int = 0, regimes: int = 2, own_sigma: bool = False
) -> WholeLikelihood:
    """Return the likelihood of Hamilton's Markov switching autoregression.

        y_t - mu(s_t) = sum_{j<=p} phi_j (y_{t-j} - mu(s_{t-j})) + sigma e_t,   e_t ~ N(0, 1)
        P(s_t = j | s_{t-1} = i) = p_ij

        log f(y_t | past) = log sum_s P(s_t, ..., s_{t-p} = s | past) N(y_t; mean_s, sigma^2)

    The filter starts from the ergodic distribution of the joint state; the first p rows are
    conditioned on and are no terms. A term is a period given its past. Derivatives are exact.
    Reported are `p00`, `p10` = P(0 | 0), P(0 | 1) with two regimes (`p0[j]`, `p1[j]`, ... with
    more), `mu0`, `mu1`, .., `sigma` (or `sigma0`, ..) and `ar1`, ... Regimes may be exchanged without
    changing the likelihood; start values have means in increasing order. Other local maxima are
    common: try other start values.

    Parameters
    ----------
    y, data :
        ("y", frame) or an array; a mean per regime, no regressors.
    p :
        Lags of the autoregression, common to the regimes; the filter has regimes^(p+1) states.
    regimes :
        Number of regimes M.
    own_sigma :
        Whether each regime has a standard deviation of its own.

    Stata's `mswitch ar` and statsmodels' MarkovAutoregression are the same; Stata reports p11 and
    p21, statsmodels p[0->0] and p[1->0], sigma2. EViews reports the logits.

    `predict` knows the regimes' probabilities, "predicted", "filtered" and "smoothed" (one regime's:
    "smoothed[1]"), the one-step "mean" and its "residual", and expected periods in each regime,
    "duration"; `forecast(steps)` gives the periods to come.

    Reference: Hamilton (1989), Econometrica 57, 357-384; Hamilton (1994), chapter 22.

    Example
    -------
    >>> import mlecov as ml
    >>> fit = ml.fit(ml.models.markov_switching("rgnp_growth", ml.load("gnp"), p=4))
    >>> fit.params[["p00", "mu0", "mu1"]].round(4).to_dict()
    {'p00': 0.7547, 'mu0': -0.3588, 'mu1': 1.1635}
    """
    p, regimes = count(p, "p"), count(regimes, "regimes", 2)
    if regimes ** (max(p, 1) + 1) > 4096:
        raise SpecificationError(
            f"markov_switching: {regimes} regimes and {p} lags make {regimes ** (p + 1)} joint states; "
            "at most 4096 are worked with. Use fewer lags."
        )
    series = read_series("markov_switching", y, data)
    if not series.constant:
        raise SpecificationError(
            "markov_switching takes no regressors, a mean per regime alone; give the outcome."
        )
    refuse_constant(series, "markov_switching", p + regimes**2 + regimes + 2)
    kinds: dict[str, Kind] = {}
    for i in range(regimes):
        if regimes == 2:
            kinds[f"p{i}0"] = interval(0.0, 1.0, 0.8 if i == 0 else 0.2)
        else:
            kinds[f"p{i}"] = simplex(regimes)
    kinds |= {f"mu{i}": real() for i in range(regimes)}
    kinds |= {f"sigma{i}": positive() for i in range(regimes)} if own_sigma else {"sigma": positive()}
    kinds |= {f"ar{j + 1}": real() for j in range(p)}
    return WholeLikelihood(
        ParameterSpace.of(kinds),
        replace(series.rows, drop_first=p, cache={}),
        None,
        Facts("markov_switching", "whole, closed form", series.outcome),
        Switching(regimes, p, own_sigma),
        {"y": series.y},
        len(series.y) - p,
    )
