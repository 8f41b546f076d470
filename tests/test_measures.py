"""Measures of continual learning on invented runs, worked by hand."""

import numpy as np
import pytest
from invented import FOUR, A, B, C, change_metrics, invent, three_tasks, two_tasks

from utils.results.measures import alpha_curve, lambda_curve, measures, over_orders, result_matrix
from utils.results.runs import Estimate, Results, combine, difference, find_runs, over_folds


def estimates(results, row, order):
    """(mean, standard deviation) of every measure that is more than a dash."""
    found = {name: over_folds(values) for name, values in measures(results, row, order, "f1_weighted").items()}
    return {name: (estimate.mean, estimate.std) for name, estimate in found.items() if estimate}


def close(expected):
    """Expected (mean, standard deviation), up to rounding."""
    return {name: pytest.approx(pair, abs=1e-12) for name, pair in expected.items()}


HALF = 0.1 / np.sqrt(2)  # standard deviation of two numbers .1 apart


def test_measures_of_two_tasks(tmp_path):
    two_tasks(tmp_path)
    results = Results(find_runs(tmp_path))
    assert results.orders == ((A, B), (B, A)) and results.rows == ("task_a", "finetune", "ewc", "adapter", "joint")
    floor = results.majority(B, "f1_weighted")[0]
    assert estimates(results, "finetune", (A, B)) == close(
        {
            "R[1,1]": (0.7, 0), "R[1,2]": (0.2, 0), "R[2,1]": (0.35, HALF), "R[2,2]": (0.8, 0), "ACC": (0.575, HALF / 2),
            "BWT": (-0.35, HALF), "FWT": (0.2 - floor, 0), "intransigence": (0.1, 0),
        }
    )  # fmt: skip
    assert estimates(results, "adapter", (A, B)) == close(
        {
            "R[1,1]": (0.65, 0), "R[2,1]": (0.65, 0), "R[2,2]": (0.8, HALF), "ACC": (0.725, HALF / 2), "BWT": (0, 0),
            "intransigence": (0.1, HALF),
        }
    )  # fmt: skip
    assert estimates(results, "joint", (A, B)) == close({"ACC": (0.81, 0)})
    # Over both orders, within a fold: here they have the same scores but for joint's.
    mean = over_orders(results, "finetune", [(A, B), (B, A)], "f1_weighted")
    assert mean["BWT"] == pytest.approx({(0, 12): -0.4, (1, 12): -0.3})
    assert mean["intransigence"] == pytest.approx({(0, 12): 0.01, (1, 12): 0.01})


def test_measures_of_three_tasks(tmp_path):
    three_tasks(tmp_path)
    results = Results(find_runs(tmp_path))
    assert results.orders == ((A, B, C),)
    assert estimates(results, "finetune", (A, B, C)) == close(
        {
            "R[1,1]": (0.7, 0), "R[1,2]": (0.2, 0), "R[2,1]": (0.85, HALF), "R[2,2]": (0.8, 0), "R[2,3]": (0.1, 0),
            "R[3,1]": (0.3, 0), "R[3,2]": (0.65, HALF), "R[3,3]": (0.7, 0), "ACC": (0.55, HALF / 3), "BWT": (-0.275, HALF / 2),
            "forgetting": (0.35, 0),  # from R[2,1], the best of task 1: .5 and .6; of task 2 .2 and .1
            "FWT": (-0.3, 0),  # the score of the majority class is .45
            "intransigence": (0.06, HALF / 2),  # .02 to joint on two tasks, .05 and .15 to joint on three
        }
    )  # fmt: skip
    adapter = estimates(results, "adapter", (A, B, C))
    assert {name: adapter[name] for name in ("ACC", "BWT", "forgetting", "intransigence")} == close(
        {"ACC": (0.75, 0), "BWT": (0, 0), "forgetting": (0, 0), "intransigence": (0.11, HALF / 2)}
    )
    matrix = result_matrix(results, "adapter", (A, B, C), "f1_weighted")
    assert {index for index, values in matrix.items() if not values} == {(1, 2), (1, 3), (2, 3)} and "FWT" not in adapter
    # The order in which joint was given its tasks means nothing, and a class that never occurs is none.
    assert estimates(results, "joint", (A, B, C)) == close({"ACC": ((0.88 + 0.8 + 0.8) / 3, HALF / 3)})
    assert results.labels(A) == tuple(FOUR)[:3]


def test_a_recipient_without_the_first_corpus_has_dashes(tmp_path):
    invent(tmp_path, "finetune", [A, B], {B: 0.8}, {B: 0.2})
    found = estimates(Results(find_runs(tmp_path)), "finetune", (A, B))
    assert found.keys() == {"R[1,2]", "R[2,2]", "FWT"}


def test_averages_are_over_seeds_within_folds_and_then_over_folds():
    scores = {(0, 12): 0.5, (0, 13): 0.7, (0, 14): 0.6, (1, 12): 0.2, (1, 13): 0.2}
    estimate = over_folds(scores)
    # Seed 14 is not that of every fold.
    assert estimate.per_fold == {0: 0.6, 1: 0.2} and estimate.seeds == (12, 13)
    assert (estimate.mean, estimate.std) == pytest.approx((0.4, np.std([0.6, 0.2], ddof=1)))
    assert over_folds({(0, 12): 0.5, (1, 13): 0.5}) is None and over_folds({}) is None
    assert Estimate({0: 0.5}).std is None and Estimate({0: 0.5}).interval is None


def test_differences_are_paired():
    ours, other = (0.70, 0.74, 0.69, 0.80, 0.71), (0.66, 0.71, 0.70, 0.69, 0.68)
    one, two = ({(fold, 12): score for fold, score in enumerate(of)} for of in (ours, other))
    assert over_folds(difference(one, two)).mean == pytest.approx(0.04)
    # How many utterances were trained on is not known here.
    assert over_folds(one).interval is None and over_folds(one, ratio=0.25).interval is not None
    del two[0, 12]
    assert difference(one, two).keys() == two.keys() and combine(max, one, two)[1, 12] == 0.74


def test_the_curve_along_lambda_is_of_runs_that_differ_in_it_alone(tmp_path):
    def add(experiment, score, ewc_lambda, fold=0, lr=0.1):
        flags = {"ewc_lambda": ewc_lambda, "lr": lr}
        invent(tmp_path, experiment, [A, B], {A: score, B: 0.9}, fold=fold, method="ewc", arguments=flags)

    add("weak", 0.5, 10.0)
    add("a name of my own", 0.6, 1000.0)
    add("other rate", 0.9, 5.0, lr=0.2)
    for fold in (0, 1):
        add("ewc", 0.55, 100.0, fold)
        invent(tmp_path, "finetune", [A, B], {A: 0.3 + fold / 2, B: 0.9}, fold=fold)
    curve, others = lambda_curve(Results(find_runs(tmp_path)), (A, B), "f1_weighted")
    # On the fold that all share; the row of ewc is a point too, and finetune is that fold's.
    assert {value: pair[0].per_fold for value, pair in curve.items()} == {10: {0: 0.5}, 100: {0: 0.55}, 1000: {0: 0.6}}
    assert list(others) == ["finetune"] and others["finetune"][0].per_fold == {0: 0.3}
    assert lambda_curve(Results(find_runs(tmp_path)), (B, A), "f1_weighted") == ({}, {})


def test_combined_models_are_compared_with_the_single_one_after_the_first_task(tmp_path):
    two_tasks(tmp_path)
    for fold in (0, 1):
        invent(tmp_path, "adapter_routed", [A, B], {A: 0.6, B: 0.7}, fold=fold)
        invent(tmp_path, "wise_ft", [A, B], {A: 0.5, B: 0.75}, fold=fold)
    results = Results(find_runs(tmp_path))
    routed = estimates(results, "adapter_routed", (A, B))
    assert {name: routed[name] for name in ("R[1,1]", "R[2,1]", "R[2,2]", "ACC", "BWT", "intransigence")} == close(
        {
            "R[1,1]": (0.65, 0), "R[2,1]": (0.6, 0), "R[2,2]": (0.7, 0), "ACC": (0.65, 0), "BWT": (-0.05, 0),
            "intransigence": (0.2, 0),
        }
    )  # fmt: skip
    # One set of adapters serves both orders.
    assert estimates(results, "adapter_routed", (B, A))["R[2,1]"] == (0.7, 0)
    wise = estimates(results, "wise_ft", (A, B))
    assert {name: wise[name] for name in ("R[1,1]", "R[1,2]", "R[2,1]", "BWT")} == close(
        {"R[1,1]": (0.7, 0), "R[1,2]": (0.2, 0), "R[2,1]": (0.5, 0), "BWT": (-0.2, 0)}
    )


def test_the_curve_along_alpha_is_on_the_folds_and_seeds_of_lambda(tmp_path):
    def add(fold, score):
        path = invent(tmp_path, "wise_ft_tuned", [A, B], {A: 0.5, B: 0.5}, fold=fold, arguments={"alpha": fold / 2})
        points = [
            {"alpha": at, "test": {A: {"f1_weighted": score - at / 10}, B: {"f1_weighted": at}}} for at in (0.0, 0.5, 1.0)
        ]
        change_metrics(path, along_alpha=points)

    add(0, 0.8)
    add(1, 0.4)
    curve, _ = alpha_curve(Results(find_runs(tmp_path)), (A, B), "f1_weighted")
    assert list(curve) == [0.0, 0.5, 1.0] and curve[0.5][0].per_fold == pytest.approx({0: 0.75, 1: 0.35})
    for value in (1.0, 10.0):
        invent(tmp_path, f"ewc{value}", [A, B], {A: 0.5, B: 0.5}, fold=1, method="ewc", arguments={"ewc_lambda": value})
    curve, _ = alpha_curve(Results(find_runs(tmp_path)), (A, B), "f1_weighted")
    assert curve[1.0][0].per_fold == pytest.approx({1: 0.3}) and curve[1.0][1].per_fold == {1: 1.0}
    for value in (1.0, 10.0):
        about = {"method": "ewc", "arguments": {"ewc_lambda": value}, "seed": 13}
        invent(tmp_path, f"ewc{value}", [A, B], {A: 0.5, B: 0.5}, fold=1, **about)
    assert alpha_curve(Results(find_runs(tmp_path)), (A, B), "f1_weighted") == ({}, {})
