"""Storage: the same behaviour on local disk and on a real S3 server."""

import errno
import hashlib
import os
import signal
import subprocess
import sys

import pytest

from skyreels import leftovers, storage
from skyreels.storage import Storage


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path):
    if request.param == "local":
        return Storage(str(tmp_path / "store"))
    return Storage(request.getfixturevalue("s3_root") + "/store")


def test_write_read_list_delete(store):
    store.write("a/b.txt", b"one")
    store.write("a/c/d.txt", b"two")
    assert store.names() == ["a/b.txt", "a/c/d.txt"]
    assert store.names("a/c") == ["a/c/d.txt"]
    assert store.read("a/b.txt") == b"one"
    assert store.sub("a").names() == ["b.txt", "c/d.txt"]
    store.delete("a/b.txt")
    store.delete("a/b.txt")
    assert not store.exists("a/b.txt")
    assert store.exists("a/c/d.txt")


def test_nothing_is_there_before_or_after_a_failed_write(store):
    with pytest.raises(RuntimeError), store.staged("x.bin") as path:
        path.write_bytes(b"half")
        assert not store.exists("x.bin")
        raise RuntimeError
    assert store.names() == []


def test_a_failed_rewrite_leaves_the_old_file(store):
    store.write("x.bin", b"old")
    with pytest.raises(RuntimeError), store.staged("x.bin") as path:
        path.write_bytes(b"new")
        raise RuntimeError
    assert store.read("x.bin") == b"old"


def test_missing_files_are_named(store):
    with pytest.raises(FileNotFoundError, match=r"nope\.txt"):
        store.read("nope.txt")
    assert store.names("nope") == []


def test_checksum_and_upload(store, tmp_path):
    path = tmp_path / "big"
    path.write_bytes(os.urandom(3 << 20))
    store.upload(path, "big.bin")
    assert storage.sha256_of(store.location("big.bin")) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert storage.sha256_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_local_copy_of_a_remote_file_is_removed(s3_root, tmp_path):
    Storage(s3_root).write("clip.mp4", b"data")
    with storage.local_copy(f"{s3_root}/clip.mp4", tmp_path) as path:
        assert path.read_bytes() == b"data"
    assert not path.exists()


def test_an_unknown_scheme_is_refused():
    with pytest.raises(storage.StorageError, match="s3://bucket"):
        storage.exists("gopher://x/y")


def test_a_kill_between_write_and_publish_leaves_nothing_visible(tmp_path):
    """kill -9 while a file is staged: the name does not appear and no listing shows the leftovers."""
    code = (
        "import sys, time\nfrom skyreels.storage import Storage\n"
        "with Storage(sys.argv[1]).staged('x.bin') as path:\n"
        "    path.write_bytes(b'half'); print('ready', flush=True); time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout.readline().strip() == b"ready"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert any(tmp_path.iterdir())
    assert Storage(str(tmp_path)).names() == []
    leftovers.sweep(tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_full_disk_keeps_the_old_file_and_says_so(small_disk):
    store = Storage(str(small_disk))
    store.write("x.bin", b"old")
    with pytest.raises(OSError) as caught:
        store.write("x.bin", b"0" * (4 << 20))
    assert caught.value.errno == errno.ENOSPC
    assert store.read("x.bin") == b"old"
    assert store.names() == ["x.bin"]


def test_a_folder_that_cannot_be_read_is_no_empty_folder(tmp_path, as_nobody):
    (tmp_path / "closed").mkdir(mode=0o700)
    tmp_path.chmod(0o755)
    with pytest.raises(storage.StorageError, match="closed cannot be read: Permission denied"):
        as_nobody(lambda: Storage(str(tmp_path)).names())


def test_a_place_that_cannot_be_written_to_is_named_with_what_to_do(tmp_path, as_nobody):
    (tmp_path / "file").write_text("x")
    for place in ("file", "file/below"):
        with pytest.raises(storage.StorageError, match="is a file, or lies below one: give a folder as --output"):
            storage.require_writable(str(tmp_path / place))
    (tmp_path / "ro").mkdir(mode=0o555)
    tmp_path.chmod(0o755)
    with pytest.raises(storage.StorageError, match=r"ro/x cannot be written to \(Permission denied\): give another"):
        as_nobody(lambda: storage.require_writable(str(tmp_path / "ro" / "x")))
    with pytest.raises(storage.StorageError, match="not UTF-8"):
        storage.require_writable(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    storage.require_writable(str(tmp_path / "new" / "folder"))
    assert not (tmp_path / "new").exists(), "what was only tried is left as it was"


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(storage.StorageError, match=r"pipe\.mp4: it is a pipe, a socket or a device, not a file"):
        storage.open_input(str(tmp_path / "pipe.mp4"))
