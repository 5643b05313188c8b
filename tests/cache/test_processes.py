"""Several processes, some of them killed, share one folder; everything in it stays whole."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from attngen.core.resources import PACKAGE
from attngen.runtime import cache as module
from attngen.runtime.cache import Cache, Entry, unpack
from tests.cache.cache_entries import KEY

WRITER = """
import random, sys
from pathlib import Path
from attngen.runtime.cache import Cache, Entry
folder, seed = Path(sys.argv[1]), int(sys.argv[2])
order = random.Random(seed)
print("ready", flush=True)
for _ in range(int(sys.argv[3])):
    number = order.randrange(20)
    cache, key = Cache(folder), f"{number:064d}"
    entry = Entry({"number": number}, {"data": bytes([number]) * 40000})
    found = cache.get(key)
    assert found is None or found == entry, key
    cache.put(key, entry)
    cache.close()
"""


def start(folder, seed, turns):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", WRITER, str(folder), str(seed), str(turns)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)},
    )


def test_killed_writers_leave_nothing_broken(folder):
    chance = random.Random(1)
    victims = [start(folder, seed, 10**6) for seed in range(3)]
    survivors = [start(folder, seed, 40) for seed in range(10, 12)]
    for process in victims:
        process.stdout.readline()
        time.sleep(chance.uniform(0.05, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    for process in survivors:
        assert process.wait(60) == 0
        process.stdout.close()
    files = list(folder.glob("*.agk"))
    assert files
    for path in files:
        entry = unpack(path.stem, path.read_bytes())
        assert entry.blobs["data"] == bytes([entry.meta["number"]]) * 40000


def test_a_forked_child_reads_and_writes(folder):
    cache = Cache(folder)
    cache.put(KEY, Entry({"from": "parent"}))
    child = os.fork()
    if child == 0:
        found = cache.get(KEY)
        cache.put("c" * 64, Entry({"from": "child"}))
        os._exit(0 if found == Entry({"from": "parent"}) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert cache.get("c" * 64) == Entry({"from": "child"})


def test_a_reader_sees_what_another_cache_wrote_later(folder):
    reader, writer = Cache(folder), Cache(folder)
    assert reader.get(KEY) is None
    writer.put(KEY, Entry({"n": 1}))
    assert reader.get(KEY) == Entry({"n": 1})


def test_two_versions_of_the_format_do_not_read_each_other(folder, monkeypatch):
    monkeypatch.setattr(module, "MAGIC", b"ATTNGEN\x7f")
    Cache(folder).put(KEY, Entry({"n": 1}))
    monkeypatch.undo()
    with pytest.warns(module.CacheWarning, match="version"):
        assert Cache(folder).get(KEY) is None
