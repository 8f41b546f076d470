"""What is to be predicted: files with their transcripts, or the rows of a table; and their sound, in any format."""

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

# What ``read_header`` says of a format that libsndfile does not read.
UNKNOWN_FORMAT = soundfile.LibsndfileError(1).error_string.rstrip(".")


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


class TemporaryWav:
    """A file of this ``name``, which is there as long as this object is."""

    def __init__(self):
        descriptor, self.name = mkstemp(suffix=".wav")
        os.close(descriptor)
        weakref.finalize(self, os.unlink, self.name)


class Decoded(NamedTuple):
    """A sound file as soundfile can read it.

    Attributes:
        header: its WavHeader, or a str that says why it cannot be used.
        path: where to read it.
        temporary: the TemporaryWav there, if it is not the file itself.
    """

    header: WavHeader | str
    path: str
    temporary: TemporaryWav | None = None


def decoded(path, parts=False):
    """``read_header`` of a file in any format: what soundfile does not read (m4a, mp4, aac) is decoded by ffmpeg, where it is.

    Args:
        path: of the file.
        parts: will it be read from other places than its beginning?

    Returns:
        A Decoded; size and time of change in its header are those of the file itself.
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
    # Only files: a playlist under the name of a recording could name anything on the net.
    command = [ffmpeg, "-nostdin", "-v", "error", "-protocol_whitelist", "file", "-i", f"file:{path}", "-vn", "-y", wav.name]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return Decoded(f"cannot be read, not by ffmpeg either ({said[-1]})", path)
    header = read_header(wav.name)
    if isinstance(header, WavHeader):
        header = header._replace(size=before.st_size, mtime_ns=before.st_mtime_ns)
    return Decoded(header, wav.name, wav)


def _seekable(path, header):
    """A Decoded: of an MP3 a wav of one channel, any other file as it is.

    Where libsndfile seeks in an MP3, the first tenths of a second are wrong, and a later place takes longer to find.
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
