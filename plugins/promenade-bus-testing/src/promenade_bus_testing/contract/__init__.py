"""The contract that every adapter keeps, as tests: one class of about ten lines runs all of them.

::

    from promenade_bus_testing.contract import AdapterContract, Place

    class TestMyAdapter(AdapterContract):
        features = Features(groups=True, durable=True)
        plugins = (my_adapter_plugin,)

        def settings(self, place: Place) -> Mapping[str, Any]:
            return {"adapter": "mine", "mine": {"directory": str(place.directory)}}

The tests use the public API of the bus only. Those that need a feature which the adapter does not claim are
reported as not applicable, by name. ``pytest --promenade-stress -n 10`` runs ten suites at once, for long.
"""

import pytest

# The assertions of the suite explain themselves like those of a test file.
pytest.register_assert_rewrite("promenade_bus_testing.contract")

from promenade_bus_testing.contract.catalogue import ContractTest, contract_tests  # noqa: E402
from promenade_bus_testing.contract.places import Place  # noqa: E402
from promenade_bus_testing.contract.suite import AdapterContract  # noqa: E402

__all__ = ["AdapterContract", "ContractTest", "Place", "contract_tests"]
