"""Durable jobs behind HTTP, for whatever implements `servable.Servable`; nothing here knows a model.

A reading order: `servable` (what is served), `records` and `store` (a job's life), `leases` and `work` (who works on
it), `dispatcher` (when), `request`, `intake` and `app` (how it is asked for).
"""
