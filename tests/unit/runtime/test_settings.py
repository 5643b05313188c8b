"""What is installed."""

import importlib
import importlib.machinery
import sys

from attngen.runtime.settings import cute_installed


def test_a_folder_without_code_is_not_the_dsl(tmp_path, monkeypatch):
    (tmp_path / "cutlass").mkdir()
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.setattr("sys.meta_path", [importlib.machinery.PathFinder])
    monkeypatch.delitem(sys.modules, "cutlass", raising=False)
    assert not cute_installed()
    (tmp_path / "cutlass" / "__init__.py").write_text("")
    importlib.invalidate_caches()
    assert cute_installed()
