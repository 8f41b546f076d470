"""Train the whole fusion model on one corpus alone (setting task_a), or on both at once (joint, the upper bound).

Both start from pretrained encoders. A model that sees both corpora has nothing to forget: what a continual setting lacks
to it is the price of learning them one after the other.
"""

from models import FusionClassifier
from utils.data.kemdy import CORPORA
from utils.errors import one_line_errors
from utils.training.arguments import JOINT, parse_training_args, training_parser
from utils.training.engine import test_and_finish, train
from utils.training.run import Run

METHODS = ("task_a", JOINT)


@one_line_errors
def main():
    args = parse_training_args(training_parser(__doc__.split("\n")[0], exp_name=METHODS, tasks=(*CORPORA, JOINT)))
    method = METHODS[args.task == JOINT]
    args.exp_name = vars(args).get("exp_name", method)

    with Run(args, method) as run:
        if run.is_finished():
            return
        tasks = run.load_tasks(CORPORA if args.task == JOINT else [args.task])
        run.seed()
        model = FusionClassifier.from_pretrained(args.text_model, args.speech_model)
        run.start(model, tasks)
        best_epoch = train(run, model, tasks)
        test_and_finish(run, model, tasks, best_epoch)


if __name__ == "__main__":
    main()
