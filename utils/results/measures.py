"""Measures of continual learning for a sequence of T tasks, from the runs' test scores.

R[i,j] is the score on task j's test split after learning task i (Lopez-Paz & Ranzato 2017, section 3), with tasks 1 to T in
learning order.
"""

from collections import defaultdict

from utils.methods import ALONE, COMBINED, JOINT, SEQUENCE
from utils.results.runs import LABELS, combine, difference, is_lambda_point, mean, run_differences

LAMBDA = {"--ewc_lambda"}


def formulas(tasks):
    """The measures of a sequence of this many tasks, with their definitions, ``{name: sentence}``."""
    if tasks == 2:
        return {
            "ACC": "ACC = (R[2,1] + R[2,2]) / 2, the mean of the last row (Lopez-Paz & Ranzato 2017).",
            "BWT": "BWT, backward transfer = R[2,1] - R[1,1]; below 0 is forgetting (Lopez-Paz & Ranzato 2017).",
            "FWT": "FWT, forward transfer = R[1,2] - majority's score on task 2 (Lopez-Paz & Ranzato 2017).",
            "intransigence": "intransigence = joint's score on task 2 - R[2,2]; above 0, task 2 is learned less well than by "
            "the model of both at once (Chaudhry et al. 2018).",
        }
    return {
        "ACC": f"ACC = mean of R[{tasks},j] over all tasks j (Lopez-Paz & Ranzato 2017).",
        "BWT": f"BWT, backward transfer = mean of R[{tasks},j] - R[j,j] over j < {tasks}; below 0 is forgetting (Lopez-Paz & "
        "Ranzato 2017).",
        "forgetting": f"forgetting = mean over j < {tasks} of the best R[l,j], j ≤ l < {tasks}, - R[{tasks},j] (Chaudhry et "
        "al. 2018).",
        "FWT": "FWT, forward transfer = mean of R[i-1,i] - majority's score on task i over i > 1 (Lopez-Paz & Ranzato 2017).",
        "intransigence": "intransigence = mean over i > 1 of the score on task i of joint, trained on tasks 1 to i, - R[i,i] "
        "(Chaudhry et al. 2018).",
    }


def result_matrix(results, row, order, metric):
    """R with indices from 1, ``{(i, j): {(fold, seed): score}}``; empty where nothing was measured.

    A run that learned task i is tested on tasks 1 to i, and so is the model it started from: row i, and R[i-1,i]. If the run
    did not test that model, R[i-1,i] comes from the model's own tests. With one model per task, later tasks do not change a
    model, so that R[i,j] = R[j,j] for j < i, and there is no R[i,j] for j > i. Combined models exist from the second task on:
    row 1 is that of the method whose models are combined.

    Args:
        results: Results.
        row: one of its rows.
        order: tasks in learning order.
        metric: as for ``Results.scores``.
    """
    tasks = range(1, len(order) + 1)
    matrix = {(i, j): {} for i in tasks for j in tasks}
    method = results.method(row)
    how = method.how
    if how == COMBINED and results.of_row(method.of):
        single = result_matrix(results, method.of, order, metric)
        matrix |= {(1, j): single[1, j] for j in tasks}
    for i, j in matrix:
        if how == ALONE and j <= i:
            matrix[i, j] = results.scores(row, order[j - 1 : j], order[j - 1], metric)
        elif how == SEQUENCE and j <= i > 1:
            matrix[i, j] = results.scores(row, order[:i], order[j - 1], metric)
        elif how == SEQUENCE and (j == i + 1 or i == j == 1):  # from the model that the next task's run started from
            matrix[i, j] = _before(results, row, order[: i + 1], order[j - 1], metric)
        elif how == COMBINED and j <= i > 1:
            matrix[i, j] = results.final_scores(row, order[:i], order[j - 1], metric)
    return matrix


def _before(results, row, sequence, tested, metric):
    """Scores of the starting models of a row's runs of a sequence."""
    keys = {run.key for run in results.of_row(row) if run.sequence == tuple(sequence)}
    start = results.scores(results.method(row).starts_from if len(sequence) == 2 else row, sequence[:-1], tested, metric)
    measured = results.scores(row, sequence, tested, metric, "test_before")
    return {key: score for key, score in (start | measured).items() if key in keys}


def measures(results, row, order, metric):
    """R's entries and the measures of ``formulas``, each ``{(fold, seed): number}``, computed within a fold and seed.

    joint has ACC only. Arguments are those of ``result_matrix``.
    """
    tasks = len(order)
    names = formulas(tasks)
    matrix = result_matrix(results, row, order, metric)
    quantities = {f"R[{i},{j}]": values for (i, j), values in matrix.items()} | {name: {} for name in names}
    if results.method(row).how == JOINT:
        return quantities | {"ACC": mean([results.final_scores(row, order, task, metric) for task in order])}
    last = {j: matrix[tasks, j] for j in range(1, tasks + 1)}
    earlier, later = range(1, tasks), range(2, tasks + 1)
    quantities["ACC"] = mean(list(last.values()))
    quantities["BWT"] = mean([difference(last[j], matrix[j, j]) for j in earlier])
    if "forgetting" in names:
        best = {j: combine(lambda *scores: max(scores), *(matrix[i, j] for i in range(j, tasks))) for j in earlier}
        quantities["forgetting"] = mean([difference(best[j], last[j]) for j in earlier])
    floor = {i: results.majority(order[i - 1], metric) for i in later}
    above = [{key: score - floor[i][key[0]] for key, score in matrix[i - 1, i].items() if key[0] in floor[i]} for i in later]
    quantities["FWT"] = mean(above)
    if results.joint:
        joint = {i: results.final_scores(results.joint, order[:i], order[i - 1], metric) for i in later}
        quantities["intransigence"] = mean([difference(joint[i], matrix[i, i]) for i in later])
    return quantities


def over_orders(results, row, orders, metric):
    """Each measure averaged over several orders of the same tasks, ``{name: {(fold, seed): number}}``."""
    of_orders = [measures(results, row, order, metric) for order in orders]
    return {name: mean([of[name] for of in of_orders]) for name in formulas(len(orders[0]))}


def lambda_curve(results, order, metric):
    """Scores on all tasks after the last one as a function of EWC's λ, with baselines.

    The points are the experiments that differ only in --ewc_lambda, on the folds and seeds that most of them share: otherwise
    two points could be means over different splits.

    Returns:
        (curve, others): ``{λ: [one Estimate per task]}`` in ascending order, and the same for the baselines, over the same
        folds and seeds. Both are empty if there are fewer than two values of λ.
    """
    of_row, alike = defaultdict(list), []
    for run in results.runs:
        if run.sequence == tuple(order) and is_lambda_point(run):
            of_row[run.experiment].append(run)
    for row, runs in of_row.items():
        family = next((rows for rows in alike if not run_differences(of_row[rows[0]][0], runs[0], LAMBDA | LABELS)), None)
        family.append(row) if family else alike.append([row])
    best, keys = {}, set()
    for rows in alike:
        keys_of = {row: {run.key for run in of_row[row]} for row in rows}
        for shared in (set.intersection(*keys_of.values()), *keys_of.values()):
            # The first of two experiments with the same λ wins.
            points = {of_row[row][0].config["arguments"]["ewc_lambda"]: row for row in reversed(rows) if shared <= keys_of[row]}
            if shared and (len(points), len(shared)) > (len(best), len(keys)):
                best, keys = points, shared
    if len(best) < 2:
        return {}, {}

    curve = {value: _after_all(results, best[value], order, metric, keys) for value in sorted(best)}
    return curve, _baselines(results, order, metric, keys, but=best.values())


def _after_all(results, row, order, metric, keys):
    """A row's score on each task after the last one, over some folds and seeds."""
    found = {task: results.final_scores(row, order, task, metric) for task in order}
    return [
        results.estimate({key: score for key, score in scores.items() if key in keys}, [task]) for task, scores in found.items()
    ]


def _baselines(results, order, metric, keys, but=()):
    found = {row: _after_all(results, row, order, metric, keys) for row in results.baselines if row not in but}
    return {row: estimates for row, estimates in found.items() if all(estimates)}


def alpha_curve(results, order, metric):
    """Scores on all tasks as a function of α, the weight of the later model in the weighted mean of two models.

    Uses the folds and seeds of the curve along λ, if there is one.

    Returns:
        (curve, others): ``{α: [one Estimate per task]}`` in ascending order, and the baselines as for ``lambda_curve``. Both
        are empty if there are no such runs.
    """
    runs = {run.key: run for run in results.of_row("wise_ft_tuned") if run.sequence == tuple(order)}
    keys = runs.keys()
    if curve := lambda_curve(results, order, metric)[0]:
        some = next(iter(curve.values()))[0]
        keys = {(fold, seed) for fold in some.per_fold for seed in some.seeds}
    if not keys <= runs.keys():
        return {}, {}
    scores = defaultdict(lambda: [{} for _ in order])
    for key in sorted(keys):
        for point in runs[key].metrics["along_alpha"]:
            for of_task, task in zip(scores[point["alpha"]], order):
                of_task[key] = point["test"][task][metric]
    curve = {alpha: [results.estimate(of, [task]) for of, task in zip(of_tasks, order)] for alpha, of_tasks in scores.items()}
    return curve, _baselines(results, order, metric, keys) if curve else {}
