"""Durable jobs behind HTTP, for whatever implements `servable.Servable`; nothing here knows a model.

A reading order: `servable` (what is served), `request` (what is asked), `store` (a job's life, and who works on it),
`dispatch` (when), `intake` and `http` (how it comes in and is told of), `server` or `on_ray` (where all of it runs).
"""
