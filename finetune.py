"""Fine-tune the other corpus's best model on this one, with nothing that guards what it knew (setting finetune)."""

from models import FusionClassifier
from utils.arguments import add_start_flags, other_task, parse_training_args, training_parser
from utils.errors import one_line_errors
from utils.runs import Run, StartingPoint
from utils.training import test, test_and_finish, train


@one_line_errors
def main():
    parser = training_parser(__doc__, exp_name="finetune")
    add_start_flags(parser)
    args = parse_training_args(parser)
    first_task = other_task(args.task)

    run = Run(args, method="finetune")
    if run.is_finished():
        return
    starting_point = StartingPoint.find(run, first_task)
    tasks = run.load_tasks([first_task, args.task])
    run.seed()
    model = FusionClassifier.from_pretrained(args.text_model, args.speech_model)
    run.start(model, tasks, started_from=starting_point.load_into(model))
    before = test(run, model, tasks)
    best_epoch = train(run, model, tasks)
    test_and_finish(run, model, tasks, best_epoch, before)


if __name__ == "__main__":
    main()
