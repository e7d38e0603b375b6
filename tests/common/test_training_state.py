"""Training state: saved atomically, restored by its own run only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hoser_kd.common.errors import StoreError
from hoser_kd.common.training_state import TrainingState

CONTENT = {"model": {"weight": torch.arange(3.0)}, "history": [{"loss": 0.5}]}


@pytest.fixture
def state(tmp_path):
    saved = TrainingState(tmp_path / "run" / "state.pt", "a")
    saved.save(CONTENT)
    return saved


def test_a_run_gets_its_content_back(state):
    content = state.restore(dict)
    assert content["history"] == CONTENT["history"]
    assert torch.equal(content["model"]["weight"], CONTENT["model"]["weight"])
    assert [path.name for path in state.path.parent.iterdir()] == ["state.pt"]


def test_without_a_file_nothing_is_restored(state):
    state.clear()
    state.clear()
    assert state.restore(lambda _: pytest.fail("called")) is None


def test_a_state_of_another_run_is_refused_and_kept(state):
    with pytest.raises(StoreError, match=r"state\.pt: .* other settings, data or seed.*resume=False"):
        TrainingState(state.path, "b").restore(dict)
    assert state.restore(dict) is not None


@pytest.mark.parametrize("content", [{"model": {}}, [torch.ones(1)], {"key": "a2", "history": []}])
def test_a_file_without_the_key_is_refused(state, content):
    torch.save(content, state.path)
    with pytest.raises(StoreError, match="other settings"):
        state.restore(dict)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_refused(state, share):
    whole = state.path.read_bytes()
    state.path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(StoreError, match=r"state\.pt: damaged.*Delete it, or pass resume=False"):
        state.restore(dict)


def test_content_that_does_not_fit_is_refused(state):
    with pytest.raises(StoreError, match=r"state\.pt: damaged training state \(KeyError\).*Delete it"):
        state.restore(lambda content: content["optimizer"])
    with pytest.raises(StoreError, match="RuntimeError"):
        state.restore(lambda content: torch.nn.Linear(2, 2).load_state_dict(content["model"]))


def test_a_failed_save_keeps_the_state_before(state):
    with pytest.raises(Exception, match="pickle"):
        state.save({"model": lambda: None})
    assert state.restore(dict)["history"] == CONTENT["history"]


def test_code_in_a_file_is_not_run(state, tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"key": "a", "model": Evil()}, state.path)
    with pytest.raises(StoreError, match=r"state\.pt: .*not a training state"):
        state.restore(dict)
    assert not (tmp_path / "ran").exists()
