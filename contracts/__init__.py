"""What processes promise each other: settings, requests, results, errors, queue names and key layout, and the bundle
on disk with its tokenizers.

May import: the standard library, pydantic, redis, rq, tokenizers. Never torch, never Flask, no other package of ours.
"""
