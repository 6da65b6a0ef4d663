"""Runs a guide's blocks in the working folder, with the code that lies there: `python run_blocks.py blocks.json`.

One process and one Ray for all of them. `blocks.json` is a list of [language, text].
"""

import importlib
import json
import shlex
import sys
from pathlib import Path

from skyreels import cluster


def main(blocks):
    with cluster.connect():
        for language, text in blocks:
            if language == "python":
                exec(compile(text, "extending.md", "exec"), {})
            else:
                for words in map(shlex.split, text.replace("\\\n", " ").splitlines()):
                    command(words)


def command(words):
    """`python -m package …` or `python jobs/name.py …`."""
    assert words[0] == "python", words
    module, rest = (
        (f"{words[2]}.__main__", words[3:]) if words[1] == "-m" else (f"jobs.{Path(words[1]).stem}", words[2:])
    )
    code = importlib.import_module(module)
    assert Path(code.__file__).is_relative_to(Path.cwd()), f"{code.__file__} is not the code that lies here"
    assert not code.main(rest), words


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
