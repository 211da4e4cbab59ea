import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainers import args
from trainers.board import Board
from trainers.insight import insight_flags
from trainers.loop import loop_flags
from trainers.run_folder import RunFolder


class Listed:
    """Keeps what it is given."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *arguments, **named: self.calls.append((name, *arguments, *named.values()))


def show(board):
    with board:
        board.scalars("train", {"loss": 2.0, "loss_of/wiki": 3.0}, 1)
        board.texts("samples", ["Once"], ["upon"], 2)
        board.confusion_matrix("eval/confusion_matrix", np.eye(2, dtype=int), ["a", "b"], 3)
        board.attention("attention/0/block_0", np.eye(2)[None], ["a", "b"], 4)


def test_all_who_show_get_the_same():
    first, second = Listed(), Listed()
    show(Board([first, second]))
    for mine, other in zip(first.calls, second.calls, strict=True):
        np.testing.assert_equal(mine, other)
    assert [call[0] for call in first.calls] == ["scalars", "texts", "picture", "picture", "close"]
    assert first.calls[0][1] == {"train/loss": 2.0, "train/loss_of/wiki": 3.0}
    assert first.calls[-1][1] is False


def test_is_told_of_a_failure():
    writer = Listed()
    with pytest.raises(ValueError, match="bad"), Board([writer]):
        raise ValueError("bad")
    assert writer.calls == [("close", True)]


@pytest.mark.parametrize("writes", [True, False])
def test_of_the_processes_of_a_run_one_shows(tmp_path, writes):
    flags = args.parse([loop_flags, insight_flags], ["test", f"--output_dir={tmp_path / 'run'}"])
    folder = RunFolder(flags, writes)
    folder.begin()
    show(Board.of(flags, folder))
    path = tmp_path / "run" / "tensorboard"
    if not writes:
        assert not path.exists()
        return
    events = EventAccumulator(str(path)).Reload()
    tags = [tag for kind in ("tensors", "images", "scalars") for tag in events.Tags()[kind]]
    assert sorted(tags) == [
        "attention/0/block_0", "eval/confusion_matrix", "samples", "train/loss",
        "train/loss_of/wiki",
    ]  # fmt: skip
