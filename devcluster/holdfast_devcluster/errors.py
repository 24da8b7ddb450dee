"""The one exception that devcluster raises on purpose."""


class ClusterError(Exception):
    """Something outside of our code stands in the way; the message says what to do about it."""
