"""The runs under an output folder: which there are, which belong together, and a quantity over their folds."""

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy import stats

from utils.data.kemdy import EMOTIONS
from utils.errors import UserError
from utils.files import CONFIG, HISTORY, METRICS, read_json
from utils.identity import differences, identity, read_run_config
from utils.metrics import majority_scores
from utils.training.arguments import JOINT, other_task, split_seed

# The published table's settings, in its order, by the experiments' default names; then the upper bound.
SETTINGS = ("task_a", "finetune", "ewc", "adapter", "adapter_wo_pretraining")
METHODS = (*SETTINGS, JOINT)
# These go on from a model of the other corpus, and are tested on the one that they learned first.
CONTINUAL = ("finetune", "ewc")
ADAPTERS = ("adapter", "adapter_wo_pretraining")
METRIC_TITLES = {"f1_weighted": "weighted F1", "f1_macro": "macro F1", "f1_micro": "micro F1"}
# run-ewc-lambda.sh keeps its experiments under names that begin so.
LAMBDA_PREFIX = "ewc-lambda"
# In what runs that are averaged may differ: which of the grid they are, and what each starts from.
MAY_DIFFER = ("--task", "--num_fold", "--seed", "--exp_name", "--init_name", "starting model")
# What config.json must hold, and of which type.
NEEDED = {"method": str, "task": str, "fold": int, "seed": int, "synthetic": bool, "labels": list} | {
    name: dict for name in ("arguments", "encoders", "corpora")
}
CONFIDENCE = 0.95


@dataclass(frozen=True)
class FoundRun:
    """A run folder. ``metrics`` is None for a run that is not finished; ``problem`` says why its files cannot be used."""

    path: Path
    experiment: str
    config: dict
    metrics: dict | None = None
    problem: str | None = None

    @property
    def method(self):
        """The experiment's name without a ``-seedN`` at its end: one of METHODS, or a name that a user gave."""
        return split_seed(self.experiment)[0]

    @property
    def task(self):
        return self.config.get("task", self.path.name)

    @property
    def fold(self):
        return self.config.get("fold")

    @property
    def key(self):
        """(fold, seed): runs of two methods with the same key are a pair."""
        return self.config["fold"], self.config["seed"]


def find_runs(output_root):
    """Every run folder ``<experiment>/fold_<k>/<task>`` under ``output_root``, finished or not, sorted by path."""
    folders = sorted(path.parent for path in Path(output_root).glob(f"*/fold_*/*/{CONFIG}"))
    return [_read_run(folder) for folder in folders]


def _read_run(folder):
    run = FoundRun(folder, folder.parts[-3], {})
    try:
        config = read_run_config(folder / CONFIG)
        metrics = read_json(folder / METRICS) if (folder / METRICS).exists() else None
    except UserError as error:
        return replace(run, problem=str(error))
    wrong = [name for name, kind in NEEDED.items() if not isinstance(config.get(name), kind)]
    if wrong:
        # What is there is not to be trusted either: it would be looked at part by part.
        return replace(run, problem=f"{CONFIG} has no {wrong[0]!r}, or not as it was written")
    problem = _problem_of_metrics(metrics) if metrics is not None else None
    if metrics is not None and metrics.get("run") != config.get("run"):
        problem = f"{METRICS} is not of the run in {CONFIG}"
    return replace(run, config=config, metrics=None if problem else metrics, problem=problem)


def _problem_of_metrics(metrics):
    for when in ("test", "test_before"):
        tests = metrics.get(when, {} if when == "test_before" else None)
        if not isinstance(tests, dict) or not all(isinstance(test, dict) for test in tests.values()):
            return f"{METRICS} has no {when!r}, or not as it was written"
        for name, test in tests.items():
            counts, per_class, rows = (test.get(part) for part in ("n", "per_class", "confusion_matrix"))
            right = {metric: _is_share(test.get(metric)) for metric in METRIC_TITLES} | {"n": type(counts) is int}
            right["per_class"] = (
                isinstance(per_class, dict)
                and per_class.keys() == set(EMOTIONS)
                and all(isinstance(of, dict) and _is_share(of.get("f1")) for of in per_class.values())
            )
            right["confusion_matrix"] = (
                isinstance(rows, list)
                and [len(row) if isinstance(row, list) else 0 for row in rows] == [len(EMOTIONS)] * len(EMOTIONS)
                and all(type(count) is int and count >= 0 for row in rows for count in row)
            )
            wrong = [part for part, is_right in right.items() if not is_right]
            if wrong:
                return f"{METRICS} has no {wrong[0]!r} of {name}, or not as it was written"
    return None


def _is_share(value):
    return type(value) in (int, float) and 0 <= value <= 1


def comparable_runs(found):
    """The finished ones of METHODS and of a λ grid, once it is sure that they belong together.

    Raises:
        UserError: if a run's files cannot be used, or if runs lie together that must not be averaged or compared: synthetic
            and real ones, two of the same fold and seed, runs of one experiment and task whose arguments, encoders or seeds
            differ in more than they may, runs on other utterances. The line names two of them and what differs.
    """
    runs = [run for run in found if run.method in METHODS or is_lambda_run(run)]
    for run in runs:
        if run.problem:
            raise UserError(f"{run.path}: {run.problem}; run it again with --overwrite, or move it away")
    runs = [run for run in runs if run.metrics]
    first_of, by_key, corpora = {}, {}, {}
    for run in runs:
        if run.config["synthetic"] != runs[0].config["synthetic"]:
            one, other = (runs[0], run) if run.config["synthetic"] else (run, runs[0])
            raise UserError(f"{other.path} is synthetic and {one.path} is not: keep them under different --output_root")
        method = "ewc" if is_lambda_run(run) else run.method
        if run.config["method"] != method:
            raise UserError(
                f"{run.path} is a run of {run.config['method']} under the name of {method}: give it another --exp_name"
            )
        first = first_of.setdefault(LAMBDA_PREFIX if is_lambda_run(run) else run.method, run)
        differing = run_differences(first, run)
        if differing:
            raise UserError(
                f"{first.path} and {run.path} differ in {', '.join(differing)}: they are not averaged; keep them under "
                "different experiment names or --output_root"
            )
        twin = by_key.setdefault((run.method, run.task, run.key), run)
        if twin is not run:
            raise UserError(f"{twin.path} and {run.path} are both of fold {run.key[0]} and seed {run.key[1]}: move one away")
        for name, facts in run.config["corpora"].items():
            other, known = corpora.setdefault(name, (run, facts["digest"]))
            same = known == facts["digest"]
            if same:  # the same utterances could still be divided otherwise
                other, known = corpora.setdefault((name, run.config["fold"]), (run, facts["splits"]))
                same = known == facts["splits"]
            if not same:
                raise UserError(
                    f"{other.path} and {run.path} were made with other utterances of {name}: they are not compared; keep them "
                    "under different --output_root"
                )
    for method, task in dict.fromkeys((run.method, run.task) for run in runs):
        seeds = seeds_by_fold(runs, method, task)
        if not set.intersection(*seeds.values()):
            listed = "; ".join(f"fold {fold}: {', '.join(map(str, sorted(of)))}" for fold, of in sorted(seeds.items()))
            raise UserError(
                f"{method}, trained on {task}: no seed is that of every fold ({listed}), and other seeds are not "
                "averaged over folds; SEEDS in front of the run scripts makes whole sets"
            )
    return runs


def run_differences(one, other):
    """In what two runs differ that must not differ among those that are averaged: flags with both values, encoders.

    λ may differ where one of the two is of a grid. Corpora are compared over all runs of a table, see ``comparable_runs``.
    """
    here, there = identity(one.config), identity(other.config)
    may_differ = {*MAY_DIFFER, *(name for name in here | there if name.startswith(("corpus ", "folds of ")))}
    if is_lambda_run(one) or is_lambda_run(other):
        may_differ.add("--ewc_lambda")
    return differences(here, there, may_differ, words="{} and {}")


def are_synthetic(runs):
    """Are the runs synthetic? ``comparable_runs`` lets them be so all or none."""
    return any(run.config["synthetic"] for run in runs)


def is_lambda_run(run):
    """Is the run a point of run-ewc-lambda.sh's grid?"""
    return run.method.startswith(LAMBDA_PREFIX)


def seeds_by_fold(runs, method, task):
    """``{fold: set of seeds}`` of the runs of one method and task."""
    seeds = defaultdict(set)
    for run in runs:
        if (run.method, run.task) == (method, task):
            seeds[run.key[0]].add(run.key[1])
    return dict(seeds)


def trained_task(method, tested_task):
    """The task on which the run was trained whose score stands in a row of the published table."""
    if method == JOINT:
        return JOINT
    return other_task(tested_task) if method in CONTINUAL else tested_task


@dataclass(frozen=True)
class Estimate:
    """A quantity over folds: ``per_fold`` maps a fold to its mean over ``seeds``."""

    per_fold: dict
    seeds: tuple = ()

    @cached_property
    def mean(self):
        return float(np.mean(list(self.per_fold.values())))

    @cached_property
    def std(self):
        """Standard deviation over folds (n − 1); None for one fold."""
        return float(np.std(list(self.per_fold.values()), ddof=1)) if len(self.per_fold) > 1 else None

    @cached_property
    def interval(self):
        """Bounds of the 95 % confidence interval of the mean by Student's t over folds; None for one fold."""
        if self.std is None:
            return None
        n = len(self.per_fold)
        reach = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * self.std / np.sqrt(n)
        return float(self.mean - reach), float(self.mean + reach)


def over_folds(values):
    """Average over seeds within folds, over the seeds that every fold has.

    Args:
        values: ``{(fold, seed): number}``.

    Returns:
        An Estimate, or None if there is nothing to average.
    """
    seeds = defaultdict(set)
    for fold, seed in values:
        seeds[fold].add(seed)
    common = set.intersection(*seeds.values()) if seeds else set()
    if not common:
        return None
    common = tuple(sorted(common))
    return Estimate({fold: float(np.mean([values[fold, seed] for seed in common])) for fold in sorted(seeds)}, common)


def difference(one, other):
    """``one - other``, pair by pair; what only one of the two has is left out. Both are ``{(fold, seed): number}``."""
    return {key: one[key] - other[key] for key in one if key in other}


def scores(runs, method, trained, tested, metric, when="test"):
    """Test scores of the runs of one method, ``{(fold, seed): score}``.

    Args:
        runs: from ``comparable_runs``.
        method: one of METHODS.
        trained: the task that the runs trained on.
        tested: the corpus they are tested on.
        metric: f1_weighted, f1_macro, f1_micro, or an emotion for its own F1.
        when: "test" for the best model, "test_before" for the model that finetune and ewc started from.
    """
    tests = {
        run.key: run.metrics[when][tested]
        for run in runs
        if (run.method, run.task) == (method, trained) and tested in run.metrics.get(when, {})
    }
    return {key: test[metric] if metric in METRIC_TITLES else test["per_class"][metric]["f1"] for key, test in tests.items()}


def table_scores(runs, method, tested, metric, when="test"):
    """``scores`` of the run that the published table's row ``tested`` is about."""
    return scores(runs, method, trained_task(method, tested), tested, metric, when)


def majority(runs, task, metric):
    """The score of always answering the training split's commonest label, as an Estimate over the folds that any run tells."""
    splits = {run.config["fold"]: run.config["corpora"][task]["splits"] for run in runs if task in run.config["corpora"]}
    per_fold = {
        fold: majority_scores(split["train"]["labels"], split["test"]["labels"])[metric] for fold, split in splits.items()
    }
    return Estimate(dict(sorted(per_fold.items()))) if per_fold else None


def folder_size(run):
    """Bytes of a run's files."""
    return sum(path.stat().st_size for path in run.path.iterdir() if path.is_file())


def epochs_done(run):
    """Epochs in the run's history, without epoch 0."""
    try:
        with open(run.path / HISTORY, encoding="utf-8") as file:
            return max(sum(1 for _ in file) - 2, 0)
    except (OSError, ValueError):
        return 0
