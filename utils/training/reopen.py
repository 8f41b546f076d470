"""Rebuild a finished run, to re-evaluate it or to compute more from it."""

from argparse import Namespace

from accelerate.state import AcceleratorState

from utils.data.speech_cache import features_of
from utils.training.checkpoints import load_run
from utils.training.run import Run
from utils.training.start import make_tasks, read_corpora


def reopen(folder, changes, names=None, quiet=True, cached=False, classes=None):
    """Rebuild a finished run: its device, its model and its tasks.

    Args:
        folder: the run's folder.
        changes: flags that override the run's own, such as ``cpu``, ``num_workers``, ``data_root``, ``text_model`` and
            ``speech_model``. Encoders that are not named here are not downloaded.
        names: of the tasks; by default the one that it was trained on.
        quiet: print nothing.
        cached: use cached speech features as in training, if the run is where it was trained.
        classes: class names for the labels; by default the model's.

    Returns:
        (run, model, config, tasks).

    Raises:
        UserError: as ``load_run``, or if a corpus cannot be used.
    """
    model, config = load_run(folder, changes.get("text_model"), changes.get("speech_model"))
    encoders = {f"{kind}_model": getattr(model, f"{kind}_encoder").provenance["name"] for kind in ("text", "speech")}
    AcceleratorState._reset_state(reset_partial_state=True)  # a previously reopened run may have another precision
    run = Run(Namespace(**config["arguments"] | encoders | changes), config["method"], quiet)
    run.labels = classes or config["labels"]
    corpora, speech = read_corpora(run, names or [config["task"]]), None
    if cached and model.FROZEN_SPEECH and run.path.is_dir() and run.path.samefile(folder):
        speech = features_of(run, model.speech_encoder, corpora)
    tasks = make_tasks(run, corpora, run.labels, speech)
    return run, model.to(run.accelerator.device), config, tasks
