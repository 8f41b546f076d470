"""The facts in a run's config.json, and their present values."""

import os
import platform
import shutil
import subprocess
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import torch

from models.encoders import ENCODER_SEED, count_parameters, load_encoder, max_tokens
from models.hub import local_folder
from utils.data import SPLITS
from utils.data.corpus import find_corpus, fold_of, read_corpus
from utils.errors import UserError
from utils.files import BEST_MODEL, DIGESTS, LAST_CHECKPOINT
from utils.identity import FORMAT, FileDigests, starting_checkpoint
from utils.training.private import class_weights, privacy_facts

PACKAGES = (
    "torch",
    "torchaudio",
    "transformers",
    "accelerate",
    "sentencepiece",
    "soundfile",
    "scikit-learn",
    "pandas",
    "numpy",
)


def run_facts(run, model, tasks, started_from):
    """config.json of a new run, as a dictionary without the run's id.

    Args:
        run: the Run.
        model: on the run's device, before training.
        tasks: ``{name: Task}``.
        started_from: facts of a StartingPoint, or None.
    """
    args, accelerator = run.args, run.accelerator
    encoders = {kind: _encoder_facts(run, kind, getattr(model, f"{kind}_encoder")) for kind in ("text", "speech")}
    for kind, encoder in encoders.items():
        if drawn := encoder["drawn_at_random"]:
            trained = getattr(model, f"{kind}_encoder").get_parameter(drawn[0]).requires_grad
            frozen = "" if trained else " (and frozen)"
            run.print(f"the {kind} encoder {encoder['name']}: {', '.join(drawn)} newly initialized{frozen}")
    return {
        "format": FORMAT,
        "method": run.method.name,
        "model": run.method.model,
        "keeps_data": run.method.keeps_data,
        "experiment": args.experiment,
        "task": args.task,
        "sequence": args.sequence,
        "fold": args.num_fold,
        "k_fold": args.k_fold,
        "seed": args.seed,
        "synthetic": any(task.corpus.synthetic for task in tasks.values())
        or any(encoder["synthetic"] for encoder in encoders.values()),
        "arguments": run.arguments(),
        "labels": run.labels,
        "encoders": encoders,
        "started_from": started_from,
        "privacy": privacy_facts(run, tasks) if vars(args).get("epsilon") else None,
        "parameters": parameter_counts(model),
        "corpora": {name: corpus_facts(task, run.labels) for name, task in tasks.items()},
        "withdrawn": {name: list(task.corpus.withdrawn) for name, task in tasks.items() if task.corpus.withdrawn},
        "machine": {
            "device": str(accelerator.device),
            "processes": accelerator.num_processes,
            "threads": torch.get_num_threads(),
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "commit": _commit(),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _encoder_facts(run, kind, encoder):
    digests = FileDigests(Path(run.args.output_root) / DIGESTS)
    folder = run.from_main_process(lambda: local_folder(kind, encoder.provenance["name"]))
    return encoder.provenance | {"files": run.from_main_process(lambda: digests.of_encoder(folder))}


def parameter_counts(model):
    """Numbers of parameters: total, trained, and stored in a checkpoint."""
    return {
        "total": count_parameters(model),
        "trained": count_parameters(model, trained_only=True),
        "stored": sum(tensor.numel() for tensor in model.checkpoint_state().values()),
    }


def corpus_facts(task, labels):
    """Counts only: no text, and no file names except those skipped by --skip_bad_files."""
    corpus = task.corpus
    counts = {split: task.splits[split].utterances["emotion"].value_counts() for split in SPLITS}
    return {
        "root": str(corpus.root),
        "synthetic": corpus.synthetic,
        "is_kemdy": corpus.is_kemdy,
        "rows": corpus.rows,
        "utterances": len(corpus.utterances),
        "digest": corpus.digest,
        "dropped": corpus.dropped,
        "notes": corpus.notes,
        "skipped_files": {os.path.relpath(path, corpus.root): reason for path, reason in corpus.unreadable},
        "splits": {
            split: {
                "sessions": task.fold[split],
                "utterances": len(task.splits[split]),
                "labels": {label: int(counts[split].get(label, 0)) for label in labels},
            }
            for split in SPLITS
        },
    }


def present_facts(args, config):
    """The present facts of a run's corpora, encoders and starting model, without loading a model.

    Facts are copied from ``config`` for anything that is no longer on this machine and cannot be compared.

    Args:
        args: the run's flags.
        config: its config.json.
    """
    digests, corpora, encoders = FileDigests(Path(args.output_root) / DIGESTS), {}, {}
    for name, then in config["corpora"].items():
        try:
            find_corpus(args.data_root, name)
        except UserError:
            corpora[name] = then
            continue
        corpus = read_corpus(args.data_root, name)
        if not args.skip_bad_files:
            corpus.require_readable_wavs()
        fold = fold_of(corpus, args.num_fold, args.k_fold)
        corpora[name] = {"digest": corpus.digest, "splits": {split: {"sessions": fold[split]} for split in SPLITS}}
    seed = vars(args).get("encoder_seed", ENCODER_SEED)
    for kind, then in config["encoders"].items():
        try:
            folder = local_folder(kind, getattr(args, f"{kind}_model"))
        except UserError:
            encoders[kind] = then
            continue
        if digests.of_encoder(folder) == then["files"]:
            encoders[kind] = then
        else:  # other files may contain the same encoder
            encoders[kind] = load_encoder(kind, folder, then["pretrained"], seed).provenance
    privacy, started_from = config.get("privacy"), config["started_from"]
    if privacy:
        privacy = privacy | {"class_weights": class_weights(args)}
    if started_from is not None and (path := starting_checkpoint(args)).is_file():
        started_from = started_from | {"sha256": digests(path)[0]}
    return {"corpora": corpora, "encoders": encoders, "privacy": privacy, "started_from": started_from}


def require_known_tokens(text_encoder, tasks, args):
    """Raise UserError unless a text encoder has a position and an embedding for every token of the transcripts."""
    encoded = [ids for task in tasks.values() for split in task.splits.values() for ids in split.input_ids]
    longest, largest = max(map(len, encoded)), max(map(max, encoded))
    room, known = max_tokens(text_encoder), text_encoder.config.vocab_size
    if room is not None and longest > room:
        raise UserError(
            f"--max_text_len {args.max_text_len}: a transcript has {longest} tokens, but --text_model {args.text_model} "
            f"accepts at most {room}; use that or less"
        )
    if largest >= known:
        raise UserError(
            f"--text_model {args.text_model}: its vocabulary has a token {largest}, but its weights only {known} embeddings; "
            "they do not match"
        )


def require_room(folder, parameters):
    """Raise UserError unless there is enough disk space for an unfinished run, including its existing files."""
    # AdamW has two moments per trained parameter; the new checkpoint is complete before the old one is removed.
    best, trained = (4 * parameters[kind] for kind in ("stored", "trained"))
    there = sum((folder / name).stat().st_size for name in (BEST_MODEL, LAST_CHECKPOINT) if (folder / name).exists())
    needed, free = best + 2 * (best + 2 * trained) - there, shutil.disk_usage(folder.parent).free
    if needed > free:
        raise UserError(
            f"--output_root: {folder} needs {needed / 1e9:.2f} GB during training, but only {free / 1e9:.2f} GB are "
            "free: free disk space, or name another folder"
        )


def _commit():
    """Commit of the code, with ``+changes`` if there are uncommitted ones; None outside a git checkout."""

    def git(*arguments):
        return subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # The demo redraws its figures, which are not code.
        changes = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)figures")
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None
