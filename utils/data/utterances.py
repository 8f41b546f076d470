"""What a reader makes of a corpus: its utterances and labels, and all that was dropped or is worth knowing."""

import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from utils.errors import UserError

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
    unreadable_transcripts: list  # the same of transcripts; their rows are dropped, and training does without them
    faults: list  # every Fault, those that cost a row among them; by-design drops are none
    synthetic: bool  # made by a program: there is a file SYNTHETIC at its top
    release: str = ""  # KEMDy19 or KEMDy20 where KEMDy's reader read it, whatever its name is
    expected_sessions: int | None = None  # of the real KEMDy
    unknown_labels: dict = field(default_factory=dict)  # counts of labels that corpus.json neither lists nor maps
    about: dict = field(default_factory=dict)  # language, licence and citation, where corpus.json tells
    withdrawn: tuple = ()  # sessions, as texts, whose utterances were left out, though folds still count them

    @property
    def is_kemdy(self):
        return bool(self.release)

    @property
    def command(self):
        return f"python -m utils.data.audit {shlex.quote(str(self.root))}"

    def without(self, sessions):
        """The corpus without the utterances of some sessions (texts), which stay in its ``sessions``, and so in its folds.

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


def unknown_labels(root, labels):
    """One line that names labels which corpus.json neither lists nor maps."""
    named = ", ".join(f"{label!r} ({count:,} row{'s' * (count > 1)})" for label, count in list(labels.items())[:SHOWN])
    named += f" and {len(labels) - SHOWN:,} more" if len(labels) > SHOWN else ""
    return f"{root / 'corpus.json'} neither lists nor maps the label {named}: add it to labels, or to label_map (null drops it)"
