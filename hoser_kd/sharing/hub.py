"""Publish and fetch bundles: Hugging Face repositories, and folders at `file://` addresses.

A version is a tag of the repository, or a subfolder of the folder, named by the bundle's digest.
"""

from __future__ import annotations

import os
import re
import shutil
from os import PathLike
from pathlib import Path
from typing import NamedTuple, NoReturn
from urllib.parse import unquote, urlsplit

from hoser_kd.common.arguments import check_path
from hoser_kd.common.errors import CheckpointError
from hoser_kd.common.files import atomic_path
from hoser_kd.sharing.bundle import BUNDLE_FILES, check_bundle, is_bundle

LATEST_FILE = "latest.txt"
"""File of a `file://` folder that names the version pushed last."""
_VERSION = re.compile(r"[0-9a-f]{16}")
_ADDRESS = 'an address is "user/name", "hf://user/name" or "file:///folder", with @version for one version'


class Address(NamedTuple):
    """Where bundles are published."""

    place: str
    """`user/name`, or a local folder."""
    version: str | None
    """Version, or for a repository any revision; None: the newest."""
    is_folder: bool

    @classmethod
    def of(cls, text: object) -> Address:
        """Parse an address. Raises TypeError or ValueError with the accepted forms."""
        if not isinstance(text, str):
            raise TypeError(f"address is of type {type(text).__name__}, not a text: {_ADDRESS}.")
        if text.startswith("file://"):
            parts = urlsplit(text)
            path, _, version = unquote(parts.path).rpartition("@")
            if not path or not _VERSION.fullmatch(version):
                path, version = unquote(parts.path), ""
            if parts.netloc not in ("", "localhost") or not path.startswith("/"):
                raise ValueError(f"{text}: not a folder of this machine: file:///folder has three slashes.")
            return cls(path, version or None, is_folder=True)
        place, _, version = text.removeprefix("hf://").partition("@")
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", place) or (version and not re.fullmatch(r"[\w./-]+", version)):
            raise ValueError(f"{text}: not an address: {_ADDRESS}.")
        return cls(place, version or None, is_folder=False)

    def __str__(self) -> str:
        """Return the address without the version."""
        return f"file://{self.place}" if self.is_folder else self.place


def push(bundle: str | PathLike[str], address: str, *, private: bool = True, token: str | None = None) -> str:
    """Publish a bundle and return its address with the version, which `pull` and `load_student` take.

    A new Hugging Face repository is private unless `private` is False; an existing one keeps its visibility. `token`
    is that of `hf auth login` by default, and HF_ENDPOINT another server. The version becomes a tag; a version that is
    published already stays.

    Raises TypeError or ValueError for wrong arguments, CheckpointError if the bundle is damaged or cannot be published.
    """
    check_path("bundle", bundle, 'push("bundle", "user/name")')
    target = Address.of(address)
    if target.version:
        raise ValueError(f"{address}: the version follows from the content. Call push(bundle, {str(target)!r}).")
    folder = Path(bundle)
    version = str(check_bundle(folder)["version"])
    if target.is_folder:
        _copy(folder, Path(target.place) / version)
        with atomic_path(Path(target.place) / LATEST_FILE) as beside:
            beside.write_text(version + "\n", encoding="utf-8")
    else:
        _upload(folder, target.place, version, private=private, token=token)
    return f"{target}@{version}"


def pull(address: str, folder: str | PathLike[str] | None = None, *, token: str | None = None) -> Path:
    """Fetch a bundle, check it and return its folder.

    `address` is "user/name" or "file:///folder", with "@version" for one version (default: the newest). `folder` gets a
    copy; by default it stays in the cache of Hugging Face, or where it is. Only the files of a bundle are downloaded.

    Raises TypeError or ValueError for wrong arguments, CheckpointError if there is no such bundle, or it is damaged.
    """
    source = Address.of(address)
    if folder is not None:
        check_path("folder", folder, 'pull("user/name", "folder")')
        if Path(folder).exists() and not is_bundle(Path(folder)) and any(Path(folder).iterdir()):
            raise CheckpointError(f"{folder}: exists and is not a bundle. Give a new folder.")
    place = _folder_of(source) if source.is_folder else _download(source, token)
    if not is_bundle(place):
        raise CheckpointError(f"{address}: there is no bundle. Publish one with `hoser-kd push`.")
    version = check_bundle(place)["version"]
    if source.version and _VERSION.fullmatch(source.version) and version != source.version:
        raise CheckpointError(f"{address}: holds version {version}. Do not use it: its tag was moved.")
    if folder is None:
        return place
    return _copy(place, Path(folder), replace=True)


def _copy(source: Path, target: Path, *, replace: bool = False) -> Path:
    """Copy a bundle; the target appears complete or not at all. One that exists stays, or is replaced if `replace`."""
    if target.exists():
        if not replace:
            return target
        if target.resolve() == source.resolve():
            return target
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        for name in BUNDLE_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, beside / name)
        if target.exists():
            shutil.rmtree(target)
        beside.rename(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target


def _folder_of(source: Address) -> Path:
    """Return the folder of a version at a `file://` address, which may also be that of a bundle itself."""
    root = Path(source.place)
    if source.version is None and is_bundle(root):
        return root
    latest = root / LATEST_FILE
    version = source.version or (latest.read_text(encoding="utf-8").strip() if latest.is_file() else "")
    if not _VERSION.fullmatch(version) or not (root / version).is_dir():
        known = sorted(path.name for path in root.glob("*") if _VERSION.fullmatch(path.name))
        raise CheckpointError(
            f"{source}: no version {source.version or '(none is pushed)'}. A version has 16 hex digits. "
            + (f"It has {', '.join(known)}." if known else "Publish one with `hoser-kd push`.")
        )
    return root / version


def _upload(folder: Path, repository: str, version: str, *, private: bool, token: str | None) -> None:
    from huggingface_hub import HfApi

    try:
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token)
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(BUNDLE_FILES),
            commit_message=f"Version {version}",
        )
        api.create_tag(repository, tag=version, revision=commit.oid, exist_ok=True)
    except Exception as error:  # noqa: BLE001  each version of the client raises its HTTP library's own errors
        _explain(error, repository, "published", "Log in with `hf auth login` as a user who may write to it")


def _download(source: Address, token: str | None) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(
            snapshot_download(
                source.place,
                revision=source.version,
                allow_patterns=list(BUNDLE_FILES),
                endpoint=os.environ.get("HF_ENDPOINT") or None,
                token=token,
            )
        )
    except errors.RevisionNotFoundError:
        raise CheckpointError(f"{source}: it has no version {source.version}. Leave it out for the newest.") from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"{source.place}: no such folder, and no such repository on Hugging Face, or it is private. Correct the "
            "path, or log in with `hf auth login`."
        ) from None
    except Exception as error:  # noqa: BLE001  as above
        _explain(error, source.place, "downloaded", "If it is a path, correct it: there is no such file or folder here")


def _explain(error: Exception, repository: str, verb: str, hint: str) -> NoReturn:
    line = next(iter(str(error).strip().splitlines()), "").rstrip(".")
    raise CheckpointError(
        f"{repository}: cannot be {verb}: {type(error).__name__}: {line}. {hint}, or check the connection "
        "(HF_ENDPOINT, HF_HUB_OFFLINE)."
    ) from error
