"""Models on the Hugging Face hub: ``hub:OWNER/NAME``, with ``@REVISION`` if wanted."""

from contextlib import contextmanager
from pathlib import Path

from utils.errors import UserError

PREFIX = "hub:"
# The exported file in a repository of the hub.
FILE = "model.safetensors"

# huggingface_hub is imported within functions: --help need not wait for it.


def local_path(named):
    """Path of a model: of ``hub:OWNER/NAME`` the exported file in the hub's cache, downloaded if need be; of a path itself.

    Without a network, or with HF_HUB_OFFLINE, it is the copy in the cache.

    Raises:
        UserError: if it cannot be downloaded.
    """
    if not str(named).startswith(PREFIX):
        return Path(named)
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    name, _, revision = str(named).removeprefix(PREFIX).partition("@")
    with _one_line(f"{named} cannot be downloaded"):
        file = dict(repo_id=name, filename=FILE, revision=revision or None)
        if not isinstance(try_to_load_from_cache(**file), str):
            get_hf_file_metadata(hf_hub_url(**file))  # asks once, where hf_hub_download tries for 23 seconds without a network
        return Path(hf_hub_download(**file))


def upload(name, files, private=False):
    """Upload files to a model repository of the hub, in one commit. It is made if it is not there.

    Args:
        name: OWNER/NAME.
        files: ``{name there: path or bytes}``.
        private: is the repository to be private?

    Returns:
        The repository's address.

    Raises:
        UserError: if they cannot be uploaded, or the repository is there and public, and ``private`` is asked for.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=True)  # nothing is asked of the hub without a token
    with _one_line(f"nothing is uploaded to {name}"):
        address = api.create_repo(name, private=private or None, exist_ok=True)
        if private and not api.model_info(name).private:
            raise UserError(
                f"{name} is there and public: make it private in its settings ({address}/settings), or name another"
            )
        additions = [CommitOperationAdd(there, content) for there, content in files.items()]
        api.create_commit(name, additions, commit_message="Exported model")
    return str(address)


@contextmanager
def _one_line(problem):
    """Turn what the hub or the network refuses into one UserError: the problem, why, and what to do."""
    from huggingface_hub import errors

    known = (errors.HTTPError, errors.HFValidationError, errors.LocalEntryNotFoundError, errors.LocalTokenNotFoundError)
    try:
        yield
    # The built-in ones are raised where HF_HUB_OFFLINE is set, and by the client for large files.
    except (*known, ConnectionError, TimeoutError, RuntimeError) as error:
        raise UserError(f"{problem}: {_reason(error)}") from None


def _reason(error):
    from huggingface_hub import errors

    log_in = "log in with 'hf auth login'"
    if isinstance(error, errors.HFValidationError):
        return "it is not of the form OWNER/NAME"
    if isinstance(error, errors.LocalTokenNotFoundError):
        return log_in
    if isinstance(error, errors.GatedRepoError):
        return f"its owner grants access one by one: ask for it on its page, and {log_in}"
    if isinstance(error, errors.RevisionNotFoundError):
        return "there is no such revision (a branch, tag or commit)"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"the repository holds no {FILE}: was it uploaded by 'python -m utils.results.export'?"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no such repository, or it is not for you: check the name, or {log_in}"
    if isinstance(error, errors.HfHubHTTPError):
        may = {401: f": {log_in}", 403: ": take a token with the right to write, or name a repository of your own"}
        status = error.response.status_code
        return f"the hub answers {status} {error.server_message or error.response.reason_phrase}{may.get(status, '')}"
    said = str(error).partition("\n")[0].rstrip(".:")
    return f"the hub cannot be reached ({said}): is there a network, and is HF_HUB_OFFLINE set?"
