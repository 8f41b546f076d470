"""Train one corpus's adapters over frozen encoders (adapter and its variants), or, shared, one set task after task.

With --epsilon they are trained by DP-SGD; utils/training/private.py documents what that guarantee covers.
"""

from models import ENCODER_SEED
from utils.errors import one_line_errors
from utils.flags import between, count, named_path, positive_float, positive_int, seed_number
from utils.training.arguments import add_speech_cache_flags, add_start_flags, parse_training_args, training_parser

# What is adapted in BERT → method.
METHOD_OF = {"bottleneck": "adapter", "lora": "lora", "none": "linear"}
# With --epsilon: large batches average out the noise, per-sample gradients take memory, and bfloat16 would round their norms.
PRIVATE_DEFAULTS = {"batch_size": 256, "micro_batch_size": 32, "mixed_precision": "no"}


def parse_args():
    """Parse the flags, and set those that follow from others: (args, method)."""
    parser = training_parser(__doc__.split("\n")[0], *METHOD_OF.values(), "adapter_wo_pretraining", "adapter_shared")
    adapters = parser.add_argument_group("adapters")
    adapters.add_argument("--adapter", choices=METHOD_OF, default="bottleneck", help="what is adapted in BERT")
    adapters.add_argument("--adapter_size", type=positive_int, default=64, help="bottleneck width")
    adapters.add_argument("--lora_rank", type=positive_int, default=64, help="LoRA rank r; α is set to r")
    adapters.add_argument(
        "--speech_adapter_layers",
        type=count,
        help="convolutions on top of the speech encoder (default: 3; 0 with --adapter none)",
    )
    adapters.add_argument(
        "--speech_adapter_width", type=positive_int, help="their output channels (default: the speech encoder's hidden size)"
    )
    adapters.add_argument("--shared", action="store_true", help="continue training the adapters of the earlier tasks")
    adapters.add_argument("--without_pretraining", action="store_true", help="freeze randomly initialized encoders instead")
    adapters.add_argument("--encoder_seed", type=seed_number, default=ENCODER_SEED, help="seed of the random encoders")
    private = parser.add_argument_group("differential privacy of the training split's utterances (DP-SGD)")
    others = ", ".join(f"--{name} {value}" for name, value in PRIVATE_DEFAULTS.items())
    private.add_argument("--epsilon", type=positive_float, help=f"ε of (ε, δ); changes defaults: {others}")
    private.add_argument(
        "--delta", type=between(float, 1e-30, 0.1), default=1e-5, help="δ, well below 1 / number of utterances"
    )
    private.add_argument("--clip", type=positive_float, default=1.0, help="C, the per-sample gradient norm bound")
    private.add_argument(
        "--class_weights",
        type=named_path,
        metavar="FILE.json",
        help="{label: weight} of the loss; public, not estimated from these recordings (default: uniform)",
    )
    add_speech_cache_flags(parser)
    add_start_flags(parser)
    args = parse_training_args(parser)
    if args.epsilon:
        parser.set_defaults(**PRIVATE_DEFAULTS)
        args = parse_training_args(parser)
    return args, complete_args(parser, args)


def complete_args(parser, args):
    """Refuse what does not go together, set what config.json records as used, and return the method."""
    if not args.shared and (args.after or args.checkpoint or args.init_name):
        parser.error("--after, --checkpoint and --init_name need --shared")
    if args.speech_adapter_layers is None:
        args.speech_adapter_layers = 0 if args.adapter == "none" else 3
    if not args.speech_adapter_layers:
        args.speech_adapter_width = None
    if args.adapter != "bottleneck":
        args.adapter_size = None
    if args.adapter != "lora":
        args.lora_rank = None
    method = METHOD_OF[args.adapter]
    if args.without_pretraining:
        method = "adapter_wo_pretraining"
    if args.shared:
        method = "adapter_shared"
    if args.epsilon:
        if (args.experiment or args.exp_name or method) == method:
            parser.error(f"--epsilon: name an --exp_name of its own, such as {method}_eps{args.epsilon:g}")
        if args.mixed_precision != "no":
            parser.error(f"--epsilon needs --mixed_precision no, not {args.mixed_precision}")
        if args.sampler != "balanced":
            parser.error(f"--epsilon uses Poisson sampling and cannot be combined with --sampler {args.sampler}")
        if args.shared and not (args.init_name or args.checkpoint or len(args.after or ()) > 1):
            parser.error("--epsilon with --shared: name the run with --epsilon to start from (--init_name or --checkpoint)")
        args.sampler = None
    elif args.class_weights:
        parser.error("--class_weights needs --epsilon")
    else:
        args.delta = args.clip = None
    return method


@one_line_errors
def main():
    args, method = parse_args()
    # Below parsing: torch takes seconds to import.
    from utils.training.engine import test_and_finish, train
    from utils.training.private import PrivateTraining
    from utils.training.run import Run
    from utils.training.start import begin, continue_sequence

    with Run(args, method) as run:
        if run.is_finished():
            return
        before = None
        if args.shared:
            _, tasks, model, before = continue_sequence(run)
        else:
            tasks, model = begin(run)
        strategy = PrivateTraining(run, run.privacy) if args.epsilon else None
        best_epoch = train(run, model, tasks, strategy)
        test_and_finish(run, model, tasks, best_epoch, before)


if __name__ == "__main__":
    main()
