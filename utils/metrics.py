"""Scores of a model on a split, and calibration of its probabilities."""

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

AVERAGES = ("micro", "macro", "weighted")
# Equal-width bins of the top probability, for the expected calibration error.
BINS = 15
# Bounds of the temperature: if every validation utterance is correct, the likelihood has no maximum.
TEMPERATURES = 0.05, 20.0


def f1_scores(labels, predicted):
    """Micro, macro and weighted F1 of class indices (n,), as scikit-learn defines them.

    Macro F1 averages over the classes that occur among labels or predictions, as the published scores do.
    """
    return {f"f1_{average}": float(f1_score(labels, predicted, average=average, zero_division=0)) for average in AVERAGES}


def test_scores(labels, predicted, names):
    """All scores of a test split in metrics.json.

    Args:
        labels, predicted: class indices (n,).
        names: class names.

    Returns:
        A dictionary: ``n``, the F1 scores, ``ua`` and ``wa``, ``per_class`` (precision, recall, F1 and support of every class)
        and ``confusion_matrix`` (rows are true classes, columns predicted ones, in the order of ``names``).
    """
    classes = range(len(names))
    columns = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    per_class = {
        name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
        for name, p, r, f, n in zip(names, *columns)
    }
    f1 = f1_scores(labels, predicted)
    return {
        "n": len(labels),
        **f1,
        **accuracies(f1 | {"per_class": per_class}),
        "per_class": per_class,
        "confusion_matrix": confusion_matrix(labels, predicted, labels=classes).tolist(),
    }


def accuracies(test):
    """Unweighted and weighted accuracy from test scores, for older runs whose metrics.json lacks them.

    Returns:
        ``ua``, the mean recall over the classes that occur in the split (absent without ``per_class``), and ``wa``, the
        fraction of correct predictions, which equals micro F1.
    """
    recalls = [of["recall"] for of in occurring(test)]
    return {**({"ua": sum(recalls) / len(recalls)} if recalls else {}), "wa": test["f1_micro"]}


def occurring(test):
    """``per_class`` scores of the classes that occur among the labels."""
    return [of for of in test.get("per_class", {}).values() if of["support"]]


def matrix_scores(matrices):
    """Weighted and macro F1, UA and WA of confusion matrices (..., classes, classes), rows true: ``{name: (...)}``.

    The same as in ``test_scores``, vectorized over many matrices.
    """
    matrices = np.asarray(matrices, dtype=float)
    support, predicted = matrices.sum(axis=-1), matrices.sum(axis=-2)
    right = np.diagonal(matrices, axis1=-2, axis2=-1)
    recall, f1 = right / np.maximum(support, 1), 2 * right / np.maximum(support + predicted, 1)
    return {
        "f1_weighted": (f1 * support).sum(axis=-1) / support.sum(axis=-1),
        "f1_macro": f1.sum(axis=-1) / (support + predicted > 0).sum(axis=-1),
        "ua": recall.sum(axis=-1) / (support > 0).sum(axis=-1),
        "wa": right.sum(axis=-1) / support.sum(axis=-1),
    }


def majority_scores(train_counts, test_counts):
    """``matrix_scores`` of always predicting the training split's majority class.

    Args:
        train_counts, test_counts: utterances by class, in class order; ties are resolved in favour of the first.
    """
    names = list(train_counts)
    matrix = np.zeros((len(names), len(names)))
    matrix[:, names.index(max(names, key=lambda name: train_counts[name]))] = [test_counts[name] for name in names]
    return {name: float(score) for name, score in matrix_scores(matrix).items()}


def softmax(logits):
    """Class probabilities from logits (n, classes)."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def fit_temperature(logits, labels):
    """The temperature T that maximises the likelihood of labels (n,) under softmax(logits / T) (Guo et al. 2017).

    Args:
        logits: (n, classes), on a held-out split.
        labels: class indices (n,).
    """

    def loss(log_temperature):
        probabilities = softmax(logits / np.exp(log_temperature))
        return -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], np.finfo(float).tiny)).mean()

    return float(np.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded").x))


def calibration_error(probabilities, labels):
    """Expected calibration error: the mean of |accuracy - mean top probability| over 15 equal bins of the top probability.

    Args:
        probabilities: (n, classes).
        labels: class indices (n,).
    """
    top, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.minimum((top * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=right - top, minlength=BINS)
    return float(np.abs(gaps).sum() / len(labels))
