"""HTTP transfers for the files of a data set on Google Drive, on Hugging Face and at plain addresses.

The libraries of the two services find the address of the bytes; `airpipe.data.transfer` moves them,
because neither library goes on with a half-received file of an earlier run when it has changed since.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import requests

from airpipe.data.addresses import DRIVE, address_of, drive_page
from airpipe.data.transfer import PATIENCE, QUOTA, SourceFailed, Transfer, new_session
from airpipe.settings.datasets import RemoteFile

HOPS = 3
"""Largest number of pages of Google Drive that may come before the file."""


@dataclass(frozen=True)
class Wanted:
    """One file to fetch.

    Args:
        file: entry of the file in the registry.
        name: path of the file below the folder of downloads; differs from the entry's name for the
            files of a Drive folder.
        address: address that a person can open; also the identity of the bytes.
        drive_id: the file's id on Google Drive.
        folder_zip: whether it is the zip of a Drive folder that somebody dropped in. Google makes such a zip
            afresh for everybody, with other bytes each time, and gives it to browsers only.
    """

    file: RemoteFile
    name: str
    address: str
    drive_id: str | None = None
    folder_zip: bool = False

    @property
    def dropped_address(self) -> str:
        """Text instead of the address of a file that somebody dropped in: nobody knows where it is from."""
        return f"by hand: {self.name}"

    @property
    def into(self) -> PurePosixPath:
        """Folder below the data set's root that the file is unpacked in."""
        inside = PurePosixPath(*PurePosixPath(self.name).parts[1:-1])  # only files of a Drive folder have folders
        return PurePosixPath(self.file.into) / inside

    @property
    def size(self) -> int | None:
        """Number of bytes that the registry expects; None: it does not say."""
        return None if self.file.gdrive_folder else self.file.bytes

    @property
    def sha256(self) -> str | None:
        """Checksum that the registry expects; None: it does not say."""
        return None if self.file.gdrive_folder else self.file.sha256


def list_files(file: RemoteFile) -> list[Wanted]:
    """List the files behind an entry: one, or those of a Drive folder.

    Raises:
        SourceFailed: the Drive folder cannot be listed or is empty.
    """
    if not file.gdrive_folder:
        wanted = Wanted(file, file.name, address_of(file), file.gdrive)
        return [replace(wanted, address=wanted.dropped_address) if file.by_hand else wanted]
    import gdown

    try:
        found = gdown.download_folder(
            id=file.gdrive_folder, quiet=True, use_cookies=False, skip_download=True, timeout=PATIENCE.timeout
        )
    except (gdown.DownloadError, requests.RequestException, LookupError, AssertionError, ValueError) as error:
        raise SourceFailed(f"{address_of(file)}: the folder cannot be listed ({_brief(error)}). {QUOTA}") from None
    entries = [(entry.id, PurePosixPath(entry.path)) for entry in found if not isinstance(entry, str)]
    if not entries:
        raise SourceFailed(f"{address_of(file)}: the folder is empty, or not public")
    for _, path in entries:
        if path.is_absolute() or ".." in path.parts:
            raise SourceFailed(f"{address_of(file)}: the folder holds a file of the unsafe name {str(path)!r}")
    return [Wanted(file, f"{file.name}/{path}", drive_page(drive), drive) for drive, path in entries]


def transfer_of(wanted: Wanted, downloads: Path, known: bool) -> Transfer:
    """Make the transfer that fetches a file below `downloads`.

    Args:
        wanted: the file.
        downloads: folder of downloads.
        known: whether the file's sha256 is known.

    Raises:
        SourceFailed: Google Drive shows no way to the bytes, for example because of a quota.
    """
    target = downloads / wanted.name
    if wanted.drive_id:
        session = new_session(PATIENCE)
        url = _drive_url(wanted.drive_id, session)
        return Transfer(url, target, wanted.address, wanted.size, known, session=session)
    if wanted.file.huggingface:
        from huggingface_hub import get_token, hf_hub_url

        hub = wanted.file.huggingface
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        url = hf_hub_url(hub.repo, hub.file, repo_type="dataset", revision=hub.revision, endpoint=endpoint)
        token = get_token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return Transfer(url, target, wanted.address, wanted.size, known, headers=headers)
    return Transfer(wanted.address, target, wanted.address, wanted.size, known)


def _drive_url(drive_id: str, session: requests.Session) -> str:
    """Follow Drive's pages ("too large to scan for viruses") to the bytes; cookies stay in the session."""
    from gdown.download import get_url_from_gdrive_confirmation
    from gdown.exceptions import FileURLRetrievalError

    page = drive_page(drive_id)
    url = f"{DRIVE}/uc?id={drive_id}&export=download"
    for _ in range(HOPS):
        try:
            with session.get(url, stream=True, timeout=PATIENCE.timeout) as response:
                html = response.headers.get("Content-Type", "").startswith("text/html")
                if "Content-Disposition" in response.headers or (response.ok and not html):
                    return url
                if not html and not response.ok or response.status_code == 404:
                    raise SourceFailed(f"{page}: the server answered {response.status_code} {response.reason}")
                url = get_url_from_gdrive_confirmation(response.text)
        except FileURLRetrievalError as error:
            raise SourceFailed(f"{page}: Google Drive gives no file ({_brief(error)}). {QUOTA}") from None
        except (requests.RequestException, LookupError, AssertionError, ValueError) as error:
            raise SourceFailed(f"{page}: Google Drive cannot be asked ({_brief(error)})") from None
    raise SourceFailed(f"{page}: Google Drive shows page after page and no file. {QUOTA}")


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
