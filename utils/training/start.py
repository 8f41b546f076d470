"""Set up a run: its corpora as tasks, its model, and, in a sequence, the model of the earlier tasks."""

from dataclasses import dataclass
from pathlib import Path

from models import load_tokenizer, model_class
from utils.data import SPLITS
from utils.data.batches import Sound, make_task
from utils.data.corpus import find_corpus, read_corpus
from utils.data.speech_cache import features_of
from utils.errors import UserError
from utils.files import CONFIG, DIGESTS, METRICS
from utils.identity import (
    FileDigests,
    checkpoint_facts,
    checkpoint_of,
    starting_checkpoint,
    told_fold,
    told_withdrawn,
)
from utils.methods import JOINT
from utils.training.arguments import command_for, ending, withdrawn_of
from utils.training.checkpoints import assemble, describe_mismatch, encoder_of, read_weights, require_same_encoders
from utils.training.engine import test

# A larger share of unknown tokens means a wrong vocabulary rather than rare words.
MANY_UNKNOWN = 0.2


def read_corpora(run, names, may_lack=()):
    """Read corpora → ``{name: Corpus}``.

    Args:
        run: the Run.
        names: of the corpora.
        may_lack: those that may be missing; they are skipped with a printed note.

    Raises:
        UserError: if a corpus is missing or malformed, or has unusable audio files (without --skip_bad_files).
    """
    corpora = {}
    for name in names:
        if name in may_lack:
            try:
                find_corpus(run.args.data_root, name)
            except UserError:
                run.print(f"{name} is not under {run.args.data_root}: there will be no scores on it")
                continue
        # The main process indexes all files for the others.
        corpus = run.main_process_first(lambda name=name: read_corpus(run.args.data_root, name))
        corpora[name] = corpus.without(withdrawn_of(run.args, name))
        if not run.args.skip_bad_files:
            corpus.require_readable_wavs()
    return corpora


def labels_of(args, corpora):
    """The classes of a run: ``--labels``, or those of its corpora in order of appearance."""
    return list(args.labels or dict.fromkeys(label for corpus in corpora.values() for label in corpus.labels))


def make_tasks(run, corpora, labels, speech=None, tokenizer=None):
    """Make ``{name: Task}`` from corpora, tokenised for this run's text encoder.

    Args:
        run: the Run.
        corpora: ``{name: Corpus}``.
        labels: the model's classes, in order.
        speech: ``{name: SpeechFeatures}`` of a frozen encoder; by default waveforms are used.
        tokenizer: by default that of ``--text_model``.

    Raises:
        UserError: if a corpus has a label that is not a class, or a split is empty.
    """
    args, tasks = run.args, {}
    if tokenizer is None:
        tokenizer = run.main_process_first(lambda: load_tokenizer(args.text_model))
    for name, corpus in corpora.items():
        other = corpus.utterances["emotion"][~corpus.utterances["emotion"].isin(labels)]
        if len(other):
            raise UserError(
                f"{name} has {len(other):,} utterances with labels that are no class here ({', '.join(sorted(set(other)))}): "
                f"the classes are {', '.join(labels)}"
            )
        source = speech[name] if speech else Sound(args.max_seq_len)
        task = tasks[name] = make_task(corpus, args, labels, tokenizer, source)
        synthetic = ", SYNTHETIC" if corpus.synthetic else ""
        if corpus.withdrawn:
            run.print(f"{name}: without the utterances of {len(corpus.withdrawn)} of {len(corpus.sessions)} sessions")
        run.print(
            f"{name}: {len(corpus.utterances):,} usable of {corpus.rows:,} rows ({corpus.root}{synthetic}); fold "
            f"{args.num_fold}: " + ", ".join(f"{split} {len(task.splits[split]):,}" for split in SPLITS)
        )
        unknown = _unknown_share(task, tokenizer)
        if unknown > MANY_UNKNOWN:
            run.print(f"{name}: {100 * unknown:.0f} % of the tokens are unknown to --text_model {args.text_model}")
        for warning in corpus.warnings():
            run.print(f"{name}: {warning}")
    return tasks


def _unknown_share(task, tokenizer):
    """Share of [UNK] among the transcripts' tokens, without [CLS] and [SEP], in the split where it is largest."""
    tokens = [[token for ids in split.input_ids for token in ids[1:-1]] for split in task.splits.values()]
    return max(split.count(tokenizer.unk_token_id) / max(len(split), 1) for split in tokens)


def new_model(run, labels):
    """Build the model for a run's method and flags, with new layers initialized from the run's seed."""
    args = vars(run.args)
    run.seed()
    encoders = (encoder_of(args, kind, args[f"{kind}_model"]) for kind in ("text", "speech"))
    return assemble({"model": run.method.model, "labels": labels, "arguments": args}, *encoders)


def _tasks_for(run, model, corpora, labels):
    """``make_tasks`` with cached features if the speech encoder is frozen."""
    return make_tasks(run, corpora, labels, features_of(run, model.speech_encoder, corpora) if model.FROZEN_SPEECH else None)


def begin(run):
    """Start a run from the encoders only.

    Args:
        run: a Run that is not finished.

    Returns:
        (tasks, model): ``{name: Task}`` of its corpora, and the model of its method.
    """
    corpora = read_corpora(run, run.args.sequence)
    labels = labels_of(run.args, corpora)
    model = new_model(run, labels)
    tasks = _tasks_for(run, model, corpora, labels)
    run.start(model, tasks, labels)
    return tasks, model


def continue_sequence(run):
    """Start a run from the best model of the earlier tasks, and test that model on all tasks.

    Args:
        run: a Run that is not finished, with the flags of ``utils.training.arguments.add_start_flags``.

    Returns:
        (start, tasks, model, before): the StartingPoint, ``{name: Task}`` in learning order (without earlier ones whose corpus
        is missing), the model of its method, and its Evaluation on each test split before the first epoch.
    """
    args = run.args
    start = StartingPoint.find(run)
    corpora = read_corpora(run, args.sequence, may_lack=args.sequence[:-1])
    if run.method.keeps_data and len(corpora) < len(args.sequence):
        missing = ", ".join(name for name in args.sequence if name not in corpora)
        raise UserError(
            f"{args.data_root} lacks {missing}: {run.method.name} needs the recordings of earlier tasks; copy them there"
        )
    labels = start.config.get("labels") or labels_of(args, corpora)
    start.require_classes(run, corpora[args.task], labels)
    model = new_model(run, labels)
    start.load_into(model)
    tasks = _tasks_for(run, model, corpora, labels)
    start.require_same_folds(tasks)
    start.require_same_withdrawn(args, tasks)
    run.start(model, tasks, labels, started_from=start.facts(args.output_root))
    return start, tasks, model, test(run, model, tasks)


@dataclass(frozen=True)
class StartingPoint:
    """The best model of the earlier tasks, from which a run of a sequence starts.

    Attributes:
        path: its best_model.pt, or its exported file.
        config: the config.json beside it, {} if there is none; for an exported file its facts.
        sequence: the tasks that it was trained on.
    """

    path: Path
    config: dict
    sequence: tuple

    @classmethod
    def find(cls, run):
        """The checkpoint named by ``--checkpoint``, or that of the earlier tasks under its default name, for the same fold.

        Raises:
            UserError: if there is none, its config.json is damaged, or it is not a model of the earlier tasks, in this order,
                trained without the test sessions of this run's fold.
        """
        args, before = run.args, run.args.sequence[:-1]
        path = starting_checkpoint(args)
        if args.checkpoint is None:
            if not (path.parent / METRICS).exists():
                raise UserError(
                    f"no finished run in {path.parent} to start from: make it with '{_command_for_start(run)}', or name a "
                    "--checkpoint"
                )
            run.print(f"starting from {path}")
        if not path.is_file():
            raise UserError(
                f"--checkpoint {path}: there is no such file; it should be the best_model.pt of a run on "
                + ", then ".join(before)
            )
        try:
            config = checkpoint_facts(path)
        except UserError as error:
            raise UserError(f"{error}; if it is of something else, put {path.name} into a folder without a {CONFIG}") from None
        if not config:
            run.print(f"{path} has no {CONFIG} beside it: its tasks, fold and encoders cannot be checked")
        if config.get("method") == JOINT:
            raise UserError(
                f"--checkpoint {path} was trained on {', '.join(config['corpora'])} at once: what it forgets cannot be told; "
                f"name the best_model.pt of a run on {', then '.join(before)}"
            )
        if vars(args).get("epsilon") and not config.get("privacy"):
            raise UserError(
                f"--checkpoint {path} was trained without --epsilon, and so gives its recordings away through what starts from "
                "it: name the model of a run with --epsilon (--checkpoint or --init_name)"
            )
        told = {"sequence": before, "fold": args.num_fold, "k_fold": args.k_fold, "train_half": args.train_half}
        if "arguments" in config:
            config = config | {"train_half": config["arguments"].get("train_half")}
        for name, value in told.items():
            if config.get(name, value) != value:
                raise UserError(
                    f"--checkpoint {path} is of {name} {_words(config[name])}, and this run continues from {name} "
                    f"{_words(value)} (training on {args.task}, fold {args.num_fold} of {args.k_fold})"
                )
        return cls(path, config, tuple(before))

    def require_classes(self, run, corpus, labels):
        """Raise UserError if the starting model, whose classes are ``labels``, lacks a label of a corpus or of ``--labels``."""
        lacking = [label for label in dict.fromkeys(corpus.utterances["emotion"]) if label not in labels]
        wanted = run.args.labels or [*labels, *lacking]
        if set(wanted) != set(labels):
            raise UserError(
                f"{self.path} has the classes {', '.join(labels)}; {corpus.name} needs {', '.join(wanted)}: make a start that "
                f"has them with '{_command_for_start(run, wanted)}'"
            )

    def require_same_folds(self, tasks):
        """Raise UserError if the checkpoint may have been trained on a task's test sessions."""
        for name, then in self.config.get("corpora", {}).items():
            if name in tasks and told_fold(then) != tasks[name].fold_digest:
                raise UserError(
                    f"--checkpoint {self.path} was trained on other sessions of {name} than this fold has now, and may have "
                    f"seen the test split: train it again on the corpus in {tasks[name].corpus.root}"
                )

    def require_same_withdrawn(self, args, tasks):
        """Raise UserError unless the checkpoint was trained without exactly the sessions named by ``--withdraw``.

        Sessions of a task whose recordings are not here need not be named.
        """
        for name in self.sequence:
            named, then = withdrawn_of(args, name), told_withdrawn(self.config, name)
            if (name in tasks or named) and then != told_withdrawn({"withdrawn": {name: named}}, name):
                raise UserError(
                    f"--checkpoint {self.path} was trained without {then['sessions']} withdrawn sessions of {name}, and not "
                    "without just those that --withdraw names now: start from a model that saw none of them"
                )

    def load_into(self, model):
        """Load the checkpoint's parameters into a model.

        Raises:
            UserError: if the checkpoint is corrupt, could run code, is not finite, or has another architecture or encoders.
        """
        require_same_encoders(model, self.config, self.path)
        state = read_weights(self.path)
        wrong = describe_mismatch(state, model.checkpoint_state())
        if wrong:
            raise UserError(
                f"--checkpoint {self.path} does not fit: {wrong}; it should be of this run's kind and sizes of model, over "
                "--text_model and --speech_model as named"
            )
        model.load_checkpoint_state(state)

    def facts(self, output_root):
        """The facts for config.json; file digests are cached in ``output_root``."""
        (digest,) = FileDigests(Path(output_root) / DIGESTS)(self.path)
        return {"checkpoint": str(self.path), "sha256": digest, "sequence": list(self.sequence)} | {
            name: self.config.get(name) for name in ("method", "task")
        }

    def models(self, args, model):
        """The starting points of the whole sequence, from the first task's to this one.

        Args:
            args: the run's flags.
            model: has the parameters of this one, and of each while it is yielded.

        Raises:
            UserError: if one of them is missing, or is not the one that the next was trained from.
        """
        points, digests = [self], FileDigests(Path(args.output_root) / DIGESTS)
        while len(points[0].sequence) > 1:
            sequence, started_from = points[0].sequence[:-1], points[0].config.get("started_from") or {}
            told = Path(started_from.get("checkpoint", ""))
            path = told if told.is_file() else checkpoint_of(args, sequence)
            if not path.is_file():
                raise UserError(
                    f"{path}: the model of {', then '.join(sequence)} is not here, and this run needs it; copy it there"
                )
            if started_from.get("sha256") not in (None, *digests(path)):  # exported files lack it
                raise UserError(
                    f"{path} is not the model of {', then '.join(sequence)} that {points[0].path} was trained from: train the "
                    "latter again (--overwrite), or copy the former model back"
                )
            points.insert(0, StartingPoint(path, checkpoint_facts(path), sequence))
        for point in points:
            if len(points) > 1:
                point.load_into(model)
            yield point


def _words(value):
    return ", then ".join(value) if isinstance(value, list) else value


def _command_for_start(run, labels=None):
    """The command that trains a run's starting point; with other labels, the first of its sequence."""
    args = run.args
    before = args.sequence[:-1]
    if labels or len(before) == 1:
        experiment = args.init_name.removesuffix(ending(args)) if ending(args) else None
        starts_from = run.method.starts_from
        names = (None, None) if args.init_name == starts_from else (args.init_name, experiment)
        changes = dict(zip(("exp_name", "experiment"), names), labels=labels or args.labels, overwrite=None)
        same = (*model_class(run.method.model).SETTINGS, "epsilon", "delta", "clip")
        changes |= {name: vars(args).get(name) for name in same}
        changes["withdraw"] = [text for text in args.withdraw or () if text.startswith(f"{before[0]}/")] or None
        if args.trial_of:  # the starting point itself is not tuned
            changes |= {"trial_of": None, "lr": None}
        return command_for(args, starts_from, task=before[0], **changes)
    changes = {"task": before[-1], "after": before[:-1], "sequence": None, "overwrite": None}
    changes["withdraw"] = [text for text in args.withdraw or () if not text.startswith(f"{args.task}/")] or None
    return command_for(args, run.method.name, same=True, **changes)
