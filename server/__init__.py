"""HTTP in front of the queue: validate, tokenise, admit, wait, stream.

May import: contracts, Flask, gevent and gunicorn, redis, prometheus_client. Never torch, never models or workers.
"""
