"""The table of mistaken and hostile input is complete, and says what the tests say."""

import make_case_table
import pytest


@pytest.fixture(scope="module")
def cases():
    return make_case_table.cases()


def test_every_case_of_the_study_has_a_test(cases):
    assert make_case_table.missing(cases) == []


def test_every_case_has_a_place_in_the_table(cases):
    assert make_case_table.strays(cases) == []
    stray = cases[0]._replace(numbers="999")
    assert make_case_table.strays([stray]) == [stray.test]


def test_the_table_in_the_repository_is_the_one_the_tests_give(cases):
    expected = make_case_table.table(cases)
    assert make_case_table.TABLE.read_text(encoding="utf-8") == expected, "run python tools/make_case_table.py"


def test_a_test_that_is_taken_away_is_missed(tmp_path, monkeypatch):
    monkeypatch.setattr(make_case_table, "ROOT", tmp_path)
    path = tmp_path / "test_made_up.py"
    path.write_text('@pytest.mark.case("3, 7-9", "a | b", "refused")\ndef test_it(): ...\n', encoding="utf-8")
    (case,) = make_case_table.cases(tmp_path)
    assert case.covered() == {3, 7, 8, 9}
    assert case.test == "test_made_up.py::test_it"
    lost = make_case_table.missing([case])
    assert {1, 2, 4, 56, 114, 125} <= set(lost)
    assert not {3, 7, 8, 9, 126} & set(lost)
    assert r"| 3, 7-9 | a \| b | refused | [it](../test_made_up.py) |" in make_case_table.table([case])


def test_a_mark_that_is_no_literal_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(make_case_table, "ROOT", tmp_path)
    (tmp_path / "test_made_up.py").write_text('@pytest.mark.case("1", "a")\ndef test_it(): ...\n', encoding="utf-8")
    with pytest.raises(ValueError, match="not enough values"):
        make_case_table.cases(tmp_path)
