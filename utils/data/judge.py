"""Validate the rows read from any corpus: usable, dropped, or noted.

Nothing is dropped silently: every row is either in the table or counted under the reason for dropping it.
"""

import hashlib
import json
import re
import unicodedata
from collections import Counter
from typing import NamedTuple

from models import SAMPLE_RATE
from utils.data import SECONDS
from utils.data.audio import MISSING, index_wavs
from utils.data.utterances import COLUMNS, UNTOLD_LENGTH, Fault
from utils.files import SYNTHETIC_MARKER

# First match wins.
DROP_REASONS = (
    "malformed id",
    "id of another session",
    "other speaker's file",
    "duplicate id",
    "several labels",
    "no label",
    "label mapped to null",
    "unknown label",
    "no speaker",
    "unusable start or end",
    "no wav",
    "no transcript",
    "transcript in neither encoding",
    "transcript is not text",
    "unreadable wav",
)
# Not faults: every copy of KEMDy has such rows, or corpus.json requests it.
BY_DESIGN = ("other speaker's file", "several labels", "label mapped to null")
# Seconds by which an utterance may end after its file: times are often given with two digits.
ROUNDING = 0.05
# Never part of text: NUL and other control characters, except white space, line ends and the old end-of-file mark; and lone
# surrogates, which JSON may contain.
CONTROL = re.compile(r"[\x00-\x08\x0e-\x19\x1b-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")
# Invisible characters and those that look like others: counted and listed, never changed. Members of character classes.
LOOK_ALIKES = {
    "compatibility jamo": r"\u3130-\u318f",
    "uncomposed jamo": r"\u1100-\u11ff\ua960-\ua97f\ud7b0-\ud7ff",  # what is left of them after composing
    "full- or half-width forms": r"\uff01-\uffee",
    "invisible characters": r"\x0b\x0c\x1a\x85\xad\u034f\u061c\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    r"\ufe00-\ufe0f\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff",
    "unusual spaces": r"\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000",
    "combining marks": r"\u0300-\u034e\u0350-\u036f\u1dc0-\u1dff\u20d0-\u20ff\u302a-\u302f\u3099\u309a\ufe20-\ufe2f",
    "replacement characters": r"\ufffd",
    "private-use characters": r"\ue000-\uf8ff\ufdd0-\ufdef\ufffe\uffff\U000f0000-\U0010ffff",
}
ANY_LOOK_ALIKE = re.compile(f"[{''.join(LOOK_ALIKES.values())}]")
LOOK_ALIKE = re.compile("|".join(f"([{members}])" for members in LOOK_ALIKES.values()))
# Transcription marks: a letter and a slash (noise, breath, fillers), a cut or repeated word, an aside's brackets.
TAGS_ONLY = re.compile(r"(?:[A-Za-z]/|[*+/().,?!\s])+")


class Row(NamedTuple):
    """An utterance as annotated: ``end`` is None for the end of the file; ``place`` is the file and row of its text.

    ``note`` is a kind of note, counted if the row is kept.
    """

    segment_id: str
    session: int | str
    speaker: str
    emotion: str
    path: str
    start: float
    end: float | None
    text: str
    place: tuple
    note: str = ""


class Findings:
    """Collects dropped rows, notes and faults while a corpus is read."""

    def __init__(self):
        self.drops, self.notings, self.faults = Counter(), Counter(), []
        self.unreadable, self.unreadable_transcripts = [], []

    def drop(self, reason, file, row, segment_id, what=""):
        """Count a dropped row, and list it unless that is by design."""
        self.drops[reason] += 1
        if reason not in BY_DESIGN:
            self.faults.append(Fault(reason, str(file), row, segment_id, what or reason))

    def drop_transcript(self, reason, file, row, segment_id, what):
        """Like ``drop``, for an unusable transcript."""
        self.drop(reason, file, row, segment_id, what)
        self.unreadable_transcripts.append((f"{file}, row {row}" if row else str(file), what))

    def note(self, kind, file, row, segment_id, what):
        """Count and list something noteworthy that is kept."""
        self.notings[kind] += 1
        self.faults.append(Fault(kind, str(file), row, segment_id, what))

    def count(self, kind):
        """Count something noteworthy without listing it."""
        self.notings[kind] += 1

    def facts(self):
        """The collected fields of Corpus."""
        return {
            "dropped": {reason: self.drops[reason] for reason in DROP_REASONS if self.drops[reason]},
            "notes": {kind: count for kind, count in sorted(self.notings.items()) if count},
            "unreadable": self.unreadable,
            "unreadable_transcripts": self.unreadable_transcripts,
            "faults": self.faults,
        }


def not_text(text):
    """The problem of a text with a control character or a lone surrogate, else ""."""
    found = CONTROL.search(text)
    return f"is not text (it holds the control character U+{ord(found[0]):04X})" if found else ""


def composed(text, findings):
    """Normalize a text to NFC, and count it if it was not."""
    if unicodedata.is_normalized("NFC", text):
        return text
    findings.count("transcripts composed to NFC")
    return unicodedata.normalize("NFC", text)


def judged(root, rows, findings, progress):
    """The utterances with usable audio, and all findings.

    Args:
        root: the corpus folder.
        rows: a Row for each utterance with a usable annotation; paths begin with ``root``.
        findings: Findings, to which drops and notes are added.
        progress: show a bar while files are indexed.

    Returns:
        The fields of Corpus that do not depend on its format, as a dictionary; in the table of utterances wav_digest is the
        SHA-256 of the file's bytes.
    """
    import pandas as pd

    headers = index_wavs(root, dict.fromkeys(row.path for row in rows), progress)
    kept, spans, unreadable, first_of = [], [], {}, {}
    for row in rows:
        header = headers[row.path]
        span = header if isinstance(header, str) else length(row, header)
        if span == MISSING:
            findings.drop("no wav", *row.place, row.segment_id, f"no wav {row.path}" if row.place[1] else "")
        elif isinstance(span, str) and (row.start, row.end) != (0, None) and span is not header:
            findings.drop("unusable start or end", *row.place, row.segment_id, span)
        elif isinstance(span, str):
            unreadable[row.path] = span
            findings.drop("unreadable wav", row.path, "", row.segment_id, span)
        else:
            kept.append(row)
            spans.append(span)
            first_of.setdefault(row.path, row.segment_id)
    findings.unreadable += unreadable.items()
    for row in kept:
        _note_text(row, findings)
    for path, segment_id in first_of.items():
        _note_sound(path, segment_id, headers[path], findings)
    names = [column for column in COLUMNS if column in Row._fields]
    table = {name: [getattr(row, name) for row in kept] for name in names}
    table |= {"wav_path": [row.path for row in kept], "wav_digest": [headers[row.path].digest for row in kept]}
    utterances = pd.DataFrame(table | {"duration": spans}, columns=list(COLUMNS))
    synthetic = (root / SYNTHETIC_MARKER).exists()
    return {"utterances": utterances, "digest": table_digest(utterances), "synthetic": synthetic, **findings.facts()}


def length(row, header, longest=SECONDS[1]):
    """Duration of an utterance in seconds, or the reason (str) why it cannot be used.

    Args:
        row: a Row, or another object with ``path``, ``start`` and ``end``.
        header: the WavHeader of its file.
        longest: maximum usable duration in seconds.
    """
    lasts = header.duration
    if row.end is not None and row.end > lasts + ROUNDING:
        return f"ends at {row.end:,.2f} s, and {row.path} lasts {lasts:,.2f} s"
    if row.start >= lasts:
        return f"starts at {row.start:,.2f} s, and {row.path} lasts {lasts:,.2f} s"
    seconds = (lasts if row.end is None else min(row.end, lasts)) - row.start
    if not SECONDS[0] <= seconds <= longest:
        return f"lasts {seconds:,.3g} s (usable: {SECONDS[0]} to {longest})"
    return seconds


def _note_text(row, findings):
    if row.note:
        findings.count(row.note)
    if not row.text:
        what = "no text" if row.place[1] else "has no text in its first line"
        findings.note("empty transcripts", *row.place, row.segment_id, what)
    elif TAGS_ONLY.fullmatch(row.text):
        findings.count("tags-only transcripts")
    if not ANY_LOOK_ALIKE.search(row.text):
        return
    found = {}
    for match in LOOK_ALIKE.finditer(row.text):
        found.setdefault(list(LOOK_ALIKES)[match.lastindex - 1], {})[f"U+{ord(match[0]):04X}"] = None
    for kind, characters in found.items():
        findings.note(f"transcripts with {kind}", *row.place, row.segment_id, f"holds {', '.join(characters)}")


def _note_sound(path, segment_id, header, findings):
    channels = f"has {header.channels} channels, which are averaged"
    rate = f"is at {header.samplerate:,} Hz, and is resampled"
    for kind, found, what in (
        ("wavs with several channels", header.channels > 1, channels),
        ("wavs not at 16 kHz", header.samplerate != SAMPLE_RATE, rate),
        (UNTOLD_LENGTH, header.streamed, "does not tell whether it is whole; it is read to its end"),
        ("silent wavs", header.silent, "is silent: zeros, one constant, or channels that cancel out"),
    ):
        if found:
            findings.note(kind, path, "", segment_id, what)


def table_digest(table):
    """SHA-256 of a table with COLUMNS, except paths, so that copies of a corpus have the same one."""
    facts = {column: table[column].tolist() for column in COLUMNS if column != "wav_path"}
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
