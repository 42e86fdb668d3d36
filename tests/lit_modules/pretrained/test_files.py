"""Files of weights: every form is read alike, damage and code are refused."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lit_modules.pretrained.files import WeightsError, read, read_json, write

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.int64)}


def same(state: dict[str, torch.Tensor]) -> None:
    assert set(state) == set(STATE)
    for name, tensor in STATE.items():
        assert torch.equal(state[name], tensor)


class Malicious:
    """Unpickled without care, it leaves a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
@pytest.mark.parametrize("inside", [None, "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch(tmp_path, suffix, inside, zipped):
    content = STATE if inside is None else {inside: STATE, "epoch": 3}
    path = tmp_path / f"weights{suffix}"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    same(read(path).state)
    same(read(tmp_path).state)


def test_safetensors_and_state_dicts(tmp_path):
    save_file(STATE, tmp_path / "some.safetensors")
    source = read(str(tmp_path / "some.safetensors"))
    same(source.state)
    assert source.folder == tmp_path
    same(read({"state_dict": STATE}).state)
    assert read(STATE).folder is None


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_shards(tmp_path, name):
    shards = {"a.weight": "one", "b": "two"}
    for key, shard in shards.items():
        if "safetensors" in name:
            save_file({key: STATE[key]}, tmp_path / shard)
            (tmp_path / shard).rename(tmp_path / f"{shard}.safetensors")
        else:
            torch.save({key: STATE[key]}, tmp_path / f"{shard}.bin")
    ending = ".safetensors" if "safetensors" in name else ".bin"
    index = {"weight_map": {key: shard + ending for key, shard in shards.items()}}
    (tmp_path / name).write_text(json.dumps(index))
    same(read(tmp_path).state)
    (tmp_path / f"two{ending}").unlink()
    with pytest.raises(WeightsError, match=rf"names 'two{ending}', which is not in the folder"):
        read(tmp_path)
    (tmp_path / name).write_text(json.dumps({"weight_map": {"a": "../other.bin"}}))
    with pytest.raises(WeightsError, match=r"names '../other.bin', which is not in the folder"):
        read(tmp_path)


def test_safetensors_come_before_the_old_form(tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")
    torch.save({"other": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    same(read(tmp_path).state)


def test_settings_of_a_training_run_are_no_weights(tmp_path):
    torch.save(STATE, tmp_path / "mine.pt")
    (tmp_path / "training_args.bin").write_bytes(b"x")
    same(read(tmp_path).state)


def test_a_folder_without_weights_or_with_several(tmp_path):
    with pytest.raises(WeightsError, match=r"must have one file of weights .*, has none"):
        read(tmp_path)
    for name in ("one.pt", "two.pt"):
        torch.save(STATE, tmp_path / name)
    with pytest.raises(WeightsError, match=r"has several, one.pt, two.pt: name one"):
        read(tmp_path)


def test_what_is_not_there(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"roberta-base: no such file or folder .* not by a"
    ):
        read("roberta-base")


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_never_runs(tmp_path, zipped):
    mark = tmp_path / "was-here"
    path = tmp_path / "evil.bin"
    torch.save({**STATE, "x": Malicious(mark)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"evil.bin holds code or objects, .* is not opened: "):
        read(path)
    assert not mark.exists()


def test_a_bare_pickle_never_runs(tmp_path):
    mark = tmp_path / "was-here"
    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps({"x": Malicious(mark)}))
    with pytest.raises(WeightsError, match=r"evil.pt "):
        read(path)
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pt", ".ckpt"])
@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_damaged_files(tmp_path, suffix, damage):
    path = tmp_path / f"model{suffix}"
    if suffix == ".safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path)
    content = path.read_bytes()
    damaged = {"cut": content[: len(content) // 2], "noise": b"\x07" * 99, "empty": b""}
    path.write_bytes(damaged[damage])
    with pytest.raises(WeightsError, match=rf"model{suffix} is damaged or no .*file"):
        read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [([1, 2], "must hold a state dict, got list"), ({"epoch": 1}, "holds no tensors")],
)
def test_files_without_weights(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=message):
        read(tmp_path / "x.pt")


def test_json(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"a": ')
    with pytest.raises(WeightsError, match=r"config.json is not JSON"):
        read_json(path)
    path.write_text("[]")
    with pytest.raises(WeightsError, match="must hold an object, got list"):
        read_json(path)


def test_writing_leaves_the_old_file_where_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    write(STATE, path)
    before = path.read_bytes()

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("sparse_patterns.config.files.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write({"other": torch.zeros(3)}, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("content", [STATE, {"a": 1}, [1]], ids=["tensors", "numbers", "list"])
def test_plain_pickles_are_named(tmp_path, content, protocol):
    path = tmp_path / "weights.bin"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(WeightsError, match=r"weights.bin is a plain pickle.*by torch.save"):
        read(path)


ODD_INDEXES = {
    "nothing": ({}, "has no weight_map"),
    "an empty map": ({"weight_map": {}}, "has no weight_map"),
    "a list": ({"weight_map": []}, "has no weight_map"),
    "a number": ({"weight_map": {"a": 1}}, "must give a file name for each tensor, got 1 for 'a'"),
    "nothing for a tensor": ({"weight_map": {"a": None}}, "must give a file name.*None for 'a'"),
    "several files": ({"weight_map": {"a": ["one.bin"]}}, r"must give a file name.*\['one.bin'\]"),
    "an object": ({"weight_map": {"a": {}}}, "must give a file name"),
    "no name": ({"weight_map": {"a": ""}}, "names '', which is not in the folder"),
    "a name of no file": ({"weight_map": {"a": "x\0y"}}, "which is not in the folder"),
    "a long name": ({"weight_map": {"a": "a" * 5000}}, "which is not in the folder"),
    "itself": (
        {"weight_map": {"a": "pytorch_model.bin.index.json"}},
        "which is no file of weights",
    ),
    "another tensor": ({"weight_map": {"c": "one.bin"}}, "one.bin holds 'c', but it does not"),
}


@pytest.mark.parametrize("case", ODD_INDEXES)
def test_odd_indexes_are_refused(tmp_path, case):
    content, why = ODD_INDEXES[case]
    torch.save(STATE, tmp_path / "one.bin")
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=why):
        read(tmp_path)


def test_an_index_nested_too_deeply_is_refused(tmp_path):
    (tmp_path / "pytorch_model.bin.index.json").write_text("[" * 100_000)
    with pytest.raises(WeightsError, match="is not JSON"):
        read(tmp_path)
