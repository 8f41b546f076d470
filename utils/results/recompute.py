"""Test the checkpoints of finished runs again: does each do what its folder says?"""

from argparse import Namespace
from dataclasses import dataclass

import numpy as np
import pandas as pd
from accelerate.state import AcceleratorState

from models.hub import local_folder
from utils.data.kemdy import EMOTIONS
from utils.errors import UserError
from utils.files import BEST_MODEL, CONFIG, METRICS, PREDICTIONS
from utils.metrics import test_scores
from utils.results.runs import METRIC_TITLES
from utils.training.checkpoints import load_run
from utils.training.engine import prediction_table, test
from utils.training.run import Run

# Probabilities computed on another device or in other batches differ by less; bf16 has two to three digits.
TOLERANCE = {"no": 1e-3, "bf16": 5e-2}
# The same for adapters that were trained and tested on features in half precision; here they are computed anew.
KEPT_IN_HALF = 1e-2
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
        machine: flags that take the place of the run's own, such as ``cpu``, ``num_workers``, ``data_root``, ``text_model``
            and ``speech_model``. Encoders that are not named here are not fetched.

    Returns:
        A Verdict; a checkpoint, an encoder or a corpus that is missing, damaged or another one now is a verdict too.
    """
    if run.problem:
        return Verdict(False, f"cannot be tested: {run.problem}")
    try:
        stored = _stored_predictions(run)
        encoders = ("text_model", "speech_model")
        model, config = load_run(run.path, *map(machine.get, encoders))
        arguments = config["arguments"] | machine
        for name in set(encoders) - machine.keys():
            arguments[name] = local_folder(name.removesuffix("_model"), arguments[name])
        AcceleratorState._reset_state(reset_partial_state=True)  # the run before may have had another precision
        again = Run(Namespace(**arguments), config["method"], quiet=True)
        tasks = again.load_tasks(list(run.metrics["test"]))
        evaluations = test(again, model.to(again.accelerator.device), tasks)
        tolerance = _tolerance(config["arguments"])
    except UserError as error:
        return Verdict(False, f"cannot be tested: {error}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return Verdict(False, f"cannot be tested: {CONFIG} or {METRICS} is not whole ({type(error).__name__}: {error})")
    now = pd.concat(prediction_table(name, tasks[name].splits["test"], of) for name, of in evaluations.items())
    if list(zip(stored["task"], stored["segment_id"])) != list(zip(now["task"], now["segment_id"])):
        return Verdict(False, "cannot be compared: the test split has other utterances now")
    moved = np.abs(stored[PROBABILITIES].to_numpy() - now[PROBABILITIES].to_numpy()).max()
    flipped = int((stored["predicted"].to_numpy() != now["predicted"].to_numpy()).sum())
    if not moved <= tolerance:  # which no NaN is
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


def _tolerance(arguments):
    kept_in_half = not arguments.get("no_speech_cache", True) and arguments["speech_cache_precision"] == "float16"
    return max(TOLERANCE[arguments["mixed_precision"]], KEPT_IN_HALF if kept_in_half else 0)


def _stored_predictions(run):
    """predictions.csv, once it is sure that metrics.json tells of it."""
    path = run.path / PREDICTIONS
    try:
        stored = pd.read_csv(path)
        answers = np.array([EMOTIONS.index(emotion) for emotion in stored["predicted"]])
        probabilities = stored[PROBABILITIES].to_numpy()
        again = {name: _scores_of(stored, name) for name in run.metrics["test"]}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({str(error).splitlines()[0]})") from None
    # Probabilities are written with six digits, so the two largest may look alike.
    if not (probabilities[np.arange(len(answers)), answers] >= probabilities.max(axis=1) - 1e-5).all():
        raise UserError(f"{path}: an answer is not the emotion with the highest probability")
    for name, scores in run.metrics["test"].items():
        for metric, title in METRIC_TITLES.items():
            if again[name][metric] != scores[metric]:
                raise UserError(
                    f"{METRICS} says {title} {scores[metric]:.4f} on {name}, and {PREDICTIONS} beside it gives "
                    f"{again[name][metric]:.4f}"
                )
        for part in ("per_class", "confusion_matrix"):
            if again[name][part] != scores[part]:
                raise UserError(f"{METRICS} has another {part} on {name} than {PREDICTIONS} beside it gives")
    return stored


def _scores_of(predictions, name):
    rows = predictions[predictions["task"] == name]
    labels, predicted = ([EMOTIONS.index(emotion) for emotion in rows[column]] for column in ("emotion", "predicted"))
    return test_scores(labels, predicted, EMOTIONS)
