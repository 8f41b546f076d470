"""Fine-tune the other corpus's best model on this one, with nothing that guards what it knew (setting finetune)."""

from utils.errors import one_line_errors
from utils.training.arguments import add_start_flags, parse_training_args, training_parser
from utils.training.engine import test_and_finish, train
from utils.training.run import Run
from utils.training.start import continue_from_first_task


@one_line_errors
def main():
    parser = training_parser(__doc__, exp_name="finetune")
    add_start_flags(parser)
    args = parse_training_args(parser)

    with Run(args, "finetune") as run:
        if run.is_finished():
            return
        tasks, model, before = continue_from_first_task(run)
        best_epoch = train(run, model, tasks)
        test_and_finish(run, model, tasks, best_epoch, before)


if __name__ == "__main__":
    main()
