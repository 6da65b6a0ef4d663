"""One client for tests that ask a service over and over: making one reads certificates, which takes 30 ms of a core."""

import httpx

HTTP = httpx.Client(limits=httpx.Limits(max_keepalive_connections=0))
"""A connection for each request, as `httpx.get` has: what answers may have been killed since the last."""
