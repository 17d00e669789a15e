"""Repositories of the Hugging Face hub as a store that is read: hf://datasets/ORG/NAME/folder.

A revision may follow the name, as in hf://datasets/ORG/NAME@v1.  Requests are sent with the hub's
own client.  Its file system is used for names only: to find one file it lists the file's folder, it
keeps all listings for the life of the process, and it reads twice the bytes that are wanted
(huggingface_hub 2.4, read 2026-11-28).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from .errors import InputError, ServiceError, first_line

ANSWER_SECONDS = 30.0
"""Longest wait for a part of an answer."""
EXPECTED = "expected a repository, such as hf://datasets/ORG/NAME, or hf://ORG/NAME for a model"


class Hub:
    """What `core.storage` uses of a file system of fsspec, for the repositories of the hub.

    All methods raise:

        FileNotFoundError: there is no such file or folder in the repository.
        InputError: there is no such repository or revision, or it may not be read.
        ServiceError: HF_HUB_OFFLINE is set.

    Errors of the network and of the service are raised as the client raises them.
    """

    def __init__(self) -> None:
        """Make a client of the hub that HF_ENDPOINT names, with the token that is stored.

        Raises:
            ImportError: huggingface_hub is not installed.
        """
        from huggingface_hub import HfApi, HfFileSystem

        self._api = HfApi()
        self._names = HfFileSystem(skip_instance_cache=True)

    def ls(self, name: str, detail: bool = True) -> list[dict[str, Any]]:
        """List a folder; `name` is as in fsspec, without the scheme."""
        with self._explained(name):
            place = self._resolved(name)
            inside = place.path_in_repo or None
            about = {"revision": place.revision, "repo_type": place.repo_type}
            return [_about(one) for one in self._api.list_repo_tree(place.repo_id, inside, **about)]

    def info(self, name: str) -> dict[str, Any]:
        """Describe a file or folder."""
        with self._explained(name):
            place = self._resolved(name)
            inside = place.path_in_repo
            if not inside:
                return {"name": name, "type": "directory"}
            about = {"revision": place.revision, "repo_type": place.repo_type}
            found = self._api.get_paths_info(place.repo_id, inside, **about)
            if not found:
                raise FileNotFoundError(name)
            return _about(found[0])

    def cat_file(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        """Return a file's bytes from `start` to `end`; fewer where it ends before."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

        with self._explained(name):
            place = self._resolved(name)
            url = hf_hub_url(
                place.repo_id,
                place.path_in_repo,
                repo_type=place.repo_type,
                revision=place.revision,
                endpoint=self._api.endpoint,
            )
            headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
            if start or end is not None:
                headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
            answer = http_backoff("GET", url, headers=headers, timeout=ANSWER_SECONDS)
            if answer.status_code == 416:  # the file ends before `start`
                return b""
            hf_raise_for_status(answer)
            data = bytes(answer.content)
            return data if answer.status_code == 206 else data[start:end]

    def _resolved(self, name: str) -> Any:
        """Repository, revision and path of a name."""
        if name.startswith("buckets/"):
            raise InputError(f"hf://{name}: the hub's buckets are not read; {EXPECTED}.")
        try:
            return self._names.resolve_path(name)
        except FileNotFoundError as error:
            self._names.invalidate_cache()  # it may be there the next time
            raise (error.__cause__ or error) from None
        except (ValueError, NotImplementedError) as error:
            raise InputError(f"hf://{name}: {EXPECTED}.") from error

    @contextlib.contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        from huggingface_hub import errors

        try:
            yield
        except errors.GatedRepoError as error:
            raise InputError(
                f"hf://{name}: the repository is gated. Accept its conditions on "
                f"{self._api.endpoint}, then run: hf auth login"
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise InputError(
                f"hf://{name}: there is no such repository, or it is private. Check its name (that "
                "of a dataset begins with datasets/), or run: hf auth login"
            ) from error
        except errors.RevisionNotFoundError as error:
            raise InputError(
                f"hf://{name}: the repository has no such revision. Check what follows the @."
            ) from error
        except errors.EntryNotFoundError as error:
            raise FileNotFoundError(name) from error
        except errors.HFValidationError as error:
            raise InputError(f"hf://{name}: {EXPECTED} ({first_line(error)}).") from error
        except errors.OfflineModeIsEnabled as error:
            raise ServiceError(
                f"hf://{name}: the hub cannot be reached while HF_HUB_OFFLINE is set. Unset it, or "
                "give files of this machine."
            ) from error


def _about(found: Any) -> dict[str, Any]:
    """What fsspec's file systems tell of a file or folder; `blob_id` changes with the content."""
    if hasattr(found, "blob_id"):
        return {"name": found.path, "type": "file", "size": found.size, "blob_id": found.blob_id}
    return {"name": found.path, "type": "directory"}
