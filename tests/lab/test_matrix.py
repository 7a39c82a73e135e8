"""The table of versions: what pytest printed, and a page that holds what was run."""

from lab import matrix


def test_counts_what_pytest_printed() -> None:
    assert matrix.count("...\n3 failed, 27 passed, 1 error in 12.41s\n") == {"passed": 27, "failed": 4}
    assert matrix.failures("F\nFAILED tests/a.py::test_b[c] - assert 1\n1 failed") == ["tests/a.py::test_b[c]"]
    assert matrix.count("no tests ran in 0.1s") == {"passed": 0, "failed": 0}


def test_the_page_is_that_of_the_records() -> None:
    records = matrix.read_json(matrix.RECORDS)
    assert set(records) <= set(matrix.LINES)
    assert matrix.render(records) == matrix.PAGE.read_text()
    assert all(len(record["failures"]) == record["failed"] for record in records.values())


def test_the_extras_and_tests_of_the_lines_exist() -> None:
    pyproject = (matrix.REPOSITORY / "pyproject.toml").read_text()
    assert all(f"\n{line.extra} = [" in pyproject for line in matrix.LINES.values())
    assert all((matrix.REPOSITORY / path).exists() for path in matrix.TESTS)
