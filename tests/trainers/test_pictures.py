import numpy as np
import pytest

from trainers.pictures import draw_attention, draw_confusion_matrix

FULL, HALF, NONE = ([0x08, 0x30, 0x6B], [0x6A, 0xAE, 0xD6], [0xF7, 0xFB, 0xFF])  # "Blues"


def share(picture, colour):
    """Of the picture that has a colour."""
    return (np.abs(picture.astype(int) - colour).max(axis=-1) < 4).mean()


def test_picture_is_darkest_where_a_class_is_always_right():
    picture = draw_confusion_matrix(np.array([[9, 0], [5, 5]]), ["good", "bad"])
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    for colour in (FULL, HALF, NONE):  # all, half and none of a class
        assert share(picture, colour) > 0.05, colour


def test_a_class_that_is_not_there_is_drawn_too():
    assert draw_confusion_matrix(np.array([[3, 1], [0, 0]]), ["a", "b"]).ndim == 3


@pytest.mark.filterwarnings("error")
def test_each_head_is_a_square_of_attention():
    """Five heads in three columns; each looks at itself alone, but for one that looks at halves."""
    weights = np.stack([np.eye(4)] * 4 + [np.full((4, 4), 0.5)])
    picture = draw_attention(
        weights, ["$x^", "·\\n", "猫", "ค"]
    )  # no mathematics, no font for some
    assert picture.dtype == np.uint8
    height, width, _ = picture.shape
    assert width > 1.3 * height
    assert share(picture, HALF) > 3 * share(picture, FULL) / 4 > 0.01
    last = picture[height // 2 :, width // 3 : 2 * width // 3]
    assert share(last, HALF) > 0.1
    assert share(last, FULL) < 0.01
    assert share(picture[height // 2 :, 2 * width // 3 :], [255] * 3) == 1  # there is no sixth
