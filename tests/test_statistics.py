"""Intervals, tests and resampling: numbers worked by hand, and those of baycomp 1.0.3."""

import json

import numpy as np
import pandas as pd
import pytest
from invented import A, B, C, change, invent
from scipy import stats

from utils.metrics import matrix_scores
from utils.metrics import test_scores as scores_of  # pytest would take it for a test
from utils.results.report import best_rows, bootstrap_tables, class_tables, measure_tables, occurring_tables, paired_tables
from utils.results.report import score_tables as tables_of_scores
from utils.results.runs import Results, find_runs
from utils.results.statistics import bootstrap, different_resamples, holm, interval, p_value, probability_within

# Mean .04; squared deviations 0 + .0001 + .0025 + .0049 + .0001 = .0076, so that the variance is .0019.
OURS, OTHER = (0.70, 0.74, 0.69, 0.80, 0.71), (0.66, 0.71, 0.70, 0.69, 0.68)
APART = np.subtract(OURS, OTHER)


def test_the_interval_and_p_are_corrected_for_shared_training_data():
    # .0019 × (1/5 + 1/4) = .000855, its square root .0292404; Student's t for 4 degrees of freedom 2.7764451.
    assert interval(APART, 1 / 4) == pytest.approx((0.04 - 0.0811844, 0.04 + 0.0811844), abs=1e-7)
    # t = .04 / .0292404 = 1.367971. With 4 degrees of freedom P(|t| > x) = 1 - s (3 - s²) / 2, s = x / √(4 + x²) = .564557:
    # 1 - .564557 × (3 - .318725) / 2 = .243133.
    assert p_value(APART, 1 / 4) == pytest.approx(0.243133, abs=2e-6)
    # Without shared training data it is the usual test.
    usual = stats.ttest_rel(OURS, OTHER)
    assert p_value(APART, 0) == pytest.approx(usual.pvalue)
    assert interval(APART, 0) == pytest.approx(tuple(usual.confidence_interval(0.95)))


def test_the_probability_of_a_negligible_difference_is_baycomps():
    # two_on_single(OTHER, OURS, rope=.01) = (.08122, .10022, .81855); its ratio is 1 / (folds - 1).
    assert probability_within(APART, 1 / 4) == pytest.approx(0.10022227696680364)
    # two_on_single of (.500 .505 .501 .504 .502) and (.503 .512 .498 .507 .511): (.00555, .93688, .05757).
    assert probability_within([0.003, 0.007, -0.003, 0.003, 0.009], 1 / 4) == pytest.approx(0.9368788151757155)


@pytest.mark.parametrize(("value", "p", "within"), [(0.0, 1, 1), (0.005, 0, 1), (-0.5, 0, 0)])
def test_one_difference_in_all_folds_is_certain(value, p, within):
    assert (p_value([value] * 5, 0.25), probability_within([value] * 5, 0.25)) == (p, within)
    assert interval([value] * 5, 0.25) == (value, value)


def test_holm():
    # .005 × 4, .01 × 3, .03 × 2, and .04 × 1, which is raised to the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1, 1] and holm([]) == []


def test_scores_of_confusion_matrices_are_those_of_the_labels():
    draw = np.random.default_rng(1)
    matrices, expected = [], []
    for labels, predicted in (draw.integers(3, size=(2, 9)) for _ in range(20)):
        test = scores_of(labels, predicted, ["a", "b", "c", "never"])
        matrices.append(test["confusion_matrix"])
        expected.append(test)
    for name, values in matrix_scores(matrices).items():
        assert values == pytest.approx([of[name] for of in expected]), name


def test_unweighted_accuracy_is_the_mean_recall_over_the_classes_that_occur():
    # Recalls 3/4 of a and 0 of b; c is only predicted. F1: a 2 × 3 / (4 + 4) = .75, b 0, and as published c 0 as well.
    test = scores_of([0, 0, 0, 0, 1], [0, 0, 0, 2, 0], ["a", "b", "c"])
    assert (test["ua"], test["wa"]) == (0.375, 0.6) == (0.375, test["f1_micro"])
    assert test["f1_macro"] == 0.25


def one_class_more(path, *predicted):
    """Give a run test scores on A of two utterances of a and one of b, and its predictions in three sessions."""
    names = json.loads((path / "config.json").read_text())["labels"]
    labels = [names[0], names[0], names[1]]
    test = scores_of([names.index(name) for name in labels], [names.index(name) for name in predicted], names)
    metrics = json.loads((path / "metrics.json").read_text())
    del test["ua"], test["wa"]  # as in runs of before
    (path / "metrics.json").write_text(json.dumps(metrics | {"test": {A: test}}))
    table = {"task": A, "segment_id": "x", "session": [1, 1, 2], "emotion": labels, "predicted": predicted}
    pd.DataFrame(table).to_csv(path / "predictions.csv", index=False)


def test_runs_of_before_get_their_accuracies_and_macro_f1_over_the_classes_that_occur(tmp_path):
    counts = {"a": 2, "b": 1, "c": 0}
    one_class_more(invent(tmp_path, "adapter", [A], {A: 0.5}, counts=counts), "a", "c", "b")
    invent(tmp_path, "task_a", [A], {A: 0.5}, counts=counts)
    results = Results(find_runs(tmp_path))
    assert results.scores("adapter", (A,), A, "ua") == {(0, 12): 0.75}
    assert results.scores("adapter", (A,), A, "wa") == {(0, 12): pytest.approx(2 / 3)}
    assert results.scores("adapter", (A,), A, "recall of a") == {(0, 12): 0.5}
    # F1 of a 2/3, of b 1, of c 0.
    (table,) = occurring_tables(results)
    assert table.rows["adapter"][f"{A}, as published"].mean == pytest.approx(5 / 9)
    assert table.rows["adapter"][f"{A}, occurring"].mean == pytest.approx(5 / 6)
    one_class_more(tmp_path / "adapter/fold_0" / A, "a", "b", "b")
    (tmp_path / "task_a/fold_0" / A / "metrics.json").unlink()
    assert occurring_tables(Results(find_runs(tmp_path))) == []


def test_the_bootstrap_resamples_sessions():
    # One utterance a session, and one of four is right: P(none) = .32, P(at most 2 of 4) = .949, P(at most 3) = .996.
    right, wrong = [[1, 0], [0, 0]], [[0, 1], [0, 0]]
    sessions = np.array([wrong, wrong, right, wrong])
    assert bootstrap([[sessions]], "wa") == (0, 0.75)
    # All sessions alike: nothing to vary; two seeds: their mean.
    assert bootstrap([[sessions[[0, 0]], sessions[[2, 2]]]], "wa") == (0.5, 0.5)
    varied = np.random.default_rng(1).integers(5, size=(4, 3, 3))
    low, high = bootstrap([[varied]], "f1_macro")
    assert low < matrix_scores(varied.sum(axis=0))["f1_macro"] < high and (low, high) == bootstrap([[varied]], "f1_macro")
    assert different_resamples(4) == 35 and different_resamples(2) == 3


def test_bootstrap_only_where_there_are_too_few_folds(tmp_path):
    counts = {"a": 2, "b": 1, "c": 0}
    for fold in range(2):
        one_class_more(invent(tmp_path, "adapter", [A], {A: 0.5}, counts=counts, fold=fold), "a", "a", "a")
        invent(tmp_path, "task_a", [A], {A: 0.5}, counts=counts, fold=fold)
    (table,) = bootstrap_tables(Results(find_runs(tmp_path)), "wa")
    cell = table.rows["adapter"][A]
    # The session of two is right, that of one is not: a fold's score is 0 (1 in 4), 2/3 or 1, and both are 0 in 1 of 16.
    assert cell.mean == pytest.approx(2 / 3) and cell.interval == (0, 1)
    assert table.rows["task_a"][A] is None  # no predictions
    assert any(f"2 test sessions, as of {A}, have only 3 different resamples." == note for note in table.notes)
    one_class_more(invent(tmp_path, "adapter", [A], {A: 0.5}, counts=counts, fold=2), "a", "a", "a")
    (table,) = bootstrap_tables(Results(find_runs(tmp_path)), "wa")
    assert table.rows["adapter"][A] is None


def five_folds(root, folds=5):
    """finetune on KEMDy20 after KEMDy19, OURS on KEMDy19, and adapter, OTHER on it; ratios 1/4 on KEMDy19, 1/2 on KEMDy20."""
    sizes = {A: ({"a": 3, "b": 5}, {"a": 1, "b": 1}), B: ({"a": 2, "b": 2}, {"a": 1, "b": 1})}
    for fold in range(folds):
        paths = [invent(root, "finetune", [A, B], {A: OURS[fold], B: 0.8}, {A: 0.9, B: 0.1}, fold, counts={"a": 1, "b": 1})]
        paths += [invent(root, "ewc", [A, B], {A: 0.4, B: 0.8}, {A: 0.9, B: 0.1}, fold, counts={"a": 1, "b": 1})]
        for task, score in ((A, OTHER[fold]), (B, 0.8)):
            paths.append(invent(root, "adapter", [task], {task: score}, fold=fold, counts={"a": 1, "b": 1}))
        for path in paths:
            corpora = json.loads((path / "config.json").read_text())["corpora"]
            for task, of in corpora.items():
                for split, labels in zip(("train", "test"), sizes[task]):
                    of["splits"][split]["labels"] = labels
            change(path, corpora=corpora)


def test_intervals_of_rows_and_differences(tmp_path):
    five_folds(tmp_path)
    results = Results(find_runs(tmp_path))
    assert results.ratio([A], {0, 1}) == 1 / 4 and results.ratio([A, B], {0}) == 1 / 2
    (scores,) = tables_of_scores(results, "f1_weighted")
    assert scores.rows["finetune"][A].interval == pytest.approx(interval(OURS, 1 / 4))
    tables = measure_tables(results, "f1_weighted")
    # Over both corpora the larger ratio: ACC = (R[2,1] + .8) / 2.
    acc = tables[0].rows["finetune"]["ACC"]
    assert acc.interval == pytest.approx(interval([(score + 0.8) / 2 for score in OURS], 1 / 2))
    assert tables[0].rows["finetune"]["R[2,1]"].interval == pytest.approx(interval(OURS, 1 / 4))
    to_finetune, to_adapter = paired_tables(results, "f1_weighted")
    assert list(to_finetune.rows) == ["ewc", "adapter"] and list(to_adapter.rows) == ["finetune", "ewc"]
    cell = to_adapter.rows["finetune"][f"{A} vs adapter"]
    assert cell.interval == pytest.approx((0.04 - 0.0811844, 0.04 + 0.0811844), abs=1e-7)
    assert (cell.p, cell.p_within) == pytest.approx((0.243133, 0.100222), abs=2e-6)
    # ewc's p is far below: finetune's stays, and ewc's is doubled.
    ewc = to_adapter.rows["ewc"][f"{A} vs adapter"]
    assert cell.p_holm == cell.p and ewc.p_holm == 2 * ewc.p < 0.05
    assert "Nadeau & Bengio 2003" in " ".join(to_adapter.notes) and "fewer than" not in " ".join(to_adapter.notes)


def test_two_folds_have_no_interval_and_the_caption_says_why(tmp_path):
    five_folds(tmp_path, folds=2)
    _, table = paired_tables(Results(find_runs(tmp_path)), "f1_weighted")
    cell = table.rows["finetune"][f"{A} vs adapter"]
    assert cell.mean == pytest.approx(0.035) and cell.interval is cell.p is cell.p_holm is cell.p_within is None
    assert "With fewer than 3 folds there is no interval" in table.notes[-1]


def test_the_best_of_a_column_and_all_that_are_not_worse(tmp_path):
    five_folds(tmp_path)
    for fold in range(5):
        invent(tmp_path, "joint", [A, B], {A: 0.99, B: 0.99}, fold=fold, counts={"a": 1, "b": 1})
    results = Results(find_runs(tmp_path))
    (scores,) = tables_of_scores(results, "f1_weighted")
    # The interval of finetune - adapter holds 0; joint is an upper bound.
    assert scores.best[A] == {"finetune", "adapter"}
    (measured, *_) = measure_tables(results, "f1_weighted")
    assert measured.best["R[2,1]"] == {"finetune", "adapter"} and measured.best["BWT"] == {"adapter"}
    values = {"one": {(fold, 12): 0.1 for fold in range(5)}, "two": {(fold, 12): 0.2 for fold in range(5)}}
    assert best_rows(results, values, [A]) == {"two"} and best_rows(results, values, [A], less_is_better=True) == {"one"}
    few = {row: {key: score for key, score in of.items() if key[0] < 2} for row, of in values.items()}
    assert best_rows(results, few, [A]) == set()
    # The best of all but the one that is on two folds alone.
    assert best_rows(results, values | {"few": {(0, 12): 0.9, (1, 12): 0.9}}, [A]) == {"two"}
    # A row with the best mean, but on other folds: the one that is better on the folds of both is not worse.
    easy = {(fold, 12): 0.5 for fold in range(3)}
    whole = {(fold, 12): (0.6, 0.6, 0.6, 0.1, 0.1)[fold] for fold in range(5)}
    assert best_rows(results, {"easy": easy, "whole": whole}, [A]) == {"easy", "whole"}


def test_recall_of_each_class_when_it_was_learned_and_after(tmp_path):
    recalls = {A: 0.9, B: 0.4}
    invent(tmp_path, "finetune", [A, B], {A: 0.8, B: 0.5}, {A: 0.9, B: 0.1})
    path = invent(tmp_path, "finetune", [A, B, C], {A: 0.3, B: 0.6, C: 0.7}, {A: 0.8, B: 0.5, C: 0.1})
    metrics = json.loads((path / "metrics.json").read_text())
    for task, recall in recalls.items():
        metrics["test"][task]["per_class"]["happy"]["recall"] = recall
    (path / "metrics.json").write_text(json.dumps(metrics))
    first, second = (table for table in class_tables(Results(find_runs(tmp_path))) if table.name == "recall")
    assert first.rows["finetune"]["happy"].mean == 0.9 and first.rows["finetune"]["sad"].mean == 0.3
    assert second.rows["finetune, learned"]["happy"].mean == 0.5
    assert second.rows["finetune, change"]["happy"].mean == pytest.approx(-0.1)
    assert first.rows["task_a"]["happy"].mean == 0.9  # as the first run tested the model that it started from
