"""The commands for runs missing in the tables."""

import os
import re
import shlex
from collections import defaultdict
from pathlib import Path

from utils.errors import UserError
from utils.methods import ALONE, COMBINED, JOINT, KEMDY, METHODS
from utils.results.tuning import tuning_variables, varied_flags
from utils.training.arguments import flag_words, training_parser

# Flags that the run scripts set themselves, or that are irrelevant for a missing run.
NOT_REPEATED = {
    *("task", "after", "together", "sequence", "labels", "experiment", "exp_name", "seed", "num_fold", "output_root"),
    *("overwrite", "checkpoint", "fisher"),
}
# Flags that apply to runs of any method.
PLACES = {"data_root", "text_model", "speech_model", "k_fold", "cpu"}
REPOSITORY = Path(__file__).resolve().parents[2]


def missing_commands(found, rows, orders, output_root, folds=None):
    """The commands for missing runs of trained rows, in an order in which they can be run.

    Args:
        found: from ``utils.results.runs.find_runs``; the missing runs have the same seeds, folds and flags.
        rows: ``{experiment: Method}``.
        orders: the orders in which tasks are learned; those of the published study if nothing was found.
        output_root: folder of the runs.
        folds: the requested folds; by default all of the runs' ``--k_fold``.

    Raises:
        UserError: if the runs do not have a requested fold.
    """
    rows = {row: method for row, method in rows.items() if method.how != COMBINED}
    runs = [run for run in found if run.metrics and run.experiment in rows]
    k_fold = max((run.config["k_fold"] for run in runs), default=5)
    if folds and max(folds) >= k_fold:
        raise UserError(f"--folds {max(folds)}: the runs are of {k_fold} folds, 0 to {k_fold - 1}")
    done = {(run.experiment, run.sequence, run.fold, run.key[1]) for run in runs}
    # A corpus with given splits has one fold.
    given = {name for run in runs for name, of in run.config["corpora"].items() if of["splits"]["test"]["sessions"] == ["test"]}
    lacking = defaultdict(list)
    for row, method in rows.items():
        for seed in sorted({run.key[1] for run in runs}) or [12]:
            for order, steps in _steps(method, orders, runs).items():
                of_step = {}
                for name, sequence in steps.items():
                    wanted = [0] if given >= set(order or (name,)) else folds or range(k_fold)
                    of_step[name] = tuple(k for k in sorted(wanted) if (row, sequence, k, seed) not in done)
                # One command for all steps, and below for all seeds, with the same missing folds.
                for lacked in dict.fromkeys(filter(None, of_step.values())):
                    tasks = tuple(name for name in steps if of_step[name] == lacked)
                    by_default = order or JOINT in steps or steps.keys() == set(KEMDY)
                    whole = len(tasks) == len(steps) and by_default
                    lacking[row, order, () if whole else tasks, lacked].append(seed)
    commands = (_command(found, runs, rows, *what, seeds, output_root) for what, seeds in lacking.items())
    return [command for command in commands if command]


def _steps(method, orders, runs):
    """The sequences that a method trains: ``{ORDER: {name in TASKS: sequence}}``, with key () if no ORDER is needed."""
    if not orders:
        tasks = dict.fromkeys(task for run in runs for task in run.sequence)
        return {(): {task: (task,) for task in tasks}} if method.how == ALONE and tasks else {}
    steps, known = defaultdict(dict), set()
    for order in orders:
        published = set(order) == set(KEMDY)
        for length, task in enumerate(order, 1):
            name, sequence = task, (task,) if method.how == ALONE else order[:length]
            if method.how == JOINT:
                name, sequence = JOINT if published else task, tuple(sorted(sequence))
            if (length > 1 or method.how == ALONE) and sequence not in known:
                known.add(sequence)
                steps[() if published else order][name] = sequence
    return {order: dict(sorted(of.items())) if not order else of for order, of in steps.items()}


def _command(found, runs, rows, row, order, tasks, folds, seeds, output_root):
    """The command for some runs of a row; None for a tuned row whose trials were started by hand."""
    method = rows[row]
    # Run scripts resolve default paths in the repository, and given paths in the working directory.
    at = "" if Path.cwd() == REPOSITORY else f"{REPOSITORY}/"
    is_tuned = any(run.experiment == row and "tuned" in run.config for run in runs)
    words = [f"EXP_NAME={shlex.quote(row)}"] if row != method.name and not is_tuned else []
    if is_tuned:
        variables = tuning_variables(row, found)
        if variables is None:
            return None
        words = [f"{name}={_words(values)}" for name, values in variables.items()]
    if order:
        words.append(f"ORDER={_words(order)}")
    if folds != (0, 1, 2, 3, 4):
        words.append(f"FOLDS={_words(folds)}")
    if tasks:
        words.append(f"TASKS={_words(tasks) if len(tasks) > 1 else shlex.quote(tasks[0])}")
    if seeds != [12]:
        words.append(f"SEEDS={_words(seeds)}")
    script = [method.run_script] if method.run_script else ["run.sh", method.name]
    if is_tuned:
        script = ["run-tune.sh", method.name]
    words += ["bash", shlex.quote(at + script[0]), *script[1:]]
    words += map(shlex.quote, flag_words(_flags_of_siblings(runs, row, method)))
    if os.path.abspath(output_root) != str(REPOSITORY / "outputs"):
        words += ["--output_root", shlex.quote(str(output_root))]
    return " ".join(words)


def _words(values):
    text = " ".join(map(str, values))
    return f'"{text}"' if re.fullmatch(r"[\w .+-]+", text) else shlex.quote(text)


def _flags_of_siblings(runs, row, method):
    """Flags other than the defaults that make a missing run comparable with existing ones: ``{name: value}``."""
    defaults = {action.dest: action.default for action in training_parser("", method.name)._actions}
    own = [run for run in runs if run.experiment == row]
    like = [run for run in runs if run.config["model"] == method.model]
    same_script = [run for run in like if METHODS[run.method].script == method.script]
    if not runs:
        return {}
    sibling, chosen = (own or same_script or like or runs)[0], {}
    making = (*method.flags, *METHODS[sibling.method].flags)  # these define the method; they are not settings of a row
    # Tuned values do not carry over to other rows, and the row's own trials determine them again.
    tuned = ("--trial_of", *varied_flags(METHODS[sibling.method])) if "tuned" in sibling.config else ()
    for name, value in sibling.config["arguments"].items():
        # Copy every flag from a run of the same script, the flags shared by all scripts from one of the same model, and only
        # the locations of corpora and encoders from any other.
        fits = own or same_script or (like and name in defaults) or name in PLACES
        # The run scripts' default batch size differs from the Python scripts'.
        told = name == "batch_size" or name not in defaults or str(value) != str(defaults[name])
        if name == "init_name":
            starts = {METHODS[run.method].starts_from for run in runs} | {method.starts_from}
            told = str(value) not in starts | {f"{start}-seed{run.key[1]}" for start in starts for run in runs}
        elif name == "data_root":
            told = os.path.abspath(str(value)) != str(REPOSITORY / "data")
        known = name in NOT_REPEATED or f"--{name}" in (*making, *tuned)
        if fits and told and not known:
            chosen[name] = value
    return chosen
