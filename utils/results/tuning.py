"""Hyperparameter trials: drawing them, and the table rows made from them.

All methods get the same number of trials, each with a learning rate from a common list and, if the method has a knob, a random
value of it (Bergstra & Bengio 2012, Random Search for Hyper-Parameter Optimization). A trial is an ordinary run with
``--trial_of ROW``, and for each fold the row ROW consists of the runs of the trial with the best validation scores.

``python -m utils.results.tuning`` lists the trials for run-tune.sh. It imports pandas only to read runs, to start fast.
"""

import random
import re
from collections import Counter, defaultdict
from dataclasses import replace
from statistics import mean

from utils.errors import one_line_errors
from utils.flags import Parser, count, named_path, positive_float, positive_int, seed_number
from utils.methods import ALONE, COMBINED, JOINT, KEMDY, METHODS, SEQUENCE

SEED = 12
# Defaults of run-tune.sh.
RATES, TRIALS = ("1e-6", "3e-6", "1e-5", "2e-5", "3e-5", "5e-5", "1e-4", "3e-4"), 8


def trials(method, rates, number):
    """The trials of a method: ``{number of the trial: {flag: value}}``, as str.

    All methods try the same learning rates, each once, and a method tries the values of its knob about equally often. With a
    larger ``number``, or more rates appended, existing trials keep their numbers and values.

    Args:
        method: a Method.
        rates: learning rates, as str; a trial's number is its rate's position, from 1.
        number: number of trials, at most that of rates.
    """
    draw, found = random.Random(SEED), {}
    flag, values = method.knob or ("", ())
    knob = [value for _ in rates for value in draw.sample(values, len(values))]
    for index, rate in enumerate(rates):
        found[index + 1] = {"--lr": rate} | ({flag: knob[index]} if values else {})
    chosen = random.Random(SEED).sample(sorted(found), number)
    return {index: found[index] for index in sorted(chosen)}


def varied_flags(method):
    """The flags in which the trials of a method differ."""
    return ("--lr", *method.knob[:1])


def tuned_runs(found, shared=False):
    """The runs of tuned rows: those of the selected trials, under the name of the row.

    For each seed and each order of a sequence (for joint each set of tasks; for a method with one model per task all tasks),
    each fold selects the trial with the highest macro F1 on its validation splits, averaged over the tasks; ties go to the
    first. If a fold has at most half of the trials, for example because they were made on other folds, all folds share one
    trial: the best on average over the folds that have more. Test scores are never used.

    Args:
        found: FoundRuns.
        shared: select one trial for all folds.

    Returns:
        (runs, lines): FoundRuns whose config has a dictionary ``tuned``: "trials", the number compared; "trial", the selected
        one; "chosen", its tuned values, ``{flag: value}``; "varied", the flags; "on_folds", the folds whose validation splits
        were used; "tasks", the tasks; "tried", ``{trial: (its flags as in "chosen", its score)}``. And a line for each row with
        trials that could not be compared.
    """
    trials_of, chosen, lines = defaultdict(list), {}, []
    for run in found:
        if run.trial_of and run.metrics:
            trials_of[run.trial_of].append(run)
    for row, runs in trials_of.items():
        runs.sort(key=lambda run: (len(run.experiment), run.experiment))  # trial2 before trial10
        lacking = set()
        for seed in dict.fromkeys(run.config["seed"] for run in runs):
            of_seed = [run for run in runs if run.config["seed"] == seed]
            for tasks, sequences in _aims(of_seed).items():
                for run in _choose(row, tasks, [run for run in of_seed if run.sequence in sequences], shared, lacking):
                    chosen.setdefault((row, run.sequence, run.key), run)  # two orders may share their first steps
        if lacking:
            names, tasks = (", ".join(sorted(of)) for of in map(set, zip(*lacking)))
            lines.append(f"{row} is not chosen from {names}, which lack validation scores on {tasks}.")
    return list(chosen.values()), lines


def _aims(runs):
    """The sets of tasks for which a trial is selected, with its runs' sequences: ``{tasks: sequences}``."""
    sequences = tuple(dict.fromkeys(run.sequence for run in runs))
    how = METHODS[runs[0].method].how
    if how == ALONE:
        return {tuple(sorted(task for (task,) in sequences)): sequences}
    if how == JOINT:
        return {tasks: (tasks,) for tasks in sequences}
    whole = [order for order in sequences if not any(order == other[: len(order)] for other in sequences if other != order)]
    return {order: tuple(order[: length + 1] for length in range(len(order))) for order in whole}


def _choose(row, tasks, runs, shared, lacking):
    """The runs of the trials selected for some tasks and one seed; adds (trial, task) without a score to ``lacking``."""
    method, of_trial, scores = METHODS[runs[0].method], defaultdict(dict), defaultdict(dict)
    for run in runs:
        of_trial[run.fold, run.experiment][run.sequence] = run
    for (fold, trial), of in of_trial.items():
        last = [of.get((task,) if method.how == ALONE else tasks) for task in tasks]
        if None in last:  # not finished
            continue
        valid = [run.metrics.get("valid", {}).get(task, {}).get("f1_macro") for run, task in zip(last, tasks)]
        lacking.update((trial, task) for task, score in zip(tasks, valid) if score is None)
        if None not in valid:
            scores[fold][trial] = mean(valid)
    every = dict.fromkeys(trial for _, trial in of_trial if any(trial in of for of in scores.values()))
    on_folds = {fold: [fold] for fold in scores}
    best = {fold: max(of, key=of.get) for fold, of in scores.items()}
    having_most = [fold for fold in sorted(scores) if 2 * len(scores[fold]) > len(every)]
    if every and (shared or len(having_most) < len(scores)):

        def over_folds(trial):
            found = [scores[fold][trial] for fold in having_most if trial in scores[fold]]
            return len(found), sum(found)

        on_folds, best = dict.fromkeys(scores, having_most), dict.fromkeys(scores, max(every, key=over_folds))
    chosen = []
    for fold, trial in best.items():
        tried = {one: (_values(method, next(iter(of_trial[fold, one].values()))), score) for one, score in scores[fold].items()}
        for run in of_trial.get((fold, trial), {}).values():
            values = _values(method, run)
            tuned = {"trials": max(len(scores[of]) for of in on_folds[fold]), "trial": trial, "chosen": values}
            tuned |= {"varied": list(values), "on_folds": on_folds[fold], "tasks": list(tasks), "tried": tried}
            chosen.append(replace(run, config={**run.config, "experiment": row, "tuned": tuned}))
    return chosen


def _values(method, run):
    """The tuned values of a trial, ``{flag: value}``."""
    return {flag: run.config["arguments"].get(flag.removeprefix("--")) for flag in varied_flags(method)}


def tuning_tables(results):
    """For each tuned row: the number of trials, how often each value was selected, and the scores of the trials."""
    from utils.results.report import listed
    from utils.results.tables import Table

    rows, trials = {}, {}
    for row in results.tuned:
        runs, method = results.of_row(row), results.method(row)
        choices = {(run.key, *run.config["tuned"]["tasks"]): run.config["tuned"] for run in runs}.values()
        tried = defaultdict(list)
        for trial, (values, score) in (of for choice in choices for of in choice["tried"].items()):
            tried[trial, *values.items()].append(score)
        for (trial, rate, *knob), scores in tried.items():
            knob = " ".join(f"{flag.removeprefix('--')} {value:,.10g}" for flag, value in knob) or None
            trials[trial] = {"learning rate": f"{rate[1]:,.10g}", "knob": knob, "macro F1, validation": mean(scores)}
        numbers = sorted({of["trials"] for of in choices})
        rate, *knob = (_counted(of["chosen"][flag] for of in choices) for flag in varied_flags(method))
        rows[row] = {"trials": numbers[0] if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}", "learning rate": rate}
        rows[row]["knob"] = f"{method.knob[0].removeprefix('--')} {knob[0]}" if knob else None
    notes = [
        "What was chosen, × how often: for each fold, seed and order the trial with the highest mean over the tasks of macro "
        "F1 on the validation splits. No test score was looked at.",
        *shared_choices(results),
    ]
    if earlier := results.rows_that(lambda method: method.how == SEQUENCE, results.tuned):
        notes.append(f"† Choosing among trials of {listed(earlier)} takes validation recordings of earlier tasks.")
    of_trials = ("The mean over the tasks, and over the folds, seeds and orders that the trial was run on.",)
    return [
        Table("tuning", "What was tuned", "setting", rows, notes=tuple(notes), marked=results.keeping),
        Table("trials", "Trials", "trial", trials, {"metric": "f1_macro"}, of_trials),
    ]


def shared_choices(results):
    """A caption naming the rows in which all folds share one trial."""
    from utils.results.report import listed

    rows_of, sentences = defaultdict(dict), []
    for run in results.of_row(*results.tuned):
        if run.config["tuned"]["on_folds"] != [run.fold]:
            rows_of[tuple(run.config["tuned"]["on_folds"])][run.experiment] = True
    for folds, rows in rows_of.items():
        names = "all tuned rows" if tuple(rows) == results.tuned else listed([*rows])
        sentences.append(
            f"For {names} one trial was chosen for all folds, by the validation splits of fold {listed([*map(str, folds)])}, "
            "whose sessions are test sessions of other folds."
        )
    return sentences


def tuning_variables(row, found):
    """Variables for run-tune.sh to make the missing runs of a tuned row: ``{variable: values}``, without its defaults.

    None if none of its trials was made by run-tune.sh.
    """
    rates, variables = {}, {}
    for run in found:
        if run.trial_of == row and (number := _number(row, run.experiment)):
            rates[number] = f"{run.config['arguments']['lr']:g}"
    if not rates:
        return None
    texts = [rates[number] for number in sorted(rates)]
    if len(rates) != TRIALS:
        variables["TRIALS"] = [len(rates)]
    if sorted(rates) == [*range(1, len(rates) + 1)] and [*map(float, texts)] != [*map(float, RATES[: len(rates)])]:
        variables["LRS"] = texts
    for run in found:
        if run.experiment == row and run.config["tuned"]["on_folds"] != [run.fold]:
            variables["CHOOSE_ON"] = run.config["tuned"]["on_folds"]
    return variables


def _number(row, experiment):
    """The trial number of an experiment; None if it was not made by run-tune.sh."""
    found = re.fullmatch(rf"{re.escape(row)}-trial([0-9]+)", experiment)
    return int(found[1]) if found else None


def _counted(values):
    """Values with their counts, most frequent first."""
    return ", ".join(f"{value:,.10g} × {n}" for value, n in Counter(values).most_common())


def _rate(text):
    positive_float(text)
    return text


_rate.__name__ = "float"  # argparse names the type in its error message


def parse_args():
    parser = Parser(
        prog="python -m utils.results.tuning",
        description="List the trials of methods for run-tune.sh, or with --choose_on the selected ones, one per line.",
        example="python -m utils.results.tuning ewc lwf --number 4",
    )
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="methods (default: all trained ones except references)")
    parser.add_argument("--rates", nargs="+", type=_rate, default=RATES, metavar="LR", help="learning rates to try")
    parser.add_argument("--number", type=positive_int, default=TRIALS, metavar="N", help="trials of each method")
    parser.add_argument("--choose_on", type=count, nargs="+", metavar="K", help="select the trial on these folds")
    parser.add_argument("--output_root", type=named_path, default="outputs", help="folder with the experiments")
    parser.add_argument("--seeds", type=seed_number, nargs="+", default=[12], help="select for these seeds")
    parser.add_argument("--order", nargs="+", default=[], metavar="TASK", help="select for this order of tasks")
    args = parser.parse_args()
    if args.number > len(args.rates):
        parser.error(f"TRIALS={args.number}, and LRS names {len(args.rates)} learning rates: each is tried once")
    args.methods = args.methods or [name for name, of in METHODS.items() if of.how != COMBINED and not of.reference]
    for name in args.methods:
        if name not in METHODS or METHODS[name].how == COMBINED:
            parser.error(f"there is no method {name!r} to train in utils/methods.py")
    return args


@one_line_errors
def main():
    """Print one line per trial: method, kind, number, seed, task (- for all) and flags."""
    args = parse_args()
    chosen = _chosen(args) if args.choose_on else None
    for name in args.methods:
        for number, flags in trials(METHODS[name], args.rates, args.number).items():
            for seed, task in [("-", "-")] if chosen is None else sorted(chosen[name, number]):
                print(name, METHODS[name].how, number, seed, task, *(word for flag in flags.items() for word in flag))


def _chosen(args):
    """The runs still to be made of the selected trials: ``{(method, number): {(seed, name in TASKS)}}``."""
    from utils.results.runs import find_runs

    found = [run for run in find_runs(args.output_root) if run.fold in args.choose_on]
    chosen, orders = defaultdict(set), [tuple(args.order)] if args.order else [KEMDY, KEMDY[::-1]]
    for run in tuned_runs(found, shared=True)[0]:
        how, number = METHODS[run.method].how, _number(run.experiment, run.config["tuned"]["trial"])
        begun = [order[: len(run.sequence)] for order in (orders[:1] if how == JOINT else orders)]
        steps = [of[-1] for of in begun if of == run.sequence or how == JOINT and tuple(sorted(of)) == run.sequence]
        if how == ALONE:
            steps = [task for task in run.sequence if not args.order or task in args.order]
        if run.config["seed"] in args.seeds:
            chosen[run.method, number].update((run.config["seed"], task) for task in steps)
    return chosen


if __name__ == "__main__":
    main()
