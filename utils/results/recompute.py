"""Re-evaluate checkpoints and compare with the stored metrics."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from accelerate.state import AcceleratorState

from utils.errors import UserError
from utils.files import BEST_MODEL, METRICS, PREDICTIONS
from utils.metrics import test_scores
from utils.results import METRIC_TITLES
from utils.training.engine import prediction_table, test
from utils.training.start import reopen

# Probabilities computed on another device or in other batches differ by less; bf16 has two to three digits.
TOLERANCE = {"no": 1e-3, "bf16": 5e-2}
# The same for adapters that were trained and tested on cached features in half precision; here they are computed again.
CACHED_IN_HALF = 1e-2


@dataclass(frozen=True)
class Verdict:
    """``same``: does the checkpoint give the stored metrics? ``text`` is the answer in one line."""

    same: bool
    text: str


def retest(run, **machine):
    """Load a run's best_model.pt, test it as its training did, and compare with predictions.csv and metrics.json.

    Args:
        run: a finished FoundRun.
        machine: flags that replace the run's own, such as ``cpu``, ``num_workers``, ``data_root``, ``text_model`` and
            ``speech_model``. Encoders that are not named here are not fetched.

    Returns:
        A Verdict; a checkpoint, an encoder or a corpus that is missing, damaged or another one now is a verdict too.
    """
    if run.problem:
        return Verdict(False, f"cannot be tested: {run.problem}")
    try:
        stored = _stored_predictions(run)
        now, config = _test_again(run, machine)
    except UserError as error:
        return Verdict(False, f"cannot be tested: {error}")
    return _compare(run, stored, now, _tolerance(config["arguments"]))


def _test_again(found, machine):
    """The table of predictions.csv, computed again on all tasks that the run was tested on, and its config.json."""
    AcceleratorState._reset_state(reset_partial_state=True)  # the run before may have had another precision
    run, model, config, tasks = reopen(found.path, machine, list(found.metrics["test"]))
    tables = [
        prediction_table(name, tasks[name].splits["test"], result, config["labels"])
        for name, result in test(run, model, tasks).items()
    ]
    return pd.concat(tables), config


def _compare(run, stored, now, tolerance):
    if list(zip(stored["task"], stored["segment_id"])) != list(zip(now["task"], now["segment_id"])):
        return Verdict(False, "cannot be compared: the test split has other utterances now")
    labels = run.config["labels"]
    moved = np.abs(_probabilities(stored, labels) - _probabilities(now, labels)).max()
    flipped = int((stored["predicted"].to_numpy() != now["predicted"].to_numpy()).sum())
    if not moved <= tolerance:  # which no NaN is
        changes = [
            f"{METRIC_TITLES['f1_weighted']} on {name} {scores['f1_weighted']:.4f} then, "
            f"{_scores_of(now, name, labels)['f1_weighted']:.4f} now"
            for name, scores in run.metrics["test"].items()
        ]
        return Verdict(
            False,
            f"{BEST_MODEL} is not the model that was tested: {flipped:,} of {len(now):,} predictions differ; "
            f"{'; '.join(changes)}",
        )
    return Verdict(True, f"equal but for rounding ({flipped} of {len(now):,} predictions)" if flipped else "equal")


def _tolerance(arguments):
    cached_in_half = not arguments.get("no_speech_cache", True) and arguments["speech_cache_precision"] == "float16"
    return max(TOLERANCE[arguments["mixed_precision"]], CACHED_IN_HALF if cached_in_half else 0)


def _stored_predictions(run):
    """predictions.csv as a table; UserError unless metrics.json holds its scores."""
    path, labels = run.path / PREDICTIONS, run.config["labels"]
    try:
        stored = pd.read_csv(path, dtype=str, keep_default_na=False)  # labels may be 0, 1 or NA
        probabilities = _probabilities(stored, labels)
        predicted = [labels.index(label) for label in stored["predicted"]]
        again = {name: _scores_of(stored, name, labels) for name in run.metrics["test"]}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({str(error).splitlines()[0]})") from None
    # Probabilities are written with six digits, so the two largest may look alike.
    if not (probabilities[np.arange(len(stored)), predicted] >= probabilities.max(axis=1) - 1e-5).all():
        raise UserError(f"{path}: a prediction is not the class with the highest probability")
    for name, scores in run.metrics["test"].items():
        differing = [part for part, value in again[name].items() if scores[part] != value]
        if differing:
            values = [f" {of[differing[0]]:.4f}" if differing[0] in METRIC_TITLES else "" for of in (scores, again[name])]
            title = METRIC_TITLES.get(differing[0], differing[0])
            raise UserError(f"{METRICS} has {title}{values[0]} on {name}, and {PREDICTIONS} beside it gives another{values[1]}")
    return stored


def _probabilities(predictions, labels):
    return predictions[[f"p_{label}" for label in labels]].to_numpy(dtype=float)


def _scores_of(predictions, name, labels):
    rows = predictions[predictions["task"] == name]
    true, predicted = ([labels.index(label) for label in rows[column]] for column in ("emotion", "predicted"))
    return test_scores(true, predicted, labels)
