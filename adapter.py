"""Train one corpus's adapters over frozen encoders (adapter and adapter_wo_pretraining)."""

from models import ENCODER_SEED
from utils.errors import one_line_errors
from utils.flags import named_path, positive_int, seed_number
from utils.training.arguments import parse_training_args, training_parser


@one_line_errors
def main():
    parser = training_parser(__doc__, "adapter", "adapter_wo_pretraining")
    adapters = parser.add_argument_group("adapters")
    adapters.add_argument("--without_pretraining", action="store_true", help="freeze encoders with random weights instead")
    adapters.add_argument("--adapter_size", type=positive_int, default=64, help="width of the bottlenecks in BERT")
    adapters.add_argument("--encoder_seed", type=seed_number, default=ENCODER_SEED, help="seed of the random encoders")
    cache = parser.add_argument_group("features of the frozen speech encoder")
    cache.add_argument("--no_speech_cache", action="store_true", help="run the speech encoder in every step, without a cache")
    cache.add_argument(
        "--speech_cache", type=named_path, help="folder of the cache (default: speech_features under --output_root)"
    )
    cache.add_argument(
        "--speech_cache_precision", choices=("float16", "float32"), default="float16", help="precision of the cached features"
    )
    args = parse_training_args(parser)
    # Below parsing: torch takes seconds to import.
    from models import AdapterFusionClassifier
    from utils.data.speech_cache import features_of
    from utils.training.engine import test_and_finish, train
    from utils.training.run import Run
    from utils.training.start import labels_of, make_tasks, read_corpora

    with Run(args, "adapter_wo_pretraining" if args.without_pretraining else "adapter") as run:
        if run.is_finished():
            return
        corpora = read_corpora(run, [args.task])
        labels = labels_of(args, corpora)
        run.seed()
        model = AdapterFusionClassifier.from_pretrained(
            args.text_model,
            args.speech_model,
            num_labels=len(labels),
            adapter_size=args.adapter_size,
            without_pretraining=args.without_pretraining,
            encoder_seed=args.encoder_seed,
        )
        # The frozen speech encoder's output never changes: it is computed once and cached.
        tasks = make_tasks(run, corpora, labels, features_of(run, model.speech_encoder, corpora))
        run.start(model, tasks, labels)
        best_epoch = train(run, model, tasks)
        test_and_finish(run, model, tasks, best_epoch)


if __name__ == "__main__":
    main()
