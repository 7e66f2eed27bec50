"""A short form of the corpus: one case of each kind that loads no model; `corpus.py` runs them all."""

import pytest
from corpus import PARTS, all_cases
from harness import GOOD, Case, build_world, run_case


def one_of_each_kind() -> list[Case]:
    """The second of each kind, or the only one."""
    kinds: dict[tuple[str, str], list[Case]] = {}
    for case in all_cases():
        if not case.heavy and case.part != "slow" and "bomb" not in case.name:
            kinds.setdefault((case.part, case.kind), []).append(case)
    return [cases[min(1, len(cases) - 1)] for cases in kinds.values()]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("hostile") / "world", adapters=False)


@pytest.mark.processes
@pytest.mark.slow
def test_one_case_of_each_kind_is_right_or_told(world, tmp_path):
    judged = [run_case(case, world, tmp_path / str(number)) for number, case in enumerate(one_of_each_kind())]
    assert len(judged) >= 30
    assert [(j.verdict, j.case.part, j.case.name, j.why) for j in judged if j.verdict not in GOOD] == []


def test_the_corpus_is_large_and_each_case_has_one_place():
    cases = all_cases()
    assert len(cases) >= 300 and {case.part for case in cases} == {part.name for part in PARTS}
    assert len({(case.part, case.kind, case.name) for case in cases}) == len(cases)
    assert sum(case.check is not None for case in cases) > 100  # not only what is refused
