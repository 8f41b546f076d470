"""Train the whole fusion model on one corpus alone (setting task_a), starting from pretrained encoders."""

from models import FusionClassifier
from utils.arguments import parse_training_args, training_parser
from utils.errors import one_line_errors
from utils.runs import Run
from utils.training import test_and_finish, train


@one_line_errors
def main():
    args = parse_training_args(training_parser(__doc__, exp_name="task_a"))
    run = Run(args, method="task_a")
    if run.is_finished():
        return
    tasks = run.load_tasks([args.task])
    run.seed()
    model = FusionClassifier.from_pretrained(args.text_model, args.speech_model)
    run.start(model, tasks)
    best_epoch = train(run, model, tasks)
    test_and_finish(run, model, tasks, best_epoch)


if __name__ == "__main__":
    main()
