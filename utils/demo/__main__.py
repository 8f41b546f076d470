"""Makes the demonstration's material: ``python -m utils.demo data/demo`` puts KEMDy19, KEMDy20 and encoders/ there.

What is there already and was made with the same settings is left alone. The four parts are made in two processes side
by side.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from utils.demo import corpora, encoders
from utils.errors import UserError, one_line_errors
from utils.files import SYNTHETIC_MARKER
from utils.flags import named_path
from utils.methods import KEMDY as CORPORA


@one_line_errors
def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m utils.demo",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Makes two synthetic corpora in KEMDy's form and two small pretrained encoders, for the demonstration.",
    )
    parser.add_argument("root", type=named_path, help="folder to make them in, such as data/demo")
    parser.add_argument("--seed", type=int, default=12, help="the same seed makes the same corpora and encoders")
    parser.add_argument(
        "--only",
        choices=sorted(corpora.ABLATIONS),
        help="also copy the corpora with the voice alone (no transcripts) "
        "to ROOT/voice-only, or with the words alone (silent wavs) to ROOT/words-only",
    )
    size = parser.add_argument_group("size")
    size.add_argument("--sessions", type=int, default=10, help="sessions of each corpus, 1 to 20")
    size.add_argument(
        "--utterances", type=int, default=90, help="utterances of a KEMDy19 session, 1 to 500; KEMDy20 has half as many again"
    )
    size.add_argument("--pretraining_steps", type=int, default=encoders.STEPS, help="steps of each encoder's pretraining")
    options = parser.parse_args(arguments)
    if options.seed < 0:
        parser.error("--seed must not be negative")
    if not 1 <= options.sessions <= min(corpora.MAX_SESSIONS.values()):
        parser.error(f"--sessions must be from 1 to {min(corpora.MAX_SESSIONS.values())}")
    if not 1 <= options.utterances <= corpora.MAX_UTTERANCES:
        parser.error(f"--utterances must be from 1 to {corpora.MAX_UTTERANCES}")
    if options.pretraining_steps < 1:
        parser.error("--pretraining_steps must be at least 1")
    make(options)


def make(options):
    """Make what is missing.

    Raises UserError where a folder holds something else, or something made with other settings.
    """
    root, seed = options.root, options.seed
    sizes = (seed, options.sessions, options.utterances)
    # The longest first, so that two processes end at about the same time.
    jobs = [
        (
            root / "encoders" / "speech",
            encoders.describe("speech", seed, options.pretraining_steps),
            encoders.make_speech_encoder,
            (seed, options.pretraining_steps),
        ),
        (root / "KEMDy20", corpora.describe("KEMDy20", *sizes), corpora.make_corpus, ("KEMDy20", *sizes)),
        (root / "KEMDy19", corpora.describe("KEMDy19", *sizes), corpora.make_corpus, ("KEMDy19", *sizes)),
        (
            root / "encoders" / "text",
            encoders.describe("text", seed, options.pretraining_steps),
            encoders.make_text_encoder,
            (seed, options.pretraining_steps),
        ),
    ]
    run([job for job in jobs if is_missing(*job[:2])], processes=2)
    if options.only:
        jobs = [
            (
                root / corpora.ABLATIONS[options.only] / name,
                corpora.describe_ablated(root / name, options.only),
                corpora.make_ablated,
                (root / name, options.only),
            )
            for name in CORPORA
        ]
        run([job for job in jobs if is_missing(*job[:2])], processes=1)


def is_missing(folder, notice):
    """Whether `folder` has to be made.

    Says so where it need not. Raises UserError where it holds something else.
    """
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
    """Do the jobs (folder, notice, function, arguments), each in a process of its own, and say in one line each what
    was made.
    """
    # A fresh process for each, with one thread: what is made depends neither on what was made before nor on the number
    # of cores.
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
