"""The tables of evaluate.py, with captions and notes."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from utils.files import BEST_MODEL, DIGESTS
from utils.identity import FileDigests
from utils.methods import ALONE, COMBINED, JOINT, KEMDY, METHODS, SEQUENCE
from utils.results import CALIBRATION, METRIC_TITLES, OCCURRING, RECALL
from utils.results.measures import formulas, lambda_curve, measures, over_orders, result_matrix
from utils.results.runs import (
    LABELS,
    Bootstrapped,
    Estimate,
    common_seeds,
    difference,
    epochs_done,
    folder_size,
    run_differences,
)
from utils.results.statistics import FEWEST_FOLDS, RESAMPLES, bootstrap, different_resamples, holm
from utils.results.tables import Change, PairedDifference, Table

# Measures where lower is better.
LESS_IS_BETTER = ("forgetting", "intransigence")
SYNTHETIC = "SYNTHETIC corpora or encoders: a demonstration, not a result."


def listed(names):
    """Names as "a, b and c"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _numbers(values):
    return ", ".join(map(str, sorted(values)))


def then(order):
    """Format an order of tasks for titles."""
    return ", then ".join(order)


def views(results):
    """The tables of final scores: ``[(beginning of the title, [(task, order after which it is tested)])]``.

    One table covers both orders of the published study's corpora, with each corpus tested where it was learned first. Every
    other order gets a table of its own, and so do the tasks that are in no order.
    """
    found, others = [], [order for order in results.orders if set(order) != set(KEMDY)]
    if len(others) < len(results.orders):
        found.append((f"{listed(KEMDY)}: ", [(task, (task, *(other for other in KEMDY if other != task))) for task in KEMDY]))
    found += [(f"{then(order)}: ", [(task, order) for task in order]) for order in others]
    alone = tuple(task for task in results.tasks if not any(task in order for order in results.orders))
    if alone:
        found.append((f"{listed(alone)}: ", [(task, alone) for task in alone]))
    return found if others or len(found) > 1 else [("", columns) for _, columns in found]


def what_columns_are(results, columns):
    """A sentence that explains the columns of one of ``views``; none if no row learns tasks sequentially."""
    if not results.rows_that(lambda method: method.how == SEQUENCE):
        return []
    if len({order for _, order in columns}) > 1:
        return [
            "A column is the corpus tested: rows that learn one after the other learned it first, and their score is R[2,1]."
        ]
    return ["A column is the task tested, after the last was learned."]


def _titled(which, title):
    return f"{which}{title[0].lower()}{title[1:]}" if which else title


def _by_task(rows, columns, cells):
    """Rows of a table, with the dictionaries ``cells(row, task, order)`` of all (task, order) side by side."""
    return {row: {name: cell for column in columns for name, cell in cells(row, *column).items()} for row in rows}


def majority_estimate(results, task, metric):
    """The majority class's score on a task, as an Estimate; None if no run has the task."""
    floor = results.majority(task, metric)
    return Estimate(floor, ratio=results.ratio([task], floor.keys())) if floor else None


def score_tables(results, metric):
    """Test scores of all rows, with a lower reference (majority) and an upper one (joint)."""
    tables = []
    for which, columns in views(results):
        rows = {"majority": {task: majority_estimate(results, task, metric) for task, _ in columns}}
        values = {
            row: {task: results.final_scores(row, order, task, metric) for task, order in columns} for row in results.rows
        }
        for row, scores in values.items():
            rows[row] = {task: results.estimate(of, [task]) for task, of in scores.items()}
        learners = {row: values[row] for row in results.learners}
        best = {task: best_rows(results, {row: of[task] for row, of in learners.items()}, [task]) for task, _ in columns}
        title = _titled(which, f"Test {METRIC_TITLES[metric]}")
        how = _how_scores_are_read(results, learned_first=len({order for _, order in columns}) > 1)
        tables.append(Table("scores", title, "setting", rows, {"metric": metric}, how, 4, best=best))
    return tables


def best_rows(results, values, tasks, less_is_better=False):
    """The row with the best mean, and all rows not significantly worse by the interval of their paired difference to it.

    Args:
        values: ``{row: {(fold, seed): number}}``.
        tasks: as for ``Results.estimate``.

    Returns:
        A set of rows; empty if none has an interval.
    """
    estimates = {row: results.estimate(of, tasks) for row, of in values.items()}
    means = {row: of.mean for row, of in estimates.items() if of and of.interval}
    if not means:
        return set()
    best = (min if less_is_better else max)(means, key=means.get)

    def is_worse(row):
        apart = results.estimate(difference(values[row], values[best]), tasks)
        if not (apart and apart.interval):
            return True
        low, high = apart.interval
        # On the folds that both have, a row can be better than the one with the best mean.
        return low > 0 if less_is_better else high < 0

    return {best, *(row for row in means if not is_worse(row))}


def occurring_tables(results):
    """Macro F1 as published, and over the classes that occur in the test split; no tables if the two never differ."""
    tables, titles = [], {"f1_macro": "as published", OCCURRING: "occurring"}

    def both(row, task, order):
        values = {title: results.final_scores(row, order, task, metric) for metric, title in titles.items()}
        return {f"{task}, {title}": results.estimate(of, [task]) for title, of in values.items()}

    for which, columns in views(results):
        rows = _by_task(results.rows, columns, both)
        pairs = [(of[f"{task}, as published"], of[f"{task}, occurring"]) for of in rows.values() for task, _ in columns]
        if any(one and abs(one.mean - other.mean) > 1e-9 for one, other in pairs):
            notes = (
                "as published: the mean of F1 over the classes that occur among labels or predictions of the test split, as in "
                "all other tables; a class that is only predicted counts as 0. occurring: over those that occur among its "
                "labels.",
            )
            tables.append(Table("macro_occurring", _titled(which, "Macro F1 by two definitions"), "setting", rows, notes=notes))
    return tables


def bootstrap_tables(results, metric):
    """Bootstrap intervals from resampled sessions of the test splits, where there are too few folds for one over folds."""
    tables = []
    for which, columns in views(results):
        rows, sessions = {}, {}
        for row in results.rows:
            rows[row] = {}
            for task, order in columns:
                rows[row][task], counts = _bootstrapped(results, row, task, order, metric)
                for n in counts:
                    sessions.setdefault(n, {})[task] = None
        notes = [
            f"[2.5 %, 97.5 %] of {RESAMPLES:,} resamples of a test split's sessions, with replacement: how far the score "
            "depends on these sessions. It does not show how far it depends on the training data, for which it takes "
            f"{FEWEST_FOLDS} folds.",
        ]
        for n, tasks in sorted(sessions.items()):
            if (few := different_resamples(n)) < RESAMPLES:
                notes.append(f"{n} test sessions, as of {listed([*tasks])}, have only {few:,} different resamples.")
        title = _titled(which, f"Bootstrap over test sessions: {METRIC_TITLES[metric]}")
        tables.append(Table("bootstrap", title, "setting", rows, {"metric": metric}, tuple(notes)))
    return tables


def _bootstrapped(results, row, task, order, metric):
    """A cell (None with enough folds or without predictions), and the numbers of sessions of its test splits."""
    scores = results.estimate(results.final_scores(row, order, task, metric), [task])
    if scores is None or len(scores.per_fold) >= FEWEST_FOLDS:
        return None, ()
    runs = {run.key: run for run in results.of_row(row) if run.sequence == results.run_of(row, order, task)}
    found = [[runs[fold, seed].session_matrices.get(task, {}) for seed in scores.seeds] for fold in scores.per_fold]
    if any(len(sessions) < 2 for of_seeds in found for sessions in of_seeds):
        return None, ()
    matrices = [[list(sessions.values()) for sessions in of_seeds] for of_seeds in found]
    bounds = bootstrap(matrices, metric)
    return Bootstrapped(scores.per_fold, scores.seeds, bounds=bounds), {len(of_seeds[0]) for of_seeds in matrices}


def _how_scores_are_read(results, learned_first):
    sequence, alone, joint = (results.rows_that(lambda m, how=how: m.how == how) for how in (SEQUENCE, ALONE, JOINT))
    said = ["a column is the task tested"]
    if sequence and learned_first:
        said.append(f"{listed(sequence)} learned it first and the other corpus after it")
    elif sequence:
        how = "learned one task after another and"
        said.append(f"{_say(sequence, f'{how} is', f'{how} are')} tested after the last")
    if alone:
        said.append(f"{listed(alone)} trained a model on the column's task alone")
    if joint:
        said.append(f"{listed(joint)} on all tasks at once")
    for of, rows in _combined(results).items():
        said.append(f"{_say(rows, 'combines', 'combine')} {of}'s models without training")
    if merged := results.rows_that(lambda m: m.how == COMBINED and not m.of):
        said.append(f"{_say(merged, 'is the weighted mean', 'are weighted means')} of two models' weights")
    sentence = f"{'; '.join(said)}. majority always predicts the training split's majority class."
    return (sentence[0].upper() + sentence[1:], *_what_methods_are_given(results))


def _say(names, one, several):
    """Names as in ``listed``, followed by the singular or plural verb."""
    return f"{listed(names)} {several if len(names) > 1 else one}"


def _what_methods_are_given(results):
    """Which rows get the task identity at test time, and which need recordings of earlier tasks."""
    told, untold = (results.rows_that(lambda m, told=told: m.told_task == told and not m.answers) for told in (True, False))
    several, lines = results.rows_that(lambda m: m.answers), []
    if told and untold:
        lines.append(
            f"{_say(told, 'is', 'are')} told which task an utterance is of, with a model or adapters for each; "
            f"{_say(untold, 'is', 'are')} not told: one model classifies all."
        )
    if several:
        lines.append(
            f"{_say(several, 'is', 'are')} not told: the answer is that of the adapter with the nearest centre of features "
            "(routed), that of the adapter with the lowest prediction entropy (entropy), or the mean of all adapters' "
            "probabilities (mean)."
        )
    return [*lines, *_what_is_kept(results)]


def _combined(results):
    """Rows of combined models, by the method whose models are combined: ``{name: rows}``; merged combines those of any."""
    rows = results.rows_that(lambda m: m.how == COMBINED and m.of)
    names = dict.fromkeys(results.method(row).of for row in rows)
    return {name: results.rows_that(lambda m, name=name: m.of == name, rows) for name in names}


def _what_is_kept(results):
    keeping, merged = results.keeping, results.rows_that(lambda m: m.keeps_data and m.how == COMBINED)
    tuned = results.rows_that(lambda m: not m.keeps_data, keeping)
    chosen = [(rows, what) for rows, what in ((merged, "α"), (tuned, "among trials")) if rows]
    reasons = [f"{listed(rows)} to choose {what}" if rows != keeping else f"to choose {what}" for rows, what in chosen]
    why = f" ({', '.join(reasons)} by the validation splits of all)" if reasons else ""
    return [f"† {_say(keeping, 'needs', 'need')} the recordings of earlier tasks{why}."] if keeping else []


def measure_tables(results, metric):
    """R and the measures of every row that learns tasks sequentially, for each order and as means over orders."""
    tables, rows_of = [], (*results.learners, *results.rows_that(lambda method: method.how == JOINT))
    notes = ("R[i,j] is the test score on task j after task i was learned, tasks in the order in which they are learned.",)
    alone = results.rows_that(lambda method: method.how == ALONE, results.learners)
    by_construction = [
        f"{_say(alone, 'has', 'have')} one model per task, which later tasks do not change: BWT is 0 by construction, and "
        "there is no R[i,j] with j > i."
    ] * bool(alone)
    by_construction += [
        f"R[1,j] of {listed(rows)} is {METHODS[of].starts_from if METHODS[of].how == SEQUENCE else of}'s: after one task there "
        "is but one model."
        for of, rows in _combined(results).items()
    ]
    for order in results.orders:
        values = {row: measures(results, row, order, metric) for row in rows_of}
        rows = {row: _estimates(results, of, order) for row, of in values.items()}
        about = {"metric": metric}
        about |= {"first": order[0], "second": order[1]} if len(order) == 2 else {"order": "+".join(order)}
        how = (*notes, *formulas(len(order)).values(), *by_construction, *_what_methods_are_given(results))
        title = f"{then(order)}: continual learning by {METRIC_TITLES[metric]}"
        if len(order) > 2:  # R in rows of its own, to limit the table's width
            tables.append(_matrix_table(results, order, metric, about, notes))
            rows = {row: {name: of[name] for name in formulas(len(order))} for row, of in rows.items()}
        best = _best_measures(results, values, order)
        tables.append(Table("continual", title, "method", rows, about, how, best=best))
    for orders in _orders_of_same_tasks(results.orders):
        values = {row: over_orders(results, row, orders, metric) for row in rows_of}
        rows = {row: _estimates(results, of, orders[0]) for row, of in values.items()}
        title = f"Mean over {len(orders)} orders of {listed(sorted(orders[0]))}: continual learning by {METRIC_TITLES[metric]}"
        how = ("Formed for each order within a fold and seed; a dash where a row lacks one of the orders.",)
        about = {"metric": metric, "orders": " ".join("+".join(order) for order in orders)}
        best = _best_measures(results, values, orders[0])
        tables.append(Table("continual_mean", title, "method", rows, about, how, best=best))
    return tables


def _matrix_table(results, order, metric, about, notes):
    rows = {}
    for row in results.learners:
        matrix = result_matrix(results, row, order, metric)
        for i, task in enumerate(order, 1):
            rows[f"{row}, {i} {task}"] = {
                f"{j} {name}": results.estimate(matrix[i, j], [name]) for j, name in enumerate(order, 1)
            }
    title = f"{then(order)}: R by {METRIC_TITLES[metric]}"
    return Table("result_matrix", title, "after", rows, about, notes)


def _estimates(results, quantities, order):
    scores = {name for name in quantities if name == "ACC" or name.startswith("R[")}
    return {
        name: results.estimate(values, _tasks_of(name, order), Estimate if name in scores else Change)
        for name, values in quantities.items()
    }


def _tasks_of(quantity, order):
    """The tasks whose test splits a quantity of ``measures`` uses: task j for R[i,j], all tasks for a measure."""
    return [order[int(quantity[2:-1].split(",")[1]) - 1]] if quantity.startswith("R[") else order


def _best_measures(results, values, order):
    """``Table.best`` for rows of ``measures``, except quantities that only depend on the model before a method's first step."""
    learners = {row: values[row] for row in results.learners}
    names = dict.fromkeys(name for of in learners.values() for name in of if name != "FWT" and not name.startswith("R[1,"))
    return {
        name: best_rows(
            results, {row: of[name] for row, of in learners.items()}, _tasks_of(name, order), name in LESS_IS_BETTER
        )
        for name in names
    }


def _orders_of_same_tasks(orders):
    groups = [[other for other in orders if set(other) == set(order)] for order in orders]
    return [group for group, order in zip(groups, orders) if group[0] == order and len(group) > 1]


def paired_tables(results, metric):
    """Differences of each row from each baseline, paired by fold and seed, with 95 % confidence intervals and p."""
    tables = []

    def difference_to(base, row, task, order):
        one, other = (results.final_scores(name, order, task, metric) for name in (row, base))
        return {f"{task} vs {base}": results.estimate(difference(one, other), [task], PairedDifference)}

    for which, all_columns in views(results):
        # At most two tasks side by side, to limit the width.
        parts = [all_columns[at : at + 2] for at in range(0, len(all_columns), 2)]
        for base, columns in ((base, columns) for base in results.baselines for columns in parts):
            others = [row for row in results.rows if row != base]
            rows = _with_holm(_by_task(others, columns, partial(difference_to, base)))
            title = _titled(which, f"Paired differences of {METRIC_TITLES[metric]} to {base}")
            title += f" on {listed([task for task, _ in columns])}" if len(parts) > 1 else ""
            notes = (f"The row's score minus {base}'s on the same fold and seed.", *what_columns_are(results, all_columns))
            notes += tuple(_what_differences_are(rows))
            about = {"metric": metric, "baseline": base}
            tables.append(Table("paired_differences", title, "setting", rows, about, notes))
    return tables


def _with_holm(rows):
    """Rows of PairedDifferences with Holm-adjusted p, over the rows of each column."""
    for column in next(iter(rows.values()), {}):
        tested = {row: of[column] for row, of in rows.items() if of[column] and of[column].p is not None}
        for (row, cell), adjusted in zip(tested.items(), holm([cell.p for cell in tested.values()])):
            rows[row][column] = replace(cell, p_holm=adjusted)
    return rows


def _what_differences_are(rows):
    cells = [cell for row in rows.values() for cell in row.values() if cell]
    sentences = []
    if any(cell.interval for cell in cells):
        sentences.append(
            "Interval and p use Student's t with the variance over folds times 1/n + n_test/n_train instead of 1/n, since "
            "folds share training data (Nadeau & Bengio 2003). Holm: p adjusted for the rows of its column (Holm 1979); the "
            "interval is not adjusted. ±.01: the probability that the difference lies within ±.01 (Bayesian correlated t-test, "
            "Benavoli et al. 2017)."
        )
    if any(len(cell.per_fold) < FEWEST_FOLDS for cell in cells):
        sentences.append(
            f"With fewer than {FEWEST_FOLDS} folds there is no interval: two leave one degree of freedom, and an interval far "
            "wider than the differences."
        )
    return sentences


def routing_tables(results, metric):
    """Scores of combined adapters, which are not given the utterance's corpus, and of each adapter alone."""
    tables, rows_of = [], results.rows_that(lambda method: method.of and not method.in_order)

    def of_adapters(row, task, order):
        of_task = results.run_of(row, order, task), task
        cells = {f"{task}, routed": results.estimate(results.scores(row, *of_task, "routing"), [task])}
        for title, when in (("score", "test"), ("right", "test_right"), ("wrong", "test_wrong")):
            cells[f"{task}, {title}"] = results.estimate(results.scores(row, *of_task, metric, when), [task])
        return cells

    for which, columns in views(results):
        rows = _by_task(rows_of, columns, of_adapters)
        notes = (
            "routed: share of the corpus's utterances that were given to its own adapter; right, wrong: the score with its own "
            "adapter for all, and with another (the mean over the others).",
        )
        title = _titled(which, f"Without being told the corpus: {METRIC_TITLES[metric]}")
        tables.append(Table("routing", title, "setting", rows, {"metric": metric}, notes))
    return tables


def class_tables(results):
    """F1 and recall of every class on each earlier task, when learned and after the last task."""
    earlier = [(order, index) for order in results.orders for index in range(1, len(order))]
    shown = (("per_class", "F1", ""), ("recall", "recall", RECALL))
    return [_class_table(results, *which, *how) for which in earlier for how in shown]


def _class_table(results, order, index, name, title, prefix):
    """A table of per-class scores, with metric ``prefix`` plus the class, on task ``index`` (from 1) of an order."""
    task, last, labels = order[index - 1], len(order), results.labels(order[index - 1])
    sequence, alone = (results.rows_that(lambda m, how=how: m.how == how, results.learners) for how in (SEQUENCE, ALONE))
    starts, rows = {}, {}

    def cells(scores, kind=Estimate):
        return {label: results.estimate(values, [task], kind) for label, values in scores.items()}

    for row in (*sequence, *alone):
        matrices = {label: result_matrix(results, row, order, prefix + label) for label in labels}
        learned, after = ({label: of[i, index] for label, of in matrices.items()} for i in (index, last))
        if row in alone:
            rows[row] = cells(after)
            continue
        start = results.method(row).starts_from
        if index > 1:
            rows[f"{row}, learned"] = cells(learned)
        elif start not in alone:  # shared by all rows that start from it, though not all of them have every fold and seed
            for label, values in learned.items():
                starts.setdefault(start, {}).setdefault(label, {}).update(values)
        rows[row] = cells(after)
        rows[f"{row}, change"] = cells({label: difference(after[label], learned[label]) for label in labels}, Change)
    rows = {start: cells(scores) for start, scores in starts.items()} | rows
    note = f"{title} of each emotion on {task}'s test split after {order[-1]}, and its change since {task} was learned."
    note = note[0].upper() + note[1:]
    note += f" {listed([*starts])}: the model{'s' * (len(starts) > 1)} of {task} that others start from." if starts else ""
    note += f" {_say(alone, 'is', 'are')} not changed by later tasks." if alone else ""
    about = {"metric": title.lower(), "first": task, "second": order[-1]}
    about |= {"order": "+".join(order)} if len(order) > 2 else {}
    return Table(name, f"{then(order)}: {title} of each emotion on {task}", "setting", rows, about, (note,), digits=2)


def calibration_tables(results):
    """Expected calibration error on every task after the last one, without and with temperature scaling."""
    tables = []

    def errors(row, task, order):
        scores = {title: results.final_scores(row, order, task, metric) for metric, title in CALIBRATION.items()}
        return {f"{task}, {title}": results.estimate(of, [task]) for title, of in scores.items()}

    for which, columns in views(results):
        rows = _by_task(results.rows, columns, errors)
        notes = (
            "ECE: mean over 15 equal bins of the top probability of |accuracy - probability| (Guo et al. 2017). calibrated: "
            "with the temperature that maximises the likelihood of the validation split of the task trained last.",
        )
        title = _titled(which, "Expected calibration error")
        tables.append(Table("calibration", title, "setting", rows, {"metric": "ece"}, notes))
    return tables


def without_text_tables(results, metric):
    """Scores with and without text, for models that were also tested with every transcript empty."""
    rows = {}
    measured = results.table[results.table["when"] == "test_without_text"]
    for row, sequence, tested in dict.fromkeys(zip(measured["experiment"], measured["sequence"], measured["tested"])):
        if row not in results.rows:
            continue
        without = results.scores(row, sequence, tested, metric, "test_without_text")
        scores = {key: score for key, score in results.scores(row, sequence, tested, metric).items() if key in without}
        rows[f"{row}, {then(sequence)}; tested on {tested}"] = {
            "with text": results.estimate(scores, [tested]),
            "without text": results.estimate(without, [tested]),
            "change": results.estimate(difference(without, scores), [tested], Change),
        }
    notes = ("The same models and test splits, with every transcript empty.",)
    return [Table("without_text", f"Without transcripts: {METRIC_TITLES[metric]}", "model", rows, {"metric": metric}, notes)]


def lambda_tables(results, metric):
    """Scores on all tasks along EWC's λ, a table for each order; none with fewer than two values of λ."""
    tables = []
    for order in results.orders:
        curve, others = lambda_curve(results, order, metric)
        if not curve:
            continue
        points = {f"ewc, λ = {value:,.10g}": estimates for value, estimates in curve.items()} | others
        columns = [f"{task} (task {number})" for number, task in enumerate(order, 1)]
        rows = {name: dict(zip(columns, estimates)) for name, estimates in points.items()}
        some = next(iter(curve.values()))[0]
        folds, seeds = map(_numbers, (some.per_fold, some.seeds))
        notes = (
            f"Test scores after all tasks, of every row on fold {folds} and seed {seeds}. A λ that is picked by these scores "
            "is picked on test splits.",
        )
        title = f"{then(order)}: {METRIC_TITLES[metric]} along λ"
        about = {"metric": metric, "first": order[0], "second": order[-1]}
        tables.append(Table("ewc_lambda", title, "setting", rows, about, notes))
    return tables


def parameter_table(results):
    """Trained and stored parameters of each row's model, as counted by its runs."""
    rows = {}
    for row in results.rows:
        counts = results.of_row(row)[0].config["parameters"]
        rows[row] = {"of the model": counts["total"], "trained": counts["trained"], "stored": counts["stored"]}
        rows[row]["told the task"] = results.method(row).told_task
    one, each = (
        results.rows_that(lambda m, several=several: (m.how == ALONE or bool(m.answers)) == several)
        for several in (False, True)
    )
    serves = [f"one file serves all tasks for {listed(one)}"] if one else []
    serves += [f"{_say(each, 'needs', 'need')} one a task"] if each else []
    notes = (
        f"stored is what best_model.pt holds: {'; '.join(serves)}. Adapters need the frozen encoders beside it, once for all "
        "tasks.",
        *_what_is_kept(results),
    )
    return Table("parameters", "Parameters", "setting", rows, notes=notes)


def notes(results, output_root):
    """Notes on all tables: synthetic data, excluded rows, and differences between rows."""
    lines = [SYNTHETIC] if results.synthetic else []
    lines += results.left_out
    every_seed = {run.key[1] for run in results.of_row(*results.rows)}
    for row, sequence in dict.fromkeys((run.experiment, run.sequence) for run in results.of_row(*results.rows)):
        runs = [run for run in results.of_row(row) if run.sequence == sequence]
        trained = runs[0].task if len(sequence) == 1 or set(sequence) == set(KEMDY) else "+".join(sequence)
        common = common_seeds(run.key for run in runs)
        if not common:
            folds = sorted({run.fold for run in runs})
            each = "; ".join(f"fold {k}: {_numbers(run.key[1] for run in runs if run.fold == k)}" for k in folds)
            lines.append(f"{row}, trained on {trained}, is not averaged: no seed is that of every fold ({each}).")
        elif common != every_seed:
            seeds = _numbers(common)
            lines.append(f"{row}, trained on {trained}, is averaged over the seeds that all of its folds have: {seeds}.")
    return lines + _different_settings(results) + other_starts(results, output_root)


def row_notes(results):
    """Settings in which each row not named after its method differs from the method's row, or else from the first baseline."""
    lines = []
    for row in results.rows:
        method = results.method(row).name
        against = method if results.of_row(method) else next(iter(results.baselines), None)
        if row == method or against in (None, row):
            continue
        pairs = [(one, other) for other in results.of_row(row) for one in results.of_row(against)]
        # If possible, with the same task and fold.
        one, other = min(pairs, key=lambda pair: (pair[0].sequence != pair[1].sequence, pair[0].key != pair[1].key))
        tuned = other.config.get("tuned", {}).get("varied", ())
        names = [text.removesuffix(".0") for text in run_differences(one, other, LABELS.union(tuned), words="{1}")]
        words = [name.removeprefix("--") if name.startswith("--") else f"another {name}" for name in names]
        if tuned and not words:
            continue
        compared = "" if against == method else f" (compared with {against})"
        lines.append(f"{row}: {', '.join(words) or f'as {against}'}{compared}")
    return lines


def _different_settings(results):
    """Encoders and the main flags in which the methods' own rows differ."""
    trained = results.rows_that(lambda method: method.how != COMBINED)
    lines, firsts = [], {row: results.of_row(row)[0].config for row in trained if row in METHODS}
    for kind in ("text", "speech"):
        encoders = {row: config["encoders"][kind] for row, config in firsts.items() if kind in config["encoders"]}
        alike = _groups({row: of["fingerprint"] for row, of in encoders.items() if of["pretrained"]})
        if len(alike) > 1:
            lines.append(f"The {kind} encoders differ: {'; '.join(alike.values())}.")
    for name in ("num_epochs", "batch_size", "lr", "max_text_len", "max_seq_len"):
        alike = _groups({row: config["arguments"].get(name) for row, config in firsts.items()})
        if len(alike) > 1:
            lines.append(f"--{name} differs: {'; '.join(f'{value} {rows}' for value, rows in alike.items())}.")
    return lines


def _groups(values):
    """``{row: value}`` → ``{value: "row, row"}``."""
    return {value: ", ".join(row for row in values if values[row] == value) for value in values.values()}


def other_starts(results, output_root):
    """A line for each run whose starting or combined models have changed since."""
    models = {(run.experiment, run.sequence, run.key): run.path / BEST_MODEL for run in results.runs}
    starts = []
    for run in results.of_row(*results.rows):
        model = models.get((run.started_from, run.sequence[:-1], run.key))
        if METHODS[run.method].how == SEQUENCE and run.config.get("started_from") and model and model.is_file():
            text = f"{run.path} did not start from {run.started_from}'s model as it is now."
            starts.append((model, run.config["started_from"]["sha256"], text))
        for parent in run.config.get("parents", ()):
            model = Path(output_root) / parent["run"] / BEST_MODEL
            if model.is_file():
                text = f"{run.path} was not made of {model} as it is now; bash run-combine.sh makes it again."
                starts.append((model, parent["sha256"], text))
    digests = FileDigests(Path(output_root) / DIGESTS)(*(model for model, *_ in starts))
    return [text for (_, then, text), digest in zip(starts, digests) if digest != then]


def other_names(results, found):
    """Finished experiments that are neither rows, nor trials of one, nor trained on half of a corpus for leakage.py."""
    of_table = (run for run in found if run.train_half is None and run.trial_of in (None, run.experiment))
    finished = {run.experiment for run in of_table if run.metrics}
    return sorted(finished - set(results.rows if results else ()))


def run_table(found, output_root):
    """A table with a row for every run found."""
    rows = {}
    tasks = dict.fromkeys(task for run in found for task in (run.metrics or {}).get("test", {}))
    for run in found:
        config, metrics = run.config, run.metrics or {}
        arguments, counts, test = config.get("arguments", {}), config.get("parameters", {}), metrics.get("test", {})
        encoders = [
            f"{of['name'].rstrip('/').split('/')[-1]} {of['fingerprint'][:8]}" + ("" if of["pretrained"] else " (random)")
            for of in config.get("encoders", {}).values()
        ]
        rows[str(run.path.relative_to(output_root))] = {
            "method": run.method,
            "trained on": run.task,
            "fold": str(run.fold),
            "seed": str(config.get("seed", "")),
            "epochs": None if run.is_combined else f"{epochs_done(run)}/{arguments.get('num_epochs', '?')}",
            "best": str(metrics["best_epoch"]) if "best_epoch" in metrics else None,
            "valid WA": metrics.get("valid", {}).get(run.task, {}).get("f1_micro"),
            **{f"test {task}": test[task]["f1_weighted"] if task in test else None for task in sorted(tasks)},
            "trained": counts.get("trained"),
            "stored": counts.get("stored"),
            "bytes": folder_size(run),
            "encoders": ", ".join(encoders),
            "synthetic": config.get("synthetic"),
            "state": run.problem or ("finished" if run.metrics else "not finished"),
        }
    notes = ("epochs are done/requested; test is the weighted F1 on each task that the run was tested on.",)
    return Table("runs", f"Runs under {output_root}", "folder", rows, notes=notes)
