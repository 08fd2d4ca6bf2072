"""Reads models that others trained: folders of files that may be damaged or hostile, or names on the hub."""
