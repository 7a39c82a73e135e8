"""Names of feature files, records as lines of JSON, and the journal."""

import hashlib
from pathlib import Path

from small_images import extract_tiny, fill_disk_after, read_all

from adapters.extraction.records import FAILED, OK, Journal, Record, feature_file_name
from adapters.extraction.run_folder import JOURNAL


def test_file_names_are_unique_and_stable() -> None:
    names = [feature_file_name(Path(path)) for path in ("/a/x.jpg", "/b/x.jpg", "/a/x.png", "/a/ü b.jpg", "/a/.jpg")]
    assert len(set(names)) == len(names)
    assert names[0] == f"x-{hashlib.sha256(b'/a/x.jpg').hexdigest()[:16]}.safetensors"
    assert names[3].startswith("__b-")
    assert all(name.isascii() for name in names)


def test_a_journal_gives_its_records_back(tmp_path: Path) -> None:
    """Line by line, those of earlier versions too, without a last line that was cut short."""
    top5 = ((3, "cat", 0.5), (1, None, 0.25))
    records = [Record(2, OK, None, (4, 5), (6, 7), "ab", 9, "float32", top5), Record(0, FAILED, "no such file")]
    journal = Journal(tmp_path / "journal")
    for record in records:
        journal.add(record)
    journal.close()
    text = (tmp_path / "journal").read_text()
    assert text.splitlines()[1] == (
        '{"index": 0, "status": "failed", "reason": "no such file", "original": null, "fed": null, "checksum": null, '
        '"bytes": null, "dtype": null, "top5": null, "note": null}'
    )
    assert Record.from_line(text.splitlines()[0].replace(', "note": null', "")) == records[0]
    for torn in ('{"index": 1, "sta', '{"index": 1}\n', records[0].to_line()[:-1]):
        (tmp_path / "journal").write_text(text + torn)
        again = Journal(tmp_path / "journal")
        again.close()
        assert list(again.records.values()) == records
        assert (tmp_path / "journal").read_text() == text


def test_a_torn_line_of_the_journal_is_dropped(images: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    fill_disk_after(images, out, 5)
    journal = out / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    extract_tiny(images, out)
    assert read_all(out) == undisturbed
