"""Run folder or foreign checkpoint in, verified bundle out.

May import: contracts, models, torch. Never server, workers or training.
"""
