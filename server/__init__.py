"""HTTP in front of the queue: validate, tokenise, admit, wait, stream.

May import: contracts, Flask and Jinja, gevent and gunicorn, pydantic, redis, prometheus_client. Never torch, never
models or workers.
"""
