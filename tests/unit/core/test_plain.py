"""Plain YAML: what is read in one way only, what is refused, and that it is written to be read."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from clip_wsss.core.errors import InputError
from clip_wsss.core.plain import LONGEST, check_values, dump_yaml, plain_value, read_yaml


@pytest.fixture
def read(tmp_path):
    def read(text):
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / "a.yaml").write_bytes(data)
        return read_yaml(tmp_path / "a.yaml")

    return read


WORDS = [  # as it is written, in a file, in a cell; InputError: refused
    ("10", 10, 10),
    ("-3", -3, -3),
    ("+3", 3, 3),
    ("0", 0, 0),
    ("0.5", 0.5, 0.5),
    (".5", 0.5, 0.5),
    ("5.", 5.0, 5.0),
    ("1.0e-5", 1e-5, 1e-5),
    ("1.0e+3", 1000.0, 1000.0),
    ("1e-05", InputError, 1e-5),  # text in YAML 1.1
    ("1e3", InputError, 1000.0),
    ("1.0e3", InputError, 1000.0),
    ("010", InputError, InputError),  # 8 or 10
    ("-010", InputError, InputError),
    ("08", InputError, InputError),  # text or 8
    ("0o10", InputError, InputError),
    ("0x10", InputError, InputError),
    ("0b10", InputError, InputError),
    ("1_000", InputError, InputError),
    ("2007_000032", InputError, InputError),  # an image of VOC
    ("1_0.5", InputError, InputError),
    ("12:30", InputError, InputError),  # 750 or text
    ("1:30.5", InputError, InputError),
    ("2001-01-01", InputError, InputError),
    ("2001-01-01T10:00:00Z", InputError, InputError),
    ("true", True, True),
    ("False", False, False),
    ("TRUE", True, True),
    ("null", None, None),
    ("~", None, None),
    *((word, InputError, InputError) for word in ("yes", "No", "ON", "off")),
    ("=", InputError, InputError),
    ("y", "y", "y"),
    ("photo", "photo", "photo"),
    ("a/b.pth", "a/b.pth", "a/b.pth"),
    ("1e5a", "1e5a", "1e5a"),
    ("nan", "nan", "nan"),
    (".inf", InputError, float("inf")),  # which the check of a cell's values refuses
]


@pytest.mark.parametrize(("word", "file", "cell"), WORDS, ids=[one[0] for one in WORDS])
def test_a_word_is_read_in_one_way_or_refused(read, word, file, cell):
    for reads, value in (
        (lambda: read(f"key: {word}\n")["key"], file),
        (lambda: plain_value(word), cell),
    ):
        if value is InputError:
            with pytest.raises(InputError) as error:
                reads()
            assert "\n" not in str(error.value)
        else:
            assert (reads(), type(reads())) == (value, type(value))
    assert read(f"key: '{word}'\n") == {"key": word}, "in quotes it is text"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\non: 2\n", "in line 2 (`on`: YAML readers"),  # a key
        ("a: !!str 3\n", "tags are not used here"),
        ("a: !!set {x}\n", "tags are not used here"),
        ("!own\na: 1\n", "tags are not used here"),
        ("a: 1\n---\nb: 2\n", "in line 2 (holds two documents; keep one, without the `---`"),
        ("a:\n\t- 1\n", "cannot start any token"),
        ("a: *b\n", "undefined alias"),
        ("? [a]\n: 1\n", "a key must be a word"),
        ("? {a: 1}\n: 1\n", "a key must be a word"),
        ("x: {a: 1, 'a': 2}\n", "the key `a` is given twice"),
        ("a: &a {x: 1}\nc: &c {y: 2}\nb:\n  <<: *a\n  <<: *c\n", "line 5: the key `<<` is given"),
        ("1: a\n1: b\n", "the key `1` is given twice"),
        ("a: " + 200 * "[" + 200 * "]", "is nested more than 50 deep"),
        ("a: " + 100_000 * "[", "is nested more than 50 deep"),
        ("a: " + 5000 * "9", "not YAML that can be used"),
        ("a: 99999999999999999999\n", "a: must be less than 2**63 from zero"),
        ("a: [1, [.nan]]\n", "a.1.0: must be a finite number; got nan"),
        ("a: {b: -.inf}\n", "a.b: must be a finite number; got -inf"),
        ("a: x\u202ey\n", "a: must be one line without control characters; got 'x"),
        ('a: "x\\ny"\n', "a: must be one line without control characters; got 'x\\ny'"),
        ('a: "\\e[2J"\n', "a: must be one line"),
        ('"a\\nb": 1\n', "a key: must be one line"),
        ("a: |\n  x\n  y\n", "a: must be one line"),
        ("a: " + (LONGEST + 1) * "x", f"a: must have at most {LONGEST} characters; got 4097"),
        ("a: &a [*a]\n", "unconstructable recursive node"),
        ("a: &a {b: *a}\n", "unconstructable recursive node"),
        (b"a: \x01\n", "special characters are not allowed"),
        (b"a: \xff\n", "is not UTF-8"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_one_line(read, text, line):
    with pytest.raises(InputError) as error:
        read(text)
    assert line in str(error.value)
    assert "a.yaml: " in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_several_mappings_are_merged_by_one_key(read):
    text = "a: &a {x: 1}\nc: &c {y: 2}\nb: {<<: [*a, *c], z: 3}\n"
    assert read(text)["b"] == {"x": 1, "y": 2, "z": 3}


def test_a_few_lines_of_aliases_make_no_billion_values(read):
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join(9 * [f'*a{n - 1}'])}]" for n in range(1, 30)]
    with pytest.raises(InputError, match="holds more than 100000 values"):
        read("\n".join(lines))


def test_a_byte_order_mark_and_other_line_ends_change_nothing(read):
    assert read(b"\xef\xbb\xbfa: 1\r\nb: x\r\n") == {"a": 1, "b": "x"}
    assert read("") is None


@pytest.mark.parametrize("value", [True, 0, 2**63 - 1, 1.5, "ü 漢字", "a\u00a0b", None, [], {}])
def test_plain_values_are_taken(value):
    check_values({"a": [value]}, "x")


_TEXTS = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), max_size=8)
_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | _TEXTS
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([word for word, _, _ in WORDS]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(_PLAIN)
def test_what_is_written_is_read_back_by_us_and_by_others(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    path.write_text(dump_yaml({"key": value}), encoding="utf-8")
    assert read_yaml(path) == {"key": value} == yaml.safe_load(path.read_text("utf-8"))
