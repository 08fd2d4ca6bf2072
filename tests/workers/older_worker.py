"""`kamishibai worker` as one would be that was written before the second schema of texts: it reads the first alone."""

from contracts import requests

requests.PAYLOADS = frozenset({"text:1", "image:1", "classify:1"})

if __name__ == "__main__":
    from cli.main import main  # what it imports takes the payloads as they are by now

    main()
