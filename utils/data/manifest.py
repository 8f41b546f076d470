"""A corpus of one's own on disk, metadata.csv or .jsonl and perhaps corpus.json → a Corpus (docs/own-corpus.md).

The rules are those of Hugging Face's audiofolder, so that a folder that loads there loads here.
"""

import csv
import io
import json
import math
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from utils.data import SPLITS
from utils.data.corpus import METADATA, Corpus, unknown_labels
from utils.data.judge import Findings, Row, composed, not_text, table_digest, usable_table
from utils.data.kemdy import EMOTIONS
from utils.errors import UserError
from utils.files import SYNTHETIC_MARKER, read_json

# Column → the names that it is also read by, of which the first that is there is taken.
COLUMN_NAMES = {
    "file_name": ("file_name", "path", "wav"),
    "emotion": ("emotion", "label", "emo"),
    "transcription": ("transcription", "text", "transcript"),
    "speaker_id": ("speaker_id", "speaker"),
    "session": ("session",),
    "split": ("split",),
    "start": ("start",),
    "end": ("end",),
    "id": ("id", "segment_id", "key"),
}
NEEDED = ("file_name", "emotion", "transcription")
SETTINGS = "corpus.json"
ABOUT = ("language", "licence", "citation")
LINE_END = re.compile(r"\s*[\r\n]+\s*")
# What no id, file name or label holds: control characters and line ends.
NO_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Settings(NamedTuple):
    """What corpus.json says: labels in their order or None, ``{label: label or None}``, ABOUT, and keys that are not read."""

    labels: tuple | None
    label_map: dict
    about: dict
    unread: list


@dataclass
class Metadata:
    """What a metadata file says: its path, each row's number, ``{column: cells}`` by COLUMN_NAMES, and columns not read."""

    path: Path
    numbers: list
    cells: dict
    unread: list

    def column(self, name):
        """Cells of a column, empty ones if it is not there."""
        return self.cells.get(name) or [""] * len(self.numbers)


def read_manifest(root, name, progress=True):
    """Read a corpus of one's own.

    Args:
        root: the corpus folder.
        name: what it is called.
        progress: show a bar when sound files are looked at for the first time.

    Returns:
        A Corpus; labels that corpus.json neither lists nor maps are in its ``unknown_labels``, their rows dropped.

    Raises:
        UserError: if metadata or corpus.json are not in their form; the line names the file and row.
    """
    settings, metadata, findings = read_settings(root), read_metadata(root), Findings()
    labels, emotions, label_reasons = classes(metadata, settings)
    groups = _groups(metadata, findings)
    given_splits = "split" in metadata.cells
    for column in metadata.unread:
        findings.note("columns not read", metadata.path, "", "", f"column {column!r}")
    for key in settings.unread:
        findings.note("keys not read", root / SETTINGS, "", "", f"key {key!r}")
    rows = _judge_rows(root, metadata, emotions, label_reasons, groups, findings)
    table = usable_table(root, rows, findings, progress)
    return Corpus(
        name=name,
        root=root,
        labels=labels,
        utterances=table,
        digest=table_digest(table),
        sessions=list(SPLITS) if given_splits else sorted({row.session for row in rows}),
        given_splits=given_splits,
        rows=len(metadata.numbers),
        dropped=findings.dropped,
        notes=findings.notes,
        unreadable=findings.unreadable,
        unreadable_transcripts=findings.unreadable_transcripts,
        faults=findings.faults,
        synthetic=(root / SYNTHETIC_MARKER).exists(),
        unknown_labels=_unknown(metadata, label_reasons),
        about=settings.about,
    )


def outline_manifest(root):
    """(labels, given_splits). Raises UserError as ``read_manifest``, and of labels that are neither listed nor mapped."""
    settings, metadata = read_settings(root), read_metadata(root)
    labels, _, label_reasons = classes(metadata, settings)
    if unknown := _unknown(metadata, label_reasons):
        raise UserError(unknown_labels(root, unknown))
    return labels, "split" in metadata.cells


# Reading


def read_settings(root):
    """Settings of corpus.json, those of an empty one where there is none.

    Raises:
        UserError: if a key's value is not of its kind.
    """
    path = root / SETTINGS
    content = read_json(path) if path.exists() else {}

    def refuse(key, wanted):
        raise UserError(f"{path}: {key!r} is not {wanted}")

    labels, label_map = content.get("labels"), content.get("label_map", {})
    if labels is not None:
        if not isinstance(labels, list) or not all(isinstance(label, str) and label.strip() for label in labels):
            refuse("labels", "a list of names")
        if len(set(labels)) < len(labels) or len(labels) < 2:
            refuse("labels", "a list of two names or more, each once")
    names = label_map.values() if isinstance(label_map, dict) else [0]
    if not all(to is None or isinstance(to, str) and to.strip() for to in names):
        refuse("label_map", 'an object such as {"hap": "happy", "xxx": null}')
    for label, to in label_map.items():
        if labels is not None and to is not None and to not in labels:
            raise UserError(f"{path}: label_map maps {label!r} to {to!r}, which is not among labels")
    about = {key: content[key] for key in ABOUT if key in content}
    for key, text in about.items():
        if not isinstance(text, str):
            refuse(key, "a text")
    unread = [key for key in content if key not in ("labels", "label_map", *ABOUT)]
    return Settings(None if labels is None else tuple(labels), label_map, about, unread)


def read_metadata(root):
    """Metadata of a corpus folder; cells are texts without white space at their ends.

    Raises:
        UserError: if the file is not there twice or not at all, not in its form, or lacks a column that is needed.
    """
    found = [root / file for file in METADATA if (root / file).exists()]
    if len(found) != 1:
        raise UserError(f"{root} holds {' and '.join(METADATA) if found else 'no metadata'}: one of them is needed")
    path = found[0]
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); make it a file that can be read") from None
    except UnicodeDecodeError as error:
        number = len(error.object[: error.start + 1].splitlines())
        raise UserError(f"{path}: line {number} is not in UTF-8 ({error.reason}); save the file in UTF-8") from None
    header, numbers, columns = (_csv_columns if path.suffix == ".csv" else _jsonl_columns)(path, text)
    names = [name.strip().lower() for name in header]
    if repeated := [name for name, count in Counter(names).items() if name and count > 1]:
        raise UserError(f"{path}: the column {repeated[0]!r} is there twice; rename one")
    cells, taken = {}, set()
    for meaning, aliases in COLUMN_NAMES.items():
        for alias in aliases:
            if alias in names and meaning not in cells:
                cells[meaning] = columns[names.index(alias)]
                taken.add(alias)
    for meaning in NEEDED:
        if meaning not in cells:
            others = " or ".join(COLUMN_NAMES[meaning][1:])
            hint = "; are its cells separated by commas?" if len(names) < 2 else ""
            raise UserError(f"{path}: there is no column {meaning} (also read as {others}){hint}")
    if not cells.keys() & {"speaker_id", "session", "split"}:
        raise UserError(f"{path}: there is no column speaker_id, session or split, one of which folds are made by")
    return Metadata(path, numbers, cells, [name for name in header if name.strip() and name.strip().lower() not in taken])


def _csv_columns(path, text):
    """(header, row numbers, columns) of a CSV with one header row; empty rows are passed over."""
    rows, numbers, count = [], [], 0
    try:
        # Strict: a quote that is opened and never closed would swallow the rest of the file.
        for count, row in enumerate(csv.reader(io.StringIO(text, newline=""), strict=True), 1):
            if not any(map(str.strip, row)):
                continue
            if rows and len(row) != len(rows[0]):
                raise UserError(f"{path}: row {count} has {len(row)} cells where the header has {len(rows[0])}")
            rows.append(row)
            numbers.append(count)
    except csv.Error as error:
        raise UserError(f"{path}: row {count + 1} is not CSV ({error})") from None
    if len(rows) < 2:
        raise UserError(f"{path}: there is no row below a header")
    return rows[0], numbers[1:], [list(map(str.strip, column)) for column in zip(*rows[1:])]


def _jsonl_columns(path, text):
    """The same of a file with a JSON object in each line."""
    objects, numbers = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: line {number} is not JSON ({error})") from None
        if not isinstance(found, dict):
            raise UserError(f"{path}: line {number} is not a JSON object")
        objects.append(found)
        numbers.append(number)
    if not objects:
        raise UserError(f"{path}: there is no line with an object")
    header = list(dict.fromkeys(key for found in objects for key in found))
    read = {alias for aliases in COLUMN_NAMES.values() for alias in aliases}
    columns = []
    for name in header:
        cells = [found.get(name) for found in objects]
        columns.append(
            [_json_text(path, *place, name) for place in zip(numbers, cells)] if name.strip().lower() in read else []
        )
    return header, numbers, columns


def _json_text(path, number, cell, name):
    if cell is None or cell != cell:  # null, and the NaN that others write for it
        return ""
    if isinstance(cell, (dict, list)):
        raise UserError(f"{path}: line {number}: {name!r} is neither a text nor a number")
    text = str(cell).strip()
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{path}: line {number}: {name!r} holds half of a character (\\ud800 to \\udfff)")
    return text


# Judging


def classes(metadata, settings):
    """The labels in the order of the classes, ``{cell: emotion}``, and ``{cell: reason}`` of the cells that have none.

    Without labels in corpus.json, those that occur are the classes: sorted, or all of KEMDy where they are among them.
    """
    mapped = {cell: settings.label_map.get(cell, cell) for cell in dict.fromkeys(metadata.column("emotion"))}
    labels = settings.labels
    if labels is None:
        occur = {label for label in mapped.values() if label}
        if not occur:
            raise UserError(f"{metadata.path}: no row has a label")
        labels = EMOTIONS if occur <= set(EMOTIONS) else tuple(sorted(occur))
        if len(labels) < 2:
            raise UserError(f"{metadata.path}: all rows have the label {labels[0]!r}, and two are needed")
    if odd := [label for label in labels if NO_NAME.search(label)]:
        raise UserError(f"{metadata.path}: the label {odd[0]!r} holds a control character or a line end")
    emotions = {cell: label for cell, label in mapped.items() if label in labels}
    reasons = {None: "label mapped to null", "": "no label"}
    return labels, emotions, {cell: reasons.get(to, "unknown label") for cell, to in mapped.items() if cell not in emotions}


def _unknown(metadata, label_reasons):
    """Labels that corpus.json neither lists nor maps, with counts, the most frequent first."""
    found = Counter(cell for cell in metadata.column("emotion") if label_reasons.get(cell) == "unknown label")
    return dict(found.most_common())


def _groups(metadata, findings):
    """What each row's folds are made over: its split, its session or speaker, or a group that is connected by either."""
    speakers, sessions = metadata.column("speaker_id"), metadata.column("session")
    if "split" in metadata.cells:
        splits = metadata.cells["split"]
        for number, split in zip(metadata.numbers, splits):
            if split not in SPLITS:
                raise UserError(f"{metadata.path}: row {number}: the split {split!r} is none of {', '.join(SPLITS)}")
        shared = Counter(speaker for speaker, _ in set(zip(speakers, splits)) if speaker)
        for speaker in sorted(speaker for speaker, count in shared.items() if count > 1):
            findings.note("speakers in several splits", metadata.path, "", "", f"speaker {speaker!r} is")
        return splits
    if "session" not in metadata.cells:
        return speakers
    if "speaker_id" not in metadata.cells:
        return sessions
    group_of = _connected(set(zip(sessions, speakers)))
    for members in sorted({group for group in group_of.values() if len(group) > 1}):
        what = f"sessions {', '.join(members[:10])}{' …' if len(members) > 10 else ''} are one group, for they share speakers"
        findings.note("sessions that share speakers", metadata.path, "", "", what)
    names = {pair: _group_name(group) for pair, group in group_of.items()}
    return [names[pair] for pair in zip(sessions, speakers)]


def _connected(pairs):
    """``{(session, speaker): sorted sessions of its group}``; groups share neither. A session or speaker may be empty."""
    parent = {}

    def top(node):
        while parent.setdefault(node, node) != node:
            parent[node] = node = parent[parent[node]]
        return node

    for session, speaker in pairs:
        if session and speaker:
            parent[top(("session", session))] = top(("speaker", speaker))
    members = {}
    for session, speaker in sorted(pairs):
        node = ("session", session) if session else ("speaker", speaker)
        members.setdefault(top(node), {})[session or speaker] = None
    groups = {node: tuple(names) for node, names in members.items()}
    return {pair: groups[top(("session", pair[0]) if pair[0] else ("speaker", pair[1]))] for pair in pairs}


def _group_name(members):
    return members[0] if len(members) == 1 else f"{members[0]} and {len(members) - 1:,} more"


def _judge_rows(root, metadata, emotions, label_reasons, groups, findings):
    """A Row for each row of the metadata that is usable for all that it says itself."""
    names = ("file_name", "emotion", "transcription", "speaker_id", "start", "end", "id")
    prefix, rows, seen, own_ids = os.path.join(root, ""), [], set(), "id" in metadata.cells
    for number, group, *cells in zip(metadata.numbers, groups, *map(metadata.column, names)):
        file_name, label, text, speaker, start, end, segment_id = cells
        if os.path.isabs(file_name) or ".." in file_name and os.path.normpath(file_name).startswith(".."):
            raise UserError(f"{metadata.path}: row {number}: {file_name} is outside of the corpus's folder")
        start, end, wrong_span = _seconds(start, end)
        if not own_ids:
            segment_id = os.path.splitext(file_name)[0] + (f"-{start:.3f}" if cells[4] else "")
        place = metadata.path, number
        if not segment_id or NO_NAME.search(segment_id):
            findings.drop("malformed id", *place, "", f"malformed id {segment_id[:40]!r}")
        elif segment_id in seen:
            findings.drop("duplicate id", *place, segment_id)
        elif reason := label_reasons.get(label):
            findings.drop(reason, *place, segment_id, f"{reason} {label[:40]!r}" if label else reason)
        elif not group:
            findings.drop("no speaker", *place, segment_id, "neither a speaker nor a session")
        elif wrong_span:
            findings.drop("unusable start or end", *place, segment_id, wrong_span)
        elif not file_name or NO_NAME.search(file_name):
            findings.drop("no wav", *place, segment_id, f"no wav {file_name!r}")
        elif what := not_text(text):
            findings.drop_transcript("transcript is not text", *place, segment_id, what)
        else:
            seen.add(segment_id)
            text = composed(LINE_END.sub(" ", text), findings)
            rows.append(Row(segment_id, group, speaker, emotions[label], prefix + file_name, start, end, text, place))
    return rows


def _seconds(start, end):
    """Start and end in seconds, of which the latter may be None, and what is wrong with them or ""."""
    try:
        first, last = float(start or 0), float(end) if end else None
    except ValueError:
        return 0.0, None, f"start {start!r} and end {end!r} are not both numbers"
    if not math.isfinite(first) or last is not None and not math.isfinite(last) or first < 0:
        return 0.0, None, f"start {start!r} and end {end!r} are not both seconds of a file"
    if last is not None and first >= last:
        return first, last, f"start {start} is not before end {end}"
    return first, last, ""
