"""Generate the demonstration's data: ``python -m utils.demo data/demo`` writes KEMDy19, KEMDy20 and encoders/ there.

Existing parts generated with the same settings are kept. The four parts are generated in two parallel processes.
"""

from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from utils.demo import corpora, encoders
from utils.errors import UserError, one_line_errors
from utils.files import SYNTHETIC_MARKER
from utils.flags import Parser, between, named_path, positive_int, seed_number
from utils.methods import KEMDY as CORPORA


@one_line_errors
def main(arguments=None):
    parser = Parser(
        prog="python -m utils.demo",
        description="Makes two synthetic corpora in KEMDy's form and two small pretrained encoders, for the demonstration.",
        example="python -m utils.demo data/demo --seed 12",
    )
    parser.add_argument("root", type=named_path, help="folder to make them in, such as data/demo")
    parser.add_argument("--seed", type=seed_number, default=12, help="the same seed makes the same corpora and encoders")
    parser.add_argument(
        "--only",
        choices=sorted(corpora.ABLATIONS),
        help="also copy the corpora with the voice alone (no transcripts) "
        "to ROOT/voice-only, or with the words alone (silent wavs) to ROOT/words-only",
    )
    size = parser.add_argument_group("size")
    size.add_argument(
        "--sessions", type=between(int, 1, corpora.MAX_SESSIONS), default=10, help="sessions of each corpus, 1 to 20"
    )
    size.add_argument(
        "--utterances",
        type=between(int, 1, corpora.MAX_UTTERANCES),
        default=90,
        help="utterances of a KEMDy19 session, 1 to 500; KEMDy20 has half as many again",
    )
    size.add_argument("--pretraining_steps", type=positive_int, default=600, help="steps of each encoder's pretraining")
    make(parser.parse_args(arguments))


def make(options):
    """Generate missing parts.

    Raises UserError if a folder has other content, or a part generated with other settings.
    """
    root, pretraining = options.root, (options.seed, options.pretraining_steps)
    sizes = (options.seed, options.sessions, options.utterances)
    speech, text = (root / "encoders" / kind for kind in ("speech", "text"))
    acted, free = ((root / name, corpora.describe(name, *sizes), corpora.make_corpus, (name, *sizes)) for name in CORPORA)
    # The longest first, so that both processes finish at about the same time.
    jobs = [
        (speech, encoders.describe("speech", *pretraining), encoders.make_speech_encoder, pretraining),
        free,
        acted,
        (text, encoders.describe("text", *pretraining), encoders.make_text_encoder, pretraining),
    ]
    run([job for job in jobs if is_missing(*job[:2])], processes=2)
    if options.only:
        target, of = root / corpora.ABLATIONS[options.only], [(root / name, options.only) for name in CORPORA]
        jobs = [(target / what[0].name, corpora.describe_ablated(*what), corpora.make_ablated, what) for what in of]
        run([job for job in jobs if is_missing(*job[:2])], processes=1)


def is_missing(folder, notice):
    """Return whether `folder` must be generated. Raises UserError if it has other content."""
    if not folder.exists():
        return True
    found = folder / SYNTHETIC_MARKER
    if not found.is_file():
        raise UserError(f"{folder} exists and was not made by this program: choose another folder")
    if found.read_text(encoding="utf-8").strip() != notice:
        raise UserError(f"{folder} was made with other settings (see {found}): delete it, or choose another folder")
    print(f"{folder} is complete")
    return False


def run(jobs, processes):
    """Run the jobs (folder, notice, function, arguments) and print one line for each result."""
    # A fresh single-threaded process for each: results depend neither on earlier jobs nor on the number of cores.
    with ProcessPoolExecutor(processes, get_context("spawn"), max_tasks_per_child=1) as pool:
        started = [pool.submit(corpora.timed, function, folder, *arguments) for folder, _, function, arguments in jobs]
        try:
            for done in as_completed(started):
                print(done.result(), flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


if __name__ == "__main__":
    main()
