"""Test the checkpoints of finished runs again: does each do what its folder says?"""

from argparse import Namespace
from dataclasses import dataclass

import numpy as np
import pandas as pd

from utils.errors import UserError
from utils.files import BEST_MODEL, METRICS, PREDICTIONS
from utils.kemdy import EMOTIONS
from utils.metrics import test_scores
from utils.results import METRIC_TITLES
from utils.runs import Run, load_run
from utils.training import prediction_table, test

# Probabilities computed on another device or in other batches differ by less; bf16 has two to three digits.
TOLERANCE = {"no": 1e-3, "bf16": 5e-2}
PROBABILITIES = [f"p_{emotion}" for emotion in EMOTIONS]


@dataclass(frozen=True)
class Verdict:
    """``same``: does the checkpoint do what its folder says? ``text`` is the answer in one line."""

    same: bool
    text: str


def retest(run, **machine):
    """Load a run's best_model.pt, test it as its training did, and compare with predictions.csv and metrics.json.

    Args:
        run: a finished FoundRun.
        machine: flags that take the place of the run's own, such as ``cpu``, ``num_workers`` and ``data_root``.

    Returns:
        A Verdict; a checkpoint, an encoder or a corpus that is missing, damaged or another one now is a verdict too.
    """
    try:
        stored = _stored_predictions(run)
        model, config = load_run(run.path)
        again = Run(Namespace(**config["arguments"] | machine), config["method"], quiet=True)
        tasks = again.load_tasks(list(run.metrics["test"]))
        evaluations = test(again, model.to(again.accelerator.device), tasks)
    except UserError as error:
        return Verdict(False, f"cannot be tested: {error}")
    now = pd.concat(prediction_table(name, tasks[name].splits["test"], of) for name, of in evaluations.items())
    if list(zip(stored["task"], stored["segment_id"])) != list(zip(now["task"], now["segment_id"])):
        return Verdict(False, "cannot be compared: the test split has other utterances now")
    moved = np.abs(stored[PROBABILITIES].to_numpy() - now[PROBABILITIES].to_numpy()).max()
    flipped = int((stored["predicted"].to_numpy() != now["predicted"].to_numpy()).sum())
    if moved > TOLERANCE[config["arguments"]["mixed_precision"]]:
        changes = [
            f"{METRIC_TITLES['f1_weighted']} on {name} {run.metrics['test'][name]['f1_weighted']:.4f} then, "
            f"{_scores_of(now, name)['f1_weighted']:.4f} now"
            for name in evaluations
        ]
        return Verdict(
            False,
            f"{BEST_MODEL} is not the model that was tested: {flipped:,} of {len(now):,} answers differ; {'; '.join(changes)}",
        )
    return Verdict(True, f"equal but for rounding ({flipped} of {len(now):,} answers)" if flipped else "equal")


def _stored_predictions(run):
    """predictions.csv, once it is sure that metrics.json tells of it."""
    path = run.path / PREDICTIONS
    try:
        stored = pd.read_csv(path)
        missing = {"task", "segment_id", "emotion", "predicted", *PROBABILITIES} - set(stored)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({str(error).splitlines()[0]})") from None
    if missing:
        raise UserError(f"{path} has no column {sorted(missing)[0]}")
    for name, scores in run.metrics["test"].items():
        again = _scores_of(stored, name)
        for metric, title in METRIC_TITLES.items():
            if abs(again[metric] - scores[metric]) > 1e-9:
                raise UserError(
                    f"{METRICS} says {title} {scores[metric]:.4f} on {name}, and {PREDICTIONS} beside it gives "
                    f"{again[metric]:.4f}"
                )
    return stored


def _scores_of(predictions, name):
    rows = predictions[predictions["task"] == name]
    labels, predicted = ([EMOTIONS.index(emotion) for emotion in rows[column]] for column in ("emotion", "predicted"))
    return test_scores(labels, predicted)
