"""The flags that all training scripts share: the published ones with their defaults, and ours."""

import argparse
import importlib.util
import shlex
from contextlib import suppress

from utils.data import SECONDS, is_corpus_name
from utils.data.corpus import find_corpus
from utils.errors import UserError
from utils.flags import (
    Parser,
    between,
    count,
    encoder_name,
    folder_name,
    named_path,
    positive_float,
    positive_int,
    seed_number,
    word,
)
from utils.hub import PREFIX, local_path
from utils.identity import checkpoint_facts
from utils.machine import available_cpus
from utils.methods import ALONE, JOINT, KEMDY, METHODS, SEQUENCE

TEXT_MODEL = "skt/kobert-base-v1"
SPEECH_MODEL = "facebook/wav2vec2-base-960h"
# How training samples utterances (utils/data/batches.py).
SAMPLERS = ("balanced", "weighted_loss", "capped")
# Packages that --log_with can name (utils/training/progress.py).
TRACKERS = ("tensorboard", "wandb", "trackio")


def corpus_name(text):
    """A corpus name, equal to its folder's name; names joined by + denote sequences."""
    if not is_corpus_name(folder_name(text)):
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot be a corpus's name: rename its folder, without +, a leading dot, joint"
        )
    return text


def training_parser(description, *methods):
    """A Parser with the shared flags.

    Args:
        description: one sentence for ``--help``.
        methods: names of the methods that the script trains, the default first.
    """
    example = f"python {METHODS[methods[0]].script} --task KEMDy20 --num_fold 0 --batch_size 8"
    parser = Parser(description=description, example=example)
    kinds = {METHODS[name].how for name in methods}
    run = parser.add_argument_group("the run")
    if JOINT in kinds:
        help = f"corpus to train on, or {JOINT}: several at once"
        run.add_argument("--task", type=lambda text: text if text == JOINT else corpus_name(text), required=True, help=help)
        run.add_argument(
            "--with",
            dest="together",
            type=corpus_name,
            nargs="+",
            metavar="TASK",
            help=f"corpora of --task {JOINT} (default: KEMDy's)",
        )
    else:
        run.add_argument("--task", type=corpus_name, required=True, help="corpus to train on: a folder under --data_root")
    if SEQUENCE in kinds:
        run.add_argument(
            "--after",
            type=corpus_name,
            nargs="+",
            metavar="TASK",
            help="earlier tasks, in order (default: those of --checkpoint, or the other corpus of KEMDy)",
        )
    run.add_argument("--labels", nargs="+", metavar="LABEL", help="class names, in order (default: the corpus's own)")
    run.add_argument(
        "--exp_name",
        type=folder_name,
        help=f"folder of the experiment under --output_root (default: {' or '.join(methods)})",
    )
    run.add_argument("--experiment", type=folder_name, help="its name in tables, without the seed (default: --exp_name)")
    run.add_argument(
        "--trial_of", type=folder_name, metavar="ROW", help="mark as a trial of this tuned row of tables, such as ewc_tuned"
    )
    run.add_argument("--seed", type=seed_number, default=12, help="seed of initialization and sampling, not of the folds")
    run.add_argument("--num_fold", type=count, default=0, help="fold number, from 0")
    run.add_argument("--k_fold", type=positive_int, default=5, help="number of folds")
    run.add_argument(
        "--train_half",
        type=seed_number,
        metavar="SEED",
        help="keep each training utterance with probability 1/2, by this seed, for leakage.py; --exp_name gets -halfSEED",
    )
    run.add_argument(
        "--withdraw",
        type=word,
        nargs="+",
        metavar="SESSION",
        help="exclude sessions of --task from every split, or, as TASK/SESSION, of another task (for run scripts); folds are "
        "still those of the whole corpus",
    )
    run.add_argument("--overwrite", action="store_true", help="delete an existing run in this folder and restart")
    run.add_argument("--keep_last", action="store_true", help="keep last_checkpoint.pt after the run has finished")

    training = parser.add_argument_group("training")
    training.add_argument("--lr", type=positive_float, default=1e-5, help="learning rate of AdamW")
    training.add_argument("--batch_size", type=positive_int, default=32, help="utterances per step, over all processes")
    training.add_argument("--num_epochs", type=positive_int, default=40, help="epochs")
    training.add_argument(
        "--sampler",
        choices=SAMPLERS,
        default="balanced",
        help="balanced: all classes equally often; weighted_loss: each utterance once per epoch, with a class-weighted loss; "
        "capped: balanced, but each utterance at most --cap times per epoch",
    )
    training.add_argument("--cap", type=positive_int, metavar="K", help="maximum draws per epoch with --sampler capped")
    training.add_argument("--max_text_len", type=positive_int, default=256, help="maximum tokens per transcript")
    training.add_argument("--max_seq_len", type=between(float, *SECONDS), default=5, help="truncate audio to this many seconds")
    _add_places_and_machine(parser)
    return parser


def _add_places_and_machine(parser):
    places = parser.add_argument_group("corpora, encoders, outputs")
    places.add_argument("--data_root", type=named_path, default="data", help="folder with the corpora")
    places.add_argument(
        "--skip_bad_files",
        action="store_true",
        help="train without unusable audio files instead of refusing to start",
    )
    places.add_argument("--output_root", type=named_path, default="outputs", help="folder for all experiments")
    encoder_help = "hub name (optionally NAME@REVISION) or folder of the %s encoder"
    places.add_argument("--text_model", type=encoder_name, default=TEXT_MODEL, help=encoder_help % "text")
    places.add_argument("--speech_model", type=encoder_name, default=SPEECH_MODEL, help=encoder_help % "speech")

    machine = parser.add_argument_group("machine")
    add_machine_flags(machine)
    machine.add_argument(
        "--mixed_precision",
        choices=("auto", "no", "bf16"),
        default="auto",
        help="bf16: bfloat16 autocast; auto: bf16 on GPUs that support it",
    )
    machine.add_argument(
        "--micro_batch_size",
        type=positive_int,
        help="per-device micro-batch size (gradient accumulation): less memory, same gradient except for dropout masks",
    )
    machine.add_argument(
        "--log_with",
        choices=TRACKERS,
        help="also log losses, scores, learning rate and GPU memory with this tracker, offline, under --output_root",
    )


def add_machine_flags(group):
    """Add ``--cpu`` and ``--num_workers``, for every script that runs a model."""
    group.add_argument("--cpu", action="store_true", help="do not use a GPU")
    group.add_argument(
        "--num_workers",
        type=count,
        default=min(4, available_cpus()),
        help="threads that prefetch audio; 0 reads in the main thread",
    )


def add_reopening_flags(group):
    """Add flags for reopening a finished run, which override the run's own only if given."""
    group.add_argument(
        "--data_root", type=named_path, default=argparse.SUPPRESS, help="folder with the corpora (default: as in training)"
    )
    add_encoder_flags(group, "%s encoder (default: as in training, if on this machine)", default=argparse.SUPPRESS)
    add_machine_flags(group)


def add_encoder_flags(group, words, **settings):
    """Add ``--text_model`` and ``--speech_model``; ``words``, with %s for the kind, are their help."""
    for kind in ("text", "speech"):
        group.add_argument(f"--{kind}_model", type=encoder_name, help=f"hub name or folder of the {words % kind}", **settings)


def _checkpoint(text):
    """A path; for ``hub:OWNER/NAME`` that of the copy in the hub's cache."""
    return local_path(text) if text.startswith(PREFIX) else named_path(text)


def add_start_flags(parser):
    """Add flags for methods that start from a model of earlier tasks."""
    start = parser.add_argument_group("the model to start from")
    start.add_argument(
        "--checkpoint",
        type=_checkpoint,
        help="best_model.pt, exported file, or hub:OWNER/NAME of the earlier tasks (default: the model of --init_name, or of "
        "this experiment's previous step, for the same fold)",
    )
    start.add_argument(
        "--init_name",
        type=folder_name,
        help="experiment under --output_root that trained the first task (default: the method's starting point, such as "
        "task_a, with the -seedN of --exp_name)",
    )


def add_speech_cache_flags(parser):
    """Add flags for scripts that can train over a frozen speech encoder, whose output can be cached."""
    cache = parser.add_argument_group("features of a frozen speech encoder")
    cache.add_argument("--no_speech_cache", action="store_true", help="run the speech encoder in every step, without a cache")
    cache.add_argument(
        "--speech_cache", type=named_path, help="folder of the cache (default: speech_features under --output_root)"
    )
    cache.add_argument(
        "--speech_cache_precision", choices=("float16", "float32"), default="float16", help="precision of the cached features"
    )


def add_freeze_speech_flags(parser):
    """Add ``--freeze_speech`` and the flags of the cache."""
    parser.add_argument("--freeze_speech", action="store_true", help="freeze the pretrained speech encoder, in evaluation mode")
    add_speech_cache_flags(parser)


def parse_training_args(parser, argv=None):
    """Parse the flags, and refuse invalid combinations."""
    args = parser.parse_args(argv)
    if args.k_fold < 2:
        parser.error(f"--k_fold {args.k_fold}: at least 2 folds are needed")
    if args.num_fold >= args.k_fold:
        parser.error(f"--num_fold {args.num_fold}: with --k_fold {args.k_fold} the folds are 0 to {args.k_fold - 1}")
    if args.max_text_len < 2:
        parser.error(f"--max_text_len {args.max_text_len}: [CLS] and [SEP] alone are 2 tokens")
    if (args.sampler == "capped") != (args.cap is not None):
        parser.error("--cap K and --sampler capped need each other")
    if args.labels and len(set(args.labels)) < max(len(args.labels), 2):
        parser.error("--labels: two or more, each once")
    if args.log_with and importlib.util.find_spec(args.log_with) is None:
        parser.error(f"--log_with {args.log_with}: 'pip install {args.log_with}' installs it")
    return args


def complete(args, method):
    """Set the arguments that follow from the method: experiment names, and the order of the tasks. Returns ``args``.

    ``args.sequence`` are the names of the tasks in learning order, this run's last; for joint those that are learned together.

    Raises:
        UserError: if the earlier tasks are unknown, or tasks are named twice.
    """
    if "sequence" in args:
        return args
    args.exp_name = args.exp_name or method
    args.experiment = args.experiment or args.exp_name
    if not args.experiment.endswith(half := half_of(args)):
        args.exp_name = args.exp_name.removesuffix(ending(args)) + half + ending(args)
        args.experiment += half
    how = METHODS[method].how
    if how == JOINT:
        args.sequence = list(args.together or KEMDY)
    elif how == SEQUENCE:
        args.init_name = args.init_name or METHODS[method].starts_from + half_of(args) + ending(args)
        args.sequence = [*_tasks_before(args), args.task]
    else:
        args.sequence = [args.task]
    if getattr(args, "together", None) and args.task != JOINT:
        raise UserError(f"--with needs --task {JOINT}")
    if len(set(args.sequence)) < max(len(args.sequence), 2 if how != ALONE else 1):
        raise UserError(f"--task {args.task}: {', '.join(args.sequence)} are to be several corpora, each once")
    args.withdraw = sorted({_named_session(text, args) for text in args.withdraw or ()} - {None}) or None
    return args


def half_of(args):
    """The suffix of experiment names for ``--train_half``, such as -half3."""
    return "" if args.train_half is None else f"-half{args.train_half}"


def _named_session(text, args):
    """SESSION or TASK/SESSION → TASK/SESSION; None for another run's corpus, since run scripts pass one list to all."""
    task, slash, _ = text.partition("/")
    if task in args.sequence:
        return text
    with suppress(UserError):
        if slash and find_corpus(args.data_root, task):
            return None
    if args.task == JOINT:
        raise UserError(f"--withdraw {text}: say of which corpus, as {args.sequence[0]}/{text}")
    return f"{args.task}/{text}"


def withdrawn_of(args, task):
    """The sessions of a task that ``--withdraw`` names, as texts."""
    return [text.removeprefix(f"{task}/") for text in vars(args).get("withdraw") or () if text.startswith(f"{task}/")]


def ending(args):
    """The suffix of ``--exp_name`` after ``--experiment``, such as -seed13, shared by the starting run of the same seed."""
    return args.exp_name.removeprefix(args.experiment) if args.exp_name.startswith(args.experiment) else ""


def _tasks_before(args):
    if args.after:
        return args.after
    facts = {}
    if args.checkpoint is not None and args.checkpoint.is_file():
        with suppress(UserError):  # reported later, when the checkpoint is loaded
            facts = checkpoint_facts(args.checkpoint)
    if facts.get("sequence") and facts.get("method") != JOINT:
        if args.task in facts["sequence"]:
            raise UserError(
                f"--checkpoint {args.checkpoint} has already been trained on {args.task}: what it forgets cannot be told; name "
                f"the best_model.pt of a run on other tasks alone"
            )
        return facts["sequence"]
    if args.task in KEMDY:
        return [name for name in KEMDY if name != args.task]
    raise UserError(f"--task {args.task}: say what was learned before it, in order: --after TASK …")


def command_for(args, method, same=False, **changes):
    """The command for a run of ``method`` with the shared flags of ``args``, updated by ``changes``.

    ``same``: also include method-specific flags, if ``args`` are of this method.
    """
    defaults = vars(training_parser("", method).parse_args(["--task", args.task]))
    values = {name: value for name, value in vars(args).items() if (value != defaults[name] if name in defaults else same)}
    own = () if same else METHODS[method].flags
    return shlex.join(["python", METHODS[method].script, *flag_words(values | changes), *own])


def flag_words(values):
    """Flags as the words of a command: ``{name: value}``, without those that are None or False."""
    words = []
    for name, value in values.items():
        if value is True:
            words.append(f"--{name}")
        elif value is not None and value is not False:
            words += [f"--{name}", *map(str, value if isinstance(value, list | tuple) else [value])]
    return words
