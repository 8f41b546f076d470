"""The flags that all training scripts share: the published ones with their defaults, and ours."""

import argparse
import re

from utils.data.audio import SECONDS
from utils.data.kemdy import CORPORA
from utils.flags import Parser, between, count, encoder_name, folder_name, named_path, positive_float, positive_int, seed_number
from utils.machine import available_cpus

# Both corpora at once: what continual_learning_init.py can train beside one of them.
JOINT = "joint"
TEXT_MODEL = "skt/kobert-base-v1"
SPEECH_MODEL = "facebook/wav2vec2-base-960h"


def training_parser(description, exp_name, tasks=CORPORA):
    """An ArgumentParser with the shared flags.

    Args:
        description: one sentence for ``--help``.
        exp_name: default of ``--exp_name``, or several of which the script chooses one after parsing.
        tasks: what ``--task`` can be.
    """
    parser = Parser(description=description)
    run = parser.add_argument_group("the run")
    together = f"; {JOINT} is both at once" if JOINT in tasks else ""
    run.add_argument("--task", choices=tasks, required=True, help=f"corpus that the run trains on{together}")
    several = not isinstance(exp_name, str)
    run.add_argument(
        "--exp_name",
        type=folder_name,
        default=argparse.SUPPRESS if several else exp_name,
        help="folder of the experiment under --output_root" + (f" (default: {' or '.join(exp_name)})" if several else ""),
    )
    run.add_argument("--seed", type=seed_number, default=12, help="seed of initialisation and order; the folds never move")
    run.add_argument("--num_fold", type=count, default=0, help="which fold, from 0")
    run.add_argument("--k_fold", type=positive_int, default=5, help="number of session-wise folds")
    run.add_argument("--overwrite", action="store_true", help="delete what lies in the run's folder and restart")
    run.add_argument("--keep_last", action="store_true", help="keep last_checkpoint.pt when the run is done")

    training = parser.add_argument_group("training")
    training.add_argument("--lr", type=positive_float, default=1e-5, help="learning rate of AdamW")
    training.add_argument("--batch_size", type=positive_int, default=32, help="utterances a step, over all processes")
    training.add_argument("--num_epochs", type=positive_int, default=40, help="epochs")
    training.add_argument("--max_text_len", type=positive_int, default=256, help="tokens of a transcript that are read")
    training.add_argument(
        "--max_seq_len", type=between(float, *SECONDS), default=5, help="seconds of a recording that are heard"
    )

    places = parser.add_argument_group("corpora, encoders, outputs")
    places.add_argument("--data_root", type=named_path, default="data", help="folder that holds KEMDy19 and KEMDy20")
    places.add_argument(
        "--skip_bad_files",
        action="store_true",
        default=argparse.SUPPRESS,  # a run without it is one from before there was the flag
        help="train without the wavs that cannot be used, which otherwise end the run before it starts",
    )
    places.add_argument("--output_root", type=named_path, default="outputs", help="folder that all experiments are written to")
    encoder_help = "hub name (NAME@REVISION if wanted) or folder of the %s encoder"
    places.add_argument("--text_model", type=encoder_name, default=TEXT_MODEL, help=encoder_help % "text")
    places.add_argument("--speech_model", type=encoder_name, default=SPEECH_MODEL, help=encoder_help % "speech")

    machine = parser.add_argument_group("machine")
    machine.add_argument("--cpu", action="store_true", help="do not use a GPU")
    machine.add_argument(
        "--num_workers",
        type=count,
        default=min(4, available_cpus()),
        help="threads that read wavs ahead; 0 reads in the main one",
    )
    machine.add_argument(
        "--mixed_precision",
        choices=("auto", "no", "bf16"),
        default="auto",
        help="bf16 computes in bfloat16 where that is safe; auto does so on GPUs that have it",
    )
    machine.add_argument(
        "--micro_batch_size",
        type=positive_int,
        help="utterances that each process computes at once: less memory, the same step of --batch_size (default: all)",
    )
    return parser


def add_start_flags(parser):
    """Flags of the methods that go on from a model of the other corpus (finetune, ewc)."""
    start = parser.add_argument_group("the model to start from")
    start.add_argument(
        "--checkpoint",
        type=named_path,
        help="best_model.pt of the other corpus; without it, that of --init_name for the same fold",
    )
    start.add_argument(
        "--init_name",
        type=folder_name,
        default=argparse.SUPPRESS,
        help="experiment under --output_root that trained the first task (default: task_a, with the -seedN of --exp_name)",
    )


def parse_training_args(parser, argv=None):
    """Parse, and refuse what no single flag can see to be wrong."""
    args = parser.parse_args(argv)
    if args.k_fold < 2:
        parser.error(f"--k_fold {args.k_fold}: at least 2 folds are needed")
    if args.num_fold >= args.k_fold:
        parser.error(f"--num_fold {args.num_fold}: with --k_fold {args.k_fold} the folds are 0 to {args.k_fold - 1}")
    if args.max_text_len < 2:
        parser.error(f"--max_text_len {args.max_text_len}: [CLS] and [SEP] alone are 2 tokens")
    if "checkpoint" in args and "init_name" not in args:
        args.init_name = "task_a" + split_seed(args.exp_name)[1]
    return args


def split_seed(exp_name):
    """Repetitions over seeds lie beside the first: ``finetune-seed13`` → ("finetune", "-seed13")."""
    method, suffix = re.fullmatch(r"(.*?)(-seed\d+)?", exp_name, re.DOTALL).groups(default="")
    return method, suffix


def other_task(task):
    """The corpus that a continual run of ``task`` has learned before it."""
    return next(name for name in CORPORA if name != task)
