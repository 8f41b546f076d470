"""The names of a run folder's files, and files that are read with a clear word and written whole or not at all."""

import contextlib
import hashlib
import json
import os
from pathlib import Path

from utils.errors import UserError

BEST_MODEL, CONFIG, HISTORY, METRICS, PREDICTIONS = (
    "best_model.pt",
    "config.json",
    "history.csv",
    "metrics.json",
    "predictions.csv",
)
# Lies at the top of a corpus or an encoder that a program made.
SYNTHETIC_MARKER = "SYNTHETIC"


def run_folder(output_root, exp_name, fold, task):
    """Where a run's files lie: output_root/exp_name/fold_<k>/<task>."""
    return Path(output_root) / exp_name / f"fold_{fold}" / task


def read_json(path):
    """Read a JSON object.

    Raises:
        UserError: if the file is not one.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object")
    return content


def sha256(path):
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path, content):
    """Write a file whole or not at all: a reader sees the old one or the new one.

    Raises:
        UserError: if it cannot be written; what was written before stands.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise UserError(f"{path} cannot be written ({error.strerror}); what was written before stands") from None


def write_text(path, content):
    """``write_bytes`` for text, in UTF-8."""
    write_bytes(path, content.encode())


def write_json(path, content):
    """``write_bytes`` for JSON."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
