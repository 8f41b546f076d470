"""Controls of the leak report: attacks must find nothing where nothing can leak, and almost everything after overfitting."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from utils.errors import UserError
from utils.files import LAST_CHECKPOINT, run_folder, write_text
from utils.leakage.families import null_table
from utils.training.arguments import flag_words

# The deliberately overfitted model: utterances (half of them for training), labels, epochs, learning rate, --train_half.
UTTERANCES, LABELS, EPOCHS, RATE, HALF = 200, 20, 100, 3e-3, 1
# Minimum AUC on it.
NEARLY_ALL = 0.95


def make_controls(runs, passes, folder, changes):
    """The controls of ``utils.leakage.families.null_table``, and ``overfitted``.

    Args:
        runs, passes: as for ``utils.leakage.families.report_table``.
        folder: for the run of ``overfitted``; created if missing.
        changes: as for ``utils.training.reopen.reopen``.

    Returns:
        A DataFrame with the columns of ``null_table`` and ``holds``: whether the result is as it must be (.5 in its interval).

    Raises:
        UserError: if no runs on halves can be compared, or the first one's corpus cannot be used.
    """
    halves = [run for run in runs if run.train_half is not None]
    table = null_table(halves, passes)
    if table.empty:
        raise UserError("--controls: there are no runs on halves of a training split that may be compared: bash run-leakage.sh")
    table = table.dropna(subset="low")  # no interval from one model
    table["holds"] = (table["low"] <= 0.5) & (table["high"] >= 0.5)
    return pd.concat([table, pd.DataFrame([overfitted(halves[0], folder, changes)])], ignore_index=True)


def overfitted(run, folder, changes):
    """Overfit an adapter to its training split, and return its row of ``make_controls``, a dictionary.

    Labels are random, so that the model can only memorize the utterances (Zhang et al. 2017, "Understanding deep learning
    requires rethinking generalization"). φ is from the last epoch, since the best one by validation would be early.

    Args:
        run: a FoundRun with the corpus and the encoders to use.
        folder: folder for the corpus and the run. A finished run is reused.
        changes: flags that override the run's own, as in ``utils.training.reopen.reopen``.
    """
    from utils.data.folds import kept_by_coin
    from utils.leakage.measures import auc
    from utils.leakage.passes import phi_of
    from utils.training.checkpoints import read_file
    from utils.training.reopen import reopen

    arguments = run.config["arguments"] | changes
    name = f"{run.sequence[0]}-random-labels"
    _write_corpus(folder / "data" / name, arguments["data_root"], run.sequence[0])
    flags = {"task": name, "data_root": folder / "data", "output_root": folder, "exp_name": "overfitted", "train_half": HALF}
    flags |= {"num_epochs": EPOCHS, "lr": RATE, "batch_size": 8, "keep_last": True}
    flags |= {flag: arguments[flag] for flag in ("text_model", "speech_model", "cpu", "num_workers", "max_seq_len")}
    command = [sys.executable, Path(__file__).resolve().parents[2] / "adapter.py", *flag_words(flags)]
    if code := subprocess.run(command).returncode:
        sys.exit(code)  # it has printed the reason
    path = run_folder(folder, f"overfitted-half{HALF}", 0, name)
    reopened, model, _, tasks = reopen(path, {"train_half": None}, cached=True)
    model.load_checkpoint_state(read_file(path / LAST_CHECKPOINT)["model"])
    train = tasks[name].splits["train"]
    phi, members = phi_of(reopened, model, train, name), kept_by_coin(train.utterances["segment_id"], HALF)
    found = auc(phi[members], phi[~members])
    about = {"control": "over-fitted", "experiment": "overfitted", "sequence": name, "tested": name, "attack": "threshold"}
    return about | {"auc": found, "holds": found > NEARLY_ALL}


def _write_corpus(root, data_root, name):
    """Write a corpus of some utterances of another, with random labels."""
    from utils.data.corpus import read_corpus

    corpus = read_corpus(data_root, name)
    drawn = corpus.utterances.sample(min(UTTERANCES, len(corpus.utterances)), random_state=0)
    labels = np.random.default_rng(0).permutation(np.arange(len(drawn)) % LABELS)
    table = pd.DataFrame(
        {
            "file_name": ["sound/" + Path(path).relative_to(corpus.root).as_posix() for path in drawn["wav_path"]],
            "emotion": labels,
            "transcription": drawn["text"],
            "split": np.resize(["train"] * 8 + ["valid", "test"], len(drawn)),
            "id": drawn["segment_id"],
            "start": drawn["start"],
            "end": drawn["start"] + drawn["duration"],
        }
    )
    root.mkdir(parents=True, exist_ok=True)
    (root / "sound").unlink(missing_ok=True)
    (root / "sound").symlink_to(corpus.root.resolve())
    write_text(root / "metadata.csv", table.to_csv(index=False))
