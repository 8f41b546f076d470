"""Train the whole fusion model on one corpus alone (task_a), or on several at once (joint, the upper bound).

Both start from pretrained encoders. A model that sees all corpora has nothing to forget: what a continual method lacks
compared with it is the price of learning them one after the other.
"""

from utils.errors import one_line_errors
from utils.methods import JOINT
from utils.training.arguments import parse_training_args, training_parser


@one_line_errors
def main():
    args = parse_training_args(training_parser(__doc__.split("\n")[0], "task_a", "joint"))
    # Below parsing: torch takes seconds to import.
    from models import FusionClassifier
    from utils.training.engine import test_and_finish, train
    from utils.training.run import Run
    from utils.training.start import labels_of, make_tasks, read_corpora

    with Run(args, "joint" if args.task == JOINT else "task_a") as run:
        if run.is_finished():
            return
        corpora = read_corpora(run, args.sequence)
        labels = labels_of(args, corpora)
        tasks = make_tasks(run, corpora, labels)
        run.seed()
        model = FusionClassifier.from_pretrained(args.text_model, args.speech_model, num_labels=len(labels))
        run.start(model, tasks, labels)
        best_epoch = train(run, model, tasks)
        test_and_finish(run, model, tasks, best_epoch)


if __name__ == "__main__":
    main()
