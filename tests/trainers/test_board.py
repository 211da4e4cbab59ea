import numpy as np
import tensorflow as tf

from trainers.board import Board, draw_confusion_matrix


def test_picture_is_darkest_where_a_class_is_always_right():
    picture = draw_confusion_matrix(np.array([[9, 0], [5, 5]]), ["good", "bad"])
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    dark, half, white = ([0x08, 0x30, 0x6B], [0x6A, 0xAE, 0xD6], [0xF7, 0xFB, 0xFF])
    for colour in (dark, half, white):  # all, half and none of a class, in Matplotlib's "Blues"
        distance = np.abs(picture.astype(int) - colour).max(axis=-1)
        assert (distance < 4).mean() > 0.05, colour


def test_a_class_that_is_not_there_is_drawn_too():
    assert draw_confusion_matrix(np.array([[3, 1], [0, 0]]), ["a", "b"]).ndim == 3


def test_texts_keep_their_lines_and_show_no_markup(tmp_path):
    board = Board(str(tmp_path))
    board.texts("samples", ["Once"], ["<b>upon</b>\na time"], step=3)
    board.close()
    events = [
        event
        for file in tmp_path.iterdir()
        for event in tf.compat.v1.train.summary_iterator(str(file))
        if event.summary.value
    ]
    text = events[0].summary.value[0].tensor.string_val[0].decode()
    assert events[0].step == 3
    assert text == "**Once**\n\n    <b>upon</b>\n    a time"
