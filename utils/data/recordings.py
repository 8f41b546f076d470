"""What is to be predicted: files with their transcripts, or the rows of a table."""

import math
import os
import unicodedata
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from utils.data.judge import not_text
from utils.data.manifest import LINE_END, NO_NAME, is_outside, read_table, seconds
from utils.files import existing_path


class Recording(NamedTuple):
    """One utterance.

    Attributes:
        file_name: as it was given.
        path: of the file.
        text: its transcript, "" where there is none.
        start, end: seconds of the file; None is the file's end.
        problem: why it cannot be used, "" as long as nothing is wrong.
    """

    file_name: str
    path: str
    text: str = ""
    start: float = 0.0
    end: float | None = None
    problem: str = ""


def recordings_of(files, texts=None):
    """Files and their transcripts → a list of Recordings.

    Args:
        files: a path, or several.
        texts: a text for each file; None for an empty one, or for all.

    Raises:
        ValueError: if there is not one text for each file.
    """
    files = [files] if isinstance(files, str | os.PathLike) else list(files)
    texts = [texts] if isinstance(texts, str) else [""] * len(files) if texts is None else list(texts)
    if len(texts) != len(files):
        raise ValueError(f"{len(files)} files and {len(texts)} texts: give one text for each file, or none at all")
    names = [os.fspath(file) for file in files]
    texts = ["" if pd.isna(text) else str(text) for text in texts]
    return [_recording(name, name, text) for name, text in zip(names, texts)]


def read_recordings(path):
    """The rows of a .csv or .jsonl file with the columns of one's own corpora → a list of Recordings.

    Args:
        path: of the table; ``file_name`` is relative to its folder, other columns are not needed.

    Raises:
        UserError: if it is not in its form, or has no column ``file_name``. What is wrong with one row is its ``problem``.
    """
    path, recordings = Path(path), []
    for cells in read_table(path, needed=("file_name",)).table.itertuples():
        start, end, problem = seconds(cells.start, cells.end)
        if is_outside(cells.file_name):
            problem = f"is outside of {path.parent}, the folder of {path.name}"
        sound = os.path.join(path.parent, cells.file_name)
        if not sound.isascii():  # a Mac may have decomposed the name, of the file or in the table
            sound = str(existing_path(sound))
        recordings.append(_recording(cells.file_name, sound, cells.transcription, start, end, problem))
    return recordings


def _recording(file_name, path, text, start=0.0, end=None, problem=""):
    text = unicodedata.normalize("NFC", LINE_END.sub(" ", text.strip()))
    if not file_name or NO_NAME.search(file_name):
        problem = "its name holds a control character, or is not in UTF-8: rename it" if file_name else "no file_name"
    elif not problem and (wrong := not_text(text)):
        problem = f"its transcript {wrong}"
    return Recording(file_name, path, text, start, end, problem)


def windows_of(seconds, window):
    """Windows over an utterance, each half a window after the one before; the last one ends with the utterance.

    Args:
        seconds: of the utterance.
        window: its length in seconds.

    Returns:
        Where each begins, in seconds of the utterance.
    """
    hops = math.ceil(2 * (seconds - window) / window - 1e-9)
    return [index * window / 2 for index in range(max(0, hops) + 1)]
