"""Folds: those that were published, session by session, and nothing else."""

import json

import numpy as np
import pandas as pd
import pytest

from utils.data.folds import session_folds, split_utterances
from utils.errors import UserError

# Test and validation sessions as published; those of validation in the order in which they were drawn.
PUBLISHED = {
    20: [
        ([8, 10, 14, 20], [6, 11]),
        ([9, 11, 15, 17], [10, 14]),
        ([2, 5, 6, 19], [14, 7]),
        ([1, 4, 13, 16], [7, 12]),
        ([3, 7, 12, 18], [15, 16]),
    ],
    40: [
        ([10, 15, 16, 17, 19, 24, 30, 31], [8, 33]),
        ([2, 8, 20, 25, 27, 32, 38, 39], [28, 10]),
        ([1, 5, 9, 11, 22, 29, 34, 35], [4, 38]),
        ([6, 14, 18, 21, 26, 33, 37, 40], [36, 25]),
        ([3, 4, 7, 12, 13, 23, 28, 36], [32, 11]),
    ],
}


@pytest.mark.parametrize("count", PUBLISHED)
def test_published_folds(count):
    folds = session_folds(range(1, count + 1))
    assert [(fold["test"], fold["valid"]) for fold in folds] == PUBLISHED[count]
    for fold in folds:
        assert list(fold) == ["train", "valid", "test"]
        assert sorted(fold["train"] + fold["valid"] + fold["test"]) == list(range(1, count + 1))


@pytest.mark.parametrize("sessions", [range(1, 7), [2, 3, 5, 8, 13, 21, 34], range(1, 41)])
@pytest.mark.parametrize("k_fold", [3, 4, 5])
def test_every_session_is_tested_once_and_never_also_trained_on(sessions, k_fold):
    folds = session_folds(sessions, k_fold)
    assert sorted(session for fold in folds for session in fold["test"]) == list(sessions)
    for fold in folds:
        assert sorted(fold["train"] + fold["valid"] + fold["test"]) == list(sessions)
        assert len(fold["valid"]) == 2 and fold["train"]
    # They depend on nothing but the sessions, and disturb nothing that the run draws.
    np.random.seed(99)
    state = np.random.get_state()[1].copy()
    assert session_folds(np.array(sessions)[::-1], k_fold) == json.loads(json.dumps(folds))
    assert (np.random.get_state()[1] == state).all()


def test_groups_may_have_names():
    names = [f"Ses{number:02d}" for number in range(1, 21)]
    for named, numbered in zip(session_folds(names), session_folds(range(1, 21))):
        assert named == {split: [names[number - 1] for number in numbers] for split, numbers in numbered.items()}


# The largest test split holds the sessions divided by the folds, rounded up; one or two more validate, one must be left.
@pytest.mark.parametrize("count, k_fold, valid", [(3, 3, 1), (4, 4, 1), (5, 5, 1), (5, 2, 1), (6, 5, 2), (6, 2, 2)])
def test_fewest_sessions(count, k_fold, valid):
    assert all(fold["train"] and len(fold["valid"]) == valid for fold in session_folds(range(1, count + 1), k_fold))


@pytest.mark.parametrize(
    "count, k_fold, way_out",
    [(0, 5, ""), (2, 2, ""), (3, 2, "3"), (4, 5, "4"), (10, 11, "5")],
)
def test_too_few_sessions_are_refused_with_their_number(count, k_fold, way_out):
    with pytest.raises(UserError, match=rf"\b{count} session.*\b{k_fold}\b") as caught:
        session_folds(range(1, count + 1), k_fold)
    assert f"--k_fold {way_out} would do" in str(caught.value) if way_out else "would do" not in str(caught.value)
    if way_out:
        session_folds(range(1, count + 1), int(way_out))
    with pytest.raises(UserError, match="--k_fold 1: at least 2"):
        session_folds(range(1, 21), 1)


def test_utterances_fall_into_exactly_one_split():
    table = pd.DataFrame({"segment_id": [f"id{index}" for index in range(60)], "session": np.repeat(np.arange(1, 7), 10)})
    for fold in session_folds(range(1, 7)):
        splits = split_utterances(table, fold)
        assert sorted(pd.concat(splits.values())["segment_id"]) == sorted(table["segment_id"])
        for split, part in splits.items():
            assert set(part["session"]) == set(fold[split]) and list(part.index) == list(range(len(part)))
