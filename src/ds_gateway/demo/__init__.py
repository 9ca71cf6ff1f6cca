"""``ds-gateway demo``: the whole way from devices to streams on one machine, with faults, and an audit at the end.

| module  | one line                                                                |
|---------|-------------------------------------------------------------------------|
| faults  | what is done, and when: computed from the length; pure                  |
| audit   | what was sent against what the streams contain; pure                    |
| report  | what came out, as JSON; pure                                            |
| setup   | the broker's and the gateway's configuration; pure                      |
| tied    | a child's first step: it ends with the process that started it          |
| parts   | child processes, ports, and the folder they live in                     |
| sensors | simulated MQTT sensors                                                  |
| scale   | a simulated scale on a pseudo-terminal                                  |
| tare    | a command that tares it, and its receipts                               |
| watch   | what the gateway says about itself                                      |
| stage   | all parts together, before anything happens                             |
| table   | what people see                                                         |
| demo    | the run                                                                 |
"""

from __future__ import annotations

from ds_gateway.demo.demo import run_demo
from ds_gateway.demo.faults import MIN_SECONDS
from ds_gateway.demo.parts import DemoError, find_mosquitto
from ds_gateway.demo.report import Report
from ds_gateway.demo.table import LiveShow, PlainShow, result

__all__ = [
    "MIN_SECONDS",
    "DemoError",
    "LiveShow",
    "PlainShow",
    "Report",
    "find_mosquitto",
    "result",
    "run_demo",
]
