"""What evaluate.py prints: tables from runs and the sentences that they are read with."""

from pathlib import Path

from utils.files import BEST_MODEL, DIGESTS
from utils.identity import FileDigests
from utils.methods import ALONE, COMBINED, JOINT, KEMDY, METHODS, SEQUENCE, START
from utils.results import CALIBRATION, METRIC_TITLES
from utils.results.measures import formulas, lambda_curve, measures, over_orders, result_matrix
from utils.results.runs import (
    LABELS,
    Estimate,
    common_seeds,
    difference,
    epochs_done,
    folder_size,
    over_folds,
    run_differences,
)
from utils.results.tables import Change, PairedDifference, Table

SYNTHETIC = "SYNTHETIC corpora or encoders: a demonstration, not a result."


def listed(names):
    """Names as "a, b and c"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _numbers(values):
    return ", ".join(map(str, sorted(values)))


def then(order):
    """An order of tasks as titles have it."""
    return ", then ".join(order)


def views(results):
    """The tables of final scores: ``[(what its title begins with, [(task, order after which it is tested)])]``.

    One table holds both orders of the published study's corpora, each tested where it was learned first. Any other order has
    a table, and so have the tasks that are in none.
    """
    found, others = [], [order for order in results.orders if set(order) != set(KEMDY)]
    if len(others) < len(results.orders):
        found.append((f"{listed(KEMDY)}: ", [(task, (task, *(other for other in KEMDY if other != task))) for task in KEMDY]))
    found += [(f"{then(order)}: ", [(task, order) for task in order]) for order in others]
    alone = tuple(task for task in results.tasks if not any(task in order for order in results.orders))
    if alone:
        found.append((f"{listed(alone)}: ", [(task, alone) for task in alone]))
    return found if others or len(found) > 1 else [("", columns) for _, columns in found]


def _titled(which, title):
    return f"{which}{title[0].lower()}{title[1:]}" if which else title


def _by_task(rows, columns, cells):
    """Rows of a table: ``cells(row, task, order)``, a dictionary, for all (task, order) side by side."""
    return {row: {name: cell for column in columns for name, cell in cells(row, *column).items()} for row in rows}


def score_tables(results, metric):
    """Test scores of all rows, with a floor (majority) and an upper bound (joint)."""
    tables = []
    for which, columns in views(results):
        floors = {task: results.majority(task, metric) for task, _ in columns}
        rows = {"majority": {task: Estimate(floor) if floor else None for task, floor in floors.items()}}
        for row in results.rows:
            rows[row] = {task: over_folds(results.final_scores(row, order, task, metric)) for task, order in columns}
        title = _titled(which, f"Test {METRIC_TITLES[metric]}")
        how = _how_scores_are_read(results, learned_first=len({order for _, order in columns}) > 1)
        tables.append(Table("scores", title, "setting", rows, {"metric": metric}, how, 4, _keeping(results)))
    return tables


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
    """Names as ``listed`` with the verb that goes with them."""
    return f"{listed(names)} {several if len(names) > 1 else one}"


def _what_methods_are_given(results):
    """Which rows are told the task at test time, and which need recordings of earlier tasks."""
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
    """Rows of models that are combined, by the method whose models they are: ``{name: rows}``; merged is of any."""
    rows = results.rows_that(lambda m: m.how == COMBINED and m.of)
    names = dict.fromkeys(results.method(row).of for row in rows)
    return {name: results.rows_that(lambda m, name=name: m.of == name, rows) for name in names}


def _keeping(results):
    """Rows that need recordings of earlier tasks, which tables mark."""
    return results.keeping


def _what_is_kept(results):
    keeping, merged = _keeping(results), results.rows_that(lambda m: m.keeps_data and m.how == COMBINED)
    tuned = results.rows_that(lambda m: not m.keeps_data, keeping)
    reasons = [f"{listed(rows)} to choose {what}" for rows, what in ((merged, "α"), (tuned, "among trials")) if rows]
    why = f" ({', '.join(reasons)} by the validation splits of all)" if reasons else ""
    return [f"† {_say(keeping, 'needs', 'need')} the recordings of earlier tasks{why}."] if keeping else []


def measure_tables(results, metric):
    """R and the measures of every row that learns one task after another, for each order and as means over orders."""
    tables, rows_of = [], (*results.learners, *results.rows_that(lambda method: method.how == JOINT))
    notes = ("R[i,j] is the test score on task j after task i was learned, tasks in the order in which they are learned.",)
    alone = results.rows_that(lambda method: method.how == ALONE, results.learners)
    by_construction = [
        f"{_say(alone, 'has', 'have')} a model a task, which later ones do not change: BWT is 0 by construction, and there "
        "is no R[i,j] with j > i."
    ] * bool(alone)
    by_construction += [
        f"R[1,j] of {listed(rows)} is {METHODS[of].starts_from if METHODS[of].how == SEQUENCE else of}'s: after one task there "
        "is but one model."
        for of, rows in _combined(results).items()
    ]
    for order in results.orders:
        rows = {row: _estimates(measures(results, row, order, metric)) for row in rows_of}
        about = {"metric": metric}
        about |= {"first": order[0], "second": order[1]} if len(order) == 2 else {"order": "+".join(order)}
        how = (*notes, *formulas(len(order)).values(), *by_construction, *_what_methods_are_given(results))
        title = f"{then(order)}: continual learning by {METRIC_TITLES[metric]}"
        if len(order) > 2:  # R as rows of its own, or the table would be too wide
            tables.append(_matrix_table(results, order, metric, about, notes))
            rows = {row: {name: of[name] for name in formulas(len(order))} for row, of in rows.items()}
        tables.append(Table("continual", title, "method", rows, about, how, marked=_keeping(results)))
    for orders in _orders_of_same_tasks(results.orders):
        rows = {row: _estimates(over_orders(results, row, orders, metric)) for row in rows_of}
        title = f"Mean over {len(orders)} orders of {listed(sorted(orders[0]))}: continual learning by {METRIC_TITLES[metric]}"
        how = ("Formed for each order within a fold and seed; a dash where a row lacks one of the orders.",)
        about = {"metric": metric, "orders": " ".join("+".join(order) for order in orders)}
        tables.append(Table("continual_mean", title, "method", rows, about, how, marked=_keeping(results)))
    return tables


def _matrix_table(results, order, metric, about, notes):
    rows = {}
    for row in results.learners:
        matrix = result_matrix(results, row, order, metric)
        for i, task in enumerate(order, 1):
            rows[f"{row}, {i} {task}"] = {f"{j} {name}": over_folds(matrix[i, j]) for j, name in enumerate(order, 1)}
    title = f"{then(order)}: R by {METRIC_TITLES[metric]}"
    return Table("result_matrix", title, "after", rows, about, notes)


def _estimates(quantities):
    scores = {name for name in quantities if name == "ACC" or name.startswith("R[")}
    return {name: over_folds(values, Estimate if name in scores else Change) for name, values in quantities.items()}


def _orders_of_same_tasks(orders):
    groups = [[other for other in orders if set(other) == set(order)] for order in orders]
    return [group for group, order in zip(groups, orders) if group[0] == order and len(group) > 1]


def paired_tables(results, metric):
    """Difference of every row to the baselines, paired by fold and seed, with its 95 % confidence interval."""
    tables = []

    def differences(row, task, order):
        scores = {name: results.final_scores(name, order, task, metric) for name in (row, *results.baselines)}
        return {
            f"{task} vs {base}": over_folds(difference(scores[row], scores[base]), PairedDifference) if row != base else None
            for base in results.baselines
        }

    for which, columns in views(results):
        rows = _by_task(results.rows, columns, differences)
        notes = (
            f"The row's score minus that of {' or '.join(results.baselines)} on the same fold and seed. The folds share "
            "training data, so the intervals are rather too narrow (Nadeau & Bengio 2003); with two folds they are very wide.",
        )
        title = _titled(which, f"Paired differences of {METRIC_TITLES[metric]}")
        tables.append(Table("paired_differences", title, "setting", rows, {"metric": metric}, notes, marked=_keeping(results)))
    return tables


def routing_tables(results, metric):
    """Scores of adapters that are combined, since nobody says which corpus an utterance is from, and of each adapter alone."""
    tables, rows_of = [], results.rows_that(lambda method: method.of and not method.in_order)

    def of_adapters(row, task, order):
        of_task = results.run_of(row, order, task), task
        cells = {f"{task}, routed": over_folds(results.scores(row, *of_task, "routing"))}
        for title, when in (("score", "test"), ("right", "test_right"), ("wrong", "test_wrong")):
            cells[f"{task}, {title}"] = over_folds(results.scores(row, *of_task, metric, when))
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
    """F1 of every class on each earlier task when it was learned and after the last one, a table an order and task."""
    tables = []
    sequence, alone = (results.rows_that(lambda m, how=how: m.how == how, results.learners) for how in (SEQUENCE, ALONE))
    from_start = results.rows_that(lambda method: method.starts_from == START, sequence)
    for order in results.orders:
        for index, task in enumerate(order[:-1], 1):
            rows = {}
            for label in results.labels(task):
                matrices = {row: result_matrix(results, row, order, label) for row in (*sequence, *alone)}
                learned = {row: matrix[index, index] for row, matrix in matrices.items()}
                after = {row: matrix[len(order), index] for row, matrix in matrices.items()}
                # The first task's model is the same for all that start from it.
                before = {key: score for row in reversed(from_start) for key, score in learned[row].items()}
                cells = rows[label] = {"before": over_folds(before)} if index == 1 and from_start else {}
                for row in sequence:
                    if index > 1 or row not in from_start:
                        cells[f"{row} learned"] = over_folds(learned[row])
                    cells[f"{row} after"] = over_folds(after[row])
                    cells[f"{row} change"] = over_folds(difference(after[row], learned[row]), Change)
                cells |= {row: over_folds(after[row]) for row in alone}
            started = f"before is {START}'s model, from which {_say(from_start, 'starts', 'start')}" if from_start else ""
            note = f"F1 of each emotion on {task}'s test split, when it was learned and after {order[-1]}"
            note += f"; {started}" if started and index == 1 else ""
            note += f"; {_say(alone, 'is', 'are')} not changed by later tasks." if alone else "."
            about = {"metric": "f1", "first": task, "second": order[-1]}
            about |= {"order": "+".join(order)} if len(order) > 2 else {}
            title = f"{then(order)}: F1 of each emotion on {task}"
            tables.append(Table("per_class", title, "emotion", rows, about, (note,)))
    return tables


def calibration_tables(results):
    """Expected calibration error on every task after the last, of the probabilities as they are and with the temperature."""
    tables = []

    def errors(row, task, order):
        scores = {title: results.final_scores(row, order, task, metric) for metric, title in CALIBRATION.items()}
        return {f"{task}, {title}": over_folds(of) for title, of in scores.items()}

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
    """Scores of the models that were also tested with every transcript empty, with and without text."""
    rows = {}
    measured = results.table[results.table["when"] == "test_without_text"]
    for row, sequence, tested in dict.fromkeys(zip(measured["experiment"], measured["sequence"], measured["tested"])):
        if row not in results.rows:
            continue
        without = results.scores(row, sequence, tested, metric, "test_without_text")
        scores = {key: score for key, score in results.scores(row, sequence, tested, metric).items() if key in without}
        rows[f"{row}, {then(sequence)}; tested on {tested}"] = {
            "with text": over_folds(scores),
            "without text": over_folds(without),
            "change": over_folds(difference(without, scores), Change),
        }
    notes = ("The same models and test splits, with every transcript empty.",)
    return [Table("without_text", f"Without transcripts: {METRIC_TITLES[metric]}", "model", rows, {"metric": metric}, notes)]


def lambda_tables(results, metric):
    """All tasks' scores along EWC's λ, a table for each order; none where there are no two values of it."""
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
            f"Test scores after all tasks on fold {folds} and seed {seeds}, the other rows' on the same. A λ that is picked by "
            "these scores is picked on test splits.",
        )
        title = f"{then(order)}: {METRIC_TITLES[metric]} along λ"
        about = {"metric": metric, "first": order[0], "second": order[-1]}
        tables.append(Table("ewc_lambda", title, "setting", rows, about, notes))
    return tables


def parameter_table(results):
    """Parameters of each row's model, trained and stored, as its runs counted them."""
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
    return Table("parameters", "Parameters", "setting", rows, notes=notes, marked=_keeping(results))


def notes(results, output_root):
    """What a reader must know of all tables: synthetic or not, what was left out, and what differs between rows."""
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
            lines.append(f"{row}, trained on {trained}, is averaged over seed {seeds} alone, which all of its folds have.")
    return lines + _different_settings(results) + other_starts(results, output_root)


def row_notes(results):
    """In what each row under another name than its method's differs from that row, or else from the first baseline."""
    lines = []
    for row in results.rows:
        method = results.method(row).name
        against = method if results.of_row(method) else next(iter(results.baselines), None)
        if row == method or against in (None, row):
            continue
        pairs = [(one, other) for other in results.of_row(row) for one in results.of_row(against)]
        # Where possible, of the same task and fold.
        one, other = min(pairs, key=lambda pair: (pair[0].sequence != pair[1].sequence, pair[0].key != pair[1].key))
        tuned = other.config.get("tuned", {}).get("varied", ())
        names = [text.removesuffix(".0") for text in run_differences(one, other, LABELS.union(tuned), words="{1}")]
        words = [name.removeprefix("--") if name.startswith("--") else f"another {name}" for name in names]
        words = ["tuned", *words] if tuned else words
        compared = "" if against == method else f" (compared with {against})"
        lines.append(f"{row}: {', '.join(words) or f'as {against}'}{compared}")
    return lines


def _different_settings(results):
    """Encoders and the most important flags in which the methods' own rows differ."""
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
    """``{row: value}`` as ``{value: "row, row"}``."""
    return {value: ", ".join(row for row in values if values[row] == value) for value in values.values()}


def other_starts(results, output_root):
    """A line for each run that was not made of the models that lie there now: the start's, its own row's, or those combined."""
    models = {(run.experiment, run.sequence, run.key): run.path / BEST_MODEL for run in results.runs}
    starts = []
    for run in results.of_row(*results.rows):
        owner = METHODS[run.method].starts_from if len(run.sequence) == 2 else run.experiment
        model = models.get((owner, run.sequence[:-1], run.key))
        if METHODS[run.method].how == SEQUENCE and run.config.get("started_from") and model and model.is_file():
            text = f"{run.path} did not start from {owner}'s model as it is now."
            starts.append((model, run.config["started_from"]["sha256"], text))
        for parent in run.config.get("parents", ()):
            model = Path(output_root) / parent["run"] / BEST_MODEL
            if model.is_file():
                text = f"{run.path} was not made of {model} as it is now; bash run-combine.sh makes it again."
                starts.append((model, parent["sha256"], text))
    digests = FileDigests(Path(output_root) / DIGESTS)(*(model for model, *_ in starts))
    return [text for (_, then, text), digest in zip(starts, digests) if digest != then]


def other_names(results, found):
    """Finished experiments that are no rows, nor trials of one."""
    finished = {run.experiment for run in found if run.metrics and run.trial_of in (None, run.experiment)}
    return sorted(finished - set(results.rows if results else ()))


def run_table(found, output_root):
    """Every run that was found, a row each."""
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
            "valid micro F1": metrics.get("valid", {}).get(run.task, {}).get("f1_micro"),
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
