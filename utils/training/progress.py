"""Monitoring a run: time left, trackers, and warnings if training is failing."""

import os
from itertools import pairwise
from statistics import mean

# Consecutive epochs of rising training loss, and of predicting a single class, before a warning.
RISES, EPOCHS_OF_ONE_CLASS = 3, 2
# Disables what wandb records by itself, such as the command and the output, which contain folder names and utterance ids.
NOTHING_OF_ITS_OWN = {
    **{"console": "off", "x_disable_meta": True, "x_disable_machine_info": True, "x_disable_stats": True},
    **{"disable_git": True, "save_code": False, "host": "-", "silent": True},
}


def time_left(run, epochs_done, seconds=None):
    """Estimated time left for a run and its sweep: ``; run 3 of 20, about 4 h left``, or ``; about 8 min left``.

    Empty if it is less than a minute.

    Args:
        run: the Run; the estimate uses its epochs so far.
        epochs_done: number of epochs, including the fraction of an unfinished one.
        seconds: per epoch, if none is finished.
    """
    number, total = map(int, os.environ.get("SWEEP_RUN", "1 of 1").split(" of "))  # set by utils/shell/sweep.sh
    epochs = run.args.num_epochs * (total - number + 1) - epochs_done
    minutes = mean([row["seconds"] for row in run.history if "seconds" in row] or [seconds]) * epochs / 60
    about = f"about {minutes:.0f} min left" if minutes < 100 else f"about {minutes / 60:.0f} h left"
    parts = [f"run {number} of {total}"] * (total > 1) + [about] * (minutes >= 1)
    return "; " * bool(parts) + ", ".join(parts)


def start_tracker(run):
    """Start the tracker of ``--log_with``, which writes below ``--output_root`` and sends nothing.

    It gets only numbers, under their names in history.csv; no flags, which contain paths and sessions.
    """
    from accelerate.tracking import TensorBoardTracker, TrackioTracker, WandBTracker

    kind, root, name = run.args.log_with, run.args.output_root, f"{run.path.parent.name} {run.path.name}"
    if kind == "tensorboard":
        tracker = TensorBoardTracker("", tensorboard_folder(run))
    elif kind == "wandb":
        tracker = WandBTracker(run.args.exp_name, mode="offline", dir=str(root), name=name, settings=NOTHING_OF_ITS_OWN)
    else:
        for variable in [variable for variable in os.environ if variable.startswith("TRACKIO_")]:
            del os.environ[variable]  # they would make it send to a server
        os.environ["TRACKIO_DIR"] = os.path.abspath(root / "trackio")
        tracker = TrackioTracker(run.args.exp_name, name=name, auto_log_cpu=False, auto_log_gpu=False)
    tracker.start()
    return tracker


def tensorboard_folder(run):
    """Folder of a run's TensorBoard files, under ``<output root>/tensorboard``."""
    return run.args.output_root / "tensorboard" / run.path.relative_to(run.args.output_root)


def signs_of_failure(losses, only_classes):
    """Signs of failing training, as ``{kind: sentence}``.

    Args:
        losses: the training loss of every epoch.
        only_classes: for each epoch the single class predicted for the whole validation split, or None.
    """
    signs, losses, only_classes = {}, losses[-RISES - 1 :], only_classes[-EPOCHS_OF_ONE_CLASS:]
    if len(losses) > RISES and all(before < after for before, after in pairwise(losses)):
        signs["loss"] = f"the training loss has risen for {RISES} epochs in a row ({losses[0]:.3g} to {losses[-1]:.3g})"
    if len(only_classes) == EPOCHS_OF_ONE_CLASS and None not in only_classes:
        signs["class"] = f"all of validation is predicted as {only_classes[-1]}, {EPOCHS_OF_ONE_CLASS} epochs in a row"
    return {kind: f"warning: {sign}: another --lr may be needed" for kind, sign in signs.items()}
