"""Who may read and write the folder, and what happens when the disk says no."""

import errno
import os
import stat
import time
import warnings

import pytest

from attngen.runtime import cache as module
from attngen.runtime.cache import Cache, CacheWarning, Entry
from attngen.runtime.settings import cache_folder
from tests.cache.cache_entries import ENTRY, KEY


def quiet_put(cache):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.put(KEY, ENTRY)


def test_the_folder_and_its_files_are_private(stored, folder):
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600


def test_private_whatever_the_umask(folder):
    old = os.umask(0)
    try:
        Cache(folder).put(KEY, ENTRY)
    finally:
        os.umask(old)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o707, 0o720])
def test_a_folder_others_may_write_to_is_not_used(stored, folder, mode):
    folder.chmod(mode)
    cache = Cache(folder)
    with pytest.warns(CacheWarning, match="chmod 700"):
        assert cache.get(KEY) is None
    cache.put(KEY, ENTRY)
    assert cache.get(KEY) == ENTRY


def test_a_folder_of_another_user_is_not_used(stored, folder, monkeypatch):
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    with pytest.warns(CacheWarning, match="another user"):
        assert Cache(folder).get(KEY) is None


def test_a_symlinked_folder_is_not_used(stored, folder, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(folder)
    with pytest.warns(CacheWarning, match="symbolic link"):
        assert Cache(link).get(KEY) is None


def test_a_dangling_symlink_as_folder_is_not_used(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    cache = Cache(link)
    with pytest.warns(CacheWarning):
        cache.put(KEY, ENTRY)
    assert cache.get(KEY) == ENTRY
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(("mode", "used"), [(0o777, False), (0o1777, True)])
def test_a_parent_everybody_writes_to_must_be_sticky(tmp_path, mode, used):
    parent = tmp_path / "shared"
    parent.mkdir()
    parent.chmod(mode)
    folder = parent / "cache"
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        Cache(folder).put(KEY, ENTRY)
    assert (folder / f"{KEY}.agk").exists() == used


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "cache").write_text("")
    cache = Cache(tmp_path / "cache")
    cache.put(KEY, ENTRY)
    assert cache.get(KEY) == ENTRY


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_read_only_folder_means_memory_only_without_a_word(folder, monkeypatch, code):
    real = os.open

    def refuse(path, flags, *args, **kwargs):
        if flags & os.O_CREAT:
            raise OSError(code, os.strerror(code))
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(module.os, "open", refuse)
    cache = Cache(folder)
    quiet_put(cache)
    assert cache.get(KEY) == ENTRY
    assert list(folder.iterdir()) == []


def test_a_home_that_cannot_be_written_means_memory_only(folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(module.Path, "mkdir", refuse)
    cache = Cache(folder)
    quiet_put(cache)
    assert cache.get(KEY) == ENTRY


@pytest.mark.parametrize(
    ("function", "code"),
    [("fsync", errno.ENOSPC), ("fsync", errno.EIO), ("rename", errno.EBUSY)],
)
def test_a_failed_write_leaves_no_file_and_one_warning(folder, monkeypatch, function, code):
    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    cache = Cache(folder)
    monkeypatch.setattr(module.os, function, fail)
    with pytest.warns(CacheWarning, match="could not write") as caught:
        cache.put(KEY, ENTRY)
        cache.put("f" * 64, ENTRY)
    assert len(caught) == 1
    assert list(folder.iterdir()) == []
    assert cache.get(KEY) == ENTRY


def test_an_interrupted_write_leaves_no_file(folder, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    cache = Cache(folder)
    monkeypatch.setattr(module.os, "rename", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache.put(KEY, ENTRY)
    assert list(folder.iterdir()) == []


def test_the_folder_deleted_under_a_running_process(stored, folder):
    cache = Cache(folder)
    assert cache.get(KEY) == ENTRY
    stored.unlink()
    folder.rmdir()
    with warnings.catch_warnings(record=True):
        cache.put("f" * 64, ENTRY)
    assert cache.get("f" * 64) == ENTRY


def test_the_least_recently_used_entry_goes_first(folder):
    entry = Entry({}, {"data": b"x" * 1000})
    cache = Cache(folder, limit=3500)
    for i, name in enumerate("abc"):
        cache.put(name * 64, entry)
        os.utime(folder / f"{name * 64}.agk", (i, i))
    assert Cache(folder).get("a" * 64) == entry  # used: no longer the oldest
    cache.put("d" * 64, entry)
    assert sorted(p.name[0] for p in folder.iterdir()) == ["a", "c", "d"]


def test_an_entry_larger_than_the_limit_does_not_delete_itself(folder):
    cache = Cache(folder, limit=100)
    cache.put(KEY, ENTRY)
    assert (folder / f"{KEY}.agk").exists()


def test_clocks_that_ran_ahead_do_no_harm(stored, folder):
    future = time.time() + 10**6
    os.utime(stored, (future, future))
    assert Cache(folder).get(KEY) == ENTRY


def test_temporary_files_of_the_dead_are_swept_away_and_young_ones_kept(folder):
    folder.mkdir(mode=0o700)
    old, young = folder / ".a.1.x.tmp", folder / ".b.1.x.tmp"
    old.write_bytes(b"")
    young.write_bytes(b"")
    os.utime(old, (0, 0))
    Cache(folder).put(KEY, ENTRY)
    assert not old.exists()
    assert young.exists()


def test_memory_is_bounded(folder, monkeypatch):
    monkeypatch.setattr(module, "IN_MEMORY", 3)
    monkeypatch.setattr(module, "open_folder", lambda folder: (_ for _ in ()).throw(OSError()))
    cache = Cache(folder)
    for i in range(5):
        cache.put(str(i), ENTRY)
    assert [cache.get(str(i)) is not None for i in range(5)] == [False, False, True, True, True]


def test_where_the_folder_is(monkeypatch, tmp_path):
    monkeypatch.delenv("ATTNGEN_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / ".cache" / "attngen"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "attngen"
    monkeypatch.setenv("ATTNGEN_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "mine"


def test_caches_that_are_gone_hold_no_descriptor(stored, folder):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        Cache(folder).get(KEY)
    assert len(os.listdir("/proc/self/fd")) <= before + 1
