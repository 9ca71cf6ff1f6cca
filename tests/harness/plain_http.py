"""Requests of a test's own to servers on this machine: as `httpx.get` and so on, at a hundredth of their cost.

Each of httpx's functions builds a TLS context, which takes 30 ms, for a URL that needs none. Connections are not
kept: one that outlives its test would be taken for something that the test left behind.
"""

from __future__ import annotations

import httpx

_CLIENT = httpx.Client(verify=False, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))

get = _CLIENT.get
put = _CLIENT.put
post = _CLIENT.post
head = _CLIENT.head
stream = _CLIENT.stream
