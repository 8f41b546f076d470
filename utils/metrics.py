"""Scores of one model on one split."""

import numpy as np
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

AVERAGES = ("micro", "macro", "weighted")


def f1_scores(labels, predicted):
    """Micro, macro and weighted F1 of class indices (n,), as scikit-learn defines them.

    Macro F1 averages over the classes that occur among labels or predictions, as the published scores do.
    """
    return {f"f1_{average}": float(f1_score(labels, predicted, average=average, zero_division=0)) for average in AVERAGES}


def test_scores(labels, predicted, names):
    """Everything that metrics.json says of a test split.

    Args:
        labels, predicted: class indices (n,).
        names: of the classes.

    Returns:
        A dictionary: ``n``, the F1 scores, ``per_class`` (precision, recall, F1 and support of every class) and
        ``confusion_matrix`` (rows are true classes, columns predicted ones, in the order of ``names``).
    """
    classes = range(len(names))
    columns = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    per_class = {
        name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
        for name, p, r, f, n in zip(names, *columns)
    }
    return {
        "n": len(labels),
        **f1_scores(labels, predicted),
        "per_class": per_class,
        "confusion_matrix": confusion_matrix(labels, predicted, labels=classes).tolist(),
    }


def majority_scores(train_counts, test_counts):
    """F1 on a test split of always predicting the training split's majority class.

    Args:
        train_counts, test_counts: utterances by class, in the classes' order; of equals the first is the majority.
    """
    names = list(train_counts)
    majority = names.index(max(names, key=lambda name: train_counts[name]))
    labels = np.repeat(np.arange(len(names)), [test_counts[name] for name in names])
    return f1_scores(labels, np.full_like(labels, majority))


def softmax(logits):
    """Class probabilities from logits (n, classes)."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)
