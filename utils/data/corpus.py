"""A corpus: its utterances, labels and folds, and all that was dropped or is worth knowing.

KEMDy19 and KEMDy20 have a reader of their own; any other folder with metadata.csv or metadata.jsonl is a corpus without code
(docs/own-corpus.md). ``python -m utils.data.corpus A B C`` prints the folds and classes of a sequence, for the run scripts.
"""

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from utils.data import SPLITS
from utils.data.folds import session_folds
from utils.errors import UserError, one_line_errors, printable
from utils.files import existing_path
from utils.flags import Parser, named_path, positive_int
from utils.methods import JOINT, KEMDY

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("segment_id", "session", "speaker", "emotion", "wav_path", "start", "text", "duration", "wav_digest")
# A row an utterance; one of them makes a folder a corpus.
METADATA = ("metadata.csv", "metadata.jsonl")
# The real KEMDy has a few of these; a file that was cut short at a line's end leaves many.
NO_ROW, MANY_WITHOUT_ROW = "wavs without a row", 0.005
UNTOLD_LENGTH = "wavs of untold length"
# How much of a list a screen gets.
SHOWN = 10


class Fault(NamedTuple):
    """One thing that is wrong with a copy: the file, its row (from 1) or "", the segment id or "", and what it is.

    ``kind`` is one of ``utils.data.judge.DROP_REASONS`` where a row is lost, and else the note under which what was kept is
    counted.
    """

    kind: str
    file: str
    row: int | str
    segment_id: str
    what: str


@dataclass
class Corpus:
    """One corpus as read from disk.

    ``utterances`` are the usable ones, a table with COLUMNS in annotation order: ``session`` is what folds are made over
    (KEMDy's session number, else the name of a session, of a group that shares speakers, of a speaker, or of a split),
    ``start`` and ``duration`` are seconds, ``wav_digest`` is the SHA-256 of the file's bytes.
    """

    name: str  # also that of the task to learn it
    root: Path
    labels: tuple  # its emotions, in the order of the classes
    utterances: "pd.DataFrame"
    digest: str  # SHA-256 of the utterances but for their paths: a copy elsewhere has the same one
    sessions: list  # all values of session, sorted, those among them whose utterances are all unusable
    given_splits: bool  # it comes with splits, which are then its one fold
    rows: int  # annotation rows read: the usable utterances and the dropped rows
    dropped: dict  # rows by reason (utils.data.judge.DROP_REASONS)
    notes: dict  # counts of what was kept, but is worth knowing
    unreadable: list  # (path, reason) of every sound file that is needed and cannot be used
    unreadable_transcripts: list  # the same of transcripts; their rows are dropped, and training goes on without them
    faults: list  # every Fault, those that cost a row among them; by-design drops are none
    synthetic: bool  # made by a program: there is a file SYNTHETIC at its top
    release: str = ""  # KEMDy19 or KEMDy20 where KEMDy's reader read it, whatever its name is
    expected_sessions: int | None = None  # of the real KEMDy
    unknown_labels: dict = field(default_factory=dict)  # counts of labels that corpus.json neither lists nor maps
    about: dict = field(default_factory=dict)  # language, licence and citation, where corpus.json tells

    @property
    def is_kemdy(self):
        return bool(self.release)

    @property
    def command(self):
        return f"python -m utils.data.audit {shlex.quote(str(self.root))}"

    def warnings(self):
        """What a user should hear before training on this copy, as lines."""
        lines, listed = [], f"({self.command} lists them)"
        for kind, files in (("transcript", self.unreadable_transcripts), ("wav", self.unreadable)):
            lines += [f"left out, {kind} {path} {reason}" for path, reason in files[:SHOWN]]
            if len(files) > SHOWN:
                lines.append(f"left out, {len(files) - SHOWN:,} more {kind}s ({self.command} lists all)")
        missing, without_row = self.dropped.get("no wav", 0), self.notes.get(NO_ROW, 0)
        if missing and not self.is_kemdy:  # of which every copy lacks a few
            lines.append(f"left out, {missing:,} rows whose wav is not there {listed}")
        if without_row > MANY_WITHOUT_ROW * self.rows:
            lost = "have no row in annotation/, so their labels are lost: was a file cut short?"
            lines.append(f"{without_row:,} wavs {lost} {listed}")
        if untold := self.notes.get(UNTOLD_LENGTH, 0):
            lines.append(f"{untold:,} wavs are in a form that does not tell whether they are whole {listed}")
        return lines + self.missing_sessions()

    def missing_sessions(self):
        """A line, in a list, if a real copy of KEMDy lacks sessions."""
        if self.synthetic or self.expected_sessions in (None, len(self.sessions)):
            return []
        return [f"{len(self.sessions)} of {self.expected_sessions} sessions are here: the folds are not the published ones"]

    def require_readable_wavs(self):
        """Raise UserError that lists the sound files which training would stumble over."""
        if self.unreadable:
            listing = "; ".join(f"{path}: {reason}" for path, reason in self.unreadable[:SHOWN])
            if len(self.unreadable) > SHOWN:
                listing += f"; and {len(self.unreadable) - SHOWN:,} more"
            raise UserError(
                f"{len(self.unreadable)} wav file(s) of {self.name} cannot be used (copy them again, or train without them by "
                f"--skip_bad_files; {self.command} lists all): {listing}"
            )


def check_name(name):
    """Raise UserError if a folder's name cannot be that of a corpus: runs of several corpora are named by joining theirs."""
    if not name or name.startswith(".") or name == JOINT or re.search(r"[+/\x00-\x1f\x7f]", name):
        raise UserError(f"{name!r} cannot be the name of a corpus: no '+', no '/', no '.' at its beginning, and not '{JOINT}'")


def find_corpus(data_root, name):
    """Folder of a corpus: ``data_root/name``; KEMDy's may also be the one ``data_root/KEMDy19_v*``, in any case.

    Raises UserError if there is none, if several versions leave a choice, or if the name is none for a corpus.
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
    """Read the corpus ``data_root/name``, with a bar when sound files are looked at for the first time. Returns a Corpus.

    Raises:
        UserError: if it is not there or not in the form of a corpus, or has labels that corpus.json neither lists nor maps;
            the line names the file and row.
    """
    corpus = read_folder(find_corpus(data_root, name), name, progress)
    if corpus.unknown_labels:
        raise UserError(unknown_labels(corpus.root, corpus.unknown_labels))
    return corpus


def read_folder(root, name=None, progress=True):
    """Read a corpus folder whatever is wrong with its labels, which an audit then tells; else as ``read_corpus``.

    Without ``name`` it is KEMDy's own, or that of the folder.
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
    """Does KEMDy's reader read this folder? By its name in a data root, or for what lies in it."""
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


def unknown_labels(root, labels):
    """One line that names labels which corpus.json neither lists nor maps."""
    named = ", ".join(f"{label!r} ({count:,} row{'s' * (count > 1)})" for label, count in list(labels.items())[:SHOWN])
    named += f" and {len(labels) - SHOWN:,} more" if len(labels) > SHOWN else ""
    return f"{root / 'corpus.json'} neither lists nor maps the label {named}: add it to labels, or to label_map (null drops it)"


def folds(corpus, k_fold):
    """All folds of a corpus, as ``session_folds``; splits that the corpus comes with are the one fold there is."""
    if corpus.given_splits:
        return [{split: [split] for split in SPLITS}]
    return session_folds(corpus.sessions, k_fold)


def fold_of(corpus, num_fold, k_fold):
    """One fold of a corpus, ``{"train": [sessions], "valid": ..., "test": ...}``; given splits are that of every ``num_fold``.

    Raises UserError if there are too few sessions for the folds, or there is no such fold.
    """
    found = folds(corpus, k_fold)
    if corpus.given_splits:
        return found[0]
    if num_fold >= len(found):
        raise UserError(f"--num_fold {num_fold}: with --k_fold {k_fold} folds are 0 to {k_fold - 1}")
    return found[num_fold]


def outline(data_root, name):
    """(labels, given_splits) of a corpus, for which no sound is read. Raises UserError as ``read_corpus``."""
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
        description="Print the folds that there are for corpora learned in a sequence, then their labels, one a line.",
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="corpora, in the order in which they are learned")
    parser.add_argument("--data_root", type=named_path, default="data", help="folder of all corpora")
    parser.add_argument("--k_fold", type=positive_int, default=5, help="number of folds where a corpus comes without splits")
    args = parser.parse_args()
    outlines = [outline(args.data_root, name) for name in args.names]
    only_given = all(given_splits for _, given_splits in outlines)
    print(*range(1 if only_given else args.k_fold))
    for label in dict.fromkeys(label for labels, _ in outlines for label in labels):
        print(printable(label))


if __name__ == "__main__":
    main()
