"""Text files of corpora, with clear error messages."""

import csv
import io
from pathlib import Path

from utils.data.audio import stat_file
from utils.errors import UserError


def csv_rows(path):
    """Non-empty rows of a CSV, as (row number from 1, stripped cells).

    Raises:
        UserError: if it cannot be read, is not UTF-8 or not CSV, or has rows of different lengths; the message names the row.
    """
    rows, number = [], 0
    try:
        # Strict: an unclosed quote would swallow the rest of the file.
        for number, row in enumerate(csv.reader(io.StringIO(utf8_text(path), newline=""), strict=True), 1):
            cells = list(map(str.strip, row))
            if any(cells):
                rows.append((number, cells))
    except csv.Error as error:
        raise UserError(f"{path}: row {number + 1} is not CSV ({error}); fix it, or copy the file again") from None
    for number, cells in rows:
        width = len(rows[0][1])
        while len(cells) > width and not cells[-1]:
            cells.pop()
        if len(cells) != width:
            raise UserError(f"{path}: row {number} has {len(cells)} cells where the header has {width}")
    return rows


def utf8_text(path):
    """Text of a UTF-8 file. Raises UserError, naming the line, if it cannot be read or has another encoding."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); copy it again, or make it readable") from None
    except UnicodeDecodeError as error:
        number = len(error.object[: error.start + 1].splitlines())
        raise UserError(f"{path}: line {number} is not in UTF-8 ({error.reason}); save it in UTF-8, or copy it again") from None


def read_bytes(path):
    """Content of a file. Raises OSError if it is not a regular file."""
    stat_file(path)
    return Path(path).read_bytes()
