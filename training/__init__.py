"""Data preparation and one training loop per model family; writes run folders.

May import: contracts, models, torch. Never server, workers or export.
"""
