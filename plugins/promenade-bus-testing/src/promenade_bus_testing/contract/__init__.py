"""The contract of adapters, as tests: one class of about ten lines runs all of them.

::

    from promenade_bus_testing.contract import AdapterContract, Place

    class TestMyAdapter(AdapterContract):
        features = Features(groups=True, durable=True)
        plugins = (my_adapter_plugin,)

        def settings(self, place: Place) -> Mapping[str, Any]:
            return {"adapter": "mine", "mine": {"directory": str(place.directory)}}

The tests use only the public API of the bus. A test of a feature that the adapter does not claim is reported
as not applicable, by name. ``pytest --promenade-stress -n 10`` runs every test ten times in parallel, under
load.
"""

import pytest

# The assertions of the suite explain themselves like those of a test file.
pytest.register_assert_rewrite("promenade_bus_testing.contract")

from promenade_bus_testing.contract.catalogue import ContractTest, contract_tests  # noqa: E402
from promenade_bus_testing.contract.places import Place  # noqa: E402
from promenade_bus_testing.contract.suite import AdapterContract  # noqa: E402

__all__ = ["AdapterContract", "ContractTest", "Place", "contract_tests"]
