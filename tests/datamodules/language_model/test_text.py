"""Text data sets: what is too short, what evaluation covers, and what the cache is keyed by."""

import tracemalloc
from pathlib import Path

import pytest

from datamodules import TextFiles
from datamodules.language_model.batch import IGNORE
from datamodules.loading.shards import ALONE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(bytes(range(125)) * 8)
    return path


def test_a_sequence_longer_than_the_data_is_refused(path: Path) -> None:
    data = TextFiles(str(path), sequence_length=900)
    with pytest.raises(
        ValueError, match=r"sequence_length 900 is longer .* TextFiles has 900 tokens; at most 899"
    ):
        data.train_dataloader()
    data.set_stage(0, 899, 2)
    batch = next(iter(data.train_dataloader()))
    assert batch["input_ids"].shape == (2, 899)
    streams = TextFiles(str(path), sequence_length=300, batch_size=4, stream=True)
    with pytest.raises(ValueError, match=r"900 tokens for 4 streams; at most 224 is possible"):
        streams.train_dataloader()


def test_a_split_without_anything_to_predict_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("abcdefghij")
    data = TextFiles(str(tmp_path / "x"), val_fraction=0.1, test_fraction=0.1)
    with pytest.raises(ValueError, match="the val split of TextFiles has 1 tokens, but at least 2"):
        data.val_dataloader()


def test_evaluation_follows_the_stage_unless_it_is_told(path: Path) -> None:
    data = TextFiles(str(path), val_fraction=0.3, sequence_length=64, batch_size=2)
    data.set_stage(1, 32, 5)
    assert next(iter(data.val_dataloader()))["input_ids"].shape == (5, 32)
    data = TextFiles(str(path), val_fraction=0.3, eval_length=100, eval_step=10, eval_batch_size=3)
    batches = list(data.val_dataloader())
    assert batches[0]["input_ids"].shape == (3, 100)
    counts = [int(n) for b in batches for n in (b["labels"] != IGNORE).sum(1)]
    assert counts == [100] + [10] * 19 + [9]
    with pytest.raises(ValueError, match="eval_step must be <= eval_length, which is 8, got 9"):
        TextFiles(str(path), eval_length=8, eval_step=9).val_dataloader()


@pytest.mark.parametrize("stream", [False, True])
def test_test_and_predict_cover_the_test_split(path: Path, stream: bool) -> None:
    data = TextFiles(str(path), sequence_length=7, stream=stream)
    for loader in (data.test_dataloader(), data.predict_dataloader()):
        found = [int(x) for b in loader for x in b["labels"].flatten() if x != IGNORE]
        assert sorted(found) == sorted(i % 125 for i in range(951, 1000))


def test_a_stream_begins_anew_in_each_file(tmp_path: Path) -> None:
    """The separator is the first token of the file after it."""
    for name, size in (("a", 30), ("b", 3), ("c", 27)):
        (tmp_path / name).write_text(name * size)
    data = TextFiles(
        [str(tmp_path / name) for name in "abc"],
        **dict(sequence_length=8, batch_size=1, stream=True, val_fraction=0, test_fraction=0.5),
    )
    data.setup()
    train, test = data.split("train"), data.split("test")
    assert train is not None
    assert test is not None
    assert bytes(train.tokens.read(0, 99).tolist()) == b"a" * 30
    assert bytes(test.tokens.read(0, 99).tolist()) == b"bbb\n" + b"c" * 27
    assert test.starts.tolist() == [0, 3]
    source = data.eval_source("test", ALONE)
    assert source is not None
    assert source[0]["restarts"][0].int().tolist() == [1, 0, 0, 1, 0, 0, 0, 0]
    assert [bool(source[number]["continues"]) for number in range(4)] == [False, True, True, True]


def test_token_files_are_keyed_by_content_and_settings(path: Path, cache: Path) -> None:
    def folders() -> int:
        return len([p for p in cache.iterdir() if p.name.startswith("textfiles-")])

    TextFiles(str(path)).prepare_data()
    TextFiles(str(path), sequence_length=5, seed=3, stream=True).prepare_data()
    elsewhere = path.parent / "moved" / "text.txt"
    elsewhere.parent.mkdir()
    path.rename(elsewhere)
    TextFiles(str(elsewhere)).prepare_data()
    assert folders() == 1, "what does not change the tokens does not write them again"
    TextFiles(str(elsewhere), val_fraction=0.1).prepare_data()
    assert folders() == 2
    TextFiles(str(elsewhere), val_fraction=0.1, separator="").prepare_data()
    assert folders() == 3
    elsewhere.write_bytes(bytes(range(125))[::-1] * 8)
    changed = TextFiles(str(elsewhere))
    changed.prepare_data()
    assert folders() == 4
    split = changed.split("train")
    assert split is not None
    assert split.tokens.read(0, 3).tolist() == [124, 123, 122]


def test_a_cache_folder_can_be_chosen(path: Path, tmp_path: Path, cache: Path) -> None:
    TextFiles(str(path), cache_dir=str(tmp_path / "mine")).prepare_data()
    assert len(list((tmp_path / "mine").glob("textfiles-*"))) == 1
    assert not cache.exists()


def test_all_processes_can_prepare(path: Path) -> None:
    # Where prepare_data runs in another process, setup finds what it left.
    TextFiles(str(path)).prepare_data()
    data = TextFiles(str(path), sequence_length=50, batch_size=17)
    data.setup("fit")
    assert len(data.train_source(ALONE)) == 1


def test_text_is_never_all_in_memory(tmp_path: Path) -> None:
    size = 40_000_000
    with (tmp_path / "large").open("wb") as file:
        file.truncate(size)
    data = TextFiles(str(tmp_path / "large"))
    tracemalloc.start()
    try:
        data.prepare_data()
        data.setup()
        next(iter(data.train_dataloader()))
        assert tracemalloc.get_traced_memory()[1] < size / 4
    finally:
        tracemalloc.stop()
    split = data.split("train")
    assert split is not None
    assert len(split.tokens) == 0.9 * size
