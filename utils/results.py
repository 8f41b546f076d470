"""What the finished runs under an output folder add up to."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.arguments import other_task, split_seed
from utils.errors import UserError
from utils.kemdy import CORPORA
from utils.metrics import majority_scores
from utils.runs import CONFIG, METRICS, read_json

# The published table's columns, in its order, by the experiments' default names.
METHODS = ("task_a", "finetune", "ewc", "adapter", "adapter_wo_pretraining")
# These train a corpus's own parameters; the others are tested on the corpus that they learned first.
TRAINED_ON_TESTED_TASK = ("task_a", "adapter", "adapter_wo_pretraining")


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
    """All finished runs of METHODS under ``output_root``, sorted by path.

    Raises:
        UserError: if runs on synthetic and on real material lie together.
    """
    runs = []
    for path in sorted(Path(output_root).glob(f"*/fold_*/*/{METRICS}")):
        method = split_seed(path.parts[-4])[0]
        if method in METHODS:
            config, metrics = read_json(path.parent / CONFIG), read_json(path)
            runs.append(FinishedRun(path.parent, method, config["task"], config["fold"], config, metrics))
    synthetic = [run for run in runs if run.config["synthetic"]]
    if synthetic and len(synthetic) < len(runs):
        real = next(run for run in runs if not run.config["synthetic"])
        raise UserError(f"{synthetic[0].path} is synthetic and {real.path} is not: keep them under different --output_root")
    return runs


def trained_task(method, tested_task):
    """The corpus on which the run was trained whose score stands in a row of the published table."""
    return tested_task if method in TRAINED_ON_TESTED_TASK else other_task(tested_task)


@dataclass(frozen=True)
class Cell:
    """One score over folds: ``per_fold`` maps a fold to its mean over seeds; ``seeds`` is how many there were at most."""

    per_fold: dict
    seeds: int

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
    return Cell({fold: float(np.mean(values)) for fold, values in sorted(by_fold.items())}, max(map(len, by_fold.values())))


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
