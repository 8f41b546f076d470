"""What the finished runs under an output folder add up to."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.arguments import differing_arguments, other_task, split_seed
from utils.errors import UserError
from utils.files import CONFIG, METRICS, read_json
from utils.kemdy import CORPORA
from utils.metrics import majority_scores

# The published table's columns, in its order, by the experiments' default names.
METHODS = ("task_a", "finetune", "ewc", "adapter", "adapter_wo_pretraining")
# These train a corpus's own parameters; the others are tested on the corpus that they learned first.
TRAINED_ON_TESTED_TASK = ("task_a", "adapter", "adapter_wo_pretraining")
# Arguments in which runs that are averaged may differ: which of the grid they are, where they lie, how they were computed.
MAY_DIFFER = (
    *("num_fold", "seed", "exp_name", "checkpoint", "init_name"),
    *("data_root", "output_root", "text_model", "speech_model", "cpu", "num_workers", "overwrite"),
)


@dataclass(frozen=True)
class FinishedRun:
    """A run folder with its metrics.json. ``method`` is the experiment's name without a ``-seedN`` at its end."""

    path: Path
    method: str
    task: str
    fold: int
    config: dict
    metrics: dict


def find_runs(output_root):
    """All finished runs of METHODS under ``output_root``, sorted by path, and the names of the other experiments there.

    Returns:
        (runs, others): a list of FinishedRun, a sorted list of str.

    Raises:
        UserError: if runs lie together that must not be averaged: synthetic and real ones, or runs of one method and task
            whose arguments or encoders differ in more than fold and seed.
    """
    runs, others = [], set()
    for path in sorted(Path(output_root).glob(f"*/fold_*/*/{METRICS}")):
        method = split_seed(path.parts[-4])[0]
        if method not in METHODS:
            others.add(path.parts[-4])
            continue
        config, metrics = read_json(path.parent / CONFIG), read_json(path)
        try:
            runs.append(FinishedRun(path.parent, method, config["task"], config["fold"], config, metrics))
            config["synthetic"], config["seed"], config["arguments"], config["encoders"], config["corpora"], metrics["test"]
        except KeyError as error:
            raise UserError(f"{path.parent}: {CONFIG} or {METRICS} lacks {error}; run it again with --overwrite") from None
    _require_comparable(runs)
    return runs, sorted(others)


def _require_comparable(runs):
    first_of = {}
    for run in runs:
        first = first_of.setdefault((run.method, run.task), run)
        arguments = differing_arguments(first.config["arguments"], run.config["arguments"], MAY_DIFFER)
        differing = [f"--{name} {one} and {other}" for name, one, other in arguments]
        for kind, encoder in first.config["encoders"].items():
            if encoder["fingerprint"] != run.config["encoders"][kind]["fingerprint"]:
                differing.append(f"{kind} encoders")
        if differing:
            raise UserError(
                f"{first.path} and {run.path} differ in {', '.join(differing)}: they are not averaged; keep them under "
                "different experiment names or --output_root"
            )
        if run.config["synthetic"] != runs[0].config["synthetic"]:
            one, other = (runs[0], run) if run.config["synthetic"] else (run, runs[0])
            raise UserError(f"{other.path} is synthetic and {one.path} is not: keep them under different --output_root")


def trained_task(method, tested_task):
    """The corpus on which the run was trained whose score stands in a row of the published table."""
    return tested_task if method in TRAINED_ON_TESTED_TASK else other_task(tested_task)


@dataclass(frozen=True)
class Cell:
    """One score over folds: ``per_fold`` maps a fold to its mean over seeds."""

    per_fold: dict

    @property
    def mean(self):
        return float(np.mean(list(self.per_fold.values())))

    @property
    def std(self):
        """Standard deviation over folds (n − 1); None for one fold."""
        return float(np.std(list(self.per_fold.values()), ddof=1)) if len(self.per_fold) > 1 else None


def _cell(scores):
    """(fold, score) pairs → Cell, or None if there are none."""
    by_fold = {}
    for fold, score in scores:
        by_fold.setdefault(fold, []).append(score)
    if not by_fold:
        return None
    return Cell({fold: float(np.mean(values)) for fold, values in sorted(by_fold.items())})


def score_cell(runs, method, tested_task, metric, when="test"):
    """A method's score on a corpus as in the published table, over the folds found.

    Args:
        runs: from ``find_runs``.
        method: one of METHODS.
        tested_task: the table's row.
        metric: f1_weighted, f1_macro or f1_micro.
        when: "test" for the best model, "test_before" for the model that finetune and ewc started from.

    Returns:
        A Cell, or None where there is no such run.
    """
    wanted = (method, trained_task(method, tested_task))
    found = [run for run in runs if (run.method, run.task) == wanted]
    return _cell([(run.fold, run.metrics[when][tested_task][metric]) for run in found if when in run.metrics])


def majority_cell(runs, task, metric):
    """The score of always answering the training split's commonest label, over the folds of which any run tells."""
    splits = {run.fold: run.config["corpora"][task]["splits"] for run in runs if task in run.config["corpora"]}
    return _cell(
        [(fold, majority_scores(split["train"]["labels"], split["test"]["labels"])[metric]) for fold, split in splits.items()]
    )


def score_table(runs, metric):
    """``{tested corpus: {method: Cell or None}}``, the published table's rows and columns."""
    return {task: {method: score_cell(runs, method, task, metric) for method in METHODS} for task in CORPORA}
