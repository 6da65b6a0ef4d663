"""torchvision beside this torch: importable once any of our packages is."""

import importlib.util
import subprocess
import sys

import pytest


def _run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.slow
def test_our_packages_make_torchvision_and_its_users_importable():
    done = _run("import pipelines, torchvision, timm, open_clip; from torchvision import transforms")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_hook_is_needed_exactly_where_the_compiled_ops_do_not_load():
    from skyreels.torchvision_ops import _compiled_ops_load

    bare = _run("import torchvision")
    assert (bare.returncode == 0) == _compiled_ops_load()


def test_the_hook_leaves_other_imports_alone():
    from skyreels.torchvision_ops import _BeforeTorchvision

    assert importlib.util.find_spec("numpy") is not None
    assert _BeforeTorchvision().find_spec("numpy") is None
