"""Fine-tune the previous model on the next task, without any measure against forgetting (finetune)."""

from utils.errors import one_line_errors
from utils.training.arguments import add_freeze_speech_flags, add_start_flags, parse_training_args, training_parser


@one_line_errors
def main():
    parser = training_parser(__doc__, "finetune", "finetune_frozen_speech")
    add_start_flags(parser)
    add_freeze_speech_flags(parser)
    args = parse_training_args(parser)
    # Below parsing: torch takes seconds to import.
    from utils.training.engine import test_and_finish, train
    from utils.training.run import Run
    from utils.training.start import continue_sequence

    with Run(args, "finetune_frozen_speech" if args.freeze_speech else "finetune") as run:
        if run.is_finished():
            return
        _, tasks, model, before = continue_sequence(run)
        best_epoch = train(run, model, tasks)
        test_and_finish(run, model, tasks, best_epoch, before)


if __name__ == "__main__":
    main()
