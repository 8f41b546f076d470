"""A run and its folder ``outputs/<exp_name>/fold_<k>/<task>/``, which tells its own story.

best_model.pt      what the method trained, as a plain state dict of tensors
config.json        what is needed to rebuild the rest, or to refuse a wrong base
history.csv        one row an epoch
metrics.json       test scores of each task that the model knows; written last, so it marks a finished run
predictions.csv    the test splits, utterance by utterance

While it is under way there are also last_checkpoint.pt, from which it goes on when it was cut off, and, with ewc, fisher.pt.
A lock beside the folder keeps a second process out.
"""

import hashlib
import os
import platform
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack, suppress
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from filelock import FileLock, Timeout
from tqdm import tqdm

from models import load_tokenizer
from models.encoders import count_parameters
from utils.arguments import COMPARED_BY_CONTENT, WITHOUT_EFFECT, differing_arguments
from utils.batches import load_task
from utils.checkpoints import has_adapters, misfit, read_config, read_file, read_state
from utils.errors import GoOnLater, UserError, printable
from utils.files import (
    BEST_MODEL,
    CONFIG,
    FISHER,
    HISTORY,
    LAST_CHECKPOINT,
    METRICS,
    PREDICTIONS,
    run_folder,
    sha256,
    whole_file,
    write_json,
    write_text,
)
from utils.folds import SPLITS
from utils.interruption import Interruption
from utils.kemdy import EMOTIONS
from utils.machine import require_open_files, require_whole_launch

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
WAY_OUT = "name another --exp_name, or --overwrite"


class Run:
    """One run: its device and processes, its seeds, and its folder, which only the main process writes.

    Used as ``with Run(...) as run``: within it the folder is this run's own, and SIGTERM and Ctrl-C lose nothing.

    Args:
        args: parsed flags (see utils/arguments.py).
        method: task_a, joint, finetune, ewc, adapter or adapter_wo_pretraining.
        quiet: say nothing.

    Raises:
        UserError: if the processes do not divide the batch, if a launcher's variables in the environment are not whole, or if
            too few files may be open.
    """

    def __init__(self, args, method, quiet=False):
        require_whole_launch(os.environ)
        require_open_files(args.num_workers)
        self.args, self.method, self.quiet = args, method, quiet
        self.interruption, self._held = Interruption(), ExitStack()
        self.path = run_folder(args.output_root, args.exp_name, args.num_fold, args.task)
        self.history = []
        self._resumes = self._kept_last = False
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
        self._held.enter_context(self.interruption)
        return self

    def __exit__(self, kind, error, traceback):
        self._held.close()
        if isinstance(error, RuntimeError):
            told = str(error)
            if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in told:
                raise UserError(
                    "out of memory: a smaller --micro_batch_size takes the same steps with less, and goes on from here"
                ) from None
            if "DataLoader worker" in told:
                raise UserError(
                    f"a process that reads wavs was ended from outside ({told.splitlines()[0]}); the same command goes on, and "
                    "--num_workers 0 reads without such processes, if memory is short"
                ) from None

    def leave_if_asked(self, together=True):
        """Raise GoOnLater if a signal that was held back asks to leave.

        Args:
            together: all processes call it, and one that was asked takes the others along; otherwise only a run of a single
                process leaves.
        """
        asked = self.interruption.requested
        if self.accelerator.num_processes > 1:
            if not together:
                return
            if asked:
                self.accelerator.set_trigger()
            asked = self.accelerator.check_trigger()
        if asked:
            raise GoOnLater

    def say(self, line):
        """Print a line once, whatever the number of processes; unlike ``print`` it leaves progress bars whole."""
        if self.accelerator.is_main_process and not self.quiet:
            tqdm.write(printable(line))

    def is_finished(self):
        """Is this very run done already? It is then skipped, and said so; otherwise its folder is this process's own.

        Raises:
            UserError: if a run with other arguments lies in the folder, finished or not, if the model that a finished one
                started from is another now, or if the folder of a run that is to be made cannot be written, or another
                process is writing it.
        """
        finished = self._lies_finished()
        if not finished:
            self._main_process_first(self._claim, lambda: None)
            finished = self._lies_finished()  # another process may have finished it meanwhile
            if not (finished or self._resumes or self.args.overwrite) and (self.path / BEST_MODEL).exists():
                self.say(f"{self.path} holds a {BEST_MODEL} and no {LAST_CHECKPOINT} to go on from: the run starts again")
        if finished:
            self.say(f"{self.path} is finished: skipped (--overwrite runs it again)")
            self._remove_progress(self._kept_last)
        return finished

    def _lies_finished(self):
        kept = [name for name in (METRICS, LAST_CHECKPOINT, FISHER, BEST_MODEL) if (self.path / name).exists()]
        self._resumes, finished = False, METRICS in kept
        if self.args.overwrite or not kept:
            return False
        try:
            config = read_config(self.path / CONFIG)
        except UserError as error:
            raise UserError(f"{error}; {WAY_OUT}") from None
        # Whoever leaves the precision to the device takes a finished run as it was made elsewhere.
        overlooked = (*WITHOUT_EFFECT, *(["mixed_precision"] if finished and self.args.mixed_precision == "auto" else []))
        if not finished:
            overlooked = (*overlooked, *COMPARED_BY_CONTENT)  # see _require_same_beginning
        differing = differing_arguments(config["arguments"], self._arguments(), overlooked)
        if differing:
            changes = ", ".join(f"--{name} {then} then, {now} now" for name, then, now in differing)
            raise UserError(f"{self.path} holds a run with other arguments ({changes}): {WAY_OUT}")
        if not finished:
            self._resumes = kept != [BEST_MODEL]
            return False
        start = config.get("started_from") or {}
        if start and os.path.isfile(start["checkpoint"]) and sha256(start["checkpoint"]) != start["sha256"]:
            raise UserError(f"{self.path} started from {start['checkpoint']}, which is another model now: {WAY_OUT}")
        # A later start of it may have asked to keep it.
        self._kept_last = any(of["arguments"].get("keep_last") for of in (config, *config.get("continued", [])))
        return True

    def _claim(self):
        """Keep every other process out of the folder until this run ends.

        The lock is the system's (flock), which ends with its process, however that ends. On NFS (Linux, version 3 with lockd
        or 4) the server holds it, so that other machines see it, and takes it from one that is gone after its lease.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # Beside the folder, since it cannot be removed safely.
            lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
            try:
                self._held.enter_context(lock.acquire(timeout=0))
            except Timeout:
                time.sleep(0.2)  # the first writes its name just after it has the lock
                owner = Path(lock.lock_file).read_text(encoding="utf-8", errors="replace").strip() or "another process"
                raise UserError(f"{self.path} is being written by {owner}: wait for it, or name another --exp_name") from None
            since = datetime.now().astimezone().isoformat(timespec="seconds")
            Path(lock.lock_file).write_text(
                f"process {os.getpid()} on {socket.gethostname()} since {since}\n", encoding="utf-8"
            )
            (self.path / ".probe.partial").touch()
            for partial in self.path.glob(".*.partial"):  # and what a killed process was writing
                partial.unlink()
        except OSError as error:
            raise UserError(f"--output_root: {self.path} cannot be written ({error.strerror}); name another folder") from None

    def _remove_progress(self, keep_last):
        """What only a run under way needs."""
        if self.accelerator.is_main_process:
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

    def _main_process_first(self, load, load_after=None):
        """``load()`` in the main process, then (or ``load_after``) in the others; a UserError of the first is raised in all."""
        result, problem = None, [None]
        if self.accelerator.is_main_process:
            try:
                result = load()
            except UserError as error:
                problem = [str(error)]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(problem)
        if problem[0]:
            raise UserError(problem[0])
        return result if self.accelerator.is_main_process else (load_after or load)()

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
        self._check_tokens(model.text_encoder.config, tasks)
        model.to(self.accelerator.device)
        encoders = {kind: getattr(model, f"{kind}_encoder").provenance for kind in ("text", "speech")}
        for kind, encoder in encoders.items():
            if encoder["drawn_at_random"]:
                lacking = ", ".join(encoder["drawn_at_random"])
                frozen = ", and frozen so" if has_adapters(self.method) else ""
                self.say(f"the {kind} encoder {encoder['name']} lacks {lacking}: drawn at random{frozen}")
        stored = model.checkpoint_state()
        config = {
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
            begun = self._require_same_beginning(config)
        parameters = config["parameters"]
        # AdamW keeps two numbers for each that is trained; the new checkpoint is whole before the old one goes.
        best, trained = (4 * parameters[kind] for kind in ("stored", "trained"))
        fisher = trained if self.method == "ewc" else 0
        self._require_room(best + 2 * (best + 2 * trained) + fisher, (BEST_MODEL, LAST_CHECKPOINT, FISHER))
        if self.accelerator.is_main_process and not self._resumes:
            for name in (METRICS, PREDICTIONS, HISTORY, LAST_CHECKPOINT, FISHER, BEST_MODEL):
                (self.path / name).unlink(missing_ok=True)
            write_json(self.path / CONFIG, config)
        elif self.accelerator.is_main_process:
            now = {name: config[name] for name in ("started", "commit", "versions", "machine", "arguments")}
            write_json(self.path / CONFIG, begun | {"continued": [*begun.get("continued", []), now]})
        self.accelerator.wait_for_everyone()
        self.say(
            f"{self.method} on {self.args.task} → {self.path} ({parameters['trained']:,} of {parameters['total']:,} parameters "
            f"trained, {self.accelerator.device}, {self.precision.replace('no', 'float32')})"
        )

    def _check_tokens(self, config, tasks):
        encoded = [ids for task in tasks.values() for split in task.splits.values() for ids in split.input_ids]
        longest, largest = max(map(len, encoded)), max(map(max, encoded))
        if longest > config.max_position_embeddings:
            raise UserError(
                f"--max_text_len {self.args.max_text_len}: a transcript has {longest} tokens, and --text_model "
                f"{self.args.text_model} reads at most {config.max_position_embeddings}; name that or less"
            )
        if largest >= config.vocab_size:
            raise UserError(
                f"--text_model {self.args.text_model}: its vocabulary has a token {largest}, its weights know "
                f"{config.vocab_size}; they are not of one model"
            )

    def _require_same_beginning(self, config):
        """config.json, once it is sure that it tells of a run on the same data, encoders and starting model."""
        then = read_config(self.path / CONFIG)

        def told(config):
            start = config.get("started_from") or {}
            return {
                "label order": config.get("labels"),
                "encoders": {kind: of["fingerprint"] for kind, of in config["encoders"].items()},
                "starting model": start.get("sha256"),
                "corpora": {name: {**facts, "root": None} for name, facts in config["corpora"].items()},
            }

        try:
            differing = [name for name, value in told(then).items() if value != told(config)[name]]
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{self.path / CONFIG} is not whole ({error}): {WAY_OUT}") from None
        if differing:
            raise UserError(f"{self.path} was begun with other {' and '.join(differing)} than now: {WAY_OUT}")
        return then

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
            with whole_file(self.path / name) as file:
                torch.save(result, file)
        return result

    def _kept(self, name, like):
        path = self.path / name
        if not path.exists():
            return None
        try:
            kept = read_state(path)
            wrong = misfit(kept, like)
        except UserError as error:
            wrong = error
        self.say(f"{path}: taken from before" if not wrong else f"{path} is not used, and made again ({wrong})")
        return None if wrong else kept

    def save_last(self, state):
        """Write last_checkpoint.pt: ``state`` (tensors and plain numbers), the history and the arguments."""
        if self.accelerator.is_main_process:
            with whole_file(self.path / LAST_CHECKPOINT) as file:
                torch.save({**state, "history": self.history, "arguments": self._arguments()}, file)

    def read_last(self):
        """What ``save_last`` wrote before this run was cut off, and None where there is nothing to go on from."""
        path = self.path / LAST_CHECKPOINT
        if not (self._resumes and path.exists()):
            return None
        last = read_file(path, way_out="--overwrite starts anew")
        try:
            self.history = list(last["history"])
            best_is_kept = last["best_epoch"] in (0, last["epoch"]) or (self.path / BEST_MODEL).exists()
        except (KeyError, TypeError, ValueError, RuntimeError):
            raise UserError(f"{path} is not the last checkpoint of a run: --overwrite starts anew") from None
        if not best_is_kept:
            raise UserError(f"{self.path / BEST_MODEL} is gone, and {path.name} goes on beside it: --overwrite starts anew")
        return last

    def log_epoch(self, row):
        """Add an epoch's row (a dictionary) to history.csv."""
        self.history.append(row)
        if self.accelerator.is_main_process:
            write_text(self.path / HISTORY, pd.DataFrame(self.history).to_csv(index=False))

    def save_best(self, model):
        """Write what the model's method trained as best_model.pt."""
        if self.accelerator.is_main_process:
            # To an open file: the bytes that torch.save writes otherwise depend on the file's name.
            with whole_file(self.path / BEST_MODEL) as file:
                torch.save({name: tensor.detach().cpu().clone() for name, tensor in model.checkpoint_state().items()}, file)

    def load_best(self, model):
        """Give the model the parameters of its best epoch, in every process."""
        self.accelerator.wait_for_everyone()
        model.load_checkpoint_state(read_state(self.path / BEST_MODEL))

    def finish(self, metrics, predictions):
        """Write predictions.csv (a table) and, last, metrics.json (a dictionary)."""
        if self.accelerator.is_main_process:
            write_text(self.path / PREDICTIONS, predictions.to_csv(index=False, float_format="%.6g"))
            write_json(self.path / METRICS, metrics)
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
        "digest": _digest(task.corpus.utterances),
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


def _digest(utterances):
    """SHA-256 of who says what, with which emotion and for how long: tells one copy's utterances from another's."""
    rows = utterances[["segment_id", "emotion", "text", "duration"]].to_csv(index=False)
    return hashlib.sha256(rows.encode(errors="surrogatepass")).hexdigest()


def _unknown_share(task, tokenizer):
    """Share of the training transcripts' tokens, [CLS] and [SEP] aside, that are [UNK]."""
    tokens = [token for ids in task.splits["train"].input_ids for token in ids[1:-1]]
    return tokens.count(tokenizer.unk_token_id) / max(len(tokens), 1)


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
