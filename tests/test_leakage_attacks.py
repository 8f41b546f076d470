"""Attacks and measures of membership, against values worked out by hand."""

from math import exp, log, sqrt

import numpy as np
import pytest

from utils.leakage import attacks, measures

NAN = np.nan
# Three models, four utterances: two out-models each, one, none.
OUT = np.array([[1.0, 2.0, 5.0, NAN], [3.0, 6.0, NAN, NAN], [NAN, NAN, NAN, NAN]])
PHI = np.array([4.0, 3.0, 5.0, 1.0])


def test_confidence_is_the_logit_of_the_true_class_and_survives_saturation():
    logits = np.log([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]])
    assert attacks.confidence(logits, [0, 1]) == pytest.approx([log(0.5 / 0.5), log(0.8 / 0.2)])
    sure = attacks.confidence(np.float32([[90, 0], [120, 0], [0, 120]]), [0, 0, 0])
    assert sure.dtype == np.float64 and sure == pytest.approx([90, 120, -120])


def test_threshold_and_offset():
    assert attacks.threshold(PHI).tolist() == PHI.tolist()
    # Medians 2, 4, 5 and none.
    assert attacks.offset(PHI, OUT) == pytest.approx([2, -1, 0, NAN], nan_ok=True)
    assert attacks.offset(np.zeros(1), np.array([[1.0], [NAN], [9.0], [2.0]])) == pytest.approx([-2])


def test_offline_lira_takes_one_sigma_of_all_utterances():
    # Deviations from own means: −1, 1, −2, 2 and 0 of five values of three utterances: σ² = 10 / 2.
    expected = np.array([4 - 2, 3 - 4, 5 - 5, NAN]) / sqrt(5)
    assert attacks.lira_offline(PHI, OUT) == pytest.approx(expected, nan_ok=True)
    assert np.isnan(attacks.lira_offline(PHI, OUT[:1])).all()  # one model each tells no σ


def test_online_lira_compares_two_normal_densities():
    inside = np.array([[5.0, 4.0, NAN, NAN], [7.0, 4.0, 1.0, 2.0]])
    # σ_in² = (1 + 1) / (6 − 4), σ_out² = 5 as above.
    expected = [
        -((4 - 6) ** 2) / 2 - (-log(sqrt(5)) - (4 - 2) ** 2 / 10),
        -((3 - 4) ** 2) / 2 - (-log(sqrt(5)) - (3 - 4) ** 2 / 10),
        -((5 - 1) ** 2) / 2 - (-log(sqrt(5)) - (5 - 5) ** 2 / 10),
        NAN,
    ]
    assert attacks.lira_online(PHI, inside, OUT) == pytest.approx(expected, nan_ok=True)


def test_online_lira_has_a_sigma_an_utterance_with_enough_models():
    half = attacks.FEWEST_FOR_OWN_SIGMA // 2
    inside, out = np.full((2, 2 * half, 2), NAN)
    # Of the first utterance φ varies by ± 1, of the second by ± 3, around 2 and 0.
    signs = np.resize([1.0, -1.0], half)
    inside[:half] = 2 + np.outer(signs, [1, 3])
    out[half:] = np.outer(signs, [1, 3])
    variances = np.array([1, 9]) * half / (half - 1)
    assert attacks.lira_online(np.array([2.0, 2.0]), inside, out) == pytest.approx(2**2 / (2 * variances))


def test_rmia_is_the_share_of_the_population_that_is_less_likely_a_member():
    def logit(p):
        return log(p / (1 - p))

    # p̄ = ½ (1.3 mean_out + .7); of x: .9 / ½ (.78 + .7), .5 / ½ (.65 + .7), and no out-model.
    phi, out = np.array([logit(0.9), 0.0, 1.0]), np.array([[logit(0.7), 0.0, NAN], [logit(0.5), 0.0, NAN]])
    assert attacks.rmia(phi, out, phi[:1], out[:, :1]) == pytest.approx([1, 0, NAN], nan_ok=True)
    # Ratios of z: .2 / ½ (.26 + .7) = .417, .6 / ½ (.78 + .7) = .811 and one without an out-model; of x: 1.216 and .741.
    population = np.array([logit(0.2), logit(0.6), 3.0])
    population_out = np.array([[logit(0.2), logit(0.6), NAN]])
    assert attacks.rmia(phi, out, population, population_out) == pytest.approx([1, 0.5, NAN], nan_ok=True)
    assert attacks.rmia(phi, out, population, population_out, gamma=2) == pytest.approx([0.5, 0, NAN], nan_ok=True)
    assert np.isnan(attacks.rmia(phi, out, population[2:], population_out[:, 2:])).all()


MEMBERS, OTHERS = np.array([3.0, 2.0, 1.0]), np.array([2.0, 0.0])


def test_measures_of_one_model():
    assert measures.auc(MEMBERS, OTHERS) == pytest.approx((2 + 1.5 + 1) / 6)
    false, true = measures.roc(MEMBERS, OTHERS)
    assert false.tolist() == [0, 0, 0.5, 0.5, 1] and true == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])
    assert measures.balanced_accuracy(MEMBERS, OTHERS) == pytest.approx((1 + 0.5) / 2)


def test_a_rate_of_false_positives_takes_enough_others():
    others = np.arange(1000.0)
    # Ten of a thousand may lie at or above the threshold: 990 and more.
    members = np.array([990.0, 988.5, 1000.0, 5.0])
    assert measures.tpr_at(members, others, 0.01) == 0.5
    assert measures.tpr_at(members, others[1:], 0.01) is None and measures.tpr_at(members, others, 0.001) is None
    assert measures.tpr_at(members, np.arange(10_000.0), 0.001) == 0.0


def test_auc_over_sessions_is_that_of_all_pairs_averaged_over_models():
    rng = np.random.default_rng(1)
    sessions, models = np.array(list("abcdef")), []
    for shift in (0.0, 1.5):
        at = rng.integers(0, 4, 60), rng.integers(2, 6, 40)
        models.append((rng.normal(shift, size=60), sessions[at[0]], rng.normal(size=40), sessions[at[1]]))
    mean, low, high = measures.session_auc(models, sessions)
    assert mean == pytest.approx(np.mean([measures.auc(of[0], of[2]) for of in models]))
    assert low < mean < high and measures.session_auc(models, sessions) == (mean, low, high)


def test_a_resample_takes_whole_sessions():
    # Members of a are above and those of b below all others: a resample's AUC is its share of a among a and b.
    members, others = np.array([2.0, 2.0, 0.0, 0.0]), np.array([1.0, 1.0])
    model = members, np.array(list("aabb")), others, np.array(list("cd"))
    mean, low, high = measures.session_auc([model], list("abcd"))
    assert mean == 0.5 and (low, high) == (0, 1)
    of_one_session = members, np.array(list("aaaa")), others, np.array(list("cd"))
    assert measures.session_auc([of_one_session], list("abcd")) == (0.5, None, None)


def test_the_bound_of_epsilon_inverts_the_binomial_tail():
    from scipy.stats import binom

    for right, guesses in ((90, 100), (600, 1000)):
        epsilon = measures.epsilon_bound(right, guesses)
        assert binom.sf(right - 1, guesses, exp(epsilon) / (1 + exp(epsilon))) == pytest.approx(0.001)
    # Ten of ten: p^10 = .001.
    p = 0.001**0.1
    assert measures.epsilon_bound(10, 10) == pytest.approx(log(p / (1 - p)))
    assert measures.epsilon_bound(50, 100) == measures.epsilon_bound(0, 10) == measures.epsilon_bound(0, 0) == 0
    assert measures.epsilon_bound(90, 100, 0.9999) < measures.epsilon_bound(90, 100)
