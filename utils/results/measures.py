"""Measures of continual learning for two tasks, from the runs' test scores.

R[i,j] is the score on task j's test split after task i was learned (Lopez-Paz & Ranzato 2017, section 3), tasks 1 and 2
in the order in which they are learned.
"""

from collections import defaultdict

from utils.data.kemdy import CORPORA
from utils.results.runs import ADAPTERS, CONTINUAL, difference, is_lambda_run, over_folds, run_differences, scores
from utils.training.arguments import JOINT, other_task

# The corpora in both orders in which they can be learned.
ORDERS = tuple((task, other_task(task)) for task in CORPORA)
# Settings that learn one task after the other.
LEARNERS = (*CONTINUAL, *ADAPTERS)
FORMULAS = {
    "ACC": "ACC = (R[2,1] + R[2,2]) / 2, the mean of the last row (Lopez-Paz & Ranzato 2017).",
    "BWT": "BWT, backward transfer = R[2,1] - R[1,1]; below 0 is forgetting (Lopez-Paz & Ranzato 2017).",
    "intransigence": "intransigence = joint's score on task 2 - R[2,2]; above 0 is what learning task 2 lacks to the model of "
    "both at once (Chaudhry et al. 2018).",
}


def result_matrix(runs, method, first, second, metric):
    """R by its indices, ``{(i, j): {(fold, seed): score}}``.

    An adapter of the first task stays as it is while the second learns its own, so that R[2,1] = R[1,1]; R[1,2] does not
    exist, for there is no head for task 2 yet.

    Args:
        runs: from ``utils.results.runs.comparable_runs``.
        method: one of LEARNERS.
        first, second: the corpora in the order in which they are learned.
        metric: as in ``utils.results.runs.scores``.
    """
    if method in ADAPTERS:
        of_first, of_second = (scores(runs, method, task, task, metric) for task in (first, second))
        return {(1, 1): of_first, (1, 2): {}, (2, 1): of_first, (2, 2): of_second}
    return {
        (i, j): scores(runs, method, second, task, metric, when)
        for i, when in ((1, "test_before"), (2, "test"))
        for j, task in ((1, first), (2, second))
    }


def continual_measures(runs, method, first, second, metric):
    """R's four entries, ACC, BWT and intransigence of a method, each an Estimate or None.

    Every quantity is formed within a fold and seed, and averaged after that. Arguments are those of ``result_matrix``;
    ``joint`` as method has ACC alone.
    """
    joint = {task: scores(runs, JOINT, JOINT, task, metric) for task in (first, second)}
    if method == JOINT:
        quantities = {"ACC": _mean(joint[first], joint[second])}
    else:
        matrix = result_matrix(runs, method, first, second, metric)
        quantities = {f"R[{i},{j}]": values for (i, j), values in matrix.items()}
        quantities |= {
            "ACC": _mean(matrix[2, 1], matrix[2, 2]),
            "BWT": difference(matrix[2, 1], matrix[1, 1]),
            "intransigence": difference(joint[second], matrix[2, 2]),
        }
    names = ("R[1,1]", "R[1,2]", "R[2,1]", "R[2,2]", *FORMULAS)
    return {name: over_folds(quantities.get(name, {})) for name in names}


def lambda_curve(runs, first, second, metric):
    """Scores on both tasks after the second, along run-ewc-lambda.sh's grid, and for comparison.

    The runs of ewc itself are a point of the curve where they differ from the grid's in nothing but λ.

    Args:
        runs, first, second, metric: as for ``result_matrix``.

    Returns:
        (curve, others): ``{λ: (Estimate on the first task, Estimate on the second)}`` in ascending order, and the same for
        ``finetune`` and ``adapter``, over the folds and seeds of the grid. Both empty without a grid.
    """
    points = [run for run in runs if is_lambda_run(run) and run.task == second]
    keys = {run.key for run in points}
    for run in runs:
        if (run.method, run.task) == ("ewc", second) and points and not run_differences(points[0], run):
            if keys <= {other.key for other in runs if (other.method, other.task) == ("ewc", second)}:
                points.append(run)
    # On the folds and seeds that every λ has, or one point would be the mean over other splits than the next.
    of_lambda = defaultdict(set)
    for run in points:
        of_lambda[run.config["arguments"]["ewc_lambda"]].add(run.key)
    keys = set.intersection(*of_lambda.values()) if of_lambda else set()
    grid = {}
    for run in (run for run in points if run.key in keys):
        values = grid.setdefault(run.config["arguments"]["ewc_lambda"], ({}, {}))
        for of, task in zip(values, (first, second)):
            of[run.key] = run.metrics["test"][task][metric]
    others = {}
    for method in ("finetune", "adapter") if grid else ():
        matrix = result_matrix(runs, method, first, second, metric)
        pair = [over_folds({key: score for key, score in matrix[2, j].items() if key in keys}) for j in (1, 2)]
        if all(pair):
            others[method] = tuple(pair)
    return {value: tuple(map(over_folds, grid[value])) for value in sorted(grid)}, others


def _mean(one, other):
    return {key: (one[key] + other[key]) / 2 for key in one if key in other}
