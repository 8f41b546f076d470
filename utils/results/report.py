"""What evaluate.py prints: tables from runs, the sentences that they are read with, and the commands for what is missing."""

import os
import shlex
from collections import defaultdict
from pathlib import Path

from utils.data.kemdy import CORPORA, EMOTIONS
from utils.errors import UserError
from utils.results.measures import FORMULAS, LEARNERS, ORDERS, continual_measures, lambda_curve
from utils.results.runs import (
    ADAPTERS,
    CONTINUAL,
    METHODS,
    METRIC_TITLES,
    are_synthetic,
    difference,
    epochs_done,
    folder_size,
    is_lambda_run,
    majority,
    over_folds,
    scores,
    seeds_by_fold,
    table_scores,
)
from utils.results.tables import Change, PairedDifference, Table, shown_as
from utils.training.arguments import JOINT, other_task, split_seed, training_parser

RUN_SCRIPTS = {
    "task_a": "run-init.sh",
    "finetune": "run-finetune.sh",
    "ewc": "run-ewc.sh",
    "adapter": "run-adapter.sh",
    "adapter_wo_pretraining": "run-adapter-wo-pretraining.sh",
    JOINT: "run-joint.sh",
}
SYNTHETIC = "SYNTHETIC corpora or encoders: a demonstration, not a result."
TASK_KNOWLEDGE = (
    "The adapters are told which corpus an utterance is from and have a classifier for each; finetune, ewc and joint answer "
    "for both with one classifier and are not told."
)
# The methods' own, beside those that all training scripts share.
OWN_FLAGS = (
    *("init_name", "ewc_lambda", "fisher_batch_size", "adapter_size", "encoder_seed", "skip_bad_files"),
    *("no_speech_cache", "speech_cache", "speech_cache_precision"),
)
# Flags that the run scripts set themselves, or that say nothing about a missing run.
NOT_REPEATED = (
    *("task", "exp_name", "seed", "num_fold", "output_root"),
    *("overwrite", "checkpoint", "without_pretraining"),
)
PLACES = ("data_root", "text_model", "speech_model", "k_fold", "cpu")
REPOSITORY = Path(__file__).resolve().parents[2]


def score_table(runs, metric):
    """The published table for one metric, with the floor (majority) and the upper bound (joint)."""
    rows = {"majority": {task: majority(runs, task, metric) for task in CORPORA}}
    for method in METHODS:
        rows[method] = {task: over_folds(table_scores(runs, method, task, metric)) for task in CORPORA}
    notes = (
        "A column is the corpus tested; finetune and ewc learned it first and the other corpus after it, task_a and the "
        "adapters are the column's own, joint learned both at once. majority always answers the training split's commonest "
        "label.",
        TASK_KNOWLEDGE,
    )
    title = f"Test {METRIC_TITLES[metric]}"
    return Table("scores", title, "setting", rows, {"metric": metric}, notes, digits=4)


def measure_tables(runs, metric):
    """R, ACC, BWT and intransigence of every method, a table for each order of the corpora."""
    tables = []
    for first, second in ORDERS:
        rows = {}
        for method in (*LEARNERS, JOINT):
            measures = continual_measures(runs, method, first, second, metric)
            for name in ("BWT", "intransigence"):
                measures[name] = shown_as(Change, measures[name])
            rows[method] = measures
        notes = (
            "R[i,j] is the test score on task j after task i was learned, task 1 being the corpus that is learned first.",
            *FORMULAS.values(),
            "An adapter of task 1 is not touched by task 2, so its BWT is 0 by construction, and R[1,2] does not exist.",
            TASK_KNOWLEDGE,
        )
        title = f"{first}, then {second}: continual learning by {METRIC_TITLES[metric]}"
        tables.append(Table("continual", title, "method", rows, {"metric": metric, "first": first, "second": second}, notes))
    return tables


def paired_table(runs, metric):
    """Difference of every method to finetune and to adapter, paired by fold, with its 95 % confidence interval."""
    rows = {}
    for method in METHODS:
        row = rows[method] = {}
        for task in CORPORA:
            for base in ("finetune", "adapter"):
                values = difference(*(table_scores(runs, name, task, metric) for name in (method, base)))
                estimate = over_folds(values) if method != base else None
                row[f"{task} vs {base}"] = shown_as(PairedDifference, estimate)
    notes = (
        "The row's score minus that of finetune or adapter on the same fold and seed. The folds share training data, so the "
        "intervals are rather too narrow (Nadeau & Bengio 2003); with two folds they are very wide.",
    )
    title = f"Paired differences of {METRIC_TITLES[metric]}"
    return Table("paired_differences", title, "setting", rows, {"metric": metric}, notes)


def class_tables(runs):
    """F1 of every emotion on the first corpus before and after the second, a table for each order."""
    tables = []
    for first, second in ORDERS:
        rows = {}
        for emotion in EMOTIONS:
            before = {m: scores(runs, m, second, first, emotion, "test_before") for m in CONTINUAL}
            after = {m: scores(runs, m, second, first, emotion) for m in CONTINUAL}
            row = rows[emotion] = {"before": over_folds({**before["ewc"], **before["finetune"]})}
            for method in CONTINUAL:
                change = over_folds(difference(after[method], before[method]))
                row |= {f"{method} after": over_folds(after[method]), f"{method} change": shown_as(Change, change)}
            row |= {method: over_folds(scores(runs, method, first, first, emotion)) for method in ADAPTERS}
        notes = (
            "F1 of each emotion on the first corpus's test split. before is task_a's model, from which finetune and ewc start; "
            "the adapters of the first corpus stay as they are while the second is learned.",
        )
        title = f"{first}, then {second}: F1 of each emotion on {first}"
        tables.append(Table("per_class", title, "emotion", rows, {"metric": "f1", "first": first, "second": second}, notes))
    return tables


def lambda_tables(runs, metric):
    """Both tasks' scores along the grid of λ, a table for each order; none without a grid."""
    tables = []
    for first, second in ORDERS:
        curve, others = lambda_curve(runs, first, second, metric)
        if not curve:
            continue
        points = {f"ewc, λ = {value:,.10g}": pair for value, pair in curve.items()} | others
        rows = {name: dict(zip((f"{first} (task 1)", f"{second} (task 2)"), pair)) for name, pair in points.items()}
        some = next(iter(curve.values()))[0]
        folds, seeds = (", ".join(map(str, sorted(of))) for of in (some.per_fold, some.seeds))
        notes = (
            f"Test scores after both tasks on fold {folds} and seed {seeds}, finetune's and adapter's on the same. A λ that is "
            "picked by these scores is picked on test splits.",
        )
        title = f"{first}, then {second}: {METRIC_TITLES[metric]} along λ"
        tables.append(Table("ewc_lambda", title, "setting", rows, {"metric": metric, "first": first, "second": second}, notes))
    return tables


def other_names(found):
    """Experiments whose names are neither a setting's nor a λ grid's."""
    return sorted({run.experiment for run in found if run.method not in METHODS and not is_lambda_run(run)})


def parameter_table(runs):
    """Parameters of each method's model, trained and stored, as its runs counted them."""
    rows = {}
    for method in METHODS:
        counts = next((run.config.get("parameters", {}) for run in runs if run.method == method), {})
        rows[method] = {"of the model": counts.get("total"), "trained": counts.get("trained"), "stored": counts.get("stored")}
        rows[method]["knows the corpus"] = method not in (*CONTINUAL, JOINT)
    notes = (
        "stored is what best_model.pt holds: one file serves both corpora for finetune, ewc and joint, task_a needs one for "
        "each, and the adapters one for each beside the frozen encoders, once.",
    )
    return Table("parameters", "Parameters", "setting", rows, notes=notes)


def notes(runs):
    """What a reader must know of all tables: synthetic or not, and what was left out or differs between methods."""
    lines = [SYNTHETIC] if are_synthetic(runs) else []
    every_seed = {run.key[1] for run in runs if run.method in METHODS}
    for method, task in dict.fromkeys((run.method, run.task) for run in runs if run.method in METHODS):
        common = set.intersection(*seeds_by_fold(runs, method, task).values())
        if common != every_seed:
            lines.append(
                f"{method}, trained on {task}, is averaged over seed {', '.join(map(str, sorted(common)))} alone, "
                "which all of its folds have."
            )
    for kind in ("text", "speech"):
        fingerprints = defaultdict(list)
        for method in METHODS:
            encoders = [run.config["encoders"].get(kind) for run in runs if run.method == method]
            if encoders and encoders[0] and encoders[0].get("pretrained", True):
                fingerprints[encoders[0]["fingerprint"]].append(method)
        if len(fingerprints) > 1:
            lines.append(f"The {kind} encoders differ: " + "; ".join(", ".join(names) for names in fingerprints.values()) + ".")
    for name in ("num_epochs", "batch_size", "lr", "max_text_len", "max_seq_len"):
        settings = defaultdict(list)
        for method in METHODS:
            values = [run.config["arguments"].get(name) for run in runs if run.method == method]
            if values:
                settings[values[0]].append(method)
        if len(settings) > 1:
            lines.append(f"--{name} differs: " + "; ".join(f"{v} {', '.join(of)}" for v, of in settings.items()) + ".")
    return lines + _other_starts(runs)


def _other_starts(runs):
    """A line for each run of finetune and ewc that did not start from task_a's model as it is now."""
    alone = {(run.task, run.key): run.metrics["test"][run.task] for run in runs if run.method == "task_a"}
    lines = []
    for run in runs:
        first = other_task(run.task) if run.method in CONTINUAL else None
        start = alone.get((first, run.key))
        before = run.metrics.get("test_before", {}).get(first)
        if start and before and start["confusion_matrix"] != before["confusion_matrix"]:
            lines.append(f"{run.path} did not start from task_a's model as it is now: it forgot from another score.")
    return lines


def missing_commands(runs, output_root, folds=None):
    """The commands that make what the tables lack, in an order in which they can be run.

    Args:
        runs: from ``utils.results.runs.comparable_runs``; their seeds, folds and flags are those that are missed.
        output_root: where they lie.
        folds: the folds that are wanted; without it all of the runs' ``--k_fold``.
    """
    runs = [run for run in runs if run.method in METHODS]
    k_fold = max((run.config["arguments"].get("k_fold", 5) for run in runs), default=5)
    wanted = sorted(folds) if folds is not None else list(range(k_fold))
    if max(wanted) >= k_fold:
        raise UserError(f"--folds {max(wanted)}: the runs are of {k_fold} folds, 0 to {k_fold - 1}")
    lacking = defaultdict(list)
    for method in METHODS:
        for seed in sorted({run.key[1] for run in runs}) or [12]:
            of_task = {}
            for task in [JOINT] if method == JOINT else CORPORA:
                done = seeds_by_fold(runs, method, task)
                of_task[task] = tuple(fold for fold in wanted if seed not in done.get(fold, ()))
            # One command for all tasks, and below for all seeds, that lack the same folds.
            for lacked in dict.fromkeys(filter(None, of_task.values())):
                tasks = tuple(task for task in of_task if of_task[task] == lacked)
                lacking[method, tasks, lacked].append(seed)
    return [_command(runs, *what, seeds, output_root) for what, seeds in lacking.items()]


def _command(runs, method, tasks, folds, seeds, output_root):
    # What a run script is not told lies in the repository, and what it is told, where it is called.
    at = "" if Path.cwd() == REPOSITORY else f"{REPOSITORY}/"
    words = []
    if folds != (0, 1, 2, 3, 4):
        words.append(f'FOLDS="{" ".join(map(str, folds))}"')
    if tasks not in (CORPORA, (JOINT,)):
        words.append(f"TASKS={tasks[0]}")
    if seeds != [12]:
        words.append(f'SEEDS="{" ".join(map(str, seeds))}"')
    words += ["bash", shlex.quote(f"{at}{RUN_SCRIPTS[method]}")]
    for name, value in _flags_of_siblings(runs, method).items():
        words += [f"--{name}"] if value is True else [f"--{name}", shlex.quote(str(value))]
    if os.path.abspath(output_root) != str(REPOSITORY / "outputs"):
        words += ["--output_root", shlex.quote(str(output_root))]
    return " ".join(words)


def _flags_of_siblings(runs, method):
    """Flags, other than the defaults, with which a missing run fits those that are there: ``{name: value}``."""
    if not runs:
        return {}
    defaults = vars(training_parser("", METHODS).parse_args(["--task", CORPORA[0]]))
    own = [run for run in runs if run.method == method]
    like = [run for run in runs if (run.method in ADAPTERS) == (method in ADAPTERS)]
    chosen = {}
    for name, value in (own or like or runs)[0].config["arguments"].items():
        # A run of the same setting tells every flag, one that trains the same parts those that both have, any other where
        # the corpora and encoders lie.
        fits = own or (like and (name in defaults or method in ADAPTERS)) or name in PLACES
        # The run scripts' own batch size is not the Python scripts' default.
        told = name == "batch_size" or name not in defaults or str(value) != str(defaults[name])
        if name == "init_name":
            told = split_seed(str(value))[0] != "task_a"
        elif name == "data_root":
            told = os.path.abspath(str(value)) != str(REPOSITORY / "data")
        # The rest of what a file may hold is no flag.
        known = (name in defaults or name in OWN_FLAGS) and name not in NOT_REPEATED
        if fits and told and known and value is not None and value is not False:
            chosen[name] = value
    return chosen


def run_table(found, output_root):
    """Every run that was found, a row each."""
    rows = {}
    for run in found:
        config, test = run.config, (run.metrics or {}).get("test", {})
        arguments, metrics = config.get("arguments", {}), run.metrics or {}
        encoders = ", ".join(
            f"{encoder['name'].rstrip('/').split('/')[-1]} {encoder['fingerprint'][:8]}"
            + ("" if encoder["pretrained"] else " (random)")
            for encoder in config.get("encoders", {}).values()
        )
        rows[str(run.path.relative_to(output_root))] = {
            "method": config.get("method"),
            "trained on": run.task,
            "fold": str(run.fold),
            "seed": str(config.get("seed", "")),
            "epochs": f"{epochs_done(run)}/{arguments.get('num_epochs', '?')}",
            "best": str(metrics["best_epoch"]) if "best_epoch" in metrics else None,
            "valid micro F1": metrics.get("valid", {}).get(run.task, {}).get("f1_micro"),
            **{f"test {task}": test[task]["f1_weighted"] if task in test else None for task in CORPORA},
            "trained": config.get("parameters", {}).get("trained"),
            "stored": config.get("parameters", {}).get("stored"),
            "bytes": folder_size(run),
            "encoders": encoders,
            "synthetic": config.get("synthetic"),
            "state": run.problem or ("finished" if run.metrics else "not finished"),
        }
    notes = ("epochs are done/asked for; test is the weighted F1 on each corpus that the run was tested on.",)
    return Table("runs", f"Runs under {output_root}", "folder", rows, notes=notes)
