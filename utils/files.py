"""File names in a run folder; reading, atomic writing, and locks."""

import contextlib
import errno
import hashlib
import json
import os
import socket
import subprocess
import time
import unicodedata
from datetime import datetime
from pathlib import Path

from filelock import lock_descriptor

from utils.errors import UserError

BEST_MODEL, CONFIG, HISTORY, METRICS, PREDICTIONS = (
    "best_model.pt",
    "config.json",
    "history.csv",
    "metrics.json",
    "predictions.csv",
)
# The run's output, with a timestamp per line.
LOG = "log.txt"
# Optional, of an adapter: class centres by which its task is recognised (utils/training/routing.py).
CENTROIDS = "centroids.pt"
# Prefixes of parameter importances, such as fisher-b10.pt or mas-b10.pt (utils/training/fisher.py).
IMPORTANCES = ("fisher", "mas")
# Of a model trained with replay: the utterances of earlier tasks in its buffer (replay.py).
BUFFER = "buffer.csv"
# Results of the leak report (utils/leakage/): every utterance's membership score, and summary figures. The former is never
# exported.
MEMBERSHIP, LEAKAGE = "membership.csv", "leakage.json"
# Present while the run is unfinished.
LAST_CHECKPOINT = "last_checkpoint.pt"
# In an output folder: cached digests of unchanged files.
DIGESTS = ".digests.json"
# Errors of file systems without locks.
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
# File at the top of a generated corpus or encoder.
SYNTHETIC_MARKER = "SYNTHETIC"
# Characters that start a formula in spreadsheets; in Excel with East Asian locales also the full-width forms.
FORMULA = tuple("=+-@\t\r\n＝＋－＠")


def run_folder(output_root, exp_name, fold, task):
    """Path of a run folder: output_root/exp_name/fold_<k>/<task>."""
    return Path(output_root) / exp_name / f"fold_{fold}" / task


def lock_of(folder):
    """Path of a run folder's lock: beside it, since the folder may be removed or moved while a run writes to it."""
    return folder.with_name(f".{folder.name}.lock")


def existing_path(path, any_case=False):
    """``path`` as spelled on disk, if that differs only in Unicode normalization (or case).

    A path component that does not exist is replaced by the entry of its folder whose name is otherwise equal; without a unique
    match it is left unchanged.
    """
    path = Path(path)
    if os.path.exists(path) or path == path.parent:  # False without an error for names that are too long
        return path
    parent = existing_path(path.parent, any_case)
    for same in (_composed, lambda name: _composed(name).casefold())[: 1 + any_case]:
        with contextlib.suppress(OSError):
            found = [name for name in os.listdir(parent) if same(name) == same(path.name)]
            if len(found) == 1:
                return parent / found[0]
    return parent / path.name


def _composed(name):
    return unicodedata.normalize("NFC", name)


def refuse_tracked(path):
    """Raise UserError if ``git add -A`` would add a file at ``path``; not checked if git is not installed."""
    path = Path(os.path.realpath(path))
    command = ["git", "-C", path.parent, "check-ignore", "--quiet", "--", path]
    with contextlib.suppress(FileNotFoundError):
        # 0: ignored; 1: not ignored; 128: not in a checkout.
        if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 1:
            raise UserError(
                f"{path} would be committed by git add -A, and transcripts and ids of the corpora must not be: name a file "
                "outside the checkout, or in a folder that git ignores"
            )


def spreadsheet_safe(cell):
    """A table cell, prefixed with an apostrophe if a spreadsheet would interpret it as a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def read_json(path, kind=dict):
    """Read a JSON object, or with ``kind=list`` a list.

    Raises:
        UserError: if the file is not one.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error})") from None
    except RecursionError:
        raise UserError(f"{path} cannot be read (nested too deep)") from None
    if not isinstance(content, kind):
        raise UserError(f"{path} is not a JSON {'object' if kind is dict else kind.__name__}")
    return content


def sha256(path):
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_folder(path):
    """Raise UserError if the parent folder of a file does not exist; call it before long computations."""
    if not Path(path).parent.is_dir():
        raise UserError(f"{path} cannot be written: there is no folder {Path(path).parent}")


@contextlib.contextmanager
def atomic_write(path, through_links=True, writer=""):
    """Open a binary file that atomically replaces ``path`` when the block ends.

    Even if the process is killed or the machine stops, a reader sees either the old file or the new one.
    Devices and pipes are written directly.

    Args:
        path: the file.
        through_links: replace the target of a symbolic link; otherwise the link itself is replaced.
        writer: distinguishes the partial file from those of other processes writing the same file.

    Raises:
        UserError: if it is a folder, or cannot be written; the previous file is kept.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file")
    if path.exists() and not path.is_file():
        with open(path, "wb") as file:
            yield file
        return
    if through_links:
        path = Path(os.path.realpath(path))
    partial = path.with_name(f".{path.name}{writer and '.' + writer}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        # torch.save raises its own errors when a write fails.
        while error is not None and not isinstance(error, OSError):
            error = error.__context__
        if error is None:
            raise
        raise UserError(f"{path} cannot be written ({error.strerror}); what was written before stands") from None
    with contextlib.suppress(OSError):  # not every file system can fsync a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path, content):
    """Write text in UTF-8, using ``atomic_write``."""
    with atomic_write(path) as file:
        file.write(content.encode())


def as_json(content):
    """JSON in the format of all our files."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # folder names need not be UTF-8
        text = json.dumps(content, indent=1)
    return text + "\n"


def write_json(path, content):
    """Write JSON, using ``atomic_write``."""
    write_text(path, as_json(content))


def this_process():
    """The line that identifies this process in a lock file."""
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    return f"process {os.getpid()} on {socket.gethostname()} since {since}"


class Locked(Exception):
    """Another process holds the lock; the message is the line that identifies it."""


class LockFile:
    """An exclusive lock that survives removal or replacement of its file.

    It uses flock, which the system releases when the process ends for any reason. On NFS (Linux, version 3 with lockd or 4) the
    server manages it, so that other machines respect it, and releases the lock of a lost machine after its lease. On a file
    system without locks the latest process recreates the file, and the previous one detects that it has lost the lock.

    Args:
        path: the lock file, created if missing, in an existing folder.
        owner: a line that identifies the holder to others.
        wait: block until the lock is free.

    Raises:
        Locked: if another process holds it.
        OSError: if it cannot be created.
    """

    def __init__(self, path, owner, wait=False):
        self.path = Path(path)
        while True:
            self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            try:
                locked = lock_descriptor(self.descriptor, blocking=wait)
            except OSError as error:
                os.close(self.descriptor)
                if error.errno not in NO_LOCKS:
                    raise
                with contextlib.suppress(FileNotFoundError):
                    self.path.unlink()
                self.descriptor, locked = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), True
            if not locked:
                time.sleep(0.2)  # the holder writes its line right after it gets the lock
                held_by = os.pread(self.descriptor, 1000, 0).decode(errors="replace").strip()
                os.close(self.descriptor)
                raise Locked(held_by or "another process")
            if self.is_held():
                break
            os.close(self.descriptor)  # the previous holder removed the file after we opened it
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, owner.encode() + b"\n", 0)

    def is_held(self):
        """Return whether the path still refers to the locked file; False after its folder was removed or moved."""
        try:
            found = os.lstat(self.path)
        except OSError:
            return False
        return os.path.samestat(found, os.fstat(self.descriptor))

    def release(self):
        """Remove the file, if it still exists, and release the lock."""
        if self.is_held():
            with contextlib.suppress(OSError):
                self.path.unlink()
        os.close(self.descriptor)
