"""Corpora by name: finding the folder, choosing the reader, and folds.

KEMDy19 and KEMDy20 have their own reader; any other folder with metadata.csv or metadata.jsonl is a corpus that needs no code
(docs/own-corpus.md). ``python -m utils.data.corpus A B C`` prints the folds and classes of a sequence, for the run scripts.
"""

import re

from utils.data import SPLITS, is_corpus_name
from utils.data.folds import session_folds
from utils.data.utterances import METADATA, unknown_labels
from utils.errors import UserError, one_line_errors, printable
from utils.files import existing_path
from utils.flags import Parser, named_path, positive_int
from utils.methods import JOINT, KEMDY


def check_name(name):
    """Raise UserError unless ``name`` is a valid corpus name."""
    if not is_corpus_name(name):
        raise UserError(f"{name!r} cannot be the name of a corpus: no '+', no '/', no '.' at its beginning, and not '{JOINT}'")


def find_corpus(data_root, name):
    """Folder of a corpus: ``data_root/name``; for KEMDy also ``data_root/KEMDy19_v*``, ignoring case.

    Raises UserError if there is none, if there are several versions, or if the name is invalid.
    """
    check_name(name)
    data_root = existing_path(data_root, any_case=True)
    exact = existing_path(data_root / name)
    if exact.is_dir():
        return exact
    found = []
    if name in KEMDY and data_root.is_dir():
        folders = (path for path in data_root.iterdir() if path.is_dir())
        found = sorted(path for path in folders if re.fullmatch(f"{name}(_v.*)?", path.name, re.IGNORECASE))
    if len(found) > 1:
        raise UserError(f"{data_root} holds {', '.join(path.name for path in found)}: rename the one to use to {name}")
    if not found:
        where = "data/README.md for where to get it" if name in KEMDY else "docs/own-corpus.md for how to make one"
        raise UserError(f"no corpus at {exact}: see {where}, or name another --data_root")
    return found[0]


def read_corpus(data_root, name, progress=True):
    """Read the corpus ``data_root/name``, with a progress bar when audio files are indexed. Returns a Corpus.

    Raises:
        UserError: if it is missing or malformed, or has labels that corpus.json neither lists nor maps; the message names the
            file and row.
    """
    corpus = read_folder(find_corpus(data_root, name), name, progress)
    if corpus.unknown_labels:
        raise UserError(unknown_labels(corpus.root, corpus.unknown_labels))
    return corpus


def read_folder(root, name=None, progress=True):
    """Like ``read_corpus`` for a folder, but without raising for unknown labels, which an audit reports.

    ``name`` defaults to KEMDy's own, or to the folder's name.
    """
    root = existing_path(root, any_case=True)
    if is_kemdy(root, name):
        from utils.data.kemdy import read_kemdy

        return read_kemdy(root, name, progress)
    from utils.data.manifest import read_manifest

    name = name or root.absolute().name
    check_name(name)
    return read_manifest(root, name, progress)


def is_kemdy(root, name=None):
    """Return whether KEMDy's reader reads this folder, by its name in a data root or its contents."""
    if name in KEMDY:
        return True
    if not root.is_dir():
        raise UserError(f"no corpus folder at {root}")
    if any((root / file).exists() for file in METADATA):
        return False
    if root.absolute().name in KEMDY or (root / "annotation").is_dir():
        return True
    raise UserError(
        f"{root} holds neither {' nor '.join(METADATA)}, nor annotation/ as KEMDy does: see docs/own-corpus.md for how to make "
        "a corpus"
    )


def folds(corpus, k_fold):
    """All folds of a corpus, as ``session_folds``; given splits form a single fold."""
    if corpus.given_splits:
        return [{split: [split] for split in SPLITS}]
    return session_folds(corpus.sessions, k_fold)


def fold_of(corpus, num_fold, k_fold):
    """One fold of a corpus, ``{"train": [sessions], "valid": ..., "test": ...}``; given splits for any ``num_fold``.

    Raises UserError if there are too few sessions for the folds, or no such fold.
    """
    found = folds(corpus, k_fold)
    if corpus.given_splits:
        return found[0]
    if num_fold >= len(found):
        raise UserError(f"--num_fold {num_fold}: with --k_fold {k_fold} folds are 0 to {k_fold - 1}")
    return found[num_fold]


def outline(data_root, name):
    """(labels, given_splits) of a corpus, without reading audio. Raises UserError as ``read_corpus``."""
    root = find_corpus(data_root, name)
    if is_kemdy(root, name):
        from utils.data.kemdy import EMOTIONS

        return EMOTIONS, False
    from utils.data.manifest import outline_manifest

    return outline_manifest(root)


@one_line_errors
def main():
    parser = Parser(
        prog="python -m utils.data.corpus",
        description="Print the fold numbers of corpora learned in a sequence, then their labels, one per line.",
        example="python -m utils.data.corpus KEMDy19 KEMDy20",
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="corpora, in the order in which they are learned")
    parser.add_argument("--data_root", type=named_path, default="data", help="folder of all corpora")
    parser.add_argument("--k_fold", type=positive_int, default=5, help="number of folds for corpora without given splits")
    args = parser.parse_args()
    outlines = [outline(args.data_root, name) for name in args.names]
    only_given = all(given_splits for _, given_splits in outlines)
    print(*range(1 if only_given else args.k_fold))
    for label in dict.fromkeys(label for labels, _ in outlines for label in labels):
        print(printable(label))


if __name__ == "__main__":
    main()
