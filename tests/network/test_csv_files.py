"""CSV files: what is read whatever its spelling, and what a message says about a file that is none."""

from __future__ import annotations

import gzip

import pyarrow as pa
import pytest

from hoser_kd.common.errors import DataError
from hoser_kd.network.csv_files import describe_number, read_csv_columns
from hoser_kd.network.times import describe_time, parse_times

TYPES = {"id": pa.int64(), "name": pa.string(), "size": pa.float64()}


def read(folder, content, name="x.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_csv_columns(path, TYPES, {"note": pa.string()}).to_pydict()


@pytest.mark.parametrize(
    "text",
    [
        "id,name,size\n1,a,2\n",
        "\ufeff size ,name,id,more\r\n2.0,a, 1 ,x",
        'name,size,id\n\n"a","2","1"\n\n',
    ],
)
def test_spellings_of_the_same_table(tmp_path, text):
    assert read(tmp_path, text) == {"id": [1], "name": ["a"], "size": [2.0]}
    assert read(tmp_path, gzip.compress(text.encode()), "x.csv.gz") == {"id": [1], "name": ["a"], "size": [2.0]}


def test_an_optional_column_is_read_where_it_exists(tmp_path):
    assert read(tmp_path, "note,id,name,size\nx,1,a,2\n")["note"] == ["x"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id;name;size\n1;a;2\n", "id, name, size is missing; there are: id;name;size.* by semicolons"),
        ("id\tname\tsize\n1\ta\t2\n", "separated by tabs"),
        ("ID,name,size\n1,a,2\n", r"column id is missing; there are: ID.*optional: note\. Rename 'ID' to id"),
        ("", "there are: none"),
        ("id,name,size,id\n1,a,2,3\n", "column id is there twice"),
        ("id,name,size, size\n1,a,2,3\n", "column size is there twice"),
        ("id,note,name,size,note\n1,x,a,2,y\n", "column note is there twice"),
        ("id,name,size\n1,a,2\n2,b\n", "row 1: it has 2 values, but the header has 3 columns. Is the file complete"),
        ("id,name,size\n1,a,2,3\n", "row 0: it has 4 values.*quotation marks"),
        ('id,name,size\n1,"a,2\n2,b,3\n', "a quotation mark is opened and not closed"),
        ("id,name,size\n1,a,2\n0x16,b,3\n", r"row 1: id is '0x16', not a whole number\. .*write 22"),
        ("id,name,size\n22.0,a,2\n", "row 0: id is '22.0', not a whole number. It is a decimal number: write 22"),
        ("id,name,size\nnp.int64(5),a,2\n", "as NumPy prints it: write 5"),
        ("id,name,size\n1,a,big\n", "row 0: size is 'big', not a number"),
        ("id,name,size\n1,a,2\n".encode("utf-16"), "text in UTF-16"),
        (gzip.compress(b"id,name,size\n1,a,2\n", mtime=0), "compressed with gzip, but its name"),
        (b"id,name,size\n1,a,2\n2,\xff,3\n", "row 1: byte 2 of the row is not UTF-8"),
    ],
)
def test_a_wrong_file_is_refused_with_what_it_is(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, content)


def test_a_missing_file_that_is_packed_is_named(tmp_path):
    (tmp_path / "x.csv.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"no such file. x\.csv\.gz exists: unpack it"):
        read_csv_columns(tmp_path / "x.csv", TYPES)


def test_times_have_one_format():
    texts = ["2013-07-01T00:00:01Z", "2013-07-01 00:00:01Z", "2013-07-01T00:00:01+00Z", "2013-02-30T00:00:00Z", None]
    assert parse_times(pa.array(texts)).to_pylist() == [1_372_636_801, 1_372_636_801, None, None, None]


@pytest.mark.parametrize(
    ("describe", "text", "words"),
    [
        (describe_time, "1372636801", "seconds or milliseconds"),
        (describe_time, "2013-07-01T00:00:01-0300", "UTC offset"),
        (describe_time, "2013-07-01T00:00:01.500Z", "fraction of a second"),
        (describe_time, "2013-07-01T00:00:01", "no Z"),
        (describe_time, "2013-07-01", "without a time of day"),
        (describe_time, "noon", ""),
        (describe_number, "1.5", "write a whole number"),
        (describe_number, "2e3", "write a whole number"),
        (describe_number, "seven", ""),
    ],
)
def test_values_are_named_for_what_they_are(describe, text, words):
    assert words in describe(text)
    assert bool(describe(text)) == bool(words)
