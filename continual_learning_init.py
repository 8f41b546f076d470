"""Train the whole fusion model on one corpus alone (task_a), or on several at once (joint, the upper bound).

Both start from pretrained encoders. A model trained on all corpora at once has nothing to forget: the gap between a continual
method and joint training is the cost of learning sequentially.
"""

from utils.errors import one_line_errors
from utils.methods import JOINT
from utils.training.arguments import add_freeze_speech_flags, parse_training_args, training_parser


@one_line_errors
def main():
    parser = training_parser(__doc__.split("\n")[0], "task_a", "task_a_frozen_speech", "joint")
    add_freeze_speech_flags(parser)
    args = parse_training_args(parser)
    if args.freeze_speech and args.task == JOINT:
        parser.error(f"--freeze_speech cannot be combined with --task {JOINT}")
    # Below parsing: torch takes seconds to import.
    from utils.training.engine import test_and_finish, train
    from utils.training.run import Run
    from utils.training.start import begin

    method = "joint" if args.task == JOINT else "task_a_frozen_speech" if args.freeze_speech else "task_a"
    with Run(args, method) as run:
        if run.is_finished():
            return
        tasks, model = begin(run)
        best_epoch = train(run, model, tasks)
        test_and_finish(run, model, tasks, best_epoch)


if __name__ == "__main__":
    main()
