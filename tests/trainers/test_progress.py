import io

from trainers.progress import ProgressBar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_where_there_is_no_terminal():
    stream = io.StringIO()
    bar = ProgressBar(total=4, done=1, log_seconds=0, stream=stream)
    bar.update(2.5, 1e-3, tokens=100, seconds=50.0, usual=False)
    bar.update(2.0, 5e-4, tokens=100, seconds=2.0)
    bar.say("note")
    bar.update(1.5, 1e-4, tokens=100, seconds=4.0)
    bar.close()
    assert stream.getvalue().splitlines() == [
        "step 2/4  loss 2.5000  lr 1.00e-03  2 tokens/s  time left unknown",
        "step 3/4  loss 2.0000  lr 5.00e-04  50 tokens/s  00:02 left",
        "note",
        "step 4/4  loss 1.5000  lr 1.00e-04  25 tokens/s  00:00 left",
    ]


def test_few_lines_but_always_the_last():
    stream = io.StringIO()
    bar = ProgressBar(total=50, log_seconds=1000, stream=stream)
    for _ in range(50):
        bar.update(1.0, 1e-3, tokens=1, seconds=0.1)
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["50/50"]


def test_a_bar_on_a_terminal():
    stream = Terminal()
    bar = ProgressBar(total=2, stream=stream)
    bar.update(1.25, 1e-3, tokens=10, seconds=1.0)
    bar.say("between")
    bar.update(1.0, 1e-3, tokens=10, seconds=1.0)
    bar.close()
    text = stream.getvalue()
    assert "2/2" in text
    assert "loss 1.0000" in text
    assert "between\n" in text
