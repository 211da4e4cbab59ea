from benchmarks.tables import markdown


def test_columns_are_as_wide_as_their_widest_cell():
    assert markdown(("", "tokens/s"), [("ours", "12"), ("x", "1,234,567")]).splitlines() == [
        "|      | tokens/s  |",
        "| ---- | --------- |",
        "| ours | 12        |",
        "| x    | 1,234,567 |",
    ]
