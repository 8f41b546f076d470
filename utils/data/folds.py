"""Session-wise folds, exactly as published: they come from seed 12, whatever seed a run has."""

import numpy as np
from sklearn.model_selection import KFold

from utils.errors import UserError

FOLD_SEED = 12
VALID_SESSIONS = 2
SPLITS = ("train", "valid", "test")


def session_folds(sessions, k_fold=5):
    """Divide sessions into folds, so that no speaker of a test session is heard in training.

    Args:
        sessions: session numbers, in any order.
        k_fold: number of folds; every session is in the test split of exactly one.

    Returns:
        A list of ``k_fold`` dictionaries ``{"train": [...], "valid": [...], "test": [...]}`` of session numbers. Test
        sessions come from scikit-learn's ``KFold(k_fold, shuffle=True, random_state=12)`` over the sorted sessions; two
        validation sessions are drawn from the rest by ``RandomState(12 + fold).choice``, in the order drawn.

    Raises:
        UserError: if there are too few sessions to leave one for training in every fold.
    """
    sessions = np.array(sorted(sessions))
    if k_fold < 2:
        raise UserError(f"--k_fold {k_fold}: at least 2 folds are needed")
    largest_test = -(-len(sessions) // k_fold)
    if len(sessions) < k_fold or len(sessions) - largest_test - VALID_SESSIONS < 1:
        raise UserError(
            f"{len(sessions)} sessions are too few for {k_fold} folds: every fold needs at least one session for testing, "
            f"{VALID_SESSIONS} for validation and one for training"
        )
    folds = []
    splits = KFold(k_fold, shuffle=True, random_state=FOLD_SEED).split(sessions)
    for fold, (train_indices, test_indices) in enumerate(splits):
        train = sessions[train_indices]
        valid = np.random.RandomState(FOLD_SEED + fold).choice(train, VALID_SESSIONS, replace=False)
        folds.append(
            {
                "train": [int(session) for session in train if session not in valid],
                "valid": [int(session) for session in valid],
                "test": [int(session) for session in sessions[test_indices]],
            }
        )
    return folds


def split_utterances(utterances, fold):
    """Divide a table of utterances by the session numbers of one fold: ``{"train": table, "valid": ..., "test": ...}``."""
    return {split: utterances[utterances["session"].isin(fold[split])].reset_index(drop=True) for split in SPLITS}
