from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.mqtt_bench import Bench

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as built:
        yield built
