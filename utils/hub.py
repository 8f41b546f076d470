"""Models on the Hugging Face hub: ``hub:OWNER/NAME``, with ``@REVISION`` if wanted."""

from contextlib import contextmanager
from pathlib import Path

from utils.errors import UserError

PREFIX = "hub:"
# Name of the exported file in a hub repository.
FILE = "model.safetensors"

# huggingface_hub is imported within functions to keep --help fast.


def local_path(named):
    """Path of a model: for ``hub:OWNER/NAME`` the exported file in the hub's cache, downloaded if necessary; a path as is.

    Without a network, or with HF_HUB_OFFLINE, the cached copy is used.

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
            get_hf_file_metadata(hf_hub_url(**file))  # tries once; hf_hub_download retries for 23 seconds without a network
        return Path(hf_hub_download(**file))


def upload(name, files, private=False):
    """Upload files to a model repository on the hub, in one commit. The repository is created if it does not exist.

    Args:
        name: OWNER/NAME.
        files: ``{name in the repository: path or bytes}``.
        private: whether the repository must be private.

    Returns:
        The repository's address.

    Raises:
        UserError: if the upload fails, or the repository exists and is public although ``private`` is set.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=True)  # fails without a token before any request
    with _one_line(f"nothing is uploaded to {name}"):
        address = api.create_repo(name, private=private or None, exist_ok=True)
        if private and not api.model_info(name).private:
            raise UserError(
                f"{name} exists and is public: make it private in its settings ({address}/settings), or name another"
            )
        additions = [CommitOperationAdd(there, content) for there, content in files.items()]
        api.create_commit(name, additions, commit_message="Exported model")
    return str(address)


@contextmanager
def _one_line(problem):
    """Turn errors of the hub or the network into one UserError: the problem, the reason, and what to do."""
    from huggingface_hub import errors

    known = (errors.HTTPError, errors.HFValidationError, errors.LocalEntryNotFoundError, errors.LocalTokenNotFoundError)
    try:
        yield
    # The built-in ones are raised with HF_HUB_OFFLINE, and by the client for large files.
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
        return f"the repository has no {FILE}: was it uploaded by 'python -m utils.results.export'?"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no such repository, or you have no access: check the name, or {log_in}"
    if isinstance(error, errors.HfHubHTTPError):
        may = {401: f": {log_in}", 403: ": use a token with write access, or name a repository of your own"}
        status = error.response.status_code
        return f"the hub answers {status} {error.server_message or error.response.reason_phrase}{may.get(status, '')}"
    reason = str(error).partition("\n")[0].rstrip(".:")
    return f"the hub cannot be reached ({reason}): is there a network, and is HF_HUB_OFFLINE set?"
