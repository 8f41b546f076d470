"""Models on the Hugging Face hub: ``hub:OWNER/NAME``, with ``@REVISION`` if wanted."""

from pathlib import Path

from utils.errors import UserError

PREFIX = "hub:"
# The exported file in a repository of the hub.
FILE = "model.safetensors"


def local_path(named):
    """Path of a model: of ``hub:OWNER/NAME`` the exported file in the hub's cache, downloaded if need be; of a path itself.

    Raises:
        UserError: if it cannot be downloaded.
    """
    if not str(named).startswith(PREFIX):
        return Path(named)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, _, revision = str(named).removeprefix(PREFIX).partition("@")
    try:
        return Path(hf_hub_download(name, FILE, revision=revision or None))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise UserError(
            f"{named} cannot be downloaded ({str(error).splitlines()[0]}): is it {PREFIX}OWNER/NAME, and may you?"
        ) from None
