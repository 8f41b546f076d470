"""KEMDy19 and KEMDy20 on disk → one table of utterances. ``python -m utils.data.kemdy data/KEMDy19`` audits a copy.

Both corpora are laid out as ``annotation/*.csv`` and ``wav/**/<segment id>.wav`` with a ``.txt`` transcript beside each
wav. What differs stands in FORMATS; everything else is read by the same code. Nothing is dropped silently: every
annotation row is either in the table or counted under the reason that kept it out, and every fault is listed.
"""

import argparse
import csv
import errno
import hashlib
import io
import json
import os
import re
import shlex
import unicodedata
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from utils.data.audio import SAMPLE_RATE, WavHeader, index_wavs, stat_file
from utils.data.folds import SPLITS, session_folds, split_utterances
from utils.errors import UserError, one_line_errors, printable
from utils.files import SYNTHETIC_MARKER, existing_path, refuse_tracked, spreadsheet_safe, whole_file, write_json

# The order of the published class indices.
EMOTIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
CORPORA = ("KEMDy19", "KEMDy20")
# KEMDy20's annotations spell one label differently.
SPELLINGS = {"disqust": "disgust"}
COLUMNS = ("segment_id", "session", "speaker", "emotion", "wav_path", "text", "duration", "wav_digest")
# In this order a row is examined; it is counted under the first that holds.
DROP_REASONS = (
    "malformed id",
    "id of another session",
    "other speaker's file",
    "duplicate id",
    "several labels",
    "no label",
    "unknown label",
    "no wav",
    "no transcript",
    "transcript in neither encoding",
    "transcript is not text",
    "unreadable wav",
)
# Not faults: every copy has such rows.
BY_DESIGN = ("other speaker's file", "several labels")
# The real corpora have a few of these; a file that was cut short at a line's end leaves many.
NO_ROW, MANY_WITHOUT_ROW = "wavs without a row", 0.005
UNTOLD_LENGTH = "wavs of untold length"
# Bytes. What is larger is another file; the real ones stay below 1 kB and 1 MB.
LARGEST_TRANSCRIPT, LARGEST_ANNOTATION = 100_000, 100_000_000
# What no text has: NUL and the other control characters, but for white space, line ends and the old end-of-file mark.
CONTROL = re.compile(r"[\x00-\x08\x0e-\x19\x1b-\x1f\x7f-\x84\x86-\x9f]")
# What looks like other text and is not, or cannot be seen: counted and listed, never changed. Members of character classes.
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
LOOK_ALIKE = re.compile("|".join(f"([{members}])" for members in LOOK_ALIKES.values()))
# How much of a list a screen gets.
SHOWN = 10
# Transcription marks: a letter and a slash (noise, breath, fillers), a cut or repeated word, an aside's brackets.
TAGS_ONLY = re.compile(r"(?:[A-Za-z]/|[*+/().,?!\s])+")
# UTF-8 first: CP949 accepts many UTF-8 texts and turns them into noise, the other way round it fails.
ENCODINGS = ("utf-8-sig", "cp949")


@dataclass(frozen=True)
class CorpusFormat:
    """What differs between the corpora: names of annotation files, form of segment ids, and the counts of the real one."""

    annotation_name: re.Pattern
    annotation_example: str
    segment_id: re.Pattern
    sessions: int
    usable: int
    test_sizes: tuple

    def speaker(self, match):
        """Name of the speaker within the corpus, from a matched segment id."""
        groups = match.groupdict()
        return groups.get("user") or f"Sess{groups['session']}_{groups['sex']}"


FORMATS = {
    "KEMDy19": CorpusFormat(
        re.compile(r"Session(?P<session>0[1-9]|1\d|20)_(?P<sex>[FM])_res\.csv", re.ASCII),
        "Session01_F_res.csv",
        re.compile(r"Sess(?P<session>\d\d)_(?:script0[1-6]|impro0[1-4])_(?P<sex>[FM])\d{3}", re.ASCII),
        20,
        9_627,
        (1978, 1891, 1871, 1872, 2015),
    ),
    "KEMDy20": CorpusFormat(
        re.compile(r"Sess(?P<session>0[1-9]|[1-3]\d|40)_eval\.csv", re.ASCII),
        "Sess01_eval.csv",
        re.compile(r"Sess(?P<session>\d\d)_script0[1-6]_(?P<user>User0[0-8]\d(?P<sex>[FM]))_\d{3}", re.ASCII),
        40,
        12_828,
        (2513, 2769, 2481, 2497, 2568),
    ),
}


class Fault(NamedTuple):
    """One thing that is wrong with a copy: the file, its row (from 1) or "", the segment id or "", and what it is.

    ``kind`` is one of DROP_REASONS where a row is lost, and else the note under which what was kept is counted.
    """

    kind: str
    file: str
    row: int | str
    segment_id: str
    what: str


@dataclass
class Corpus:
    """One corpus as read from disk.

    Attributes:
        name: KEMDy19 or KEMDy20, recognised from the annotation files' names.
        root: the corpus folder.
        utterances: the usable utterances, a table with COLUMNS (duration in seconds, wav_digest the SHA-256 of the wav's
            bytes), in annotation order.
        digest: SHA-256 of the usable utterances in their order: ids, sessions, speakers, emotions, texts and sound. A copy
            elsewhere has the same one.
        sessions: sorted session numbers that have an annotation file.
        rows: annotation rows read; the usable utterances and the dropped rows add up to it.
        dropped: rows by DROP_REASONS.
        notes: what was kept, but is worth knowing, with counts.
        unreadable: (path, reason) of every wav that is needed and cannot be used.
        unreadable_transcripts: the same of transcripts; their rows are dropped, and training goes on without them.
        faults: every Fault, those that cost a row among them; by-design drops are none.
        synthetic: True for a made corpus (one with a file SYNTHETIC at its top).
    """

    name: str
    root: Path
    utterances: pd.DataFrame
    digest: str
    sessions: list
    rows: int
    dropped: dict
    notes: dict
    unreadable: list
    unreadable_transcripts: list
    faults: list
    synthetic: bool

    @property
    def command(self):
        """The command that audits this copy."""
        return f"python -m utils.data.kemdy {shlex.quote(str(self.root))}"

    def warnings(self):
        """What a user should hear before training on this copy, as lines."""
        lines = []
        for kind, files in (("transcript", self.unreadable_transcripts), ("wav", self.unreadable)):
            lines += [f"left out, {kind} {path} {reason}" for path, reason in files[:SHOWN]]
            if len(files) > SHOWN:
                lines.append(f"left out, {len(files) - SHOWN:,} more {kind}s ({self.command} lists all)")
        without_row = self.notes.get(NO_ROW, 0)
        if without_row > MANY_WITHOUT_ROW * self.rows:
            lines.append(
                f"{without_row:,} wavs have no row in annotation/, so their labels are lost: was a file cut short? ("
                f"{self.command} lists them)"
            )
        if untold := self.notes.get(UNTOLD_LENGTH, 0):
            lines.append(f"{untold:,} wavs are in a form that does not tell whether they are whole ({self.command} lists them)")
        return lines + self.missing_sessions()

    def missing_sessions(self):
        """A line, in a list, if a real corpus lacks sessions."""
        known = FORMATS[self.name].sessions
        if self.synthetic or len(self.sessions) == known:
            return []
        return [f"{len(self.sessions)} of {known} sessions are here: the folds are not the published ones"]

    def require_readable_wavs(self):
        """Raise UserError that lists the wavs which training would stumble over."""
        if self.unreadable:
            listing = "; ".join(f"{path}: {reason}" for path, reason in self.unreadable[:SHOWN])
            if len(self.unreadable) > SHOWN:
                listing += f"; and {len(self.unreadable) - SHOWN:,} more"
            raise UserError(
                f"{len(self.unreadable)} wav file(s) of {self.name} cannot be used (copy them again, or train without them by "
                f"--skip_bad_files; {self.command} lists all): {listing}"
            )


def find_corpus(data_root, name):
    """Folder of a corpus: ``data_root/KEMDy19``, or the one ``data_root/KEMDy19_v*``, in any case.

    Raises:
        UserError: if there is none, or if several versions leave a choice.
    """
    data_root = existing_path(data_root, any_case=True)
    exact = data_root / name
    if exact.is_dir():
        return exact
    folders = data_root.iterdir() if data_root.is_dir() else ()
    found = sorted(path for path in folders if re.fullmatch(f"{name}(_v.*)?", path.name, re.IGNORECASE) and path.is_dir())
    if len(found) > 1:
        raise UserError(f"{data_root} holds {', '.join(path.name for path in found)}: rename the one to use to {name}")
    if not found:
        raise UserError(f"no corpus at {exact}: see data/README.md for where to get it, or name another --data_root")
    return found[0]


def read_corpus(root, progress=True):
    """Read KEMDy19 or KEMDy20, whichever lies at ``root``.

    Args:
        root: the corpus folder, with ``annotation/`` and ``wav/`` in it.
        progress: show a bar when wavs are looked at for the first time.

    Returns:
        A Corpus.

    Raises:
        UserError: if the folder, its annotations or their columns are not those of the corpora; the line names the file.
    """
    root = existing_path(root, any_case=True)
    name, annotations, others = _find_annotations(root)
    corpus_format = FORMATS[name]
    sessions = sorted({int(match["session"]) for _, match in annotations})
    wavs, transcripts, shadowed = _find_recordings(root / "wav")
    dropped, notes, faults = Counter(), Counter(), []

    def note(kind, path, segment_id, what):
        notes[kind] += 1
        faults.append(Fault(kind, str(path), "", segment_id, what))

    for path in others:
        note("files not read", path, "", f"is not named like {corpus_format.annotation_example}")
    for path, taken in shadowed:
        note("shadowed files", path, Path(path).stem, f"{taken} has the same name and is taken")
    recorded = Counter(int(match["session"]) for stem in wavs if (match := corpus_format.segment_id.fullmatch(stem)))
    for session in sorted(recorded.keys() - set(sessions)):
        what = f"session {session} has {recorded[session]:,} wavs and no file here"
        note("sessions without annotation", root / "annotation", "", what)
    rows, candidates, seen = 0, [], set()
    for path, file_match in annotations:
        session = int(file_match["session"])
        for number, segment_id, label in _read_annotation(path):
            rows += 1
            annotated_id, match, mended = segment_id, corpus_format.segment_id.fullmatch(segment_id), False
            elsewhere = match is not None and int(match["session"]) != session
            if elsewhere:
                # The first release of KEMDy20 numbers a whole session's ids wrongly; the files beside it are right.
                segment_id = f"Sess{session:02d}_{segment_id.split('_', 1)[1]}"
                match = corpus_format.segment_id.fullmatch(segment_id)
                mended = segment_id in wavs
            if elsewhere and not mended:
                reason, emotion = "id of another session", None
            else:
                reason, emotion = _examine_row(match, file_match, segment_id, label, seen)
            if reason is None and segment_id not in wavs:
                reason = "no wav"
            if reason is None and segment_id not in transcripts:
                reason = "no transcript"
            notes["ids mended"] += mended
            if reason is None:
                candidates.append((segment_id, session, corpus_format.speaker(match), emotion))
            else:
                dropped[reason] += 1
                if reason not in BY_DESIGN:
                    shown = {"malformed id": annotated_id, "unknown label": label}.get(reason)
                    what = reason if shown is None else f"{reason} {shown[:40]!r}"
                    faults.append(Fault(reason, str(path), number, annotated_id if match else "", what))

    for stem in sorted(wavs.keys() - seen):
        match = corpus_format.segment_id.fullmatch(stem)
        if match and int(match["session"]) in sessions:
            note(NO_ROW, wavs[stem], stem, "has no row in annotation/, so its label is lost")

    texts = _read_transcripts([transcripts[segment_id] for segment_id, *_ in candidates])
    readable, unreadable_transcripts = [], []
    for candidate, (text, encoding) in zip(candidates, texts):
        if encoding in ENCODINGS:
            composed = unicodedata.normalize("NFC", text)
            notes["transcripts composed to NFC"] += composed != text
            readable.append((*candidate, composed, encoding))
            continue
        path, (reason, what) = transcripts[candidate[0]], encoding
        dropped[reason] += 1
        unreadable_transcripts.append((path, what))
        faults.append(Fault(reason, path, "", candidate[0], what))

    headers = index_wavs(root, [wavs[segment_id] for segment_id, *_ in readable], progress)
    utterances, unreadable = [], []
    for segment_id, session, speaker, emotion, text, encoding in readable:
        path = wavs[segment_id]
        header = headers[path]
        if not isinstance(header, WavHeader):
            dropped["unreadable wav"] += 1
            unreadable.append((path, header))
            faults.append(Fault("unreadable wav", path, "", segment_id, header))
            continue
        notes["CP949 transcripts"] += encoding == "cp949"
        notes["tags-only transcripts"] += bool(TAGS_ONLY.fullmatch(text))
        if not text:
            note("empty transcripts", transcripts[segment_id], segment_id, "has no text in its first line")
        for kind, characters in _look_alikes(text).items():
            what = f"holds {', '.join(f'U+{ord(character):04X}' for character in characters)}"
            note(f"transcripts with {kind}", transcripts[segment_id], segment_id, what)
        if header.channels > 1:
            note("wavs with several channels", path, segment_id, f"has {header.channels} channels, which are averaged")
        if header.samplerate != SAMPLE_RATE:
            note("wavs not at 16 kHz", path, segment_id, f"is at {header.samplerate:,} Hz, and is resampled")
        if header.streamed:
            note(UNTOLD_LENGTH, path, segment_id, "does not tell whether it is whole; it is read to its end")
        if header.silent:
            note("silent wavs", path, segment_id, "is silent: zeros, one constant, or channels that cancel out")
        utterances.append((segment_id, session, speaker, emotion, path, text, header.duration, header.digest))
    table = pd.DataFrame(utterances, columns=list(COLUMNS))
    identity = json.dumps(table.drop(columns=["wav_path", "duration"]).to_numpy().tolist())
    return Corpus(
        name=name,
        root=root,
        utterances=table,
        digest=hashlib.sha256(identity.encode()).hexdigest(),
        sessions=sessions,
        rows=rows,
        dropped={reason: dropped[reason] for reason in DROP_REASONS if dropped[reason]},
        notes={note: count for note, count in sorted(notes.items()) if count},
        unreadable=unreadable,
        unreadable_transcripts=unreadable_transcripts,
        faults=faults,
        synthetic=(root / SYNTHETIC_MARKER).exists(),
    )


def _find_annotations(root):
    """Name of the corpus, its annotation files as (path, match of the file name), by session and letter, and other tables."""
    if not root.is_dir():
        raise UserError(f"no corpus folder at {root}: see data/README.md for where to get the corpora")
    for part in ("annotation", "wav"):
        if not (root / part).is_dir():
            raise UserError(f"{root} has no folder {part}/: it should hold annotation/ and wav/ of KEMDy19 or KEMDy20")
    files = sorted(path for path in (root / "annotation").iterdir() if path.suffix.lower() == ".csv" and path.name[0] != ".")
    found = {
        name: [(path, match) for path in files if (match := corpus_format.annotation_name.fullmatch(path.name))]
        for name, corpus_format in FORMATS.items()
    }
    names = [name for name in CORPORA if found[name]]
    if len(names) != 1:
        examples = " or ".join(f"{FORMATS[name].annotation_example} ({name})" for name in CORPORA)
        problem = "annotation files of both corpora" if names else "no annotation file"
        raise UserError(f"{root / 'annotation'} holds {problem}: expected names like {examples}")
    annotations = found[names[0]]
    if names[0] == "KEMDy19":
        # A speaker's labels stand in that speaker's own file, so half of a session would be lost without notice.
        present = {(match["session"], match["sex"]) for _, match in annotations}
        for session, sex in sorted(present):
            partner = (session, "M" if sex == "F" else "F")
            if partner not in present:
                missing = root / "annotation" / f"Session{partner[0]}_{partner[1]}_res.csv"
                raise UserError(f"{missing} is missing: copy it again (each speaker's labels stand in their own file)")
    return names[0], annotations, sorted(set(files) - {path for path, _ in annotations})


def _find_recordings(wav_root):
    """Paths by stem, of wavs and of transcripts, and deeper twins (as in ``converted/``) as (path passed over, path taken)."""
    found, shadowed = {".wav": {}, ".txt": {}}, []
    visited = set()

    def refuse(error):
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}), and what lies in it would be missed")

    for folder, subfolders, files in os.walk(wav_root, onerror=refuse, followlinks=True):
        subfolders.sort()
        if (real := os.path.realpath(folder)) in visited:  # a link back up would be walked for ever
            subfolders.clear()
            continue
        visited.add(real)
        depth = len(Path(folder).parts)
        for file in sorted(files):
            stem, suffix = os.path.splitext(file)
            by_stem = found.get(suffix.lower())
            if by_stem is None or file.startswith("."):
                continue
            path = os.path.join(folder, file)
            known_depth, known = by_stem.get(stem, (depth, path))
            if depth < known_depth or known == path:
                by_stem[stem] = (depth, path)
            if known != path:
                shadowed.append((path, known) if depth >= known_depth else (known, path))
    wavs, transcripts = ({stem: path for stem, (_, path) in found[suffix].items()} for suffix in (".wav", ".txt"))
    return wavs, transcripts, shadowed


def _read_annotation(path):
    """(row number, segment id, majority label) of every row; columns are found by their names in the two header rows."""
    content, rows = b"", []
    try:
        content = _read_bytes(path, LARGEST_ANNOTATION)
        # Strict: a quote that is opened and never closed would swallow the rest of the file.
        for row in csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True):
            if any("\n" in cell or "\r" in cell for cell in row):
                raise csv.Error("a quoted cell has a line end in it")
            rows.append(row)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); copy it again, or make it readable") from None
    except UnicodeDecodeError as error:
        number = len(error.object[: error.start + 1].splitlines())
        raise UserError(f"{path}: row {number} is not in UTF-8 ({error.reason}); copy the file again") from None
    except csv.Error as error:
        raise UserError(f"{path}: row {len(rows) + 1} is not CSV ({error}); copy the file again") from None
    if len(rows) < 2:
        raise UserError(f"{path}: no header of two rows; copy it again")
    first, second = ([cell.strip() for cell in row] for row in rows[:2])
    id_columns = [column for column, name in enumerate(first) if name == "Segment ID"]
    names = list(zip(first, second))
    label_columns = [column for column, name in enumerate(names) if name == ("Total Evaluation", "Emotion")]
    if len(id_columns) != 1 or len(label_columns) != 1:
        problem = "several" if id_columns and label_columns else "no"
        raise UserError(
            f"{path}: the two header rows have {problem} columns 'Segment ID' and 'Total Evaluation' / 'Emotion'; "
            "this is not an annotation file of KEMDy19 or KEMDy20"
        )
    (id_column,), (label_column,) = id_columns, label_columns
    labels = []
    for number, row in enumerate(rows[2:], start=3):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) < len(first) or any(cell.strip() for cell in row[len(first) :]):
            raise UserError(f"{path}: row {number} has {len(row)} cells where the header has {len(first)}; copy the file again")
        labels.append((number, row[id_column].strip(), row[label_column]))
    return labels


def _examine_row(match, file_match, segment_id, label, seen):
    """(reason to drop the row or None, emotion or None), by what the annotation alone says."""
    if not match:
        return "malformed id", None
    # The letter of the FILE's name against that of the ID: rows of the other speaker hold the listener's emotion.
    if "sex" in file_match.groupdict() and match["sex"] != file_match["sex"]:
        return "other speaker's file", None
    if segment_id in seen:
        return "duplicate id", None
    seen.add(segment_id)
    emotions = [name.strip().lower() for name in label.split(";") if name.strip()]
    if len(emotions) != 1:
        return ("several labels" if emotions else "no label"), None
    emotion = SPELLINGS.get(emotions[0], emotions[0])
    return (None, emotion) if emotion in EMOTIONS else ("unknown label", None)


def _read_transcripts(paths):
    """(first line, encoding) of each; (None, (drop reason, what is wrong)) where there is none."""
    # Threads wait for network storage together; a hundred files each time, or handing them out takes longer than reading.
    chunks = [paths[start : start + 100] for start in range(0, len(paths), 100)]
    if len(chunks) < 2:
        return list(map(_read_transcript, paths))
    with ThreadPoolExecutor(8) as pool:
        return [text for chunk in pool.map(lambda chunk: list(map(_read_transcript, chunk)), chunks) for text in chunk]


def _read_transcript(path):
    try:
        content = _read_bytes(path, LARGEST_TRANSCRIPT)
    except OSError as error:
        reason = "transcript is not text" if error.errno == errno.EFBIG else "no transcript"
        return None, (reason, f"cannot be read ({error.strerror})")
    for encoding in ENCODINGS:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if found := CONTROL.search(text):
            return None, ("transcript is not text", f"is not text (it holds the control character {ord(found[0]):#04x})")
        return re.split("\r\n|\n|\r", text)[0].strip(), encoding
    what = "is in UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "is neither in UTF-8 nor in CP949"
    return None, ("transcript in neither encoding", what)


def _look_alikes(text):
    """``{kind: its characters in the text, each once}``, of LOOK_ALIKES."""
    found = {}
    for match in LOOK_ALIKE.finditer(text):
        found.setdefault(list(LOOK_ALIKES)[match.lastindex - 1], {})[match[0]] = None
    return found


def _read_bytes(path, most):
    """Content of a file; OSError if it is no regular file or has more than ``most`` bytes."""
    size = stat_file(path).st_size
    if size > most:
        raise OSError(errno.EFBIG, f"{size:,} bytes, where {most:,} would be many")
    with open(path, "rb") as file:
        return file.read()


def audit(corpus, folds):
    """Text of an audit: what was read, kept and dropped, and how it compares with the real corpus.

    Args:
        corpus: a Corpus.
        folds: the result of ``session_folds``, or a str that says why there are none.
    """
    known, utterances = FORMATS[corpus.name], corpus.utterances

    def compared(count, expected):
        return "as known for the real corpus" if count == expected else f"the real corpus has {expected:,}"

    def counts(title, table, total=None):
        lines = [title] + [
            f"  {name:<40}{count:>8,}" + (f"{count / total:>8.1%}" if total else "") for name, count in table.items()
        ]
        return lines if table else [title, "  none"]

    lines = [f"{corpus.name} at {corpus.root}" + (" (SYNTHETIC, made by a program)" if corpus.synthetic else "")]
    lines += [f"  {'annotation rows':<40}{corpus.rows:>8,}", f"  {'sessions':<40}{len(corpus.sessions):>8,}"]
    usable = f"  {'usable utterances':<40}{len(utterances):>8,}   {compared(len(utterances), known.usable)}"
    lines += [usable, *counts("dropped, by reason", corpus.dropped), *counts("kept, but worth knowing", corpus.notes)]
    labels = utterances["emotion"].value_counts()
    lines += counts("labels", {emotion: int(labels.get(emotion, 0)) for emotion in EMOTIONS}, max(len(utterances), 1))
    seconds = utterances["duration"]
    if len(seconds):
        quantiles = ", ".join(f"{name} {seconds.quantile(q):.2f}" for name, q in zip(("median", "95 %"), (0.5, 0.95)))
        lines += [
            "durations in seconds",
            f"  shortest {seconds.min():.2f}, mean {seconds.mean():.2f}, {quantiles}, longest {seconds.max():.2f}, "
            f"{seconds.sum() / 3600:.2f} hours in all",
        ]
    lines += [*_fault_lines(corpus), *corpus.missing_sessions()]
    if isinstance(folds, str):
        return "\n".join([*lines, f"folds: none, {folds}"])
    lines.append(f"{len(folds)} folds, session numbers (utterances)")
    as_published = (len(folds), len(corpus.sessions)) == (len(known.test_sizes), known.sessions)
    for index, fold in enumerate(folds):
        splits = split_utterances(utterances, fold)
        comparison = f"   test: {compared(len(splits['test']), known.test_sizes[index])}" if as_published else ""
        lines.append(f"  fold {index}{comparison}")
        for split in SPLITS:
            lines.append(f"    {split:<6}{', '.join(map(str, fold[split]))} ({len(splits[split]):,})")
    return "\n".join(lines)


def _fault_lines(corpus):
    """The faults by kind, a few of each."""
    lines = ["faults" if corpus.faults else "no faults"]
    by_kind = {}
    for fault in corpus.faults:
        by_kind.setdefault(fault.kind, []).append(fault)
    for kind, faults in by_kind.items():
        lines.append(f"  {kind}")
        for _, file, row, segment_id, what in faults[:SHOWN]:
            place = file + (f", row {row}" if row else "") + (f", {segment_id}" if segment_id not in file else "")
            lines.append(f"    {place}: {what}")
        if len(faults) > SHOWN:
            lines.append(f"    … and {len(faults) - SHOWN:,} more (--faults FILE.csv writes all)")
    return lines


@one_line_errors
def main():
    from utils.training.arguments import named_path  # which imports this module

    parser = argparse.ArgumentParser(
        prog="python -m utils.data.kemdy",
        description="Audit a copy of KEMDy19 or KEMDy20.",
        epilog="In the tables, a cell that a spreadsheet would take for a formula is preceded by an apostrophe. They hold "
        "transcripts or ids, so neither is written where a git checkout does not ignore it.",
    )
    parser.add_argument("root", type=named_path, help="the corpus folder, with annotation/ and wav/ in it")
    parser.add_argument(
        "--csv", metavar="FILE", type=named_path, help=f"write the usable utterances as a table: {', '.join(COLUMNS)}"
    )
    parser.add_argument(
        "--faults", metavar="FILE", type=named_path, help=f"write all faults as a table: {', '.join(Fault._fields)}"
    )
    parser.add_argument("--folds-json", metavar="FILE", type=named_path, help="write the folds' session numbers as JSON")
    parser.add_argument("--k_fold", type=int, default=5, help="number of folds (default: %(default)s)")
    args = parser.parse_args()

    for path in filter(None, (args.csv, args.faults)):
        refuse_tracked(path)
    corpus = read_corpus(args.root)
    try:
        folds = session_folds(corpus.sessions, args.k_fold)
    except UserError as error:
        if args.folds_json:
            raise
        folds = str(error)
    print(printable(audit(corpus, folds)))
    faults = pd.DataFrame(corpus.faults, columns=list(Fault._fields))
    for path, table in ((args.csv, corpus.utterances), (args.faults, faults)):
        if path:
            with whole_file(path) as file:
                file.write(table.map(spreadsheet_safe).to_csv(index=False).encode(errors="surrogateescape"))
    if args.folds_json:
        write_json(args.folds_json, {str(index): fold for index, fold in enumerate(folds)})


if __name__ == "__main__":
    main()
