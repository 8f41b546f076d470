"""Inputs for prediction: files with transcripts, or the rows of a table; audio in any format."""

import math
import os
import shlex
import shutil
import subprocess
import unicodedata
import weakref
from pathlib import Path
from tempfile import mkstemp
from typing import NamedTuple

import pandas as pd
import soundfile

from utils.data.audio import BLOCK, WavHeader, read_header
from utils.data.judge import not_text
from utils.data.manifest import LINE_END, NO_NAME, is_outside, read_table, seconds
from utils.files import existing_path

# The result of ``read_header`` for a format that libsndfile does not support.
UNKNOWN_FORMAT = soundfile.LibsndfileError(1).error_string.rstrip(".")


class Recording(NamedTuple):
    """One utterance.

    Attributes:
        file_name: as given.
        path: of the file.
        text: its transcript, "" if there is none.
        start, end: in seconds; an end of None is the end of the file.
        problem: why it cannot be used, or "".
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
        texts: a text for each file; None for an empty one, or for no texts at all.

    Raises:
        ValueError: if the number of texts differs from the number of files.
    """
    files = [files] if isinstance(files, str | os.PathLike) else list(files)
    texts = [texts] if isinstance(texts, str) else [""] * len(files) if texts is None else list(texts)
    if len(texts) != len(files):
        raise ValueError(f"{len(files)} files and {len(texts)} texts: give one text for each file, or none at all")
    names = [os.fspath(file) for file in files]
    texts = ["" if pd.isna(text) else str(text) for text in texts]
    return [_recording(name, name, text) for name, text in zip(names, texts)]


def read_recordings(path):
    """The rows of a .csv or .jsonl file with the columns of own corpora → a list of Recordings.

    Args:
        path: of the table; ``file_name`` is relative to its folder, other columns are optional.

    Raises:
        UserError: if it is malformed or has no column ``file_name``. Problems of single rows are in their ``problem``.
    """
    path, recordings = Path(path), []
    for cells in read_table(path, needed=("file_name",)).table.itertuples():
        start, end, problem = seconds(cells.start, cells.end)
        if is_outside(cells.file_name):
            problem = f"is outside of {path.parent}, the folder of {path.name}"
        sound = os.path.join(path.parent, cells.file_name)
        if not sound.isascii():  # macOS may have decomposed the name, of the file or in the table
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
    """Windows over an utterance with a hop of half a window; the last one ends with the utterance.

    Args:
        seconds: duration of the utterance.
        window: length of a window in seconds.

    Returns:
        The start of each window, in seconds from the start of the utterance.
    """
    hops = math.ceil(2 * (seconds - window) / window - 1e-9)
    return [index * window / 2 for index in range(max(0, hops) + 1)]


class TemporaryWav:
    """A temporary file with path ``name``, deleted with this object."""

    def __init__(self):
        descriptor, self.name = mkstemp(suffix=".wav")
        os.close(descriptor)
        weakref.finalize(self, os.unlink, self.name)


class Decoded(NamedTuple):
    """A sound file as soundfile can read it.

    Attributes:
        header: its WavHeader, or the reason (str) why it cannot be used.
        path: the file to read.
        temporary: its TemporaryWav, if it is not the original file.
    """

    header: WavHeader | str
    path: str
    temporary: TemporaryWav | None = None


def decoded(path, parts=False):
    """``read_header`` of a file in any format; formats that soundfile does not support (m4a, mp4, aac) are decoded by ffmpeg.

    Args:
        path: of the file.
        parts: whether it will be read from positions other than its start.

    Returns:
        A Decoded; size and modification time in its header are those of the original file.
    """
    header = read_header(path)
    if header == UNKNOWN_FORMAT:
        return _by_ffmpeg(path)
    return _seekable(path, header) if parts and isinstance(header, WavHeader) else Decoded(header, path)


def _by_ffmpeg(path):
    name, ffmpeg = os.path.basename(path), shutil.which("ffmpeg")
    if ffmpeg is None:
        stem, suffix = os.path.splitext(name)
        other = stem + (".flac" if suffix.lower() == ".wav" else ".wav")
        convert = f"convert it (ffmpeg -i {shlex.quote(name)} {shlex.quote(other)})"
        return Decoded(f"is in no format that can be read here without ffmpeg: {convert}", path)
    before, wav = os.stat(path), TemporaryWav()
    # Only local files: a playlist disguised as a recording could name any URL.
    command = [ffmpeg, "-nostdin", "-v", "error", "-protocol_whitelist", "file", "-i", f"file:{path}", "-vn", "-y", wav.name]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode:
        output = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return Decoded(f"cannot be read, not by ffmpeg either ({output[-1]})", path)
    header = read_header(wav.name)
    if isinstance(header, WavHeader):
        header = header._replace(size=before.st_size, mtime_ns=before.st_mtime_ns)
    return Decoded(header, wav.name, wav)


def _seekable(path, header):
    """A Decoded: a mono wav for an MP3, any other file unchanged.

    When libsndfile seeks in an MP3, the first tenths of a second are wrong, and later positions take longer to find.
    """
    try:
        with soundfile.SoundFile(path) as sound:
            if sound.format != "MP3":
                return Decoded(header, path)
            wav = TemporaryWav()
            with soundfile.SoundFile(wav.name, "w", sound.samplerate, 1, "FLOAT", format="RF64") as copy:
                while len(samples := sound.read(BLOCK, dtype="float32", always_2d=True)):
                    copy.write(samples.mean(axis=1))
    except (OSError, soundfile.LibsndfileError):  # such as no room for it
        return Decoded(header, path)
    return Decoded(header, wav.name, wav)
