"""Folds over sessions, for KEMDy exactly as published: always from seed 12, independent of a run's seed."""

import hashlib

from utils.data import SPLITS
from utils.errors import UserError

FOLD_SEED = 12
# Validation sessions, and the total number of sessions up to which only one is used.
VALID_SESSIONS, FEW_SESSIONS = 2, 5


def session_folds(sessions, k_fold=5):
    """Divide sessions into folds, so that no speaker of a test session occurs in training.

    Args:
        sessions: session numbers or names of other groups, in any order.
        k_fold: number of folds; every session is in the test split of exactly one.

    Returns:
        A list of ``k_fold`` dictionaries ``{"train": [...], "valid": [...], "test": [...]}`` of sessions. Test sessions come
        from scikit-learn's ``KFold(k_fold, shuffle=True, random_state=12)`` over the sorted sessions; two validation sessions
        (one if there are five sessions or fewer) are drawn from the rest by ``RandomState(12 + fold).choice``, in the order
        drawn.

    Raises:
        UserError: if there are too few sessions to leave one for training in every fold.
    """
    import numpy as np
    from sklearn.model_selection import KFold

    sessions = np.array(sorted(sessions))
    if k_fold < 2:
        raise UserError(f"--k_fold {k_fold}: at least 2 folds are needed")
    validating = VALID_SESSIONS if len(sessions) > FEW_SESSIONS else 1
    largest_test = -(-len(sessions) // k_fold)
    if len(sessions) < k_fold or len(sessions) - largest_test - validating < 1:
        hint = f"; --k_fold {min(len(sessions), 5)} would do" if len(sessions) > 2 else ""
        raise UserError(
            f"{len(sessions)} sessions (or groups of speakers) are too few for {k_fold} folds: every fold needs at least one "
            f"for testing, {validating} for validation and one for training{hint}"
        )
    folds = []
    for fold, (train, test) in enumerate(KFold(k_fold, shuffle=True, random_state=FOLD_SEED).split(sessions)):
        train = sessions[train]
        valid = np.random.RandomState(FOLD_SEED + fold).choice(train, validating, replace=False)
        folds.append(
            {"train": train[~np.isin(train, valid)].tolist(), "valid": valid.tolist(), "test": sessions[test].tolist()}
        )
    return folds


def kept_by_coin(segment_ids, seed):
    """Boolean array of the utterances kept by a seed's coin tosses; each depends only on the seed and the utterance's id."""
    import numpy as np

    digests = (hashlib.sha256(f"{seed}/{segment_id}".encode()).digest() for segment_id in segment_ids)
    return np.array([digest[0] % 2 == 0 for digest in digests], dtype=bool)


def split_utterances(utterances, fold):
    """Divide a table of utterances by the sessions of one fold: ``{"train": table, "valid": ..., "test": ...}``."""
    return {split: utterances[utterances["session"].isin(fold[split])].reset_index(drop=True) for split in SPLITS}
