"""Train one corpus's adapters over frozen encoders (settings adapter and adapter_wo_pretraining)."""

from models import AdapterFusionClassifier
from models.encoders import ENCODER_SEED
from utils.arguments import count, parse_training_args, positive_int, training_parser
from utils.errors import one_line_errors
from utils.runs import Run
from utils.training import test_and_finish, train

METHODS = ("adapter", "adapter_wo_pretraining")


@one_line_errors
def main():
    parser = training_parser(__doc__, exp_name=METHODS)
    adapters = parser.add_argument_group("adapters")
    adapters.add_argument("--without_pretraining", action="store_true", help="freeze encoders with random weights instead")
    adapters.add_argument("--adapter_size", type=positive_int, default=64, help="width of the bottlenecks in BERT")
    adapters.add_argument("--encoder_seed", type=count, default=ENCODER_SEED, help="seed of the random encoders")
    args = parse_training_args(parser)
    method = METHODS[args.without_pretraining]
    args.exp_name = vars(args).get("exp_name", method)

    run = Run(args, method)
    if run.is_finished():
        return
    tasks = run.load_tasks([args.task])
    run.seed()
    model = AdapterFusionClassifier.from_pretrained(
        args.text_model,
        args.speech_model,
        adapter_size=args.adapter_size,
        without_pretraining=args.without_pretraining,
        encoder_seed=args.encoder_seed,
    )
    run.start(model, tasks)
    best_epoch = train(run, model, tasks)
    test_and_finish(run, model, tasks, best_epoch)


if __name__ == "__main__":
    main()
