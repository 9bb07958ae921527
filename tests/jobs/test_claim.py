"""The claim's statistics against published numbers, their coverage by simulation, and every verdict."""

from __future__ import annotations

from collections.abc import Callable
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.api.metrics import Metrics
from trimtab.api.model import Metric
from trimtab.api.promises import Constraint
from trimtab.api.status import Claim, Verdict
from trimtab_jobs.claim import Compared, bootstrap, claim, paired_drop, wilson
from trimtab_jobs.data import Array
from trimtab_jobs.metrics import quality


def answers(both: int, lost: int, won: int, neither: int) -> tuple[Array, Array]:
    """Correctness of baseline and winner by the four cells of their table."""
    counts = [both, lost, won, neither]
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


def right(*table: int) -> Compared:
    return compared(Metric.ACCURACY, *answers(*table))


def compared(metric: Metric, baseline: Array, winner: Array, labels: Array | None = None) -> Compared:
    chosen = Metrics()
    return Compared(metric, quality(metric, chosen).value, chosen, labels, (baseline,), (winner,))


def max_drop(percent: str) -> Constraint:
    return Constraint(metric=Metric.ACCURACY, max_drop=percent)


def test_the_drop_of_a_published_table() -> None:
    """Approval of a prime minister in two surveys, the example of Agresti's Categorical Data Analysis (10.1.1).

    There Wald's interval is 0.0400 ± 0.0187; so many votes changed that the score interval is hardly another.
    """
    drop = paired_drop(150, 86, 1600)
    assert float(drop.estimate) == 0.04
    assert (float(drop.low), float(drop.high)) == pytest.approx((0.0213, 0.0587), abs=5e-4)


def test_wilsons_interval_of_a_published_example() -> None:
    """81 of 263: Newcombe, Statistics in Medicine 17 (1998) 857-872, table I."""
    accuracy = wilson(np.repeat([True, False], [81, 182]))
    assert (float(accuracy.low), float(accuracy.high)) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_identical_answers_still_have_an_interval() -> None:
    """Where nothing changed the ends have a closed form: z² / (n + z²)."""
    drop = paired_drop(0, 0, 200)
    assert float(drop.estimate) == 0
    assert float(drop.high) == -float(drop.low) == pytest.approx(3.8415 / 203.8415, abs=1e-6)


@pytest.mark.parametrize("samples", [195, 240, 300, 367, 381, 400, 500, 600, 1000])
def test_a_model_that_breaks_the_promise_seldom_passes(samples: int) -> None:
    """It loses a bit more than the 1 point that was promised, and wins nothing: the hardest case to see."""
    chances = [comb(samples, lost) * 0.0101**lost * 0.9899 ** (samples - lost) for lost in range(20)]
    passes = [float(paired_drop(lost, 0, samples).high) <= 0.01 for lost in range(20)]
    assert sum(chance for chance, passed in zip(chances, passes, strict=True) if passed) < 0.025


@pytest.mark.parametrize(("lose", "win"), [(0.01, 0.005), (0.03, 0.02), (0.10, 0.08)])
def test_the_interval_covers_the_true_drop(lose: float, win: float) -> None:
    rng = np.random.default_rng(0)
    tables = rng.multinomial(500, [0.7, lose, win, 0.3 - lose - win], size=2000)
    drops = [paired_drop(lost, won, 500) for _, lost, won, _ in tables]
    covered = np.mean([float(drop.low) <= lose - win <= float(drop.high) for drop in drops])
    assert 0.93 <= covered <= 0.985


@pytest.mark.parametrize(
    ("table", "constraint", "verdict", "says"),
    [
        ((1900, 3, 3, 94), max_drop("1%"), Verdict.HOLDS, "accuracy drops by 0% (95% interval -0.307% to 0.307%)"),
        ((1900, 3, 7, 90), max_drop("1%"), Verdict.HOLDS, "accuracy rises by 0.2% (95% interval -0.1"),
        ((1800, 100, 0, 100), max_drop("1%"), Verdict.VIOLATED, "at most 1% was promised"),
        ((190, 1, 0, 9), max_drop("1%"), Verdict.INCONCLUSIVE, "about 1,500 samples would tell"),
        ((188, 2, 0, 10), max_drop("1%"), Verdict.INCONCLUSIVE, "too close to the bound"),
        (
            (980, 0, 0, 20),
            Constraint(metric=Metric.ACCURACY, min="95%"),
            Verdict.HOLDS,
            "at least 95% was promised",
        ),
        ((900, 0, 0, 100), Constraint(metric=Metric.ACCURACY, min="95%"), Verdict.VIOLATED, "accuracy is 90%"),
        ((96, 0, 0, 4), Constraint(metric=Metric.ACCURACY, min="95%"), Verdict.INCONCLUSIVE, "samples would tell"),
        ((900, 0, 0, 100), Constraint(metric=Metric.ACCURACY, max="95%"), Verdict.HOLDS, "at most 95%"),
        ((900, 0, 0, 100), Constraint(metric=Metric.SIZE, max="1Mi"), Verdict.HOLDS, "no bound on quality was asked"),
    ],
)
def test_verdicts(table: tuple[int, int, int, int], constraint: Constraint, verdict: Verdict, says: str) -> None:
    found = claim({Metric.ACCURACY: right(*table)}, [constraint], 0)
    assert (found.verdict, found.samples) == (verdict, sum(table))
    assert says in found.message


def test_the_worst_promise_decides() -> None:
    found = claim(
        {Metric.ACCURACY: right(1900, 3, 3, 94)}, [max_drop("1%"), Constraint(metric=Metric.ACCURACY, min="99%")], 0
    )
    assert found.verdict == Verdict.VIOLATED
    assert "at most 1%" in found.message
    assert "at least 99%" in found.message


def test_a_claim_is_stored_and_read_again() -> None:
    found = claim({Metric.ACCURACY: right(190, 1, 0, 9)}, [max_drop("1%")], 0)
    assert Claim.model_validate_json(found.model_dump_json(by_alias=True)) == found


def test_a_drop_in_a_mean_has_the_interval_of_its_bootstrap() -> None:
    """Of 400 paired differences, drawn around 0.02 with a deviation of 0.1, the normal interval is near, and inside."""
    rng = np.random.default_rng(1)
    baseline = rng.uniform(0.5, 1, 400)
    lost = rng.normal(0.02, 0.1, 400)
    drop, value = bootstrap(compared(Metric.COSINE, baseline, baseline - lost), seed=0)
    half = 1.96 * lost.std() / 20
    assert float(drop.estimate) == pytest.approx(lost.mean(), abs=1e-6)
    assert (float(drop.low), float(drop.high)) == pytest.approx((lost.mean() - half, lost.mean() + half), abs=2e-3)
    assert float(drop.high) - float(drop.low) > 2 * half
    assert float(value.estimate) == pytest.approx((baseline - lost).mean(), abs=1e-6)


@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.MSE])
def test_the_bootstrap_covers_the_true_drop(metric: Metric) -> None:
    """In points for a fraction, relative for an error: 0.05 of 1 either way."""
    rng = np.random.default_rng(2)
    sign = -1 if metric == Metric.MSE else 1
    covered = []
    for seed in range(40):
        baseline = rng.gamma(4, 0.25, 80)
        winner = baseline - sign * rng.normal(0.05, 0.2, 80)
        drop, _ = bootstrap(compared(metric, baseline, winner), seed)
        covered.append(float(drop.low) <= 0.05 <= float(drop.high))
    assert np.mean(covered) >= 0.85


def cosines(rng: np.random.Generator, n: int) -> Compared:
    """Most embeddings lose a little, a few a lot."""
    return compared(Metric.COSINE, np.ones(n), 1 - 0.01 * rng.lognormal(0, 1, n))


def squares(rng: np.random.Generator, n: int) -> Compared:
    before, change = rng.standard_normal(n), rng.normal(0, 0.2, n)
    return compared(Metric.MSE, before**2, (before + change) ** 2)


def classes(rng: np.random.Generator, n: int) -> Compared:
    labels = rng.choice(4, n, p=[0.5, 0.3, 0.15, 0.05])
    before = np.where(rng.random(n) < 0.9, labels, rng.choice(4, n))
    return compared(Metric.F1, before, np.where(rng.random(n) < 0.95, before, rng.choice(4, n)), labels)


def scores(rng: np.random.Generator, n: int) -> Compared:
    labels = (rng.random(n) < 0.3).astype(np.int64)
    before = (rng.standard_normal(n) + 1.5 * labels)[:, None]
    return compared(Metric.AUROC, before, before + rng.normal(0, 0.5, (n, 1)), labels)


@pytest.mark.parametrize(
    ("drawn", "samples"), [(cosines, 30), (cosines, 100), (squares, 30), (classes, 100), (scores, 100)]
)
def test_the_truth_is_seldom_worse_than_the_interval_says(
    drawn: Callable[[np.random.Generator, int], Compared], samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2.5% are promised and a hundred tries say that to 2 points; of plain percentiles these cosines beat 11%."""
    monkeypatch.setattr("trimtab_jobs.claim.DRAWS", 200)
    rng = np.random.default_rng(5)
    whole = drawn(rng, 200_000)
    truth = whole.drop(*whole.values())
    worse = [truth > float(bootstrap(drawn(rng, samples), seed)[0].high) for seed in range(100)]
    assert np.mean(worse) <= 0.08


def test_few_samples_confirm_nothing() -> None:
    rng = np.random.default_rng(0)
    bound = Constraint(metric=Metric.COSINE, max_drop="50%")
    few, enough = (claim({Metric.COSINE: cosines(rng, n)}, [bound], seed=0) for n in (29, 30))
    assert (few.verdict, enough.verdict) == (Verdict.INCONCLUSIVE, Verdict.HOLDS)
    assert few.message.endswith("at most 50% was promised: fewer than 30 samples confirm nothing")


def test_classes_that_did_not_change_still_have_an_interval() -> None:
    labels = np.arange(50) % 3
    drop, _ = bootstrap(compared(Metric.F1, labels, labels, labels), seed=0)
    assert float(drop.high) == float(paired_drop(0, 0, 50).high) > 0.05


SAMPLES = st.integers(1, 30)
KEPT: dict[Metric, Callable[[np.random.Generator, int], Array]] = {
    Metric.ACCURACY: lambda rng, n: rng.random(n) < 0.8,
    Metric.TOP_K: lambda rng, n: rng.random(n) < 0.8,
    Metric.F1: lambda rng, n: rng.integers(0, 3, n),
    Metric.AUROC: lambda rng, n: rng.random((n, 3)).round(1),
    Metric.MSE: lambda rng, n: rng.gamma(1, 1, n),
    Metric.MAE: lambda rng, n: rng.integers(0, 2, n).astype(float),
    Metric.COSINE: lambda rng, n: rng.uniform(0.9, 1, n),
}


@pytest.mark.parametrize("metric", KEPT)
@settings(max_examples=4, deadline=None)
@given(samples=SAMPLES, seed=st.integers(0, 2**32 - 1))
def test_every_interval_holds_its_estimate(metric: Metric, samples: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.arange(samples + 2) % 3  # two classes at least
    baseline, winner = (KEPT[metric](rng, samples + 2) for _ in range(2))
    found = claim({metric: compared(metric, baseline, winner, labels)}, [], seed=0)
    assert found.drop
    assert float(found.drop.low) <= float(found.drop.estimate) <= float(found.drop.high)
    assert (found.metric, found.verdict, found.samples) == (metric, Verdict.HOLDS, samples + 2)


@pytest.mark.parametrize("samples", [10, 200])
def test_the_input_model_loses_nothing_however_few_have_seen_it(samples: int) -> None:
    """A bound on its own value is still a matter of how many samples there are."""
    itself = {Metric.ACCURACY: right(samples, 0, 0, 0)}
    found = claim(itself, [max_drop("1%")], 0, itself=True)
    assert (found.verdict, found.drop.low, found.drop.high) == (Verdict.HOLDS, "0", "0")
    assert found.message == "accuracy stays as it is, for this is the input model"
    floor = Constraint(metric=Metric.ACCURACY, min="99%")
    assert claim(itself, [floor], 0, itself=True).verdict == Verdict.INCONCLUSIVE


def test_the_same_seed_makes_the_same_claim() -> None:
    rng = np.random.default_rng(4)
    pair = compared(Metric.MSE, rng.random(50), rng.random(50))
    promise = [Constraint(metric=Metric.MSE, max_drop="5%")]
    assert claim({Metric.MSE: pair}, promise, 7) == claim({Metric.MSE: pair}, promise, 7)
    assert claim({Metric.MSE: pair}, promise, 7).drop != claim({Metric.MSE: pair}, promise, 8).drop


def test_every_promise_on_quality_is_judged_and_the_first_metric_counts() -> None:
    errors = np.full(100, 0.2)
    pairs = {Metric.ACCURACY: right(99, 0, 0, 1), Metric.MSE: compared(Metric.MSE, errors, errors * 1.5)}
    promises = [
        Constraint(metric=Metric.MSE, max_drop="10%"),
        Constraint(metric=Metric.MSE, max="0.5"),
        Constraint(metric=Metric.ACCURACY, min="90%"),
    ]
    found = claim(pairs, promises, 0)
    assert (found.metric, found.verdict) == (Metric.ACCURACY, Verdict.VIOLATED)
    assert found.message == (
        "mse rises by 50% (95% interval 50% to 50%), at most 10% was promised; "
        "mse is 0.3 (95% interval 0.3 to 0.3), at most 0.5 was promised; "
        "accuracy is 99% (95% interval 94.6% to 99.8%), at least 90% was promised"
    )
