"""The testing kit of Promenade Bus.

Names are imported on first use, because pytest loads this package in every run where it is installed.
"""

import typing

from bus_core import on_demand

if typing.TYPE_CHECKING:
    from promenade_bus_testing.account import Account, SubscriptionAccount
    from promenade_bus_testing.balance import Balance
    from promenade_bus_testing.buses import isolated_bus, isolated_sync_bus
    from promenade_bus_testing.chaos import ChaosError
    from promenade_bus_testing.failures import Failures, UnseenFailures
    from promenade_bus_testing.journal import Journal
    from promenade_bus_testing.recorder import Recorder, SyncRecorder, recording, sync_recording
    from promenade_bus_testing.steps import Failed, Handled, Published
    from promenade_bus_testing.virtual_clock import VirtualClock, VirtualTimer
else:
    __getattr__, __dir__ = on_demand.names(
        __name__,
        {
            "account": "Account SubscriptionAccount",
            "balance": "Balance",
            "buses": "isolated_bus isolated_sync_bus",
            "chaos": "ChaosError",
            "failures": "Failures UnseenFailures",
            "journal": "Journal",
            "recorder": "Recorder SyncRecorder recording sync_recording",
            "steps": "Failed Handled Published",
            "virtual_clock": "VirtualClock VirtualTimer",
        },
    )

__all__ = [
    "Account",
    "Balance",
    "ChaosError",
    "Failed",
    "Failures",
    "Handled",
    "Journal",
    "Published",
    "Recorder",
    "SubscriptionAccount",
    "SyncRecorder",
    "UnseenFailures",
    "VirtualClock",
    "VirtualTimer",
    "isolated_bus",
    "isolated_sync_bus",
    "recording",
    "sync_recording",
]
