"""Membership inference: scores of utterances, higher where a model was more likely trained on them.

All are formed from φ = log p_y − log(1 − p_y), p_y being the probability of an utterance's true class (Carlini et al. 2022,
section V). ``out`` is φ under models that did not train on an utterance, ``inside`` under models that did, both (models,
utterances), NaN where a model must not be used for an utterance. An utterance without the models that an attack needs gets NaN.
"""

import numpy as np

# Titles.
ATTACKS = {
    "threshold": "loss threshold",
    "offset": "offset",
    "lira_offline": "LiRA, offline",
    "lira_online": "LiRA, online",
    "rmia": "RMIA",
}
# With fewer models the online attack is not made, and with fewer than the second it takes one σ for all utterances.
FEWEST_ONLINE, FEWEST_FOR_OWN_SIGMA = 16, 64


def confidence(logits, labels):
    """φ in float64, from the logits themselves: finite where p_y rounds to 1.

    Args:
        logits: (utterances, classes).
        labels: indices of the true classes (utterances,).
    """
    logits = np.array(logits, dtype=np.float64)
    rows = np.arange(len(labels))
    true = logits[rows, labels]
    logits[rows, labels] = -np.inf
    top = logits.max(axis=1)
    return true - top - np.log(np.exp(logits - top[:, None]).sum(axis=1))


def threshold(phi):
    """φ itself, which orders utterances as their loss does (Yeom et al. 2018)."""
    return np.asarray(phi, dtype=np.float64)


def offset(phi, out):
    """φ less its median under models that did not train on the utterance (difficulty calibration, Watson et al. 2022)."""
    return phi - _median(out)


def lira_offline(phi, out):
    """(φ − μ_out) / σ, the offline likelihood-ratio attack (Carlini et al. 2022); σ is that of all utterances together.

    One σ for all, since a few models tell an utterance's own mean but not its own variance.
    """
    return (phi - _mean(out)) / _common_sigma(out)


def lira_online(phi, inside, out):
    """log N(φ; μ_in, σ_in) − log N(φ; μ_out, σ_out), the online likelihood-ratio attack (Carlini et al. 2022).

    Of fewer than FEWEST_FOR_OWN_SIGMA models, σ_in and σ_out are those of all utterances together.
    """
    sigma_of = _own_sigma if len(out) >= FEWEST_FOR_OWN_SIGMA else _common_sigma
    densities = []
    for values in (inside, out):
        sigma = sigma_of(values)
        densities.append(-np.log(sigma) - (phi - _mean(values)) ** 2 / (2 * sigma**2))
    return densities[0] - densities[1]


def rmia(phi, out, population, population_out, a=0.3, gamma=1.0):
    """Share of a population for which (p(x) / p̄(x)) / (p(z) / p̄(z)) ≥ γ (Zarifzadeh et al. 2024, offline).

    p is the probability of the true class, and p̄ = ½ ((1 + a) mean of p under ``out`` + 1 − a) estimates its mean over models
    with and without the utterance.

    Args:
        phi, out: of the utterances x.
        population, population_out: the same of utterances z that no model in question trained on; those without an out-model
            are left out.
        a, gamma: the paper's; a = 1 would be models that gain nothing by training on an utterance.
    """
    of_x, of_z = (
        _sigmoid(of) / (0.5 * ((1 + a) * _mean(_sigmoid(by)) + 1 - a)) for of, by in ((phi, out), (population, population_out))
    )
    of_z = np.sort(gamma * of_z[~np.isnan(of_z)])
    if not len(of_z):
        return np.full(len(of_x), np.nan)
    return np.where(np.isnan(of_x), np.nan, np.searchsorted(of_z, of_x, side="right") / len(of_z))


def _sigmoid(phi):
    return np.exp(np.minimum(phi, 0)) / (1 + np.exp(-np.abs(phi)))  # without an overflow


def _mean(values):
    """Of each column, over what is not NaN."""
    return _divided(np.nansum(values, axis=0), (~np.isnan(values)).sum(axis=0))


def _median(values):
    """As ``_mean``."""
    ordered = np.sort(values, axis=0)  # NaN last
    known = (~np.isnan(values)).sum(axis=0)
    columns = np.arange(ordered.shape[1])
    # Of a column without values this is NaN itself.
    return 0.5 * (ordered[np.maximum(known - 1, 0) // 2, columns] + ordered[known // 2 * (known > 0), columns])


def _common_sigma(values):
    """Standard deviation of all values about the means of their columns; NaN where no column has two that differ."""
    known = ~np.isnan(values)
    return _root(_divided(np.nansum((values - _mean(values)) ** 2), known.sum() - known.any(axis=0).sum()))


def _own_sigma(values):
    """Standard deviation of each column; NaN where it has not two values that differ."""
    return _root(_divided(np.nansum((values - _mean(values)) ** 2, axis=0), (~np.isnan(values)).sum(axis=0) - 1))


def _root(variance):
    return np.sqrt(np.where(variance > 0, variance, np.nan))


def _divided(sums, counts):
    """Their quotients, NaN where a count is not positive."""
    return sums / np.where(np.asarray(counts) > 0, counts, np.nan)
