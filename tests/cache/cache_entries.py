"""An entry and its key."""

from attngen.runtime.cache import Entry

KEY = "0123456789abcdef" * 4
ENTRY = Entry({"name": "forward", "n": 1}, {"binary": bytes(range(256)) * 20, "text": b"ptx"})
