"""HTTP in front of the queue: validate, tokenise, admit, wait, stream.

May import: contracts, Flask, gevent, redis. Never torch, never models or workers.
"""
