"""Prompt files as people and editors write them."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipdistill.core.errors import FormatError, InputError
from clipdistill.formats.prompts import load_prompts, parse_prompts


def test_a_prompt_a_line_in_order():
    found = parse_prompts("zebra\na dog\n\n  a cat  \n")
    assert found.labels == ("zebra", "a dog", "a cat")
    assert found.prompts == (("zebra",), ("a dog",), ("a cat",))


def test_comments_and_blank_lines_are_skipped():
    assert parse_prompts("# classes\n\n \t \n  # more\ncat # not a comment\n").labels == (
        "cat # not a comment",
    )


def test_several_prompts_of_a_label():
    found = parse_prompts("pet\ta cat\nbird\tan owl\npet\ta dog\npet\ta cat\npet\n")
    assert found.labels == ("pet", "bird")
    assert found.prompts == (("a cat", "a dog", "pet"), ("an owl",))


def test_a_line_that_stands_twice_counts_once():
    found = parse_prompts("cat\ndog\ncat\n cat\n")
    assert found.labels == ("cat", "dog")
    assert found.prompts == (("cat",), ("dog",))


@pytest.mark.parametrize("line", ["\tcat", "cat\t", "\tcat\t"])
def test_a_tab_with_nothing_on_one_side(line):
    found = parse_prompts(line)
    assert found.labels == ("cat",)
    assert found.prompts == (("cat",),)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_system(end):
    assert parse_prompts(end.join(["cat", "", "big dog", "x\ty"])).labels == ("cat", "big dog", "x")


@pytest.mark.parametrize("character", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_characters_that_are_no_line_ends_do_not_cut_a_prompt(character):
    assert len(parse_prompts(f"a{character}b").labels) == 1


def test_byte_order_mark(tmp_path):
    (tmp_path / "p.txt").write_bytes("\ufeffcat\r\nчай\r\n".encode())
    assert load_prompts(tmp_path / "p.txt").labels == ("cat", "чай")


def test_latin_1_says_where_and_how_to_convert(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes("abc\ncafé\n".encode("latin-1"))
    with pytest.raises(FormatError, match=r"p\.txt.*UTF-8.*byte 7 \(0xe9\).*iconv -f latin1"):
        load_prompts(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_text_of_notepad_and_powershell_is_read_by_its_byte_order_mark(tmp_path, encoding):
    path = tmp_path / "p.txt"
    mark = "" if encoding in ("utf-16", "utf-32") else "\ufeff"
    path.write_bytes(f"{mark}cat\r\nчай\r\n".encode(encoding))
    assert load_prompts(path).labels == ("cat", "чай")


def test_utf_16_without_a_mark_and_nul_bytes_are_refused(tmp_path):
    path = tmp_path / "p.txt"
    for data in ("cat\n".encode("utf-16-le"), b"cat\0dog\n", b"\xff\xfec"):
        path.write_bytes(data)
        with pytest.raises(FormatError, match="UTF-16"):
            load_prompts(path)


def test_both_spellings_of_an_accent_are_one_label():
    found = parse_prompts("caf\u00e9\ta caf\u00e9\ncafe\u0301\ta cafe\u0301\ncafe\u0301\tinside")
    assert found.labels == ("caf\u00e9",)
    assert found.prompts == (("a caf\u00e9", "inside"),)


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "\ufeff", " \t \n"])
def test_no_prompts(tmp_path, text):
    (tmp_path / "p.txt").write_text(text, "utf-8")
    with pytest.raises(InputError, match=r"p\.txt: there are no prompts in it. Write one per line"):
        load_prompts(tmp_path / "p.txt")


@pytest.mark.parametrize("name", ["missing.txt", ".", "file/deeper"])
def test_no_such_file(tmp_path, name):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="prompts file cannot be read"):
        load_prompts(tmp_path / name)


@given(st.text())
def test_any_text_parses(text):
    found = parse_prompts(text)
    assert len(found.labels) == len(found.prompts) == len(set(found.labels))
    for label, prompts in zip(found.labels, found.prompts, strict=True):
        assert label == label.strip() != ""
        assert prompts
        assert len(set(prompts)) == len(prompts)
        assert all(prompt == prompt.strip() != "" for prompt in prompts)


word = st.text(st.characters(exclude_characters="\t\r\n#", exclude_categories=["Cs"]), min_size=1)
words = word.map(lambda text: unicodedata.normalize("NFC", text).strip()).filter(bool)


@given(st.lists(st.tuples(words, words), min_size=1))
def test_labels_stand_in_order_of_first_appearance(pairs):
    found = parse_prompts("\n".join(f"{label}\t{prompt}" for label, prompt in pairs))
    assert list(found.labels) == list(dict.fromkeys(label for label, _ in pairs))
    expected: dict[str, list[str]] = {}
    for label, prompt in pairs:
        if prompt not in expected.setdefault(label, []):
            expected[label].append(prompt)
    assert [list(prompts) for prompts in found.prompts] == list(expected.values())


@given(st.binary(max_size=60))
def test_any_file_loads_or_says_why(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(data)
    try:
        assert load_prompts(path).labels
    except (FormatError, InputError) as error:
        assert "any.txt" in str(error)  # noqa: PT017
