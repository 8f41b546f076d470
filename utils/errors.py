"""User errors are printed as one line that names the file, row or flag and what to do, without a traceback."""

import contextlib
import errno
import functools
import os
import sys

from models.errors import UserError

__all__ = ["RESUMABLE", "UserError", "one_line_errors", "printable"]
# EX_TEMPFAIL of sysexits.h (try again later): the exit code of an interrupted run that the same command resumes.
RESUMABLE = 75


def printable(text):
    """``text`` with non-printable characters except line ends escaped, safe for a terminal."""
    return "".join(character if character == "\n" or character.isprintable() else ascii(character)[1:-1] for character in text)


def one_line_errors(main):
    """Let a script's ``main`` end with one line on stderr and exit code 1 instead of a traceback.

    Only errors that the user can fix are shortened: :class:`UserError`, a full disk, missing permissions, too many open files,
    Ctrl-C (code 130). Bugs keep their traceback.
    """

    @functools.wraps(main)
    def wrapped(*args, **kwargs):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError):  # a replaced stream may lack the method
                # A terminal may lack "→", and folder names need not be UTF-8.
                stream.reconfigure(errors="backslashreplace")
        try:
            return main(*args, **kwargs)
        except UserError as error:
            message = str(error)
        except BrokenPipeError:
            # The reader has closed the pipe (``| head``); discard what is still buffered.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except OSError as error:
            limit = "; start it from a shell that allows more (ulimit -n)" if error.errno == errno.EMFILE else ""
            known = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.ENFILE)
            if error.errno not in known:
                raise
            message = f"{error.filename or 'opening or writing a file'}: {error.strerror}{limit}"
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)
        rank = os.environ.get("RANK", "0")
        message = printable(message).replace("\n", " ")  # file names and table cells may contain anything
        print("error: " + ("" if rank == "0" else f"[process {rank}] ") + message, file=sys.stderr)
        sys.exit(1)

    return wrapped
