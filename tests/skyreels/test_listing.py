"""Walking a folder: each file once under its own name, loops end, and what cannot be read is told, not raised."""

import os

from skyreels.listing import Why, walk


def _files(root):
    return [os.path.relpath(path, root) for path, _ in walk(str(root)).files]


def _skipped(root):
    return {os.path.relpath(skipped.path, root): skipped.why for skipped in walk(str(root)).skipped}


def test_a_loop_of_links_is_entered_once(tmp_path):
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    (tmp_path / "a.mp4").write_bytes(b"1")
    (tmp_path / "sub" / "b.mp4").write_bytes(b"22")
    (tmp_path / "sub" / "up").symlink_to("..")
    (tmp_path / "sub" / "deep" / "self").symlink_to("self")
    (tmp_path / "again").symlink_to("sub")
    assert [(os.path.relpath(p, tmp_path), size) for p, size in walk(str(tmp_path)).files] == [
        ("a.mp4", 1),
        ("sub/b.mp4", 2),
    ]
    assert _skipped(tmp_path) == {"sub/deep/self": Why.UNREADABLE}


def test_a_folder_elsewhere_is_walked_through_its_link_and_a_link_to_a_file_is_a_file(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c.mp4").write_bytes(b"1")
    root = tmp_path / "in"
    root.mkdir()
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "a").symlink_to(tmp_path / "elsewhere")
    (root / "z.mp4").symlink_to(tmp_path / "elsewhere" / "c.mp4")
    assert _files(root) == ["a/c.mp4", "z.mp4"]


def test_what_is_no_file_is_said(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "gone.mp4").symlink_to("/nowhere.mp4")
    (tmp_path / ".hidden").mkdir()
    assert _skipped(tmp_path) == {"pipe.mp4": Why.SPECIAL, "gone.mp4": Why.BROKEN_LINK, ".hidden": Why.HIDDEN}


def test_a_folder_that_may_not_be_entered_is_told_and_the_rest_goes_on(tmp_path, as_nobody):
    (tmp_path / "lost+found").mkdir(mode=0o700)
    (tmp_path / "ok.mp4").write_bytes(b"1")
    tmp_path.chmod(0o755)
    found = as_nobody(lambda: walk(str(tmp_path)))
    assert [path for path, _ in found.files] == [str(tmp_path / "ok.mp4")]
    assert [(s.path, s.why, s.detail) for s in found.skipped] == [
        (str(tmp_path / "lost+found"), Why.UNREADABLE, "Permission denied")
    ]


def test_a_name_that_is_not_utf8_is_a_name(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    with open(path, "wb") as file:
        file.write(b"1")
    assert [os.fsencode(found) for found, _ in walk(str(tmp_path)).files] == [path]


def test_the_caller_may_leave_entries_out(tmp_path):
    for name in ("keep", "drop"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_bytes(b"")
    found = walk(str(tmp_path), lambda folder, names: {"drop"} & set(names))
    assert [path for path, _ in found.files] == [str(tmp_path / "keep" / "x")]
    assert [(s.path, s.why) for s in found.skipped] == [(str(tmp_path / "drop"), Why.LEFT_OUT)]
