"""Whatever happens to a file, a reader gets the entry or nothing, and nothing damaged stays."""

import hashlib
import os
import random
import socket
import warnings

import pytest

from attngen.runtime.cache import HEADER, MAGIC, Cache, CacheWarning, Entry, pack, unpack
from tests.cache.cache_entries import ENTRY, KEY


def test_an_entry_comes_back_from_disk(stored, folder):
    assert Cache(folder).get(KEY) == ENTRY


def test_an_absent_key_is_no_damage(stored, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Cache(folder).get("f" * 64) is None


def test_every_truncation_is_found(stored):
    data = stored.read_bytes()
    for length in [*range(0, len(data), 512), *range(60), len(data) - 1]:
        with pytest.raises(ValueError):
            unpack(KEY, data[:length])


def test_bytes_behind_the_end_are_found(stored):
    with pytest.raises(ValueError, match="checksum"):
        unpack(KEY, stored.read_bytes() + b"\0")


def test_every_flipped_bit_is_found(stored):
    data = stored.read_bytes()
    random_bits = random.Random(0)
    bits = [*range(HEADER.size * 8), *random_bits.sample(range(len(data) * 8), 200)]
    for bit in bits:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError):
            unpack(KEY, bytes(changed))


@pytest.mark.parametrize("damage", [b"", b"\0" * 100, MAGIC, b"x" * 5000])
def test_a_damaged_file_is_deleted_with_one_warning_and_rebuilt(stored, folder, damage):
    stored.write_bytes(damage)
    cache = Cache(folder)
    with pytest.warns(CacheWarning, match="damaged") as caught:
        assert cache.get(KEY) is None
        assert not stored.exists()
        stored.write_bytes(damage)
        assert cache.get(KEY) is None
    assert len(caught) == 1
    cache.put(KEY, ENTRY)
    assert Cache(folder).get(KEY) == ENTRY


def test_the_entry_of_another_key_renamed_into_place_is_refused(folder):
    cache, other = Cache(folder), "f" * 64
    cache.put(other, Entry({"name": "poison"}))
    os.rename(folder / f"{other}.agk", folder / f"{KEY}.agk")
    with pytest.warns(CacheWarning, match="another key"):
        assert Cache(folder).get(KEY) is None


def test_a_valid_checksum_over_nonsense_is_refused(stored, folder):
    payload = KEY.encode() + b"\xff" * 30
    checksum = hashlib.sha256(payload).digest()
    stored.write_bytes(HEADER.pack(MAGIC, len(payload), checksum) + payload)
    with pytest.warns(CacheWarning):
        assert Cache(folder).get(KEY) is None


def test_a_deleted_file_is_absent(stored, folder):
    stored.unlink()
    assert Cache(folder).get(KEY) is None


def test_a_folder_in_place_of_the_file(stored, folder):
    stored.unlink()
    stored.mkdir()
    with pytest.warns(CacheWarning):
        assert Cache(folder).get(KEY) is None
    cache = Cache(folder)
    cache.put(KEY, ENTRY)
    assert Cache(folder).get(KEY) == ENTRY


def test_a_full_folder_in_place_of_the_file_leaves_the_entry_in_memory(stored, folder):
    stored.unlink()
    (stored / "inside").mkdir(parents=True)
    cache = Cache(folder)
    with pytest.warns(CacheWarning):
        cache.put(KEY, ENTRY)
    assert cache.get(KEY) == ENTRY


def test_a_fifo_does_not_hang(stored, folder):
    stored.unlink()
    os.mkfifo(stored)
    with pytest.warns(CacheWarning, match="regular"):
        assert Cache(folder).get(KEY) is None
    assert not stored.exists()


def test_a_socket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = Cache(tmp_path / "c")
    cache.put(KEY, ENTRY)
    path = tmp_path / "c" / f"{KEY}.agk"
    path.unlink()
    monkeypatch.chdir(tmp_path / "c")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
        with pytest.warns(CacheWarning):
            assert Cache(tmp_path / "c").get(KEY) is None


@pytest.mark.parametrize("exists", [False, True])
def test_a_symlink_in_place_of_the_file_is_never_followed(stored, folder, tmp_path, exists):
    outside = tmp_path / "outside"
    if exists:
        outside.write_bytes(stored.read_bytes())
    stored.unlink()
    stored.symlink_to(outside)
    with pytest.warns(CacheWarning):
        assert Cache(folder).get(KEY) is None
    assert not stored.is_symlink()
    assert outside.exists() == exists


def test_a_file_of_another_user_is_refused(stored, folder, monkeypatch):
    cache = Cache(folder)
    cache.get("0" * 64)  # opens the folder as its owner
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    with pytest.warns(CacheWarning, match="another user"):
        assert cache.get(KEY) is None


def test_blobs_keep_their_names_and_order(folder):
    entry = Entry({}, {"z": b"1", "a": b"", "m": b"\x00\xff"})
    assert unpack(KEY, pack(KEY, entry)) == entry
