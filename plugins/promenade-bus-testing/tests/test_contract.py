"""The contract as users meet it: what is run, what is reported, and what the reference says."""

from __future__ import annotations

from pathlib import Path

import pytest

from promenade_bus_testing.contract import AdapterContract, contract_tests
from promenade_bus_testing.contract.catalogue import as_markdown

pytestmark = pytest.mark.once

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "adapter-contract.md"

SUITE = """
    import promenade_bus_memory
    from bus_core import Features
    from promenade_bus_memory import MemoryHub
    from promenade_bus_testing.contract import AdapterContract

    class TestMine(AdapterContract):
        features = Features({features})
        plugins = (promenade_bus_memory,)

        def settings(self, place):
            return {{"adapter": "memory", "memory": {{"hub": MemoryHub()}}}}
    """
OF_MEMORY = "groups=True, broadcast=True, ordered=True, delayed=True, in_process=True"


def run(pytester: pytest.Pytester, *arguments: str, features: str = OF_MEMORY) -> pytest.RunResult:
    pytester.makepyfile(test_mine=SUITE.format(features=features))
    given = ["-p", "no:randomly", "-p", "no:hypothesispytest", "-p", "no:asyncio", "-W", "error"]
    return pytester.runpytest_inprocess(*given, *arguments)


def test_the_reference_lists_every_test() -> None:
    """The tables of the reference are those that python -m promenade_bus_testing.contract prints."""
    assert as_markdown() in PAGE.read_text(encoding="utf-8")


def test_every_test_says_what_it_is_about() -> None:
    """Each test has a name of its own and one sentence, and needs features and hooks that exist."""
    tests = contract_tests()
    names = [test.name for test in tests]
    assert len({*names}) == len(names) >= 100
    for test in tests:
        assert test.promise.endswith("."), test.name
        for feature in (*test.needs.features, *test.needs.not_features):
            assert f"`{feature}`" in str(test.needs)
        assert test.needs.hook is None or hasattr(AdapterContract, test.needs.hook)


def test_what_does_not_apply_is_listed(pytester: pytest.Pytester) -> None:
    """Tests that need what is not claimed are an outcome of their own, listed by what they need."""
    result = run(pytester, "-k", "test_from_the_earliest or test_order_of_one_key or test_postpone")
    result.stdout.fnmatch_lines(
        [
            "*contract tests that are not applicable*",
            "test_mine.py::TestMine needs feature 'replay': test_from_the_earliest",
            "*2 passed, * 1 not applicable*",
        ]
    )
    result.stdout.no_fnmatch_line("*skipped*")


def test_what_does_not_apply_is_listed_in_parallel_too(pytester: pytest.Pytester) -> None:
    """The list is complete when the tests run in several processes."""
    result = run(pytester, "-n", "2", "-k", "test_from_the_earliest or test_reconnect or test_postpone")
    result.stdout.fnmatch_lines(
        [
            "test_mine.py::TestMine needs feature 'durable': test_reconnect",
            "test_mine.py::TestMine needs feature 'replay': test_from_the_earliest",
            "*1 passed, 2 not applicable*",
        ]
    )


def test_features_that_are_not_true(pytester: pytest.Pytester) -> None:
    """Claiming less, or more, than the adapter does is a failure that shows both."""
    result = run(pytester, "-k", "test_features_are", features="groups=True, in_process=True")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *ordered*"])


def test_a_class_without_settings(pytester: pytest.Pytester) -> None:
    """A class that does not say which adapter to use is told what is missing."""
    pytester.makepyfile(
        """
        from bus_core import Features
        from promenade_bus_testing.contract import AdapterContract

        class TestMine(AdapterContract):
            features = Features()
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:randomly", "-p", "no:asyncio", "-k", "test_postpone")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *TestMine must define settings(place) to select the adapter"])


def test_what_never_comes_says_so(pytester: pytest.Pytester) -> None:
    """A condition that never comes to hold is a failure that says which, and shows every bus."""
    pytester.makeconftest(
        """
        import pytest
        from promenade_bus_memory.hub import MemoryHub

        @pytest.fixture(autouse=True)
        def nobody_listens(monkeypatch):
            monkeypatch.setattr(MemoryHub, "route", lambda hub, topic: [])
        """
    )
    pytester.makepyfile(test_mine=SUITE.format(features=OF_MEMORY) + "    deadline = 0.2\n")
    result = pytester.runpytest_inprocess("-p", "no:randomly", "-p", "no:asyncio", "-k", "test_publish_subs")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["E *no progress for 0.2 s, while waiting for: all events are handled", "E *<Bus *"]
    )


def test_stress(pytester: pytest.Pytester) -> None:
    """A stress run has so many suites of each test, with more of everything."""
    result = run(pytester, "--promenade-stress=3", "-v", "-k", "test_redrive_by_filter")
    result.stdout.fnmatch_lines([f"*test_redrive_by_filter?suite{index}?*" for index in range(3)])
    result.assert_outcomes(passed=3)


def test_parametrized_tests_under_stress(pytester: pytest.Pytester) -> None:
    """Suites multiply what a test is parametrized with already."""
    result = run(pytester, "--promenade-stress=2", "--collect-only", "-q", "-k", "test_key_waits")
    result.stdout.fnmatch_lines(["6/* tests collected*"])
