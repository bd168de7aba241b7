"""The encoding that bytes suggest, and texts in another encoding than the one that is named."""

import itertools
import tarfile
import zipfile
from pathlib import Path

import pytest
from reading import opened, resolved

from charlm.config.corpus import Corpus as Section
from charlm.data.corpus import Text, read_text
from charlm.data.encodings import likely_encoding
from charlm.errors import CorpusError

pytestmark = pytest.mark.usefixtures("own_cache")

FRENCH = "Le café « déjà vu » coûte 3 €. L\u2019été, les élèves rêvent d\u2019être à la plage.\n"
CURLY = "\u201cHe said,\u201d she wrote\u2014and the naïve reader didn\u2019t know\u2026\n"
CHINESE = "今天天气很好。我们去公园散步。孩子们在草地上玩耍。老人坐在长椅上聊天。\n"
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n"
RUSSIAN = "Люди жили долго и счастливо, каждый день ходили гулять.\n"
HUNGARIAN = "Ő volt az első, aki megérkezett. Az űrhajó gyönyörű volt.\n"
TEXTS = [
    *(("cp1252", FRENCH), ("cp1252", CURLY), ("latin-1", "Müller läuft über die Straße.\n")),
    *(("cp1250", HUNGARIAN), ("cp1251", RUSSIAN), ("koi8-r", RUSSIAN)),
    *(("gbk", CHINESE), ("shift_jis", JAPANESE), ("big5", "今天天氣很好。我們去公園散步。\n")),
    *(("utf-16", FRENCH), ("utf-16-le", FRENCH), ("utf-16-be", FRENCH), ("utf-8", FRENCH)),
]


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def content(text: Text) -> str:
    return b"".join(block for block, _ in text.blocks()).decode()


def test_the_likely_encoding_decodes_a_text_as_it_was():
    for encoding, text in TEXTS:
        data = (text * 9).encode(encoding)
        likely = likely_encoding(data)
        assert likely is not None, encoding
        assert data.decode(likely).removeprefix("\ufeff") == text * 9, (encoding, likely)


def test_bytes_that_are_no_text_suggest_no_encoding():
    assert likely_encoding(bytes([0x81, 0x20, 0xFF, 0xFD, 0x98]) * 200) is None


def test_an_error_late_in_a_file_suggests_the_encoding_too(tmp_path):
    data = b"plain ASCII text\n" * 5000 + FRENCH.encode("cp1252")
    with pytest.raises(CorpusError, match=r"looks like cp1252: pass --set corpus.encoding=cp1252,"):
        opened(Section(text=(str(write(tmp_path / "a.txt", data)),)))


def test_utf_16_without_the_mark_of_its_byte_order_suggests_the_order(tmp_path):
    for data, likely in ((FRENCH.encode("utf-16-le"), "utf-16-le"), (b"plain text\n", "utf-8")):
        path = write(tmp_path / "a.txt", data)
        with pytest.raises(CorpusError, match=f"looks like {likely}: pass --set corpus.encoding="):
            opened(Section(text=(str(path),), encoding="utf-16"))


def test_a_few_zeros_do_not_suggest_utf_16(tmp_path):
    for data, problem in (
        (b"hello\0world\n" * 9, "has a NUL character, so it is not text"),
        (bytes(range(256)) * 10, r"byte 128 \(0x80\) is not utf-8"),
        (bytes(100) + b"text" * 9, "has a NUL character, so it is not text"),
    ):
        path = write(tmp_path / "a.txt", data)
        with pytest.raises(CorpusError, match=f"{problem}; pass --set corpus.encoding=NAME"):
            opened(Section(text=(str(path),)))
    for text in (FRENCH, RUSSIAN):
        path = write(tmp_path / "a.txt", text.encode("utf-16-be"))
        with pytest.raises(CorpusError, match="it looks like utf-16-be: pass"):
            opened(Section(text=(str(path),)))


def test_a_damaged_utf_8_text_is_not_called_another_encoding(tmp_path):
    path = write(tmp_path / "a.txt", FRENCH.encode() + b"\xff" + FRENCH.encode())
    with pytest.raises(CorpusError, match="is not utf-8; the text before it is: correct the file"):
        opened(Section(text=(str(path),)))


def test_utf_8_is_not_read_in_another_encoding(tmp_path):
    path = write(tmp_path / "a.txt", FRENCH.encode())
    with pytest.raises(
        CorpusError, match=r"is not latin-1; it looks like utf-8: pass --set corpus.encoding=utf-8,"
    ):
        opened(Section(text=(str(path),), encoding="latin-1"))
    earlier = opened(Section(text=(str(path),), encoding="latin-1", rules=1, valid_share=0.0))
    assert content(earlier.parts["train"]) == FRENCH.encode().decode("latin-1")


def test_another_text_is_read_as_utf_8_or_in_the_encoding_of_the_run(tmp_path):
    for encoding in ("cp1252", "utf-16", "utf-7"):
        path = write(tmp_path / "own.txt", FRENCH.encode(encoding))
        config = resolved(Section(text=(str(path),), encoding=encoding))
        for other in (encoding, "utf-8"):
            if (encoding, other) != ("utf-7", "utf-8"):  # Any ASCII text is a text in UTF-7.
                path = write(tmp_path / "other.txt", CURLY.encode(other))
                assert content(read_text([str(path)], config)) == CURLY, (encoding, other)


def test_the_error_of_another_text_names_no_setting(tmp_path):
    config = resolved(Section(text=(str(write(tmp_path / "own.txt", b"own text")),)))
    path = write(tmp_path / "other.txt", FRENCH.encode("cp1252"))
    with pytest.raises(CorpusError, match=r"; it looks like cp1252; save it as UTF-8$") as caught:
        read_text([str(path)], config)
    assert "--set" not in str(caught.value)


def write_zip(path: Path, *members: str) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        for member in members:
            archive.writestr(member, "some text")
    return path.read_bytes()


def test_a_document_or_an_archive_is_named_by_its_contents(tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    for data, message in (
        (write_zip(scratch, "novel.txt"), "is a zip archive; unpack it"),
        (write_zip(scratch, "_rels/.rels", "word/document.xml"), r"is a Word document \(.docx\)"),
        (write_zip(scratch, "mimetype", "META-INF/container.xml"), r"is an e-book \(.epub\)"),
        (b"PK\x03\x04 damaged", "is a zip archive"),
        (b"%PDF-1.7\n1 0 obj\n", "is a PDF document, not text; open it and save it as plain"),
        (b"{\\rtf1\\ansi Hello}", "is an RTF document"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" * 9, "is a document of Microsoft Office"),
    ):
        path = write(tmp_path / "a.txt", data)
        with pytest.raises(CorpusError, match=rf"^{path}: {message}[^\n]*$"):
            opened(Section(text=(str(path),)))
        text = opened(Section(text=(str(path),), valid_share=0.0), raw=True).parts["train"]
        assert b"".join(block for block, _ in text.blocks()) == data


def test_a_tar_archive_is_named_whether_it_is_compressed_or_not(tmp_path):
    member = write(tmp_path / "novel.txt", FRENCH.encode())
    for mode, kind in itertools.product(
        ("w", "w:gz", "w:xz"), (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)
    ):
        with tarfile.open(tmp_path / "archive", mode, format=kind) as archive:
            archive.add(member, "novel.txt")
        with pytest.raises(CorpusError, match=r"archive: is a tar archive; unpack it and give its"):
            opened(Section(text=(str(tmp_path / "archive"),)))


def test_the_error_of_an_image_in_a_folder_has_the_pattern_that_leaves_it_out(tmp_path):
    folder = tmp_path / "my novel"
    folder.mkdir()
    write(folder / "1.txt", b"A chapter. " * 20)
    (folder / "images").mkdir()
    image = write(folder / "images" / "cover.jpg", b"\xff\xd8\xff\xe0 ...")
    with pytest.raises(CorpusError, match=rf"text, or leave it out, with '{folder}/\*\*/\*\.txt'$"):
        opened(Section(text=(str(folder),)))
    with pytest.raises(CorpusError, match=r"a JPEG image, not text; give a text$"):
        opened(Section(text=(str(image),)))
    opened(Section(text=(f"{folder}/**/*.txt",)))
