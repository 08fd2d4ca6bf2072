"""Takes jobs from the queue and runs them in shared batches: RQ parent, scheduler, engine child, engines, supervisor.

May import: contracts, models (only the engine side), redis, rq. Never Flask.
"""
