import csv
import gzip
import io
import json
import os

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from trainers.records import find_files, read_records

UNICODE = st.text(st.characters(exclude_categories=["Cs"]))
TEXT = {"text": "text"}
LABELLED = {"text": "text", "label": "label"}
ROWS = [
    {"text": "good, “very”\tgood\nindeed", "label": "pos"},
    {"text": ' "bad"\r', "label": "neg"},
    {"text": "naïve 🙂 \x00 end", "label": "pos"},
]


def as_jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_table(rows, delimiter=","):
    out = io.StringIO()
    writer = csv.DictWriter(
        out, rows[0], delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL
    )
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def fields(records):
    return [{name: r[name] for name in r if name != "where"} for r in records]


CONTENTS = {
    "x.jsonl": as_jsonl(ROWS),
    "x.ndjson": as_jsonl(ROWS),
    "x.json": json.dumps(ROWS, indent=1).encode(),
    "lines.json": as_jsonl(ROWS),
    "x.csv": as_table(ROWS),
    "X.TSV": as_table(ROWS, "\t"),
    "bom.csv": b"\xef\xbb\xbf" + as_table(ROWS),
    "bom.jsonl": b"\xef\xbb\xbf" + as_jsonl(ROWS),
    "crlf.jsonl": as_jsonl(ROWS).replace(b"\n", b"\r\n\r\n"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", CONTENTS)
def test_every_format_gives_the_same_records(tmp_path, name, packed):
    content = gzip.compress(CONTENTS[name]) if packed else CONTENTS[name]
    path = write(tmp_path / (name + ".gz" * packed), content)
    assert fields(read_records(path, LABELLED)) == ROWS


def test_parquet_keeps_types(tmp_path):
    rows = [
        {"text": "a", "label": 3, "messages": [{"role": "user", "content": "Hi"}]},
        {"text": None, "label": -1, "messages": []},
    ]
    path = str(tmp_path / "x.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    records = read_records(path, {"text": "text", "label": "label", "messages": "messages"})
    assert fields(records) == rows
    assert [record["where"] for record in records] == [f"{path}:row 1", f"{path}:row 2"]


def test_zst_where_it_can_be_read(tmp_path):
    path = tmp_path / "x.jsonl.zst"
    try:
        import zstandard
    except ImportError:
        write(path, b"whatever")
        with pytest.raises(ValueError, match=r"x\.jsonl\.zst: needs the package zstandard"):
            read_records(str(path), LABELLED)
    else:
        write(path, zstandard.compress(CONTENTS["x.jsonl"]))
        assert fields(read_records(str(path), LABELLED)) == ROWS


def test_where_names_the_line_a_record_begins_on(tmp_path):
    path = write(tmp_path / "x.csv", 'text,label\n"two\nlines",a\n\nplain,b\n')
    assert [r["where"] for r in read_records(path, TEXT)] == [f"{path}:2", f"{path}:5"]
    path = write(tmp_path / "x.jsonl", '\n{"text": "a"}\n\n{"text": "b"}')
    assert [r["where"] for r in read_records(path, TEXT)] == [f"{path}:2", f"{path}:4"]


@given(st.lists(st.fixed_dictionaries({"text": UNICODE, "label": UNICODE}), min_size=1))
def test_csv_round_trip(tmp_path_factory, rows):
    path = write(tmp_path_factory.mktemp("csv") / "x.csv", as_table(rows))
    assert fields(read_records(path, LABELLED)) == rows


def test_long_fields(tmp_path):
    text = "word " * 100_000
    path = write(tmp_path / "x.csv", as_table([{"text": text, "label": "a"}]))
    assert read_records(path, TEXT)[0]["text"] == text


def test_columns_are_renamed_and_alternatives_taken_in_order(tmp_path):
    rows = [{"q": "1+1", "a": "2", "body": "x"}, {"body": "y"}]
    path = write(tmp_path / "x.jsonl", as_jsonl(rows))
    choices = [{"prompt": "q", "completion": "a"}, {"text": "body"}]
    assert fields(read_records(path, choices)) == [
        {"prompt": "1+1", "completion": "2"},
        {"text": "y"},
    ]
    with pytest.raises(
        ValueError, match=r"x\.jsonl:2: no column 'q' and 'a' or 'text'; there is 'body'"
    ):
        read_records(path, [choices[0], TEXT])
    # A pair would lack a column more than the text does, so the text was meant.
    pairs = [
        {"text": "body", "text_pair": "other", "label": "topic"},
        {"text": "body", "label": "topic"},
    ]
    with pytest.raises(
        ValueError, match=r"x\.jsonl:1: no column 'topic'; there is 'q', 'a', 'body'"
    ):
        read_records(path, pairs)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("file", [(1, "One\r\n two\n\n\n three\n \nfour")]),
        ("paragraph", [(1, "One\r\n two"), (5, " three"), (7, "four")]),
        ("line", [(1, "One"), (2, " two"), (5, " three"), (7, "four")]),
    ],
)
def test_units_of_text_files(tmp_path, unit, expected):
    path = write(tmp_path / "x.txt", "One\r\n two\n\n\n three\n \nfour")
    records = read_records(path, TEXT, text_unit=unit)
    assert [(r["where"], r["text"]) for r in records] == [
        (f"{path}:{line}", text) for line, text in expected
    ]


def test_other_encodings(tmp_path):
    path = write(tmp_path / "x.csv", "text,label\nnaïve,a\n".encode("latin-1"))
    assert read_records(path, TEXT, encoding="latin-1")[0]["text"] == "naïve"
    with pytest.raises(ValueError, match=r"x\.csv:2: byte 0xef at offset 13 is not utf-8"):
        read_records(path, TEXT)
    with pytest.raises(ValueError, match="no such encoding"):
        read_records(path, TEXT, encoding="latin-99")
    with pytest.raises(ValueError, match="only encodings that contain ASCII"):
        read_records(path, TEXT, encoding="utf-16")
    with pytest.raises(ValueError, match="text_unit='word'"):
        read_records(path, TEXT, text_unit="word")


CUT_GZIP = gzip.compress(as_jsonl([{"text": str(i * 7919)} for i in range(999)]))[:500]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "x.jsonl",
            b'{"text": "a"}\n{"text": "b"\n',
            r"x\.jsonl:2: not JSON: .* at column 13; got '\{\"text\"",
        ),
        ("x.jsonl", b'{"text": "a"}\n\n"text"\n', r"x\.jsonl:3: each line must be a JSON object"),
        ("x.jsonl", b"[" * 100_000, r"x\.jsonl:1: not JSON"),
        (
            "x.jsonl",
            b'{"txt": "a", "id": 1}',
            r"x\.jsonl:1: no column 'text'; there is 'txt', 'id'",
        ),
        ("x.jsonl", b"{}", r"x\.jsonl:1: no column 'text'; there is nothing"),
        ("x.jsonl", b"", r"x\.jsonl: no records"),
        ("x.jsonl", b"\n \n", r"x\.jsonl: no records"),
        ("x.jsonl", b'{"text": "\xff"}', r"x\.jsonl:1: byte 0xff at offset 10 is not utf-8"),
        ("x.jsonl", b'{"text": "\\uD83d!"}', r"x\.jsonl:1: \\ud83d is half a surrogate pair"),
        ("x.json", b'[{"m": [{"c": "\\udc00"}]}]', r"x\.json\[0\]: \\udc00 is half a surrogate"),
        ("x.json", b'[{"text": "a"}, 3]', r"x\.json\[1\]: each item must be a JSON object"),
        ("x.json", b'[{"text": "a"},', r"x\.json:1: not JSON: Expecting value at column 16"),
        ("x.json", b"[]", r"x\.json: no records"),
        ("x.csv", b"text,label\na,b,c\n", r"x\.csv:2: 3 fields, but the header has 2"),
        ("x.csv", b'text,label\na,b\n"c\n,d\n', r"x\.csv:3: unexpected end of data"),
        ("x.csv", b'text,label\n"a"b,c\n', r"x\.csv:2: .*expected after"),
        ("x.csv", b"text,text\na,b\n", r"x\.csv:1: the header names the column 'text' twice"),
        ("x.csv", b"a,b\nc,d\n", r"x\.csv:2: no column 'text'; there is 'a', 'b'"),
        ("x.csv", b"text,label\n", r"x\.csv: no records"),
        ("x.csv", b"", r"x\.csv: no records"),
        ("x.txt", b" \n", r"x\.txt: no records"),
        ("x.txt", b"one\ntwo \xc3\n", r"x\.txt:2: byte 0xc3 at offset 8 is not utf-8"),
        ("x.parquet", b"PAR1 or not", r"x\.parquet: not a readable Parquet file"),
        ("x.parquet", b"", r"x\.parquet: not a readable Parquet file"),
        ("x.jsonl.gz", b"no gzip", r"x\.jsonl\.gz: damaged or cut off"),
        (
            "x.jsonl.gz",
            CUT_GZIP,
            r"damaged or cut off",
        ),
        ("x.xlsx", b"", r"x\.xlsx: unknown extension; known are \.jsonl"),
        ("text", b"a", r"text: unknown extension"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=message) as error:
        read_records(path, TEXT)
    assert "\n" not in str(error.value)


def test_parquet_without_the_column(tmp_path):
    path = str(tmp_path / "x.parquet")
    parquet.write_table(pyarrow.table({"a": [1]}), path)
    with pytest.raises(ValueError, match=r"row 1: no column 'text'; there is 'a'"):
        read_records(path, TEXT)


def test_files_folders_globs_and_lists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.txt", "a.jsonl.gz", "sub/deep/c.csv", "README", "a,b.txt", "[x].txt"):
        write(tmp_path / name, "x")
    os.mkdir("dir.txt")
    assert find_files("sub") == [os.path.join("sub", "deep", "c.csv")]
    assert find_files(["b.txt,sub/**/*.csv", "b.txt"]) == ["b.txt", "sub/deep/c.csv"]
    assert find_files("a,b.txt") == ["a,b.txt"]
    assert find_files("[x].txt") == ["[x].txt"]
    assert find_files("*.txt") == ["[x].txt", "a,b.txt", "b.txt"]
    assert len(find_files(".")) == 5
    assert find_files(str(tmp_path / "b.txt"))[0] == str(tmp_path / "b.txt")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_files("~/b.txt") == [str(tmp_path / "b.txt")]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("none.jsonl", "none.jsonl: no such file or folder"),
        ("*.jsonl", r"\*\.jsonl: no file matches"),
        ("empty", "empty: no data file in this folder; known are .jsonl"),
        ("", "nothing named"),
        ([], "nothing named"),
        ("none,a.txt", "none: no such file"),
    ],
)
def test_nothing_found(tmp_path, monkeypatch, pattern, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "empty" / "notes.docx", "x")
    with pytest.raises(ValueError, match=message):
        find_files(pattern)
