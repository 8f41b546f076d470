"""Membership inference: scores of utterances, higher for those that a model was more likely trained on.

All are computed from φ = log p_y − log(1 − p_y), where p_y is the probability of an utterance's true class (Carlini et al.
2022, section V). ``out`` is φ under models not trained on an utterance, ``inside`` under models trained on it, both (models,
utterances), NaN where a model must not be used for an utterance. An utterance lacking the models for an attack gets NaN.
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
# Minimum models for the online attack, and for a σ per utterance in it instead of one σ for all.
FEWEST_ONLINE, FEWEST_FOR_OWN_SIGMA = 16, 64


def confidence(logits, labels):
    """φ in float64, computed from the logits, so that it is finite where p_y rounds to 1.

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
    """φ itself, which ranks utterances like their loss does (Yeom et al. 2018)."""
    return np.asarray(phi, dtype=np.float64)


def offset(phi, out):
    """φ minus its median under models not trained on the utterance (difficulty calibration, Watson et al. 2022)."""
    return phi - _median(out)


def lira_offline(phi, out):
    """(φ − μ_out) / σ, the offline likelihood-ratio attack (Carlini et al. 2022), with σ pooled over utterances.

    σ is pooled because a few models suffice to estimate an utterance's own mean but not its own variance.
    """
    return (phi - _mean(out)) / _common_sigma(out)


def lira_online(phi, inside, out):
    """log N(φ; μ_in, σ_in) − log N(φ; μ_out, σ_out), the online likelihood-ratio attack (Carlini et al. 2022).

    With fewer than FEWEST_FOR_OWN_SIGMA models, σ_in and σ_out are pooled over utterances.
    """
    sigma_of = _own_sigma if len(out) >= FEWEST_FOR_OWN_SIGMA else _common_sigma
    densities = []
    for values in (inside, out):
        sigma = sigma_of(values)
        densities.append(-np.log(sigma) - (phi - _mean(values)) ** 2 / (2 * sigma**2))
    return densities[0] - densities[1]


def rmia(phi, out, population, population_out, a=0.3, gamma=1.0):
    """Fraction of a population with (p(x) / p̄(x)) / (p(z) / p̄(z)) ≥ γ (Zarifzadeh et al. 2024, offline).

    p is the probability of the true class, and p̄ = ½ ((1 + a) mean of p under ``out`` + 1 − a) estimates its mean over models
    trained with and without the utterance.

    Args:
        phi, out: for the utterances x.
        population, population_out: the same for utterances z that the attacked model was not trained on; those without an
            out-model are excluded.
        a, gamma: as in the paper; a = 1 assumes that models gain nothing from training on an utterance.
    """
    of_x, of_z = (
        _sigmoid(of) / (0.5 * ((1 + a) * _mean(_sigmoid(by)) + 1 - a)) for of, by in ((phi, out), (population, population_out))
    )
    of_z = np.sort(gamma * of_z[~np.isnan(of_z)])
    if not len(of_z):
        return np.full(len(of_x), np.nan)
    return np.where(np.isnan(of_x), np.nan, np.searchsorted(of_z, of_x, side="right") / len(of_z))


def _sigmoid(phi):
    return np.exp(np.minimum(phi, 0)) / (1 + np.exp(-np.abs(phi)))  # avoids overflow


def _mean(values):
    """Mean of each column, ignoring NaN."""
    return _divided(np.nansum(values, axis=0), (~np.isnan(values)).sum(axis=0))


def _median(values):
    """Median of each column, ignoring NaN."""
    ordered = np.sort(values, axis=0)  # NaN last
    known = (~np.isnan(values)).sum(axis=0)
    columns = np.arange(ordered.shape[1])
    # For a column without values this is NaN.
    return 0.5 * (ordered[np.maximum(known - 1, 0) // 2, columns] + ordered[known // 2 * (known > 0), columns])


def _common_sigma(values):
    """Pooled standard deviation of all values about their column means; NaN if no column has two different values."""
    known = ~np.isnan(values)
    return _root(_divided(np.nansum((values - _mean(values)) ** 2), known.sum() - known.any(axis=0).sum()))


def _own_sigma(values):
    """Standard deviation of each column; NaN without two different values."""
    return _root(_divided(np.nansum((values - _mean(values)) ** 2, axis=0), (~np.isnan(values)).sum(axis=0) - 1))


def _root(variance):
    return np.sqrt(np.where(variance > 0, variance, np.nan))


def _divided(sums, counts):
    """Elementwise quotients, NaN where a count is not positive."""
    return sums / np.where(np.asarray(counts) > 0, counts, np.nan)
