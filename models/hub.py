"""Models by hub name or folder: what a name means, where its files are, and one line where they cannot be had.

A name may carry a hub revision: ``skt/kobert-base-v1@main``.
"""

import logging
import re
import sys
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from transformers.utils import cached_file, has_file
from transformers.utils import logging as transformers_logging

from models.errors import UserError

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")


def split_revision(name):
    """``name@revision`` → (name, revision); a folder, whose path may hold an @, has no revision."""
    if "@" in name and not Path(name).exists():
        return tuple(name.rsplit("@", 1))
    return name, None


@contextmanager
def one_line_if_missing(kind, name):
    """Within it a model is loaded by ``name``; a failure becomes one UserError that says how to get it or name a folder."""
    hub_name, revision = split_revision(name)
    if not Path(name).is_dir():
        if hub_name.count("/") > 1 or hub_name.startswith((".", "/", "~")):
            raise UserError(
                f"--{kind}_model {name}: there is no such folder, and it is not the form of a hub name (owner/model)"
            )
    try:
        with quiet():
            if not Path(name).is_dir() and try_to_load_from_cache(hub_name, "config.json", revision=revision) is None:
                print(f"looking for {name} on the Hugging Face hub", file=sys.stderr)
            yield
    except UserError:
        raise
    except Exception as error:
        # On what is not a whole model transformers raises nearly anything, with many lines: the first says what is wrong.
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        problem = f"{kind} encoder {name} cannot be loaded ({reason.rstrip('.:')})."
        if Path(name).is_dir():
            raise UserError(f"{problem} The folder must hold a Hugging Face model: config.json, weights, vocabulary") from None
        at = f" --revision {revision}" if revision else ""
        raise UserError(
            f"{problem} Where there is a network, download it with 'hf download {hub_name}{at}'; "
            f"elsewhere copy its folder and name it: --{kind}_model FOLDER"
        ) from None


@contextmanager
def quiet():
    # Loading reports, bars for each file and five retries without a network say less than the one line that follows.
    hub_logger = logging.getLogger("huggingface_hub")
    hub_level, verbosity = hub_logger.level, transformers_logging.get_verbosity()
    hub_logger.setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        hub_logger.setLevel(hub_level)
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.enable_progress_bar()


def find_file(name, file):
    """Path of a file that a model may have, in its folder or on the hub; None if the model has none.

    Args:
        name: a hub name, with ``@revision`` if wanted, or a folder.
        file: the file's name.

    Raises:
        OSError: if the model itself cannot be had.
    """
    name, revision = split_revision(name)
    if Path(name).is_dir():
        path = Path(name, file)
        return path if path.exists() else None
    # First a file that every model has: only then does "not there" mean that there is none, and not "no network".
    cached_file(name, "config.json", revision=revision)
    cached = try_to_load_from_cache(name, file, revision=revision)
    if cached is not None:
        return cached if isinstance(cached, str) else None
    # It asks once, where cached_file would try for 23 seconds without a network.
    return cached_file(name, file, revision=revision) if has_file(name, file, revision=revision) else None


def local_folder(kind, name):
    """Folder of an encoder that a file names: that folder, or its copy in the hub's cache. Nothing is ever fetched for it.

    Raises:
        UserError: if it is not on this machine; the line says that the user may name one.
    """
    try:
        if Path(name).is_dir():
            return str(name)
    except OSError:  # a name that is too long for one
        pass
    return cached_folder(kind, name)


def cached_folder(kind, name):
    """As ``local_folder``, for a name that came from elsewhere: it is never taken for a folder's."""
    cached = None
    if HUB_NAME.fullmatch(name):
        hub_name, _, revision = name.partition("@")
        try:
            cached = try_to_load_from_cache(hub_name, "config.json", revision=revision or None)
        except (OSError, ValueError):  # not a hub name after all
            pass
    if not isinstance(cached, str):
        raise UserError(
            f"the {kind} encoder {name} is not on this machine, and nothing is fetched that you have not named: name its "
            f"folder or hub name (--{kind}_model, or {kind}_model= in Python)"
        )
    return str(Path(cached).parent)
