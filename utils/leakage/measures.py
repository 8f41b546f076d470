"""How well attack scores separate members from non-members. Plain functions of numbers."""

import numpy as np

RESAMPLES = 2_000
# A rate of false positives is measured where so many others would be taken for members.
FEWEST_FALSE_POSITIVES = 10


def auc(members, others):
    """Probability that a member's score is above another's; ties count a half."""
    return float(_wins(members, others).sum() / (len(members) * len(others)))


def _wins(members, others):
    """For each member how many others score lower, those that score the same counted half."""
    ordered = np.sort(others)
    return (np.searchsorted(ordered, members, side="left") + np.searchsorted(ordered, members, side="right")) / 2


def roc(members, others):
    """False and true positive rates at every threshold, from (0, 0) to (1, 1)."""
    thresholds = np.unique(np.concatenate([members, others]))[::-1]
    return tuple(
        np.concatenate([[0], len(of) - np.searchsorted(np.sort(of), thresholds, side="left")]) / len(of)
        for of in (others, members)
    )


def balanced_accuracy(members, others):
    """Mean of the rates of true positives and true negatives, at the threshold where it is highest."""
    false, true = roc(members, others)
    return float((true + 1 - false).max() / 2)


def tpr_at(members, others, fpr):
    """The highest true positive rate whose false positive rate is not above ``fpr``.

    None where fewer than FEWEST_FALSE_POSITIVES of the others are below that rate, so that the threshold rests on a few.
    """
    if len(others) < FEWEST_FALSE_POSITIVES / fpr:
        return None
    false, true = roc(members, others)
    return float(true[false <= fpr].max())


def session_auc(models, sessions):
    """AUC averaged over models, with its 95 % interval by resampling the sessions of a corpus.

    Utterances of a session are not independent: a resample takes whole sessions, RESAMPLES times with replacement, the same
    ones for all models. A model that has no members, or no others, in a resample is left out of its mean.

    Args:
        models: for each (scores of members, their sessions, scores of others, their sessions), arrays.
        sessions: all of the corpus.

    Returns:
        (mean, low, high), percentiles; low and high are None where the members, or the others, of all models are of one session
        together, which tells nothing of other sessions.
    """
    sessions = np.unique(np.asarray(sessions))
    members, others = (np.unique(np.concatenate([model[part] for model in models])) for part in (1, 3))
    alone = min(len(members), len(others)) < 2
    resamples = np.full(len(sessions), 1 / len(sessions)), 0 if alone else RESAMPLES
    counts = np.random.default_rng(0).multinomial(len(sessions), *resamples)
    counts = np.vstack([np.ones(len(sessions)), counts])  # first the corpus itself
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

    Each utterance was in with probability ½, independently, and which are guessed is chosen without knowing. If training is
    ε-differentially private, P[``right`` or more are right] ≤ P[Bin(guesses, e^ε / (1 + e^ε)) ≥ right]. Of (ε, δ) it holds but
    for a further term, at most 2 δ times the utterances, which is not counted here.

    Returns:
        The largest ε that would make this probability 1 − ``confidence`` or less; 0 where there is none.
    """
    from scipy.stats import beta

    if not right:
        return 0.0
    # The binomial tail as a function of its probability is the distribution of a beta variable.
    probability = beta.ppf(1 - confidence, right, guesses - right + 1)
    return max(float(np.log(probability) - np.log1p(-probability)), 0.0)
