"""The names of a run folder's files; reading, atomic writing, and locks."""

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
# What a run has printed, with the time of each line.
LOG = "log.txt"
# Lies beside an adapter where it was asked for: by what its task is recognised (utils/training/routing.py).
CENTROIDS = "centroids.pt"
# What importances of parameters begin with, which lie beside a model as fisher-b10.pt or mas-b10.pt (utils/training/fisher.py).
IMPORTANCES = ("fisher", "mas")
# Lies beside a model that was trained with replay: which utterances of earlier tasks it kept (replay.py).
BUFFER = "buffer.csv"
# Lie beside a model whose leak was measured: the score of every utterance by which a member of its training split is told, and
# the figures that are made of it (utils/leakage/). The former is never exported.
MEMBERSHIP, LEAKAGE = "membership.csv", "leakage.json"
# Lies there while the run is unfinished.
LAST_CHECKPOINT = "last_checkpoint.pt"
# In an output folder: digests of files that did not change since they were computed.
DIGESTS = ".digests.json"
# What a file system without locks answers.
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
# Lies at the top of a corpus or an encoder that a program made.
SYNTHETIC_MARKER = "SYNTHETIC"
# What spreadsheets take for the beginning of a formula, Excel in East Asian locales the full-width forms as well.
FORMULA = tuple("=+-@\t\r\n＝＋－＠")


def run_folder(output_root, exp_name, fold, task):
    """Where a run's files lie: output_root/exp_name/fold_<k>/<task>."""
    return Path(output_root) / exp_name / f"fold_{fold}" / task


def lock_of(folder):
    """The lock of a run folder: beside it, for the folder may be removed or moved while a run writes it."""
    return folder.with_name(f".{folder.name}.lock")


def existing_path(path, any_case=False):
    """``path`` as it is spelled on disk, where that differs in Unicode form (or case) alone.

    A part of the path that does not exist is replaced by the one entry of its folder whose name is the same but for that;
    where there is none, or a choice, it stays as it is.
    """
    path = Path(path)
    if os.path.exists(path) or path == path.parent:  # False, and no error, of a name that is too long
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
    """Raise UserError if ``git add -A`` would take along a file that is written to ``path``; without git there is no need."""
    path = Path(os.path.realpath(path))
    command = ["git", "-C", path.parent, "check-ignore", "--quiet", "--", path]
    with contextlib.suppress(FileNotFoundError):
        # 0: ignored; 1: not ignored; 128: in no checkout.
        if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 1:
            raise UserError(
                f"{path} would be committed by git add -A, and transcripts and ids of the corpora must not be: name a file "
                "outside the checkout, or in a folder that git ignores"
            )


def spreadsheet_safe(cell):
    """The cell of a table, with an apostrophe before a text that a spreadsheet would take for a formula."""
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
    """Raise UserError if there is no folder to write a file to: to be called before what takes long."""
    if not Path(path).parent.is_dir():
        raise UserError(f"{path} cannot be written: there is no folder {Path(path).parent}")


@contextlib.contextmanager
def atomic_write(path, through_links=True, writer=""):
    """A file, open for bytes, that takes the place of ``path`` when the block ends.

    Whatever kills the process, or stops the machine, a reader sees the old file or the new.
    A device or a pipe, which holds nothing, is written as it is.

    Args:
        path: the file.
        through_links: a link stays one, and what it names is replaced; otherwise the link itself is.
        writer: what tells the partial file from that of another process which writes the same file.

    Raises:
        UserError: if it is a folder, or cannot be written; what was written before stands.
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
        # torch.save raises errors of its own when a write fails.
        while error is not None and not isinstance(error, OSError):
            error = error.__context__
        if error is None:
            raise
        raise UserError(f"{path} cannot be written ({error.strerror}); what was written before stands") from None
    with contextlib.suppress(OSError):  # not every file system can write a folder out by itself
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path, content):
    """Write text in UTF-8, as ``atomic_write``."""
    with atomic_write(path) as file:
        file.write(content.encode())


def as_json(content):
    """JSON as all files hold it."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # names of folders need not be UTF-8
        text = json.dumps(content, indent=1)
    return text + "\n"


def write_json(path, content):
    """Write JSON, as ``atomic_write``."""
    write_text(path, as_json(content))


def this_process():
    """The line that a lock names its holder by."""
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    return f"process {os.getpid()} on {socket.gethostname()} since {since}"


class Locked(Exception):
    """Another process holds the lock; the message is what it wrote into it, who it is."""


class LockFile:
    """A lock that one process holds, whatever happens to the file meanwhile.

    The lock is the system's (flock), which ends with its process, however that ends. On NFS (Linux, version 3 with lockd or 4)
    the server holds it, so that other machines see it, and takes it from one that is gone after its lease. On a file system
    without locks the last process to come recreates the file, and the one before finds that it does not hold it any more.

    Args:
        path: the lock file, which is made if missing, in a folder that is there.
        owner: a line for others to read.
        wait: until nobody else holds it.

    Raises:
        Locked: if another process holds it.
        OSError: if it cannot be made.
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
                time.sleep(0.2)  # the first writes who it is just after it has the lock
                held_by = os.pread(self.descriptor, 1000, 0).decode(errors="replace").strip()
                os.close(self.descriptor)
                raise Locked(held_by or "another process")
            if self.is_held():
                break
            os.close(self.descriptor)  # who held it before has removed it since it was opened
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, owner.encode() + b"\n", 0)

    def is_held(self):
        """Is what lies at the path still the file that is locked? Not after its folder was removed or moved away."""
        try:
            found = os.lstat(self.path)
        except OSError:
            return False
        return os.path.samestat(found, os.fstat(self.descriptor))

    def release(self):
        """Remove the file, if it is still there, and let others have the lock."""
        if self.is_held():
            with contextlib.suppress(OSError):
                self.path.unlink()
        os.close(self.descriptor)
