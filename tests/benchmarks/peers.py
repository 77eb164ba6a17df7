"""Peers that need a model written for them: NB2 in raw JAX, estimagic, delicatessen, maxLik and TMB.

Each function returns a callable that fits y on X (n, k) and forms what covariances the peer has. R's run
as a process of their own, which reports the seconds of the fit without R's start and the reading of data
(TMB: without the compilation, which is printed).
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import digamma, gammaln

Peer = Callable[[], object]


class Reported(float):
    """Seconds that a process measured itself."""


def loglikelihood(theta: Any, y: Any, X: Any) -> Any:
    """Return the NB2 log-likelihood of the rows (n,), theta = (b, log alpha)."""
    mean, m = np.exp(X @ theta[:-1]), np.exp(-theta[-1])
    tail = m * np.log(m / (m + mean)) + y * np.log(mean / (m + mean))
    return gammaln(y + m) - gammaln(m) - gammaln(y + 1) + tail


def scores(theta: Any, y: Any, X: Any) -> Any:
    """Return the scores (n, k + 1) of the rows."""
    mean, m = np.exp(X @ theta[:-1]), np.exp(-theta[-1])
    to_mean = (y - mean) * m / (m + mean)
    to_m = digamma(y + m) - digamma(m) + np.log(m / (m + mean)) + 1 - (y + m) / (m + mean)
    return np.column_stack([to_mean[:, None] * X, -m * to_m])


def begin(y: Any, X: Any) -> Any:
    """Return the start that all are given: the log of the mean, alpha 1."""
    return np.r_[np.log(y.mean()), np.zeros(X.shape[1])]


def raw_jax(y: Any, X: Any) -> Peer:
    """jax.grad and jax.hessian of the sum, scipy's trust-exact, scores by a vmapped gradient."""

    def run() -> object:
        import jax
        import jax.numpy as jnp
        from jax.scipy.special import gammaln as lgamma
        from scipy.optimize import minimize

        def row(theta: Any, y: Any, x: Any) -> Any:
            mean, m = jnp.exp(x @ theta[:-1]), jnp.exp(-theta[-1])
            tail = m * jnp.log(m / (m + mean)) + y * jnp.log(mean / (m + mean))
            return lgamma(y + m) - lgamma(m) - lgamma(y + 1) + tail

        with jax.enable_x64(True):
            rows = jax.vmap(row, (None, 0, 0))
            total = jax.jit(lambda t: -rows(t, y, X).sum())
            found = minimize(
                total,
                begin(y, X),
                jac=jax.jit(jax.grad(total)),
                hess=jax.jit(jax.hessian(total)),
                method="trust-exact",
                options={"gtol": 1e-6},
            )
            H = np.asarray(jax.hessian(total)(found.x))
            S = np.asarray(jax.jit(jax.vmap(jax.grad(row), (None, 0, 0)))(found.x, y, X))
        bread = np.linalg.inv(H)
        return bread, np.linalg.inv(S.T @ S), bread @ (S.T @ S) @ bread

    return run


def estimagic(y: Any, X: Any) -> Peer:
    """estimate_ml with the score given; Hessian and scores by its own differences."""

    def run() -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import estimagic as em
            import optimagic as om

            @om.mark.likelihood
            def loglike(params: Any) -> Any:
                return loglikelihood(params, y, X)

            found = em.estimate_ml(
                loglike,
                params=begin(y, X),
                optimize_options={"algorithm": "scipy_lbfgsb"},
                jacobian=lambda params: scores(params, y, X),
            )
            return [found.cov(method=name) for name in ("hessian", "jacobian", "robust")]

    return run


def delicatessen(y: Any, X: Any) -> Peer:
    """MEstimator with the scores as estimating functions: one covariance, the sandwich."""

    def run() -> object:
        from delicatessen import MEstimator

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = MEstimator(lambda theta: scores(theta, y, X).T, init=begin(y, X))
            found.estimate()
        return found.variance

    return run


READ = """
con <- file("data.bin", "rb"); y <- readBin(con, "double", {n}); X <- matrix(readBin(con, "double", {n} * {k}), {n})
start <- c(log(mean(y)), rep(0, {k}))
"""

MAXLIK = """
suppressMessages({library(maxLik); library(sandwich)})
loglike <- function(p) {
  mu <- exp(drop(X %*% p[-length(p)])); m <- exp(-p[length(p)])
  lgamma(y + m) - lgamma(m) - lgamma(y + 1) + m * log(m / (m + mu)) + y * log(mu / (m + mu))
}
score <- function(p) {
  mu <- exp(drop(X %*% p[-length(p)])); m <- exp(-p[length(p)])
  d <- digamma(y + m) - digamma(m) + log(m / (m + mu)) + 1 - (y + m) / (m + mu)
  cbind((y - mu) * m / (m + mu) * X, -m * d)
}
seconds <- system.time({
  f <- maxLik(loglike, score, start = start, method = "BFGS")
  v <- vcov(f); S <- estfun(f); o <- solve(crossprod(S)); s <- v %*% crossprod(S) %*% v
})[["elapsed"]]
cat(seconds, as.numeric(logLik(f)))
"""

TMB = """
suppressMessages(library(TMB))
writeLines("
#include <TMB.hpp>
template<class Type> Type objective_function<Type>::operator() () {
  DATA_VECTOR(y); DATA_MATRIX(X); PARAMETER_VECTOR(b); PARAMETER(la);
  vector<Type> mu = exp(vector<Type>(X * b)); Type alpha = exp(la); Type nll = 0;
  for (int i = 0; i < y.size(); i++) nll -= dnbinom2(y(i), mu(i), mu(i) + alpha * mu(i) * mu(i), true);
  return nll;
}", "nb2.cpp")
compiling <- if (file.exists(dynlib("nb2"))) 0 else system.time(invisible(compile("nb2.cpp")))[["elapsed"]]
dyn.load(dynlib("nb2"))
seconds <- system.time({
  obj <- MakeADFun(list(y = y, X = X), list(b = start[1:ncol(X)], la = 0), DLL = "nb2", silent = TRUE)
  f <- nlminb(obj$par, obj$fn, obj$gr); v <- sdreport(obj)$cov.fixed
})[["elapsed"]]
cat(seconds, -f$objective, compiling)
"""


GLM = """
runs <- max(1, 100000 %/% length(y))
seconds <- system.time(for (r in 1:runs) {{ f <- {fit}; v <- {cov} }})[["elapsed"]] / runs
cat(seconds, as.numeric(logLik(f)))
"""


def _in_r(script: str, name: str, y: Any, X: Any) -> Peer:
    folder = Path(tempfile.mkdtemp())
    (folder / "data.bin").write_bytes(
        np.asarray(y, float).tobytes() + np.asarray(X, float).tobytes(order="F")
    )
    (folder / "run.R").write_text(READ.format(n=X.shape[0], k=X.shape[1]) + script)

    def run() -> Reported:
        rscript = shutil.which("Rscript")
        if rscript is None:
            raise ImportError("Rscript was not found")
        done = subprocess.run([rscript, "run.R"], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise ImportError(f"{name}: {done.stderr.strip().splitlines()[-1]}")
        numbers = done.stdout.split("\n")[-1].split()
        if len(numbers) > 2 and float(numbers[2]):
            print(f"  ({name} compiled its model in {float(numbers[2]):.0f} s besides)")
        return Reported(numbers[0])

    return run


def glm(y: Any, X: Any, family: str) -> Peer:
    """R's glm and its one covariance; "nb2" is MASS's glm.nb."""
    fit = "MASS::glm.nb(y ~ X - 1)" if family == "nb2" else f"glm(y ~ X - 1, family = {family})"
    return _in_r(GLM.format(fit=fit, cov="vcov(f)"), "R", y, X)


def maxlik(y: Any, X: Any) -> Peer:
    """R's maxLik with the analytic score, and sandwich's scores."""
    return _in_r(MAXLIK, "maxLik", y, X)


def tmb(y: Any, X: Any) -> Peer:
    """R's TMB: C++ derivatives, one covariance."""
    return _in_r(TMB, "TMB", y, X)
