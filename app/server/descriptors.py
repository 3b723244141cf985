"""How many files and sockets the process may have open at once."""

import resource

ENOUGH = 65536
"""More is not asked for: what walks over all possible descriptors would take long."""
SPARE = 64
"""So many are kept from new connections, for the files of those that are there."""
_SPARE_PART = 4


def raise_descriptor_limit(enough: int = ENOUGH) -> int:
    """Raise the soft limit towards the hard one, to ``enough`` at most; return what holds then.

    Many systems begin with 1024, which 500 downloads use up: each has its socket twice and its file.
    A limit that is higher already stays.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = enough if hard == resource.RLIM_INFINITY else min(hard, enough)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return soft


def first_spare() -> int:
    """Return the lowest descriptor number that a new connection may not have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return ENOUGH * ENOUGH
    return soft - min(SPARE, soft // _SPARE_PART)
