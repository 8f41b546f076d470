"""Train one corpus's adapters over frozen encoders (settings adapter and adapter_wo_pretraining)."""

from models import AdapterFusionClassifier
from models.encoders import ENCODER_SEED
from utils.data.speech_cache import use_cached_features
from utils.errors import one_line_errors
from utils.flags import named_path, positive_int, seed_number
from utils.training.arguments import parse_training_args, training_parser
from utils.training.engine import test_and_finish, train
from utils.training.run import Run

METHODS = ("adapter", "adapter_wo_pretraining")


@one_line_errors
def main():
    parser = training_parser(__doc__, exp_name=METHODS)
    adapters = parser.add_argument_group("adapters")
    adapters.add_argument("--without_pretraining", action="store_true", help="freeze encoders with random weights instead")
    adapters.add_argument("--adapter_size", type=positive_int, default=64, help="width of the bottlenecks in BERT")
    adapters.add_argument("--encoder_seed", type=seed_number, default=ENCODER_SEED, help="seed of the random encoders")
    cache = parser.add_argument_group("features of the frozen speech encoder")
    cache.add_argument(
        "--no_speech_cache", action="store_true", help="run the speech encoder in every step instead of keeping what it makes"
    )
    cache.add_argument(
        "--speech_cache", type=named_path, help="folder to keep it in (default: speech_features under --output_root)"
    )
    cache.add_argument(
        "--speech_cache_precision", choices=("float16", "float32"), default="float16", help="precision in which it is kept"
    )
    args = parse_training_args(parser)
    method = METHODS[args.without_pretraining]
    args.exp_name = vars(args).get("exp_name", method)

    with Run(args, method) as run:
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
        if not args.no_speech_cache:
            use_cached_features(run, model.speech_encoder, tasks)
        run.start(model, tasks)
        best_epoch = train(run, model, tasks)
        test_and_finish(run, model, tasks, best_epoch)


if __name__ == "__main__":
    main()
