"""A corpus as read from disk: its utterances and labels, dropped rows and notes."""

import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from utils.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("segment_id", "session", "speaker", "emotion", "wav_path", "start", "text", "duration", "wav_digest")
# One row per utterance; a folder with one of these is a corpus.
METADATA = ("metadata.csv", "metadata.jsonl")
# The real KEMDy has a few of these; a file truncated at a line end leaves many.
NO_ROW, MANY_WITHOUT_ROW = "wavs without a row", 0.005
UNTOLD_LENGTH = "wavs of untold length"
# Maximum items of a list that are printed.
SHOWN = 10


class Fault(NamedTuple):
    """A fault of a corpus: the file, its row (from 1) or "", the segment id or "", and a description.

    ``kind`` is one of ``utils.data.judge.DROP_REASONS`` if a row is lost, otherwise the kind of note.
    """

    kind: str
    file: str
    row: int | str
    segment_id: str
    what: str


@dataclass
class Corpus:
    """One corpus as read from disk.

    ``utterances`` are the usable ones, a table with COLUMNS in annotation order: ``session`` is the group for folds
    (KEMDy's session number, otherwise the name of a session, of a group that shares speakers, of a speaker, or of a split),
    ``start`` and ``duration`` are seconds, ``wav_digest`` is the SHA-256 of the file's bytes.
    """

    name: str  # also the name of its task
    root: Path
    labels: tuple  # its emotions, in class order
    utterances: "pd.DataFrame"
    digest: str  # SHA-256 of the utterances except their paths, equal for all copies
    sessions: list  # all values of session, sorted, including those without usable utterances
    given_splits: bool  # whether it comes with splits, which then form its only fold
    rows: int  # annotation rows read: the usable utterances and the dropped rows
    dropped: dict  # number of rows by reason (utils.data.judge.DROP_REASONS)
    notes: dict  # counts by kind of note, of utterances that were kept
    unreadable: list  # (path, reason) of every required audio file that cannot be used
    unreadable_transcripts: list  # the same for transcripts; their rows are dropped without stopping training
    faults: list  # every Fault, including dropped rows except those dropped by design
    synthetic: bool  # generated: it has a file SYNTHETIC
    release: str = ""  # KEMDy19 or KEMDy20 if KEMDy's reader read it, whatever its name
    expected_sessions: int | None = None  # of the real KEMDy
    unknown_labels: dict = field(default_factory=dict)  # counts of labels that corpus.json neither lists nor maps
    about: dict = field(default_factory=dict)  # language, licence and citation from corpus.json
    withdrawn: tuple = ()  # sessions, as texts, whose utterances were removed, although folds still count them

    @property
    def is_kemdy(self):
        return bool(self.release)

    @property
    def command(self):
        return f"python -m utils.data.audit {shlex.quote(str(self.root))}"

    def without(self, sessions):
        """The corpus without the utterances of some sessions (texts), which remain in its ``sessions`` and so in its folds.

        Raises:
            UserError: if it has no such session, or comes with splits.
        """
        if sessions and self.given_splits:
            raise UserError(
                f"--withdraw {sessions[0]}: {self.name} comes with splits of its own, and its sessions are not told apart: "
                "take their rows out of its metadata"
            )
        known = list(map(str, self.sessions))
        for session in sessions:
            if session not in known:
                raise UserError(f"--withdraw {session}: {self.name} has no such session, but {', '.join(known)}")
        kept = ~self.utterances["session"].astype(str).isin(sessions)
        return replace(self, utterances=self.utterances[kept].reset_index(drop=True), withdrawn=tuple(sessions))

    def warnings(self):
        """Warnings to print before training on this corpus, as lines."""
        lines, listed = [], f"({self.command} lists them)"
        for kind, files in (("transcript", self.unreadable_transcripts), ("wav", self.unreadable)):
            lines += [f"left out, {kind} {path} {reason}" for path, reason in files[:SHOWN]]
            if len(files) > SHOWN:
                lines.append(f"left out, {len(files) - SHOWN:,} more {kind}s ({self.command} lists all)")
        missing, without_row = self.dropped.get("no wav", 0), self.notes.get(NO_ROW, 0)
        if missing and not self.is_kemdy:  # every copy of KEMDy lacks a few
            lines.append(f"left out, {missing:,} rows whose wav is not there {listed}")
        if without_row > MANY_WITHOUT_ROW * self.rows:
            lost = "have no row in annotation/, so their labels are lost: was a file cut short?"
            lines.append(f"{without_row:,} wavs {lost} {listed}")
        if untold := self.notes.get(UNTOLD_LENGTH, 0):
            lines.append(f"{untold:,} wavs are in a form that does not tell whether they are whole {listed}")
        return lines + self.missing_sessions()

    def missing_sessions(self):
        """A list with one line if a real copy of KEMDy lacks sessions."""
        if self.synthetic or self.expected_sessions in (None, len(self.sessions)):
            return []
        return [f"{len(self.sessions)} of {self.expected_sessions} sessions are here: the folds are not the published ones"]

    def require_readable_wavs(self):
        """Raise UserError that lists unusable audio files, if any."""
        if self.unreadable:
            listing = "; ".join(f"{path}: {reason}" for path, reason in self.unreadable[:SHOWN])
            if len(self.unreadable) > SHOWN:
                listing += f"; and {len(self.unreadable) - SHOWN:,} more"
            raise UserError(
                f"{len(self.unreadable)} wav file(s) of {self.name} cannot be used (copy them again, or train without them by "
                f"--skip_bad_files; {self.command} lists all): {listing}"
            )


def unknown_labels(root, labels):
    """One line that names labels which corpus.json neither lists nor maps."""
    named = ", ".join(f"{label!r} ({count:,} row{'s' * (count > 1)})" for label, count in list(labels.items())[:SHOWN])
    named += f" and {len(labels) - SHOWN:,} more" if len(labels) > SHOWN else ""
    return f"{root / 'corpus.json'} neither lists nor maps the label {named}: add it to labels, or to label_map (null drops it)"
