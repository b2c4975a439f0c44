"""A folder to the Hugging Face hub, or to whatever HF_ENDPOINT says the hub is."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.constants import ENDPOINT

from potstill.errors import ModelError


def push_folder(folder: Path, repository: str) -> str:
    """Upload the folder as a model repository, made private where it isn't there; its address. ModelError where the hub refuses.

    The token is the hub library's own (`hf auth login`, or HF_TOKEN), and is not shown.
    """
    api = HfApi(endpoint=ENDPOINT)
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Add the student").repo_url)
    except Exception as error:  # the hub's library lets through what its transport of the day raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{repository} can't be uploaded to the hub: {reason}. The student lies in {folder}; log in with `hf auth login` and run the "
            "same command again"
        ) from error
