"""Prompt files of public suites, from a folder that the user has; nothing is downloaded.

AVGen-Bench   prompts/CATEGORY.json: a list of {"content": a title, "prompt": the words}
JavisBench    JavisBench.csv or JavisBench-mini.csv: columns text, video_text, audio_text and attributes

    python -m pipelines.evaluation.prompts.public AVGen-Bench > prompts.jsonl      # as `jobs/train.py --prompts` takes
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from model.generation.prompts import render_prompt
from pipelines.evaluation.prompts.generated import BenchPrompt

_WORDS = ("text", "prompt")
"""Columns that hold the words of a row, the first that is there."""


class PromptFileError(ValueError):
    """A file that is not what its suite publishes: which, where in it, and what was expected."""


def public_prompts(folder: str | Path) -> list[BenchPrompt]:
    """All prompts of the suite in `folder`, in the order of its files. Raises PromptFileError."""
    folder = Path(folder)
    tables = sorted(folder.glob("JavisBench*.csv"))
    if tables:
        return [prompt for table in tables for prompt in _javis(table)]
    lists = sorted((folder / "prompts").glob("*.json")) or sorted(folder.glob("*.json"))
    if lists:
        return [prompt for path in lists for prompt in _avgen(path)]
    raise PromptFileError(
        f"{folder} holds neither JavisBench*.csv nor prompts/*.json: give the folder of JavisBench or of AVGen-Bench"
    )


def _avgen(path: Path) -> Iterator[BenchPrompt]:
    """One category."""
    try:
        rows = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, UnicodeDecodeError) as error:
        raise PromptFileError(f"{path} is no JSON ({error}): copy it again") from error
    if not isinstance(rows, list):
        raise PromptFileError(f"{path} holds no list: AVGen-Bench has a list of {{content, prompt}} for a category")
    for number, row in enumerate(rows):
        words = row.get("prompt") if isinstance(row, dict) else None
        yield _prompt(words, f"{path}, entry {number + 1}: `prompt`", "avgen-bench", path.stem, number)


def _javis(path: Path) -> Iterator[BenchPrompt]:
    """A table; the category is its name, for attributes cut across one another."""
    csv.field_size_limit(1 << 20)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        column = next((name for name in _WORDS if name in (rows.fieldnames or ())), None)
        if column is None:
            raise PromptFileError(f"{path} has columns {', '.join(rows.fieldnames or ())}: one must be `text`")
        for number, row in enumerate(rows):
            where = f"{path}, line {rows.line_num}: `{column}`"
            yield _prompt(row[column], where, "javisbench", path.stem, number)


def _prompt(words: Any, where: str, suite: str, category: str, number: int) -> BenchPrompt:
    if not isinstance(words, str) or not words.strip():
        raise PromptFileError(f"{where} holds no words: restore the file from its suite, or take the entry out")
    return BenchPrompt(f"{suite}/{category}/{number:04d}", "en", category, " ".join(words.split()))


def main(argv: Sequence[str] | None = None) -> int:
    """Print them as JSON lines."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.evaluation.prompts.public",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="of JavisBench or AVGen-Bench")
    try:
        for one in public_prompts(parser.parse_args(argv).folder):
            name = one.name.replace("/", "-")
            print(json.dumps({"name": name, "prompt": render_prompt(one.prompt)}, ensure_ascii=False))
    except PromptFileError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
