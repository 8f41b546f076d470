"""How well attack scores separate members from non-members, as pure functions."""

import numpy as np

RESAMPLES = 2_000
# Minimum number of false positives for measuring at a false positive rate.
FEWEST_FALSE_POSITIVES = 10


def auc(members, others):
    """Probability that a member's score is above a non-member's; ties count as half."""
    return float(_wins(members, others).sum() / (len(members) * len(others)))


def _wins(members, others):
    """For each member, the number of others with a lower score; ties count as half."""
    ordered = np.sort(others)
    return (np.searchsorted(ordered, members, side="left") + np.searchsorted(ordered, members, side="right")) / 2


def roc(members, others):
    """False and true positive rates at all thresholds, from (0, 0) to (1, 1)."""
    thresholds = np.unique(np.concatenate([members, others]))[::-1]
    return tuple(
        np.concatenate([[0], len(of) - np.searchsorted(np.sort(of), thresholds, side="left")]) / len(of)
        for of in (others, members)
    )


def balanced_accuracy(members, others):
    """Mean of true positive and true negative rate, at the best threshold."""
    false, true = roc(members, others)
    return float((true + 1 - false).max() / 2)


def tpr_at(members, others, fpr):
    """The highest true positive rate at a false positive rate of at most ``fpr``.

    None if that rate allows fewer than FEWEST_FALSE_POSITIVES false positives: the threshold would depend on a few scores.
    """
    if len(others) < FEWEST_FALSE_POSITIVES / fpr:
        return None
    false, true = roc(members, others)
    return float(true[false <= fpr].max())


def session_auc(models, sessions):
    """AUC averaged over models, with its 95 % interval by resampling the sessions of a corpus.

    Utterances of a session are not independent: each of the RESAMPLES resamples draws whole sessions with replacement, the
    same for all models. A model without members, or without others, in a resample is excluded from its mean.

    Args:
        models: for each model (scores of members, their sessions, scores of others, their sessions), arrays.
        sessions: all sessions of the corpus.

    Returns:
        (mean, low, high), the bounds as percentiles; low and high are None if the members, or the others, of all models are
        from a single session, which does not generalize to other sessions.
    """
    sessions = np.unique(np.asarray(sessions))
    members, others = (np.unique(np.concatenate([model[part] for model in models])) for part in (1, 3))
    alone = min(len(members), len(others)) < 2
    resamples = np.full(len(sessions), 1 / len(sessions)), 0 if alone else RESAMPLES
    counts = np.random.default_rng(0).multinomial(len(sessions), *resamples)
    counts = np.vstack([np.ones(len(sessions)), counts])  # first row: the corpus itself
    aucs = []
    for scores, at, other_scores, other_at in models:
        at, other_at = (np.searchsorted(sessions, of) for of in (at, other_at))
        wins = np.zeros((len(sessions), len(sessions)))
        for session in np.unique(other_at):
            wins[:, session] = np.bincount(at, _wins(scores, other_scores[other_at == session]), len(sessions))
        n, m = (np.bincount(of, minlength=len(sessions)) for of in (at, other_at))
        pairs = (counts @ n) * (counts @ m)
        aucs.append((counts @ wins * counts).sum(axis=1) / np.where(pairs > 0, pairs, np.nan))
    sums, known = np.nansum(aucs, axis=0), (~np.isnan(aucs)).sum(axis=0)
    means = sums[known > 0] / known[known > 0]
    return float(means[0]), *((None, None) if alone else map(float, np.quantile(means[1:], (0.025, 0.975))))


def epsilon_bound(right, guesses, confidence=0.999):
    """A lower bound of ε from guesses which utterances were in training (Steinke et al. 2023, Privacy Auditing with One Run).

    Each utterance was included independently with probability ½, and the choice of which to guess does not depend on it. If
    training is ε-differentially private, P[``right`` or more are right] ≤ P[Bin(guesses, e^ε / (1 + e^ε)) ≥ right]. For (ε, δ)
    there is an additional term of at most 2 δ times the number of utterances, which is neglected here.

    Returns:
        The largest ε for which this probability is at most 1 − ``confidence``; 0 if there is none.
    """
    from scipy.stats import beta

    if not right:
        return 0.0
    # The binomial tail, as a function of the success probability, is the CDF of a beta distribution.
    probability = beta.ppf(1 - confidence, right, guesses - right + 1)
    return max(float(np.log(probability) - np.log1p(-probability)), 0.0)
