"""Files laid out as the public suites lay out theirs, with words of our own."""

import csv
import json

import pytest

from pipelines.evaluation.prompts.public import PromptFileError, main, public_prompts
from pipelines.generation.lists.prompt_file import read_prompts


def avgen(folder, **categories):
    (folder / "prompts").mkdir()
    for name, prompts in categories.items():
        rows = [{"content": f"no. {number}", "prompt": prompt} for number, prompt in enumerate(prompts)]
        (folder / "prompts" / f"{name}.json").write_text(json.dumps(rows, indent=4))
    return folder


def javis(folder, rows, columns=("path", "text", "video_text", "audio_text")):
    with (folder / "JavisBench-mini.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(rows)
    return folder


def test_categories_of_avgen_bench_are_files(tmp_path):
    found = public_prompts(avgen(tmp_path, sports=["A ball bounces.", "A whistle\n  blows."], ads=["Rain on tin."]))
    assert [(one.name, one.category, one.prompt) for one in found] == [
        ("avgen-bench/ads/0000", "ads", "Rain on tin."),
        ("avgen-bench/sports/0000", "sports", "A ball bounces."),
        ("avgen-bench/sports/0001", "sports", "A whistle blows."),
    ]


def test_javisbench_is_a_table_whose_cells_may_hold_commas_and_lines(tmp_path):
    rows = [
        {"path": "a.mp4", "text": 'A dog barks, "twice",\nthen sleeps.', "video_text": "A dog", "audio_text": "Barks"}
    ]
    (one,) = public_prompts(javis(tmp_path, rows))
    assert (one.name, one.prompt) == ("javisbench/JavisBench-mini/0000", 'A dog barks, "twice", then sleeps.')
    assert one.shots == 1


def test_lines_that_are_printed_are_prompts_for_training(tmp_path, capsys):
    avgen(tmp_path, news=["A bell rings.", "雨が降る。"])
    assert main([str(tmp_path)]) == 0
    (tmp_path / "prompts.jsonl").write_text(capsys.readouterr().out)
    read = read_prompts(tmp_path / "prompts.jsonl")
    assert [(one.name, one.request.prompt) for one in read] == [
        ("avgen-bench-news-0000", "A bell rings."),
        ("avgen-bench-news-0001", "雨が降る。"),
    ]


def test_what_is_no_such_file_is_told_with_its_place(tmp_path, capsys):
    with pytest.raises(PromptFileError, match="holds neither JavisBench"):
        public_prompts(tmp_path)
    avgen(tmp_path, news=["A bell rings.", " "])
    assert main([str(tmp_path)]) == 1
    assert "news.json, entry 2: `prompt` holds no words" in capsys.readouterr().err
    (tmp_path / "prompts" / "news.json").write_text("[{")
    with pytest.raises(PromptFileError, match=r"news\.json is no JSON"):
        public_prompts(tmp_path)
    (tmp_path / "prompts" / "news.json").write_text('{"prompt": "A bell"}')
    with pytest.raises(PromptFileError, match="holds no list"):
        public_prompts(tmp_path)
    javis(tmp_path, [{"path": "a.mp4", "caption": "A dog"}], ("path", "caption"))
    with pytest.raises(PromptFileError, match="has columns path, caption: one must be `text`"):
        public_prompts(tmp_path)
    javis(tmp_path, [{"path": "a.mp4", "text": "A dog"}, {"path": "b.mp4", "text": ""}], ("path", "text"))
    with pytest.raises(PromptFileError, match="line 3: `text` holds no words"):
        public_prompts(tmp_path)
