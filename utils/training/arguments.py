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
# In what order and how often training draws utterances (utils/data/batches.py).
SAMPLERS = ("balanced", "weighted_loss", "capped")
# Packages that --log_with can name (utils/training/progress.py).
TRACKERS = ("tensorboard", "wandb", "trackio")


def corpus_name(text):
    """The name of a corpus, which is that of its folder; names joined by + are those of sequences."""
    if not is_corpus_name(folder_name(text)):
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot be a corpus's name: rename its folder, without +, a leading dot, joint"
        )
    return text


def training_parser(description, *methods):
    """A Parser with the shared flags.

    Args:
        description: one sentence for ``--help``.
        methods: names of the methods that the script trains; the first one's flags are the defaults.
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
            help=f"those of --task {JOINT} (default: KEMDy's)",
        )
    else:
        run.add_argument("--task", type=corpus_name, required=True, help="corpus to train on: a folder under --data_root")
    if SEQUENCE in kinds:
        run.add_argument(
            "--after",
            type=corpus_name,
            nargs="+",
            metavar="TASK",
            help="what was learned before, in this order (default: the other corpus of KEMDy, or as --checkpoint says)",
        )
    run.add_argument("--labels", nargs="+", metavar="LABEL", help="the classes, in order (default: the corpus's own)")
    run.add_argument(
        "--exp_name",
        type=folder_name,
        help=f"folder of the experiment under --output_root (default: {' or '.join(methods)})",
    )
    run.add_argument("--experiment", type=folder_name, help="its name in tables, without a seed (default: --exp_name)")
    run.add_argument(
        "--trial_of", type=folder_name, metavar="ROW", help="this is one trial of a tuned row of tables, such as ewc_tuned"
    )
    run.add_argument("--seed", type=seed_number, default=12, help="seed of initialization and order; the folds never move")
    run.add_argument("--num_fold", type=count, default=0, help="which fold, from 0")
    run.add_argument("--k_fold", type=positive_int, default=5, help="number of folds")
    run.add_argument(
        "--train_half",
        type=seed_number,
        metavar="SEED",
        help="keep each training utterance by a fair coin, of this seed, for leakage.py; --exp_name then ends in -halfSEED",
    )
    run.add_argument(
        "--withdraw",
        type=word,
        nargs="+",
        metavar="SESSION",
        help="leave sessions of --task out of every split, or, as TASK/SESSION, of another (so named run scripts can "
        "pass them on); folds stay the whole corpus's",
    )
    run.add_argument("--overwrite", action="store_true", help="delete an existing run in this folder and restart")
    run.add_argument("--keep_last", action="store_true", help="keep last_checkpoint.pt when the run is done")

    training = parser.add_argument_group("training")
    training.add_argument("--lr", type=positive_float, default=1e-5, help="learning rate of AdamW")
    training.add_argument("--batch_size", type=positive_int, default=32, help="utterances per step, over all processes")
    training.add_argument("--num_epochs", type=positive_int, default=40, help="epochs")
    training.add_argument(
        "--sampler",
        choices=SAMPLERS,
        default="balanced",
        help="balanced: each class as often as any other; weighted_loss: each utterance once an epoch, its loss weighted by "
        "class; capped: balanced, but no utterance more than --cap times an epoch",
    )
    training.add_argument("--cap", type=positive_int, metavar="K", help="of --sampler capped")
    training.add_argument("--max_text_len", type=positive_int, default=256, help="maximum tokens per transcript")
    training.add_argument("--max_seq_len", type=between(float, *SECONDS), default=5, help="truncate audio to this many seconds")
    _add_places_and_machine(parser)
    return parser


def _add_places_and_machine(parser):
    places = parser.add_argument_group("corpora, encoders, outputs")
    places.add_argument("--data_root", type=named_path, default="data", help="folder that holds the corpora")
    places.add_argument(
        "--skip_bad_files",
        action="store_true",
        help="train without the sound files that cannot be used, which otherwise end the run before it starts",
    )
    places.add_argument("--output_root", type=named_path, default="outputs", help="folder that all experiments are written to")
    encoder_help = "hub name (NAME@REVISION if wanted) or folder of the %s encoder"
    places.add_argument("--text_model", type=encoder_name, default=TEXT_MODEL, help=encoder_help % "text")
    places.add_argument("--speech_model", type=encoder_name, default=SPEECH_MODEL, help=encoder_help % "speech")

    machine = parser.add_argument_group("machine")
    add_machine_flags(machine)
    machine.add_argument(
        "--mixed_precision",
        choices=("auto", "no", "bf16"),
        default="auto",
        help="bf16 computes in bfloat16 where that is safe; auto does so on GPUs that have it",
    )
    machine.add_argument(
        "--micro_batch_size",
        type=positive_int,
        help="per-device micro-batch size (gradient accumulation): less memory, the same gradient but for dropout's masks",
    )
    machine.add_argument(
        "--log_with",
        choices=TRACKERS,
        help="also write losses, scores, learning rate and GPU memory for this tracker, offline, under --output_root",
    )


def add_machine_flags(group):
    """``--cpu`` and ``--num_workers``, of everything that runs a model."""
    group.add_argument("--cpu", action="store_true", help="do not use a GPU")
    group.add_argument(
        "--num_workers",
        type=count,
        default=min(4, available_cpus()),
        help="threads that read sound ahead; 0 reads in the main one",
    )


def add_reopening_flags(group):
    """Flags of what reopens a finished run: those that take the place of the run's own only where they are named."""
    group.add_argument(
        "--data_root", type=named_path, default=argparse.SUPPRESS, help="where the corpora lie now (default: as then)"
    )
    add_encoder_flags(group, "%s encoder (default: as then, if it is on this machine)", default=argparse.SUPPRESS)
    add_machine_flags(group)


def add_encoder_flags(group, words, **settings):
    """``--text_model`` and ``--speech_model``; ``words`` with %s for the kind describe them."""
    for kind in ("text", "speech"):
        group.add_argument(f"--{kind}_model", type=encoder_name, help=f"hub name or folder of the {words % kind}", **settings)


def _checkpoint(text):
    """A path, of ``hub:OWNER/NAME`` that of the copy in the hub's cache."""
    return local_path(text) if text.startswith(PREFIX) else named_path(text)


def add_start_flags(parser):
    """Flags of the methods that start from a model of earlier tasks."""
    start = parser.add_argument_group("the model to start from")
    start.add_argument(
        "--checkpoint",
        type=_checkpoint,
        help="best_model.pt, exported file, or hub:OWNER/NAME of the tasks before; without it, the model of --init_name, or of "
        "this experiment's step before, for the same fold",
    )
    start.add_argument(
        "--init_name",
        type=folder_name,
        help="experiment under --output_root that trained the first task (default: that which the method starts from, such as "
        "task_a, with --exp_name's -seedN)",
    )


def add_speech_cache_flags(parser):
    """Flags of the scripts that can train over a frozen speech encoder, whose output never changes."""
    cache = parser.add_argument_group("features of a frozen speech encoder")
    cache.add_argument("--no_speech_cache", action="store_true", help="run the speech encoder in every step, without a cache")
    cache.add_argument(
        "--speech_cache", type=named_path, help="folder of the cache (default: speech_features under --output_root)"
    )
    cache.add_argument(
        "--speech_cache_precision", choices=("float16", "float32"), default="float16", help="precision of the cached features"
    )


def add_freeze_speech_flags(parser):
    """``--freeze_speech``, and the flags of the cache."""
    parser.add_argument(
        "--freeze_speech", action="store_true", help="leave the speech encoder as it was pretrained, in evaluation mode"
    )
    add_speech_cache_flags(parser)


def parse_training_args(parser, argv=None):
    """Parse, and refuse what no single flag can see to be wrong."""
    args = parser.parse_args(argv)
    if args.k_fold < 2:
        parser.error(f"--k_fold {args.k_fold}: at least 2 folds are needed")
    if args.num_fold >= args.k_fold:
        parser.error(f"--num_fold {args.num_fold}: with --k_fold {args.k_fold} the folds are 0 to {args.k_fold - 1}")
    if args.max_text_len < 2:
        parser.error(f"--max_text_len {args.max_text_len}: [CLS] and [SEP] alone are 2 tokens")
    if (args.sampler == "capped") != (args.cap is not None):
        parser.error("--cap K goes with --sampler capped, and that with it")
    if args.labels and len(set(args.labels)) < max(len(args.labels), 2):
        parser.error("--labels: two or more, each once")
    if args.log_with and importlib.util.find_spec(args.log_with) is None:
        parser.error(f"--log_with {args.log_with}: 'pip install {args.log_with}' installs it")
    return args


def complete(args, method):
    """Set what follows from the method: the experiment's names, and the order of the tasks. Returns ``args``.

    ``args.sequence`` are the names of the tasks in the order in which they are learned, this run's last; of joint those that
    are learned together.

    Raises:
        UserError: if what was learned before is not said, or tasks are named twice.
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
        raise UserError(f"--with goes with --task {JOINT}")
    if len(set(args.sequence)) < max(len(args.sequence), 2 if how != ALONE else 1):
        raise UserError(f"--task {args.task}: {', '.join(args.sequence)} are to be several corpora, each once")
    args.withdraw = sorted({_named_session(text, args) for text in args.withdraw or ()} - {None}) or None
    return args


def half_of(args):
    """What ``--train_half`` adds to the names of experiments, such as -half3."""
    return "" if args.train_half is None else f"-half{args.train_half}"


def _named_session(text, args):
    """SESSION or TASK/SESSION → TASK/SESSION; None of a corpus that is none of this run's: run scripts pass on one list."""
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
    """What sets ``--exp_name`` apart from ``--experiment``, such as -seed13; the start of the same seed has it too."""
    return args.exp_name.removeprefix(args.experiment) if args.exp_name.startswith(args.experiment) else ""


def _tasks_before(args):
    if args.after:
        return args.after
    facts = {}
    if args.checkpoint is not None and args.checkpoint.is_file():
        with suppress(UserError):  # what is wrong with it is said where it is read whole
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
    """The command that makes a run of ``method`` with the shared flags of ``args``, but for ``changes``.

    ``same``: with its own flags as well, since ``args`` are of this method.
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
