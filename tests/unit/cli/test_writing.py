"""Generated kernels on disk: all or none, never over somebody's file, never outside."""

from pathlib import Path

import pytest

from attngen.cli.mistake import InputError
from attngen.cli.writing import MARK, write_files

KERNEL = f'"""A kernel. {MARK}"""\n'
FILES = {"flash/sm_90/flash.py": KERNEL, "flash/sm_90/MANIFEST.json": "{}\n"}


def everything(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_writes_kernel_and_manifest(tmp_path):
    written = write_files(tmp_path / "kernels", FILES)
    assert everything(tmp_path / "kernels") == FILES
    assert written[0] == tmp_path / "kernels/flash/sm_90/flash.py"


def test_unchanged_files_are_not_touched(tmp_path):
    write_files(tmp_path, FILES)
    kernel = tmp_path / "flash/sm_90/flash.py"
    before = kernel.stat()
    write_files(tmp_path, FILES)
    assert kernel.stat().st_ino == before.st_ino


def test_a_marked_file_is_replaced(tmp_path):
    write_files(tmp_path, FILES)
    newer = {**FILES, "flash/sm_90/flash.py": KERNEL + "# newer\n"}
    write_files(tmp_path, newer)
    assert everything(tmp_path) == newer


def test_a_file_that_was_taken_over_stops_everything(tmp_path):
    write_files(tmp_path, FILES)
    own = tmp_path / "flash/sm_90/flash.py"
    own.write_text('"""My kernel now."""\n')
    before = everything(tmp_path)
    with pytest.raises(InputError, match=r"flash\.py has no .* mark"):
        write_files(tmp_path, {"a/sm_80/a.py": KERNEL, **FILES, "flash/sm_90/MANIFEST.json": "x"})
    assert everything(tmp_path) == before


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (inside / "flash").symlink_to(outside)
    with pytest.raises(InputError, match="outside"):
        write_files(inside, FILES)
    assert everything(outside) == {}


def test_a_linked_file_is_refused(tmp_path):
    victim = tmp_path / "victim.py"
    victim.write_text(KERNEL)
    place = tmp_path / "kernels/flash/sm_90"
    place.mkdir(parents=True)
    (place / "flash.py").symlink_to(victim)
    with pytest.raises(InputError, match="outside"):
        write_files(tmp_path / "kernels", FILES)
    assert victim.read_text() == KERNEL


@pytest.mark.parametrize("path", ["../x.py", "/etc/x.py", "a/../../x.py", "a//x.py", "a\n/x.py"])
def test_hostile_paths_are_refused(tmp_path, path):
    with pytest.raises(InputError, match="not a path attngen would write"):
        write_files(tmp_path / "kernels", {path: KERNEL})
    assert everything(tmp_path) == {}


def test_nothing_is_left_when_a_write_fails(tmp_path, monkeypatch):
    def broken(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("attngen.cli.writing.os.replace", broken)
    with pytest.raises(OSError, match="No space"):
        write_files(tmp_path, FILES)
    assert everything(tmp_path) == {}


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "taken").write_text("text")
    with pytest.raises(InputError, match="not a folder"):
        write_files(tmp_path / "taken", FILES)
