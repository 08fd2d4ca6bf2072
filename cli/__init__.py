"""The `kamishibai` command: thin, with lazy imports, so that `--help` answers at once.

May import anything; nothing imports it.
"""
