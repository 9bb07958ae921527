"""The one place that knows Optuna: a study rebuilt from recorded trials is asked for one more point.

The Tree-structured Parzen Estimator (Bergstra et al., NeurIPS 2011) with constraints: infeasible trials guide it too.
Running trials are given as running, so that two proposals made at the same time differ (the constant liar). The
import costs most of a second, hence the module of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from trimtab.space import Dimension, Point, Tried

STARTUP_TRIALS = 5
"""Random trials before the estimator has anything to go by. Optuna's default of 10 is half of a usual budget here."""


def suggest(dimensions: Sequence[Dimension], seed: int, history: Sequence[Tried]) -> Point:
    """TPE's next point after `history`, which is sorted by trial index."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
    study = optuna.create_study(sampler=sampler)
    study.add_trials([_frozen(dimensions, tried) for tried in history])
    trial = study.ask({d.name: _distribution(d) for d in dimensions})
    return {d.name: _text(d, trial.params[d.name]) for d in dimensions}


def _frozen(dimensions: Sequence[Dimension], tried: Tried) -> FrozenTrial:
    params = {d.name: _value(d, tried.point[d.name]) for d in dimensions if d.name in tried.point}
    return create_trial(
        state=TrialState.RUNNING if tried.value is None else TrialState.COMPLETE,
        value=tried.value,
        params=params,
        distributions={d.name: _distribution(d) for d in dimensions if d.name in params},
        constraints={"violation": tried.violation},
    )


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    if dimension.integer:
        return IntDistribution(round(dimension.low), round(dimension.high))
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _value(dimension: Dimension, text: str) -> str | int | float:
    if dimension.choices:
        return text
    return int(text) if dimension.integer else float(text)


def _text(dimension: Dimension, value: str | float) -> str:
    return value if isinstance(value, str) else str(value) if dimension.integer else f"{value:.6g}"
