"""Addresses at which a person finds a file of the registry.

Nothing heavy is imported here, because every start of the command line imports this module.
"""

from urllib.parse import quote

from airpipe.settings.datasets import RemoteFile

DRIVE = "https://drive.google.com"


def address_of(file: RemoteFile) -> str:
    """Return the address of a file that a person can open, or for a file by hand what to do."""
    if file.gdrive:
        return drive_page(file.gdrive)
    if file.gdrive_folder:
        return f"{DRIVE}/drive/folders/{file.gdrive_folder}"
    if file.huggingface:
        hub = file.huggingface
        return f"https://huggingface.co/datasets/{hub.repo}/resolve/{quote(hub.revision, safe='')}/{quote(hub.file)}"
    return file.url or file.by_hand or ""


def drive_page(drive_id: str) -> str:
    """Return the address of a file's page on Google Drive."""
    return f"{DRIVE}/file/d/{drive_id}/view"
