"""Re-evaluate checkpoints and compare with the stored metrics."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from utils.errors import UserError
from utils.files import BEST_MODEL, METRICS, PREDICTIONS
from utils.metrics import accuracies, softmax, test_scores
from utils.results import METRIC_TITLES
from utils.training.engine import prediction_table, test
from utils.training.reopen import reopen

# Probabilities differ by less than this between devices or batch compositions; bf16 has two to three digits.
TOLERANCE = {"no": 1e-3, "bf16": 5e-2}
# The same for adapters trained and tested on features cached in half precision, which are recomputed here.
CACHED_IN_HALF = 1e-2


@dataclass(frozen=True)
class Verdict:
    """``same``: whether the checkpoint reproduces the stored metrics; ``text``: the verdict in one line."""

    same: bool
    text: str


def retest(run, **machine):
    """Load a run's best_model.pt, test it as its training did, and compare with predictions.csv and metrics.json.

    Args:
        run: a finished FoundRun.
        machine: flags that replace the run's own, such as ``cpu``, ``num_workers``, ``data_root``, ``text_model`` and
            ``speech_model``. Encoders not given here are not downloaded.

    Returns:
        A Verdict, also if a checkpoint, an encoder or a corpus is missing, damaged or changed.
    """
    if run.problem:
        return Verdict(False, f"cannot be tested: {run.problem}")
    try:
        stored = _stored_predictions(run)
        reopened, model, config, tasks = reopen(run.path, machine, list(run.metrics["test"]))
        results = test(reopened, model, tasks)
    except UserError as error:
        return Verdict(False, f"cannot be tested: {error}")
    labels = config["labels"]
    tables = [
        prediction_table(name, tasks[name].splits["test"], softmax(result.logits), labels) for name, result in results.items()
    ]
    return _compare(run, stored, pd.concat(tables), _tolerance(config["arguments"]))


def _compare(run, stored, now, tolerance):
    if list(zip(stored["task"], stored["segment_id"])) != list(zip(now["task"], now["segment_id"])):
        return Verdict(False, "cannot be compared: the test split has other utterances now")
    labels = run.config["labels"]
    moved = np.abs(_probabilities(stored, labels) - _probabilities(now, labels)).max()
    flipped = int((stored["predicted"].to_numpy() != now["predicted"].to_numpy()).sum())
    if moved <= tolerance:  # False for NaN
        return Verdict(True, f"equal but for rounding ({flipped} of {len(now):,} predictions)" if flipped else "equal")
    score, changes = "f1_weighted", []
    for name, scores in run.metrics["test"].items():
        changes.append(
            f"{METRIC_TITLES[score]} on {name} {scores[score]:.4f} then, {_scores_of(now, name, labels)[score]:.4f} now"
        )
    differing = f"{flipped:,} of {len(now):,} predictions differ; {'; '.join(changes)}"
    return Verdict(False, f"{BEST_MODEL} is not the model that was tested: {differing}")


def _tolerance(arguments):
    cached_in_half = not arguments.get("no_speech_cache", True) and arguments["speech_cache_precision"] == "float16"
    return max(TOLERANCE[arguments["mixed_precision"]], CACHED_IN_HALF if cached_in_half else 0)


def _stored_predictions(run):
    """predictions.csv as a table; UserError unless metrics.json holds its scores."""
    path, labels = run.path / PREDICTIONS, run.config["labels"]
    try:
        stored = pd.read_csv(path, dtype=str, keep_default_na=False)  # labels may be 0, 1 or NA
        _probabilities(stored, labels)
        again = {name: _scores_of(stored, name, labels) for name in run.metrics["test"]}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({str(error).splitlines()[0]})") from None
    for name, scores in run.metrics["test"].items():
        scores = accuracies(scores) | scores
        differing = [METRIC_TITLES.get(part, part) for part, value in again[name].items() if scores[part] != value]
        if differing:
            raise UserError(f"{METRICS} has another {differing[0]} on {name} than {PREDICTIONS} beside it")
    return stored


def _probabilities(predictions, labels):
    return predictions[[f"p_{label}" for label in labels]].to_numpy(dtype=float)


def _scores_of(predictions, name, labels):
    rows = predictions[predictions["task"] == name]
    true, predicted = ([labels.index(label) for label in rows[column]] for column in ("emotion", "predicted"))
    return test_scores(true, predicted, labels)
