"""Intervals, tests and resampling for scores of folds that share training data, as pure functions."""

from math import comb

import numpy as np
from scipy import stats

from utils.metrics import matrix_scores

CONFIDENCE = 0.95
# With fewer folds there is no interval: with one degree of freedom it is uninformative.
FEWEST_FOLDS = 3
# Region of practical equivalence: ± this difference.
NEGLIGIBLE = 0.01
RESAMPLES = 2_000


def standard_error(values, ratio):
    """Standard error of a mean over folds, corrected for the training data that folds share (Nadeau & Bengio 2003).

    Args:
        values: one number per fold, at least two.
        ratio: ratio of a fold's test to its training utterances.

    Returns:
        The square root of the variance (n − 1) × (1 / n + ratio), instead of the variance / n without the correction.
    """
    return float(np.sqrt(np.var(values, ddof=1) * (1 / len(values) + ratio)))


def interval(values, ratio):
    """Bounds of the 95 % confidence interval of a mean over folds, by Student's t and ``standard_error``."""
    mean = np.mean(values)
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * standard_error(values, ratio)
    return float(mean - reach), float(mean + reach)


def p_value(values, ratio):
    """Two-sided p-value for a mean over folds of 0, by Student's t and ``standard_error``.

    If all folds have the same value, it is 1 if that value is 0, else 0.
    """
    mean, error = np.mean(values), standard_error(values, ratio)
    return float(2 * stats.t.sf(abs(mean) / error, len(values) - 1)) if error else float(mean == 0)


def probability_within(values, ratio, bound=NEGLIGIBLE):
    """Probability that a mean difference is within ± ``bound``, by the Bayesian correlated t-test (Benavoli et al. 2017).

    The posterior is Student's t with n − 1 degrees of freedom, centred at the mean, with scale ``standard_error``.
    """
    mean, error = np.mean(values), standard_error(values, ratio)
    if not error:
        return float(abs(mean) <= bound)
    low, high = stats.t.cdf(((-bound - mean) / error, (bound - mean) / error), len(values) - 1)
    return float(high - low)


def holm(p_values):
    """p-values adjusted for multiple comparisons by Holm's step-down method (1979), in the given order."""
    order = np.argsort(p_values, kind="stable")
    steps = np.array(p_values, dtype=float)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted.tolist()


def bootstrap(folds, metric):
    """Bounds of the 95 % percentile bootstrap interval of a score, from RESAMPLES resamples of the test splits' sessions.

    Args:
        folds: for each fold, a list over seeds of confusion matrices (sessions, classes, classes). The score is the mean over
            folds of the mean over seeds; all seeds of a fold use the same resamples.
        metric: one of METRIC_TITLES.
    """
    scores = []
    for number, seeds in enumerate(folds):
        n = len(seeds[0])
        counts = np.random.default_rng(number).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
        scores.append(np.mean([matrix_scores(np.tensordot(counts, of, axes=1))[metric] for of in seeds], axis=0))
    low, high = np.quantile(np.mean(scores, axis=0), ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return float(low), float(high)


def different_resamples(n):
    """The number of distinct resamples of n sessions."""
    return comb(2 * n - 1, n)
