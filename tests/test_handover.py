"""What two institutions hand to each other: F, score files, and the whole story on two roots."""


import pytest
import torch
from conftest import folder

from utils.errors import UserError
from utils.training.fisher import of_run, read_fisher, write_fisher


def test_fisher_information_in_a_file_to_hand_on(outputs, tmp_path):
    run = folder(outputs, "task_a", "KEMDy19")
    path = tmp_path / "a.fisher.safetensors"
    kept = of_run(run, cpu=True, num_workers=0)
    write_fisher(path, kept)
    for again in (read_fisher(path), torch.load(run / "fisher-b10.pt", weights_only=True)):
        assert {name: value for name, value in again.items() if name != "fisher"} == {
            name: value for name, value in kept.items() if name != "fisher"
        }
        assert all(torch.equal(again["fisher"][name], values) for name, values in kept["fisher"].items())
        assert set(again) == {"task", "model", "batch_size", "utterances", "fisher"}
    # Nobody's name and no place is in it.
    assert b"Sess" not in path.read_bytes() and str(outputs.parent).encode() not in path.read_bytes()
    damaged = tmp_path / "damaged"
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        damaged.write_bytes(content)
        with pytest.raises(UserError, match=f"{damaged} is damaged"):
            read_fisher(damaged)
