"""A training run and its output folder ``outputs/<exp_name>/fold_<k>/<task>/``.

best_model.pt      what the method trained, as a plain state dict of tensors
config.json        what is needed to rebuild the rest, or to refuse a wrong base
history.csv        one row an epoch
metrics.json       test scores of each task that the model knows; written last, so it marks a finished run
predictions.csv    the test splits, utterance by utterance

While it is under way there are also last_checkpoint.pt, from which it resumes, and, with ewc, fisher.pt. A lock beside the
folder keeps a second process out.
"""

import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from contextlib import suppress
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from tqdm import tqdm

from models import load_tokenizer
from models.encoders import ENCODER_SEED, count_parameters, load_encoder, max_tokens
from models.hub import local_folder
from utils.data.batches import load_task, read_fold
from utils.data.folds import SPLITS
from utils.data.kemdy import EMOTIONS, find_corpus
from utils.errors import RESUMABLE, UserError, printable
from utils.files import (
    BEST_MODEL,
    CONFIG,
    DIGESTS,
    FISHER,
    HISTORY,
    LAST_CHECKPOINT,
    METRICS,
    PREDICTIONS,
    Locked,
    LockFile,
    as_json,
    run_folder,
    this_process,
    whole_file,
)
from utils.identity import FORMAT, FileDigests, arguments_that_matter, differences, identity, starting_checkpoint
from utils.machine import require_open_files, require_whole_launch
from utils.training.checkpoints import has_adapters, misfit, read_config, read_file, read_state

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
# More of the text than this unknown means that a vocabulary is not used as it was made, not that words are rare.
MANY_UNKNOWN = 0.2
ENCODERS = ("text_model", "speech_model")  # flags that are a folder or a hub name
HINT = "name another --exp_name, or --overwrite"
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Run:
    """One run: its device and processes, its seeds, and its folder, which only the main process writes.

    Used as ``with Run(...) as run``: within it the folder is this run's own, and SIGTERM and Ctrl-C end the process at once,
    with exit code 75 where the same command resumes after a whole epoch.

    Args:
        args: parsed flags (see utils/training/arguments.py).
        method: task_a, joint, finetune, ewc, adapter or adapter_wo_pretraining.
        quiet: print nothing.

    Raises:
        UserError: if the processes do not divide the batch, if a launcher's variables in the environment are not whole, or if
            too few files may be open.
    """

    def __init__(self, args, method, quiet=False):
        require_whole_launch(os.environ)
        require_open_files(args.num_workers)
        self.args, self.method, self.quiet = args, method, quiet
        self.path = run_folder(args.output_root, args.exp_name, args.num_fold, args.task)
        self.history, self.id = [], None
        self._resumes = self._resumable = False
        self._lock, self._made, self._handlers = None, [], {}
        without_gpu = not args.cpu and not torch.cuda.is_available()
        on_cpu = args.cpu or without_gpu
        self.precision = args.mixed_precision
        if self.precision == "auto":
            self.precision = "no" if on_cpu or not torch.cuda.is_bf16_supported(including_emulation=False) else "bf16"
        # A fallback must be said to Accelerator, or each of several processes takes itself for the first.
        self.accelerator = Accelerator(cpu=on_cpu, mixed_precision=self.precision)
        if not on_cpu:
            torch.set_float32_matmul_precision("high")  # TF32 for what stays in float32
        processes = self.accelerator.num_processes
        if args.batch_size % processes:
            below = args.batch_size // processes * processes
            fitting = " or ".join(str(size) for size in (below, below + processes) if size)
            raise UserError(f"--batch_size {args.batch_size} is not divided by {processes} processes: take {fitting}")
        if without_gpu:
            self.say("no GPU found: running on the CPU (--cpu asks for it)")

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():  # signals reach no other
            self._handlers = {number: signal.signal(number, self._leave) for number in SIGNALS}
        return self

    def __exit__(self, kind, error, traceback):
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._lock is not None:
            if self._lock.is_held():
                with suppress(OSError):  # a start that was refused leaves nothing
                    self.path.rmdir()
            self._lock.release()
            for folder in self._made:
                with suppress(OSError):
                    folder.rmdir()
        if isinstance(error, RuntimeError):
            if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
                raise UserError("out of memory: a smaller --micro_batch_size takes the same steps with less memory") from None

    def _leave(self, number, frame):
        """End the process at once: files are written whole, and an interrupted epoch is repeated."""
        with suppress(RuntimeError, OSError):  # the signal may have come inside a print; the reader may be gone
            sys.stdout.flush()
        if self.accelerator.is_main_process:
            without = " without --overwrite" if self.args.overwrite else ""
            resumes = f": the same command{without} resumes after the last whole epoch" if self._resumable else ""
            with suppress(OSError):
                os.write(2, f"\n{signal.Signals(number).name}{resumes}\n".encode())
        os._exit(RESUMABLE if self._resumable else 128 + number)

    def say(self, line):
        """Print a line once, whatever the number of processes; unlike ``print`` it leaves progress bars whole."""
        if self.accelerator.is_main_process and not self.quiet:
            tqdm.write(printable(line))

    def is_finished(self):
        """Is this very run done already? It is then skipped, and said so; otherwise its folder is this process's own.

        Raises:
            UserError: if another run lies in the folder, finished or not (see utils/identity.py), if the folder of a run that
                is to be made cannot be written, or another process is writing it.
        """
        state = self._from_main_process(self._find_or_claim)
        self._resumes = state == "unfinished"
        self._resumable = self._resumes and (self.path / LAST_CHECKPOINT).exists()
        return state == "finished"

    def _find_or_claim(self):
        state = self._find()
        if state != "finished":
            self._claim()
            state = self._find()  # another process may have finished it meanwhile
            if state == "new" and not self.args.overwrite and (self.path / BEST_MODEL).exists():
                self.say(f"{self.path} holds a {BEST_MODEL} and no {LAST_CHECKPOINT} to resume from: the run starts again")
        if state == "finished":
            self.say(f"{self.path} is finished: skipped (--overwrite runs it again)")
        return state

    def _find(self):
        """Is what lies in the folder this run, "finished" or "unfinished", or is it "new"?"""
        kept = [name for name in (METRICS, LAST_CHECKPOINT, FISHER, BEST_MODEL) if (self.path / name).exists()]
        if self.args.overwrite or not kept:
            return "new"
        try:
            config = read_config(self.path / CONFIG)
        except UserError as error:
            raise UserError(f"{error}; {HINT}") from None
        finished = METRICS in kept
        now = config | {"arguments": self._arguments()}
        if finished and self.args.mixed_precision == "auto":  # a finished run of either precision counts
            now["arguments"]["mixed_precision"] = config["arguments"].get("mixed_precision")
        self._require_same(config, now)
        if not finished:
            return "unfinished" if kept != [BEST_MODEL] else "new"
        self._require_same(config, now | self._cheap_facts(config))
        # A later start of it may have asked to keep it.
        keep_last = any(of["arguments"].get("keep_last") for of in (config, *config.get("continued", [])))
        self._remove_progress(keep_last)
        return "finished"

    def _require_same(self, then, now):
        differing = differences(identity(then), identity(now))
        if differing:
            raise UserError(f"{self.path} holds another run ({'; '.join(differing)} changed): {HINT}")

    def _cheap_facts(self, config):
        """What a config.json of this run would say now of corpora, encoders and starting model, without loading a model.

        Of what is not on this machine any more it says what ``config`` does: there is nothing to compare.
        """
        digests, corpora, encoders = FileDigests(Path(self.args.output_root) / DIGESTS), {}, {}
        for name, then in config["corpora"].items():
            try:
                find_corpus(self.args.data_root, name)
            except UserError:
                corpora[name] = then
                continue
            corpus, fold = read_fold(self.args, name)
            corpora[name] = {"digest": corpus.digest, "splits": {split: {"sessions": fold[split]} for split in SPLITS}}
        for kind, then in config["encoders"].items():
            name = getattr(self.args, f"{kind}_model")
            try:
                folder = local_folder(kind, name)
            except UserError:
                encoders[kind] = then
                continue
            if digests.of_encoder(folder) == then["files"]:
                encoders[kind] = then
            else:  # other files may hold the same encoder
                encoders[kind] = load_encoder(kind, folder, then["pretrained"], then["seed"] or ENCODER_SEED).provenance
        started_from = config["started_from"]
        if started_from is not None and (path := starting_checkpoint(self.args)).is_file():
            started_from = started_from | {"sha256": digests(path)[0]}
        return {"corpora": corpora, "encoders": encoders, "started_from": started_from}

    def _claim(self):
        """Keep every other process out of the folder until this run ends."""
        try:
            self._made = [folder for folder in self.path.parents if not folder.exists()]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Beside the folder, which may be removed or moved away with the run still under way.
            self._lock = LockFile(self.path.with_name(f".{self.path.name}.lock"), this_process())
            self.path.mkdir(exist_ok=True)
            (self.path / ".probe.partial").touch()
            for partial in self.path.glob(".*.partial"):  # and what a killed process was writing
                partial.unlink()
        except Locked as held:
            raise UserError(f"{self.path} is being written by {held}: wait for it, or name another --exp_name") from None
        except OSError as error:
            raise UserError(f"--output_root: {self.path} cannot be written ({error.strerror}); name another folder") from None

    def _file(self, name):
        """A file of the run folder, as ``whole_file``, for the main process.

        Raises:
            UserError: if the folder is not this run's any more: somebody removed or moved it, and another run may lie there.
        """
        if not self._lock.is_held():
            raise UserError(
                f"{self.path} was removed or moved while this run was writing it: the run ends here and writes nothing more"
            )
        return whole_file(self.path / name, through_links=False, writer=self.id)

    def _write(self, name, text):
        with self._file(name) as file:
            file.write(text.encode())

    def _remove_progress(self, keep_last):
        """What only a run under way needs."""
        for name in (LAST_CHECKPOINT, FISHER) if not keep_last else (FISHER,):
            with suppress(OSError):
                (self.path / name).unlink()

    def load_tasks(self, names):
        """Read corpora → ``{name: Task}``, tokenised for this run's text encoder."""
        tokenizer = self._main_process_first(lambda: load_tokenizer(self.args.text_model))
        # The first to come looks at every wav and leaves an index for the others.
        tasks = {name: self._main_process_first(lambda name=name: load_task(self.args, name, tokenizer)) for name in names}
        for name, task in tasks.items():
            corpus = task.corpus
            self.say(
                f"{name}: {len(corpus.utterances):,} usable of {corpus.rows:,} rows ({corpus.root}"
                f"{', SYNTHETIC' if corpus.synthetic else ''}); fold {self.args.num_fold}: "
                + ", ".join(f"{split} {len(task.splits[split]):,}" for split in SPLITS)
            )
            unknown = _unknown_share(task, tokenizer)
            if unknown > MANY_UNKNOWN:
                self.say(f"{name}: {100 * unknown:.0f} % of the tokens are unknown to --text_model {self.args.text_model}")
            for warning in corpus.warnings():
                self.say(f"{name}: {warning}")
        return tasks

    def _from_main_process(self, function):
        """``function()`` of the main process, in every process; a UserError that it raises is raised in all."""
        result, problem = None, None
        if self.accelerator.is_main_process:
            try:
                result = function()
            except UserError as error:
                problem = str(error)
        if self.accelerator.num_processes > 1:
            result, problem = broadcast_object_list([result, problem])
        if problem:
            raise UserError(problem)
        return result

    def _main_process_first(self, function):
        """``function()`` in every process, in the main one before the others."""
        result = []
        self._from_main_process(lambda: result.append(function()))
        return result[0] if result else function()

    def seed(self):
        """Seed Python, numpy and torch, so that every process draws the same new layers."""
        set_seed(self.args.seed)

    def start(self, model, tasks, started_from=None):
        """Move the model to the device and write config.json, in the place of whatever lay in the folder before.

        A run that goes on keeps what is there.

        Args:
            model: as it will be trained.
            tasks: ``{name: Task}``.
            started_from: facts of a StartingPoint, where there is one.

        Raises:
            UserError: if a transcript has more tokens, or other ones, than the text encoder knows, if a run that would go on
                was begun with other corpora, encoders or another starting model, or if the disk is too small.
        """
        self._check_tokens(model.text_encoder, tasks)
        model.to(self.accelerator.device)
        encoders = {kind: self._encoder_facts(kind, getattr(model, f"{kind}_encoder")) for kind in ("text", "speech")}
        for kind, encoder in encoders.items():
            if encoder["drawn_at_random"]:
                lacking = ", ".join(encoder["drawn_at_random"])
                frozen = ", and frozen so" if has_adapters(self.method) else ""
                self.say(f"the {kind} encoder {encoder['name']} lacks {lacking}: drawn at random{frozen}")
        stored = model.checkpoint_state()
        config = {
            "format": FORMAT,
            "run": uuid.uuid4().hex,
            "method": self.method,
            "task": self.args.task,
            "fold": self.args.num_fold,
            "k_fold": self.args.k_fold,
            "seed": self.args.seed,
            "synthetic": any(task.corpus.synthetic for task in tasks.values())
            or any(encoder["synthetic"] for encoder in encoders.values()),
            "arguments": self._arguments(),
            "labels": list(EMOTIONS),
            "encoders": encoders,
            "started_from": started_from,
            "parameters": {
                "total": count_parameters(model),
                "trained": count_parameters(model, trained_only=True),
                "stored": sum(tensor.numel() for tensor in stored.values()),
            },
            "corpora": {name: _corpus_facts(task) for name, task in tasks.items()},
            "machine": {
                "device": str(self.accelerator.device),
                "processes": self.accelerator.num_processes,
                "threads": torch.get_num_threads(),
            },
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "commit": _commit(),
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        if self._resumes:
            begun = read_config(self.path / CONFIG)
            self._require_same(begun, config)
            config["run"] = begun["run"]
        self.id = self._from_main_process(lambda: config["run"])
        parameters = config["parameters"]
        # AdamW keeps two numbers for each that is trained; the new checkpoint is whole before the old one goes.
        best, trained = (4 * parameters[kind] for kind in ("stored", "trained"))
        fisher = trained if self.method == "ewc" else 0
        self._require_room(best + 2 * (best + 2 * trained) + fisher, (BEST_MODEL, LAST_CHECKPOINT, FISHER))
        if self.accelerator.is_main_process and not self._resumes:
            for name in (METRICS, PREDICTIONS, HISTORY, LAST_CHECKPOINT, FISHER, BEST_MODEL):
                (self.path / name).unlink(missing_ok=True)
            self._write(CONFIG, as_json(config))
        elif self.accelerator.is_main_process:
            now = {name: config[name] for name in ("started", "commit", "versions", "machine", "arguments")}
            self._write(CONFIG, as_json(begun | {"continued": [*begun.get("continued", []), now]}))
        self.accelerator.wait_for_everyone()
        self.say(
            f"{self.method} on {self.args.task} → {self.path} ({parameters['trained']:,} of {parameters['total']:,} parameters "
            f"trained, {self.accelerator.device}, {self.precision.replace('no', 'float32')})"
        )

    def _check_tokens(self, text_encoder, tasks):
        encoded = [ids for task in tasks.values() for split in task.splits.values() for ids in split.input_ids]
        longest, largest = max(map(len, encoded)), max(map(max, encoded))
        room, known = max_tokens(text_encoder), text_encoder.config.vocab_size
        if room is not None and longest > room:
            raise UserError(
                f"--max_text_len {self.args.max_text_len}: a transcript has {longest} tokens, and --text_model "
                f"{self.args.text_model} reads at most {room}; name that or less"
            )
        if largest >= known:
            raise UserError(
                f"--text_model {self.args.text_model}: its vocabulary has a token {largest}, its weights know {known}; they "
                "are not of one model"
            )

    def _encoder_facts(self, kind, encoder):
        digests = FileDigests(Path(self.args.output_root) / DIGESTS)
        folder = self._from_main_process(lambda: local_folder(kind, encoder.provenance["name"]))
        files = self._from_main_process(lambda: digests.of_encoder(folder))
        return encoder.provenance | {"files": files}

    def _require_room(self, needed, names):
        """Raise UserError unless the disk has ``needed`` bytes, what lies in the folder under ``names`` counted in."""
        there = sum((self.path / name).stat().st_size for name in names if (self.path / name).exists())
        free = shutil.disk_usage(self.path.parent).free
        if self.accelerator.is_main_process and needed - there > free:
            raise UserError(
                f"--output_root: {self.path} needs {(needed - there) / 1e9:.2f} GB while the run is under way, and "
                f"{free / 1e9:.2f} GB are free: make room, or name another folder"
            )

    def once(self, name, compute, like):
        """``compute()``, or what an earlier start of this run has kept of it in the file ``name``.

        Args:
            name: of a file in the run folder.
            compute: gives a dictionary of tensors.
            like: a dictionary of tensors of the same names and shapes. What is kept is made again if it is otherwise.
        """
        kept = self._main_process_first(lambda: self._kept(name, like))
        if kept is not None:
            return {key: tensor.to(self.accelerator.device) for key, tensor in kept.items()}
        result = compute()
        if self.accelerator.is_main_process:
            with self._file(name) as file:
                torch.save({"run": self.id, "values": result}, file)
        return result

    def _kept(self, name, like):
        path = self.path / name
        if not path.exists():
            return None
        try:
            kept = read_file(path)
            own = isinstance(kept, dict) and kept.get("run") == self.id
            wrong = misfit(kept["values"], like) if own else "it is of another run"
        except UserError as error:
            wrong = error
        self.say(f"{path}: taken from before" if not wrong else f"{path} is not used, and made again ({wrong})")
        return None if wrong else kept["values"]

    def save_last(self, state):
        """Write last_checkpoint.pt: ``state`` (tensors and plain numbers), the history, the arguments and the run's id."""
        if self.accelerator.is_main_process:
            with self._file(LAST_CHECKPOINT) as file:
                torch.save({**state, "run": self.id, "history": self.history, "arguments": self._arguments()}, file)
        self._resumable = True

    def read_last(self):
        """What ``save_last`` wrote before this run was killed, and None where there is nothing to resume from.

        Raises:
            UserError: if it is damaged or of another run, or the best model that goes with it is gone.
        """
        path = self.path / LAST_CHECKPOINT
        if not (self._resumes and path.exists()):
            return None
        last = read_file(path, hint="--overwrite restarts the run")
        of_this_run = (
            isinstance(last, dict)
            and last.get("run") == self.id
            and arguments_that_matter(last["arguments"]) == arguments_that_matter(self._arguments())
        )
        if not of_this_run:
            raise UserError(f"{path} is not of the run in {CONFIG} beside it: --overwrite restarts the run")
        if last["best_epoch"] != last["epoch"] and not (self.path / BEST_MODEL).exists():
            raise UserError(
                f"{self.path / BEST_MODEL} is gone, and {path.name} alone cannot be resumed from: --overwrite restarts the run"
            )
        self.history = last["history"]
        return last

    def log_epoch(self, row):
        """Add an epoch's row (a dictionary) to history.csv."""
        self.history.append(row)
        if self.accelerator.is_main_process:
            self._write(HISTORY, pd.DataFrame(self.history).to_csv(index=False))

    def save_best(self, model):
        """Write what the model's method trained as best_model.pt."""
        if self.accelerator.is_main_process:
            # To an open file: the bytes that torch.save writes otherwise depend on the file's name.
            with self._file(BEST_MODEL) as file:
                torch.save({name: tensor.detach().cpu().clone() for name, tensor in model.checkpoint_state().items()}, file)

    def load_best(self, model):
        """Give the model the parameters of its best epoch, in every process."""
        self.accelerator.wait_for_everyone()
        model.load_checkpoint_state(read_state(self.path / BEST_MODEL))

    def finish(self, metrics, predictions):
        """Write predictions.csv (a table) and, last, metrics.json (a dictionary)."""
        if self.accelerator.is_main_process:
            self._write(PREDICTIONS, predictions.to_csv(index=False, float_format="%.6g"))
            self._write(METRICS, as_json({"run": self.id} | metrics))
            self._remove_progress(self.args.keep_last)
        self.accelerator.wait_for_everyone()

    def _arguments(self):
        # Whole paths: the same from every directory, however they were written.
        arguments = {
            name: os.path.abspath(value) if isinstance(value, Path) or name in ENCODERS and os.path.isdir(value) else value
            for name, value in vars(self.args).items()
        }
        return arguments | {"mixed_precision": self.precision}


def _corpus_facts(task):
    """What config.json says of a corpus: counts, no text, and no name of a file but of those that --skip_bad_files skips."""
    labels = {split: task.splits[split].utterances["emotion"].value_counts() for split in SPLITS}
    return {
        "root": str(task.corpus.root),
        "synthetic": task.corpus.synthetic,
        "rows": task.corpus.rows,
        "utterances": len(task.corpus.utterances),
        "digest": task.corpus.digest,
        "dropped": task.corpus.dropped,
        "notes": task.corpus.notes,
        "skipped_files": {os.path.relpath(path, task.corpus.root): reason for path, reason in task.corpus.unreadable},
        "splits": {
            split: {
                "sessions": task.fold[split],
                "utterances": len(task.splits[split]),
                "labels": {emotion: int(labels[split].get(emotion, 0)) for emotion in EMOTIONS},
            }
            for split in SPLITS
        },
    }


def _unknown_share(task, tokenizer):
    """Share of the transcripts' tokens, [CLS] and [SEP] aside, that are [UNK], in the split that has most of them."""
    tokens = [[token for ids in split.input_ids for token in ids[1:-1]] for split in task.splits.values()]
    return max(split.count(tokenizer.unk_token_id) / max(len(split), 1) for split in tokens)


def _commit():
    """Commit of the code, with ``+changes`` where it was edited since; None outside a git checkout."""

    def git(*arguments):
        return subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # The demonstration draws its picture anew, which changes no code.
        changes = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)figures")
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None
