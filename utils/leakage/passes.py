"""φ of a finished run's model on all utterances of its corpora, for membership inference; cached as membership.csv beside it.

The file records for each utterance whether the model was trained on it, and is never exported.
"""

from functools import cache

import numpy as np
import pandas as pd

from utils.data import SPLITS
from utils.errors import UserError
from utils.files import BEST_MODEL, MEMBERSHIP, write_text
from utils.identity import fold_digest, told_fold
from utils.leakage.families import LEFT_OUT, WITHDRAWN, row_of, start_of
from utils.methods import METHODS

# torch is imported within functions, since finding and selecting runs does not need it.

TEXTS = ("task", "segment_id", "session", "split", "label")
COLUMNS = (*TEXTS, "phi", "phi_untrained")
# Flags, besides those that define the architecture, on which the scores of an untrained model depend.
OF_INPUTS = ("max_text_len", "max_seq_len", "mixed_precision", "no_speech_cache", "speech_cache_precision")


def with_models(found):
    """The finished runs with a single model (including means of models), without trials, and a line per unreadable folder."""
    runs = [run for run in found if run.metrics and not run.trial_of and not METHODS[run.method].answers]
    return runs, [f"{run.path} is left out: {run.problem}" for run in found if run.problem]


def chosen(names, runs, output_root):
    """The named runs, and those needed for attacks on them: of the same family, and of the families they started from.

    Args:
        names: run folders, exported files, or ``hub:OWNER/NAME``.
        runs: those under ``output_root`` that have a model.
        output_root: for error messages.

    Returns:
        A list, in the order of ``runs``.

    Raises:
        UserError: if a folder, or the run from which a file was exported, is not among them.
    """
    needed = set()
    for name in names:
        run = _run_of(name, runs, output_root)
        while run is not None:
            needed.add((row_of(run), run.sequence))
            run = start_of(run, runs)
    return [run for run in runs if (row_of(run), run.sequence) in needed]


def _run_of(name, runs, output_root):
    from utils.hub import local_path
    from utils.training.checkpoints import read_export, read_state, state_digest

    path = local_path(name)
    if path.is_dir():
        for run in runs:
            if run.path.samefile(path):
                return run
        raise UserError(
            f"{name} is no finished run of one model under --output_root {output_root}, or it is a trial: name another"
        )
    exported = read_export(path)
    for run in runs:
        if all(run.config[fact] == exported.facts[fact] for fact in ("method", "task", "fold", "seed")):
            state = read_state(run.path / BEST_MODEL)
            # A file may also contain random encoders.
            if state_digest(state) == state_digest({of: exported.state[of] for of in state if of in exported.state}):
                return run
    raise UserError(
        f"{name}: the run that it was exported of is not under --output_root {output_root}, and only there it is known what it "
        "was trained on: name the folder that it lies in"
    )


def take_passes(runs, output_root, changes):
    """The passes of some runs, from the cache or computed now with a progress bar.

    Args:
        runs: finished FoundRuns.
        output_root: folder of the runs.
        changes: flags that override the runs' own, as in ``utils.training.reopen.reopen``.

    Returns:
        (passes, lines): ``{run.path: DataFrame}`` with COLUMNS, one row per utterance of every available corpus that the run
        was trained or tested on, in table order; and for each run without a pass, a line with the reason.
    """
    from tqdm import tqdm

    from utils.data.corpus import read_corpus

    read, untrained = cache(read_corpus), {}
    passes, to_take, lines = {}, [], []
    for run in runs:
        try:
            names = _corpora_here(run, changes, read)
        except UserError as error:
            lines.append(f"{run.path} is left out: {error}")
            continue
        passes[run.path] = _kept(run, names)
        if passes[run.path] is None:
            to_take.append((run, names))
    for run, names in tqdm(to_take, desc="passes", disable=None if to_take else True):
        try:
            table = _take(run, names, changes | {"output_root": output_root}, untrained)
            write_text(run.path / MEMBERSHIP, table.to_csv(index=False, float_format="%.9g"))
            passes[run.path] = _kept(run, names)
        except UserError as error:
            del passes[run.path]
            lines.append(f"{run.path} is left out: {error}")
    return passes, lines


def _corpora_here(run, changes, read):
    """Names of the run's corpora that are under --data_root.

    Raises:
        UserError: if one of them, or its split, has changed.
    """
    from utils.data.corpus import find_corpus, fold_of

    data_root = changes.get("data_root", run.config["arguments"]["data_root"])
    names = []
    for name, then in run.config["corpora"].items():
        try:
            find_corpus(data_root, name)
        except UserError:
            continue
        corpus = read(data_root, name)
        fold = fold_of(corpus, run.fold, run.config["k_fold"])
        now = fold_digest({split: {"sessions": sessions} for split, sessions in fold.items()})
        if (corpus.digest, now) != (then["digest"], told_fold(then)):
            raise UserError(
                f"{name} in {corpus.root} is not what it was trained on (utterances or sessions have changed since): copy that "
                "back, or train the run again (--overwrite)"
            )
        names.append(name)
    return names


def _kept(run, names):
    """membership.csv of a run; None if it is missing, incomplete, or lacks a corpus that is available now."""
    types = {name: str if name in TEXTS else float for name in COLUMNS}
    try:
        table = pd.read_csv(run.path / MEMBERSHIP, usecols=COLUMNS, dtype=types, keep_default_na=False)
    except (OSError, ValueError):
        return None
    counts = table.groupby(["task", "split"]).size()
    for name in {*names, *table["task"]}:
        splits = run.config["corpora"].get(name, {}).get("splits", {})
        if not splits or any(counts.get((name, split), 0) != splits[split]["utterances"] for split in SPLITS):
            return None
    return table


def _take(run, names, changes, untrained):
    """Compute the pass of a run over some corpora.

    ``untrained`` caches φ of models before training, which is the same for all folds, and is updated.
    """
    from utils.data.batches import UtteranceDataset
    from utils.data.folds import kept_by_coin
    from utils.training.reopen import reopen
    from utils.training.start import new_model

    if not names:
        where = changes.get("data_root", run.config["arguments"]["data_root"])
        raise UserError(f"none of its corpora ({', '.join(run.config['corpora'])}) is in {where}: name another --data_root")
    whole = {"train_half": None, "withdraw": None}
    parents = [changes["output_root"] / parent["run"] for parent in run.config.get("parents", ())]
    reopened, model, config, tasks = reopen([run.path, *parents][-1], changes | whole, names, cached=True)
    if parents:
        model.load_checkpoint_state(_mean_of(parents, run.config))
    before = cache(lambda: new_model(reopened, config["labels"]).to(reopened.accelerator.device))
    tables = []
    for name, task in tasks.items():
        pooled = UtteranceDataset.pooled([task.splits[split] for split in SPLITS])
        place = pd.Index(task.corpus.utterances["segment_id"]).get_indexer(pooled.utterances["segment_id"])
        order = np.argsort(place)
        dataset = pooled.subset(order.tolist())
        utterances, splits = dataset.utterances, np.repeat(SPLITS, [len(task.splits[split]) for split in SPLITS])[order]
        if run.train_half is not None:
            kept = kept_by_coin(utterances["segment_id"], run.train_half)
            splits = np.where((splits == "train") & ~kept, LEFT_OUT, splits)
        withdrawn = utterances["session"].astype(str).isin(config.get("withdrawn", {}).get(name, ()))
        splits = np.where(withdrawn, WITHDRAWN, splits)
        key = _of_untrained(model, config, task.corpus)
        if key not in untrained:
            untrained[key] = phi_of(reopened, before(), dataset, name)
        about = utterances[["segment_id", "session"]].assign(task=name, split=splits, label=utterances["emotion"])
        about = about.assign(phi=phi_of(reopened, model, dataset, name), phi_untrained=untrained[key])
        tables.append(about[list(COLUMNS)])
    return pd.concat(tables)


def _mean_of(parents, config):
    """The mean of the weights of a run's parents, uniform or with weight ``alpha`` for the second.

    Raises:
        UserError: if one of them has changed since.
    """
    from utils.files import sha256
    from utils.results.merge import mean_state
    from utils.training.checkpoints import read_state

    mean, alpha = None, config["arguments"].get("alpha")
    for number, (parent, told) in enumerate(zip(parents, config["parents"]), 1):
        path = parent / BEST_MODEL
        if not path.exists() or sha256(path) != told["sha256"]:
            raise UserError(f"{path} is not the model that it was made of: bash run-combine.sh makes it again")
        state = read_state(path)
        mean = state if mean is None else mean_state(mean, state, 1 / number if alpha is None else alpha)
    return mean


def phi_of(run, model, dataset, name):
    from utils.leakage.attacks import confidence
    from utils.training.engine import logits_of

    return confidence(logits_of(run, model, dataset, name), dataset.labels)


def _of_untrained(model, config, corpus):
    """Everything that the scores of a run's model before training depend on."""
    arguments = config["arguments"]
    encoders = (of["fingerprint"] for of in config["encoders"].values())
    flags = (arguments.get(name) for name in (*model.SETTINGS, *OF_INPUTS))
    return corpus.name, corpus.digest, config["model"], config["seed"], *config["labels"], *encoders, *flags
