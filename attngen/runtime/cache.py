"""The disk cache: one file per entry, checksummed, written atomically, never unpickled.

A file `<key>.agk` is: magic, length of the payload (8 bytes), sha256 of the payload, payload. The
payload carries its own key, then JSON, then raw bytes. The hash detects damage, not an attacker who
can write to the folder: that is what the checks of owner and mode are for. No lock is needed for
correctness: content under a key is always the same, the last writer wins.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import stat
import struct
import time
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attngen.runtime.settings import cache_folder

MAGIC = b"ATTNGEN\x01"
HEADER = struct.Struct("<8sQ32s")
SUFFIX = ".agk"
LIMIT = 2 << 30  # bytes on disk
IN_MEMORY = 512  # entries
ABANDONED = 3600  # seconds after which another writer's temporary file is swept away
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class CacheWarning(UserWarning):
    """Something is wrong with the cache folder; results are right, but slower to come by."""


@dataclass(frozen=True)
class Entry:
    """What is stored: a JSON object and named raw bytes."""

    meta: Mapping[str, Any]
    blobs: Mapping[str, bytes] = field(default_factory=dict)


def pack(key: str, entry: Entry) -> bytes:
    """The bytes of a file."""
    sizes = [(name, len(blob)) for name, blob in entry.blobs.items()]
    head = json.dumps({"meta": entry.meta, "blobs": sizes}, sort_keys=True).encode()
    body = b"".join(entry.blobs.values())
    payload = key.encode() + struct.pack("<Q", len(head)) + head + body
    return HEADER.pack(MAGIC, len(payload), hashlib.sha256(payload).digest()) + payload


def unpack(key: str, data: bytes) -> Entry:
    """The entry of a file; ValueError saying what is wrong with it."""
    if len(data) < HEADER.size:
        raise ValueError("too short")
    magic, length, checksum = HEADER.unpack_from(data)
    payload = data[HEADER.size :]
    if magic != MAGIC:
        raise ValueError("not an entry of this version")
    if length != len(payload) or hashlib.sha256(payload).digest() != checksum:
        raise ValueError("checksum differs")
    if payload[: len(key)] != key.encode():
        raise ValueError("it belongs to another key")
    return _content(payload[len(key) :])


def _content(rest: bytes) -> Entry:
    (size,) = struct.unpack_from("<Q", rest)
    head = json.loads(rest[8 : 8 + size])
    offset, blobs = 8 + size, {}
    for name, length in head["blobs"]:
        blobs[name] = rest[offset : offset + length]
        offset += length
    return Entry(head["meta"], blobs)


class Cache:
    """Entries by key: memory first, then the folder. Never raises because of the folder."""

    def __init__(self, folder: Path | None = None, limit: int = LIMIT) -> None:
        self.folder = folder if folder is not None else cache_folder()
        self.limit = limit
        self._memory: OrderedDict[str, Entry] = OrderedDict()
        self._descriptor: int | None = None
        self._opened = False
        self._warned = False

    def get(self, key: str) -> Entry | None:
        """The entry, or None; a damaged file is deleted, with one warning per cache."""
        found = self._memory.get(key)
        if found is None and (found := self._read(key)) is not None:
            self._remember(key, found)
        return found

    def put(self, key: str, entry: Entry) -> None:
        """Store; on a folder that cannot be written the entry lives in memory only."""
        self._remember(key, entry)
        directory = self._directory()
        if directory is None:
            return
        try:
            _write(directory, key, pack(key, entry))
            _shrink(directory, self.limit, keep=key + SUFFIX)
        except OSError as error:
            if error.errno not in READ_ONLY:
                self._warn(f"could not write to the cache {self.folder}: {error.strerror}")

    def close(self) -> None:
        """Give the folder's descriptor back; the cache opens it again when needed."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor, self._opened = None, False

    def _remember(self, key: str, entry: Entry) -> None:
        self._memory[key] = entry
        while len(self._memory) > IN_MEMORY:
            self._memory.popitem(last=False)

    def _read(self, key: str) -> Entry | None:
        directory = self._directory()
        if directory is None:
            return None
        name = key + SUFFIX
        try:
            entry = unpack(key, _load(directory, name, self.limit))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError, struct.error, OSError) as error:
            _remove(directory, name)
            self._warn(f"rebuilt a damaged cache entry in {self.folder}: {error}")
            return None
        with contextlib.suppress(OSError):
            os.utime(name, dir_fd=directory)  # least recently used goes first
        return entry

    def _directory(self) -> int | None:
        if not self._opened:
            self._opened = True
            try:
                self._descriptor = open_folder(self.folder)
            except PermissionError as error:
                if error.errno is None:  # ours: unsafe, not merely unwritable
                    self._warn(str(error))
            except OSError:
                pass  # a read-only or absent home: memory only
        return self._descriptor

    def _warn(self, message: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(message, CacheWarning, stacklevel=4)


def open_folder(folder: Path) -> int:
    """Descriptor of the folder, made with mode 0700 if absent.

    PermissionError without errno (and with a fix in its text) if it is a symlink, another user's,
    writable by others, or if anybody could replace it because a parent is writable by all.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    for path in {
        folder.parent,
        *folder.parents,
        folder.resolve().parent,
        *folder.resolve().parents,
    }:
        mode = path.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise PermissionError(f"cache not used: anyone may replace {folder} inside {path}")
    if folder.is_symlink():
        raise PermissionError(f"cache not used: {folder} is a symbolic link")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    facts = os.fstat(descriptor)
    if facts.st_uid == os.geteuid() and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return descriptor
    os.close(descriptor)
    if facts.st_uid != os.geteuid():
        raise PermissionError(f"cache not used: {folder} belongs to another user")
    raise PermissionError(f"cache not used: others may write to it; run chmod 700 {folder}")


def _load(directory: int, name: str, limit: int) -> bytes:
    # NONBLOCK: a FIFO in place of the file must not hang us; NOFOLLOW: nor a link lead elsewhere
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=directory)
    with open(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError("not a regular file")
        if facts.st_uid != os.geteuid():
            raise ValueError("written by another user")
        if facts.st_size > limit:
            raise ValueError("larger than the whole cache may be")
        return file.read()


def _write(directory: int, key: str, data: bytes) -> None:
    temporary = f".{key}.{os.getpid()}.{secrets.token_hex(8)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.rename(temporary, key + SUFFIX, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        _remove(directory, temporary)
        raise
    os.fsync(directory)


def _remove(directory: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except IsADirectoryError:
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=directory)
    except OSError:
        pass


def _shrink(directory: int, limit: int, keep: str) -> None:
    """Delete abandoned temporary files, then the least recently used entries above the limit."""
    entries: list[tuple[float, int, str]] = []
    for item in os.scandir(directory):
        with contextlib.suppress(OSError):  # another process may have deleted it
            facts = item.stat(follow_symlinks=False)
            if item.name.endswith(SUFFIX):
                entries.append((facts.st_mtime, facts.st_size, item.name))
            elif item.name.endswith(".tmp") and facts.st_mtime < time.time() - ABANDONED:
                _remove(directory, item.name)
    total = sum(size for _, size, _ in entries)
    for _, size, name in sorted(entries):
        if total <= limit:
            break
        if name != keep:
            _remove(directory, name)
            total -= size
