"""Models by hub name or folder: parsing names, finding files, and one-line errors on loading failures.

A name may include a hub revision: ``skt/kobert-base-v1@main``.
"""

import logging
import pickle
import re
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HTTPError, StrictDataclassError
from safetensors import SafetensorError
from transformers.utils import cached_file, has_file
from transformers.utils import logging as transformers_logging

from models.errors import UserError

# File at the top of a generated corpus or encoder.
SYNTHETIC_MARKER = "SYNTHETIC"
# Raised for configs, weights or vocabularies that are missing, damaged, of another format, or inconsistent.
LOAD_ERRORS = (
    *(OSError, ValueError, KeyError, RuntimeError, EOFError, HTTPError),
    *(pickle.UnpicklingError, SafetensorError, StrictDataclassError),
)
HUB_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?(@[\w./-]+)?")


def split_revision(name):
    """``name@revision`` → (name, revision); a folder, whose path may contain an @, has no revision."""
    if "@" in name and not Path(name).exists():
        return tuple(name.rsplit("@", 1))
    return name, None


@contextmanager
def user_error_on_load_failure(kind, name):
    """Turn a failure to load the encoder ``name`` into one UserError that explains how to download it or name a folder.

    Wraps only calls into transformers, huggingface_hub and sentencepiece: bugs in this project's code keep their traceback.
    """
    hub_name, revision = split_revision(name)
    is_folder = Path(name).is_dir()
    if not is_folder and not HUB_NAME.fullmatch(name):
        raise UserError(f"--{kind}_model {name}: there is no such folder, and it is not a hub name (owner/model)")
    try:
        with quiet():
            if not is_folder and try_to_load_from_cache(hub_name, "config.json", revision=revision) is None:
                print(f"looking for {name} on the Hugging Face hub", file=sys.stderr)
            yield
    except Exception as error:
        # tokenizers raises a bare Exception for an unreadable vocabulary.
        if not isinstance(error, LOAD_ERRORS) and type(error) is not Exception:
            raise
        problem = f"{kind} encoder {name} cannot be loaded ({first_line(error).rstrip('.:')})."
        if is_folder:
            raise UserError(
                f"{problem} The folder must contain a Hugging Face model: config.json, weights, vocabulary"
            ) from None
        at = f" --revision {revision}" if revision else ""
        raise UserError(
            f"{problem} With network access, download it with 'hf download {hub_name}{at}'; "
            f"otherwise copy its folder and name it: --{kind}_model FOLDER"
        ) from None


def first_line(error):
    """The first line of an exception's message; its type if the message is empty."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def quiet():
    # Loading reports, a bar per file and five retries without a network are less useful than the one-line error.
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
    """Path of an optional file of a model, in its folder or from the hub; None if the model has no such file.

    Args:
        name: a hub name, with ``@revision`` if wanted, or a folder.
        file: the file's name.

    Raises:
        OSError: if the model itself cannot be accessed.
    """
    name, revision = split_revision(name)
    if Path(name).is_dir():
        path = Path(name, file)
        return path if path.exists() else None
    # First a file that every model has, to distinguish a missing file from a missing network.
    cached_file(name, "config.json", revision=revision)
    cached = try_to_load_from_cache(name, file, revision=revision)
    if cached is not None:
        return cached if isinstance(cached, str) else None
    # has_file tries once; cached_file would retry for 23 seconds without a network.
    return cached_file(name, file, revision=revision) if has_file(name, file, revision=revision) else None


def local_folder(kind, name):
    """Local folder of an encoder named in a file: that folder, or its copy in the hub's cache. Never downloads anything.

    Raises:
        UserError: if it is not on this machine.
    """
    if Path(name).is_dir():
        return str(name)
    cached, (hub_name, revision) = None, split_revision(name)
    with suppress(ValueError):  # not a hub name
        cached = try_to_load_from_cache(hub_name, "config.json", revision=revision)
    if not isinstance(cached, str):
        raise UserError(
            f"the {kind} encoder {name} is not on this machine, and is not downloaded unless you name it: give its folder or "
            f"hub name (--{kind}_model, or {kind}_model= in Python)"
        )
    return str(Path(cached).parent)
